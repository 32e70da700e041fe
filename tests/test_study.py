"""The study: its runs one after the other; rows as they come; figures that say what they show."""

import csv
import re

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


def table(text):
    """The table of a study: its columns by variant."""
    head, *lines = (line.split() for line in text.split("\nsolved:")[0].splitlines())
    return {" ".join(line[11:]): dict(zip(head, line, strict=False)) for line in lines} | {
        "columns": [line[:11] for line in lines]
    }


def test_a_study_is_its_runs_one_after_the_other(tmp_path):
    main.run_study(Config(f"{TINY} {GOAL} --seed 5 --seeds 3 --out '{tmp_path}'"))
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


@pytest.fixture
def agents(monkeypatch):
    """Training takes these steps and its agent scores these returns, by seed; gamma 0.5 doubles
    the steps. Returns the seeds and gammas that were trained.
    """

    def fake(steps, returns, fail_at=None):
        trained = []

        def train(config, quiet):
            if fail_at == (config.seed, config.gamma):
                raise KeyboardInterrupt
            trained.append((config.seed, config.gamma))
            taken = steps[config.seed] * (2 if config.gamma == 0.5 else 1)
            return config.seed, main.History([9], [9.0], [(taken, 500.0)], 500.0)

        monkeypatch.setattr(main, "train", train)
        monkeypatch.setattr(main, "evaluate", lambda params, n, config: np.float64(returns[params]))
        return trained

    return fake


def test_the_median_is_a_median_and_a_seed_counts_by_its_mean(agents, tmp_path):
    agents([100, 200, 900, 500], [[500, 500], [499, 500], [500, 500], [0, 1000]])
    found = table(main.run_study(Config(f"--seeds 4 --out '{tmp_path}'")))["default"]
    assert found["solved"] == "3/4"  # also the one with an episode of 0
    assert (found["median"], found["most"], found["min"]) == ("350", "900", "0.00")


def test_variants_are_trained_on_the_same_seeds_and_compared_seed_by_seed(agents, tmp_path):
    trained = agents([100, 200, 900, 400], [[500]] * 4)
    words = ["--seeds", "4", "--out", str(tmp_path), "--compare", "--gamma 0.5", "--vanilla"]
    text = main.run_study(Config(words))
    gammas = (Config().gamma, 0.5, Config("--vanilla").gamma)
    assert trained == [(seed, gamma) for seed in range(4) for gamma in gammas]
    assert len(rows(tmp_path)) == 12
    assert [Config(row["options"]).double for row in rows(tmp_path)] == [True, True, False] * 4
    default, half, vanilla = table(text)["columns"]
    assert (default[3], half[3], vanilla[3]) == ("300", "600", "300")
    assert half[7:10] == ["2.00"] * 3  # twice the steps for each seed: nothing is uncertain
    assert vanilla[7:10] == default[7:10] == ["1.00"] * 3
    assert float(half[4]) < 600 < float(half[5])


def test_a_variant_changes_what_was_asked_for_and_nothing_else(agents, tmp_path):
    agents([100] * 2, [[500]] * 2)
    given = "--batch-size 8 --updates 3 --seeds 2"
    main.run_study(Config(f"{given} --out '{tmp_path}' --compare '--updates 5' --vanilla"))
    found = [Config(row["options"]) for row in rows(tmp_path)[:3]]
    assert found[1] == Config("--batch-size 8 --updates 5")
    assert found[2] == Config("--batch-size 8 --updates 3 --vanilla")
    config = Config("--compare=--vanilla --gamma 0.5")  # with = it need not be the last
    assert [variant for _, variant in config.compare] == [Config("--vanilla --gamma 0.5")]


def test_a_study_goes_on_where_it_was_stopped(agents, tmp_path):
    steps, returns = [100, 200, 300, 400], [[1, 2], [3, 4], [5, 6], [7, 8]]
    for fail_at in ((2, Config().gamma), (2, 0.5), (0, 0.5)):
        stopped, whole = (tmp_path / f"{name}{fail_at}" for name in ("stopped", "whole"))
        both = [f"--seeds 4 --out '{out}' --compare '--gamma 0.5'" for out in (stopped, whole)]
        first = agents(steps, returns, fail_at=fail_at)
        with pytest.raises(KeyboardInterrupt):
            main.run_study(Config(both[0]))
        assert len(rows(stopped)) == len(first) if first else not stopped.exists()
        second = agents(steps, returns)
        text, expected = (main.run_study(Config(words)) for words in both)
        assert len(first) + len(second) == 8 + 8
        assert without_seconds(stopped) == without_seconds(whole)
        assert (stopped / "study.png").read_bytes() == (whole / "study.png").read_bytes()
        assert text.split("wrote")[0] == expected.split("wrote")[0]
        again = agents(steps, returns)
        main.run_study(Config(both[0]))
        assert again == []


def test_other_options_are_other_rows_and_nothing_is_lost(agents, tmp_path):
    agents([100] * 3, [[1, 2]] * 3)
    for words in ("--seeds 2", "--seeds 3 --gamma 0.5", "--seeds 2"):
        text = main.run_study(Config(f"{words} --out '{tmp_path}'"))
    assert len(rows(tmp_path)) == 5
    assert table(text)["default"]["solved"] == "0/2"


@pytest.mark.parametrize("damage", [b"x", b"", b"\xff"])
def test_a_damaged_row_is_refused_by_a_line_that_names_the_file(agents, tmp_path, capsys, damage):
    agents([100] * 2, [[1, 2]] * 2)
    words = f"--seeds 2 --out '{tmp_path}'"
    assert main.main(words) == 0
    path = tmp_path / "study.csv"
    path.write_bytes(path.read_bytes().replace(b"1,100,", b"1," + damage + b",", 1))
    damaged = path.read_bytes()
    capsys.readouterr()
    assert main.main(words) == 2
    assert re.match(r"main.py: .*study\.csv must ", capsys.readouterr().err.splitlines()[-1])
    assert path.read_bytes() == damaged


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """95% intervals of the mean of 30 numbers whose mean is 0: some 93 to 95 of 100 hold it."""
    rng = np.random.default_rng(0)
    found = [main.interval(np.mean, rng.normal(size=30)) for _ in range(300)]
    assert all(low <= middle <= high for middle, low, high in found)
    assert 0.89 < np.mean([low <= 0 <= high for _, low, high in found]) < 0.98


@pytest.mark.parametrize(("first", "n", "variants"), [(0, 1, 2), (4294967000, 30, 1), (0, 4, 12)])
def test_the_figure_shows_the_share_of_seeds_solved_against_steps(first, n, variants, tmp_path):
    study = {
        name: [100 * np.arange(1, n + 1), np.ones(n), np.full((n, 2), 500.0)]
        for name in ["default", *map(str, range(variants - 1))]
    }
    study["default"][2][0] = 400  # its first seed is not solved
    config = Config(f"--seed {first} --seeds {n}")
    figure = main.study_figure(study, config)
    share, _, success, _ = figure.axes
    steps, shares = share.get_lines()[0].get_data()
    found = {t: share for t, share in zip(steps, shares, strict=True) if t < np.inf}
    assert found == pytest.approx({100 * i: (i - 1) / n for i in range(2, n + 1)})
    assert len(share.get_lines()) == variants + 1  # and the budget
    assert list(success.get_lines()[0].get_ydata()) == [0] + [1] * (n - 1)
    assert all(axes.get_ylabel() for axes in figure.axes)
    main.write(tmp_path / "study.png", figure)
    assert iio.imread(tmp_path / "study.png").shape[:2] == (1000, 1200)
