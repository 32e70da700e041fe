"""The study: its runs one after the other; rows as they come; figures that say what they show."""

import csv

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import TINY

import main
from main import Config

GOAL = "--target-return 15 --no-early-stop"


def rows(folder):
    with open(folder / "study.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_seconds(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(folder)]


def test_a_study_is_its_runs_one_after_the_other(tmp_path):
    text = main.run_study(Config(f"{TINY} {GOAL} --seed 5 --seeds 3 --out '{tmp_path}'"))
    assert {p.name for p in tmp_path.iterdir()} == {"study.csv", "study.png"}
    found = rows(tmp_path)
    assert [row["seed"] for row in found] == ["5", "6", "7"]
    one = Config(found[1]["options"])  # each row says how to run it again
    assert one == Config(f"{TINY} {GOAL} --seed 6")
    assert one.seed == 6
    params, history = main.train(one, quiet=True)
    returns = main.evaluate(params, one.report_episodes, config=one)
    assert found[1]["episodes"] == str(len(history.returns))
    assert found[1]["steps"] == "300"
    assert float(found[1]["mean"]) == pytest.approx(returns.mean())
    assert float(found[1]["min"]) == returns.min()
    assert np.float64(found[1]["returns"].split()) == pytest.approx(returns)
    assert len(text.splitlines()) == 4 + 3


def fake_agents(monkeypatch, steps, returns, fail_at=None):
    """Training takes these steps and its agent scores these returns, by seed."""
    trained = []

    def train(config, quiet):
        if config.seed == fail_at:
            raise KeyboardInterrupt
        trained.append(config.seed)
        return config.seed, main.History([9], [9.0], [(steps[config.seed], 500.0)], 500.0)

    monkeypatch.setattr(main, "train", train)
    monkeypatch.setattr(main, "evaluate", lambda params, n, config: np.float64(returns[params]))
    return trained


def test_the_median_is_a_median_and_a_seed_counts_by_its_mean(monkeypatch, tmp_path):
    steps, returns = [100, 200, 900, 500], [[500, 500], [499, 500], [500, 500], [0, 1000]]
    fake_agents(monkeypatch, steps, returns)
    text = main.run_study(Config(f"--seeds 4 --out '{tmp_path}'"))
    assert "3 of 4 seeds" in text  # also the one with an episode of 0
    assert "median 350" in text
    assert "most 900" in text


def test_a_study_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    steps, returns = [100, 200, 300, 400], [[1, 2], [3, 4], [5, 6], [7, 8]]
    words = f"--seeds 4 --out '{tmp_path / 'a'}'"
    trained = fake_agents(monkeypatch, steps, returns, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        main.run_study(Config(words))
    assert [row["seed"] for row in rows(tmp_path / "a")] == ["0", "1"]
    fake_agents(monkeypatch, steps, returns)
    text = main.run_study(Config(words))
    whole = main.run_study(Config(f"--seeds 4 --out '{tmp_path / 'b'}'"))
    assert without_seconds(tmp_path / "a") == without_seconds(tmp_path / "b")
    assert text.split("wrote")[0].splitlines()[-1] == whole.split("wrote")[0].splitlines()[-1]
    again = fake_agents(monkeypatch, steps, returns)
    main.run_study(Config(words))
    assert (trained, again) == ([0, 1], [])


def test_other_options_are_other_rows_and_nothing_is_lost(monkeypatch, tmp_path):
    fake_agents(monkeypatch, [100] * 3, [[1, 2]] * 3)
    for words in ("--seeds 2", "--seeds 3 --gamma 0.5", "--seeds 2"):
        text = main.run_study(Config(f"{words} --out '{tmp_path}'"))
    assert len(rows(tmp_path)) == 5
    assert "of 2 seeds" in text


@pytest.mark.parametrize(("first", "n"), [(0, 2), (4294967000, 40)])
def test_the_figure_shows_the_share_of_seeds_solved_against_steps(first, n, monkeypatch):
    figures = []
    monkeypatch.setattr(main, "to_png", figures.append)
    table = [
        [
            str(first + i),
            str(100 * (i + 1)),
            "9",
            "1.0",
            "500.0" if i else "400.0",
            "9",
            "500 400",
            "",
        ]
        for i in range(n)
    ]
    main.study_figure(table, Config())
    steps, share = figures[0].axes[0].get_lines()[0].get_data()
    assert list(steps[:2]) == [0, 200]  # the first seed is not solved
    assert share[-1] == pytest.approx((n - 1) / n)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figures[0].axes)
    monkeypatch.undo()
    picture = iio.imread(main.study_figure(table, Config()), extension=".png")
    assert picture.shape[:2] == (600, 1000)
