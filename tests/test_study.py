"""The study: its trainings, the rows that it keeps, its table and its figure."""

import csv
import shlex
from dataclasses import replace

import numpy as np
import pytest
import study
from matplotlib.figure import Figure

import main

DEFAULT = main.Config()
HALF = replace(DEFAULT, tau=0.5)


@pytest.fixture
def trained(monkeypatch):
    """Replace what takes time. Return the list of what is trained, in order."""
    done = []

    def train(config, seed, quiet):
        done.append((seed, config))
        score = 0.0 if seed == 3 else config.goal
        first = main.Evaluation(*np.zeros((3, 2)))
        last = main.Evaluation(np.full(2, score), np.full(2, 5.0), np.full(2, 7.0))
        return seed, [], [(64, first), (100 * (seed + 1), last)]

    def evaluate(rng, params, episodes, config):
        return params + np.arange(episodes) / 8, None, None

    monkeypatch.setattr(main, "train", train)
    monkeypatch.setattr(main, "evaluate", evaluate)
    monkeypatch.setattr(study, "draw_study", lambda *args: args[-1].touch())
    return done


def run(folder, *words):
    study.run([*words, "--out", str(folder), "--episodes", "4"])


def read_file(folder):
    with open(folder / "study.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def made(seed, steps, solved=1, returns=(500.0, 500.0)):
    """Return a made-up row."""
    text = " ".join(str(number) for number in returns)
    lowest = min(returns)
    mean = float(np.mean(returns))
    last = mean / 2
    numbers = [steps, solved, last, 1.5, mean, lowest, 10.0 * seed, 30.0, len(returns)]
    return study.Row(seed, "", *numbers, text, "settings", "program")


# %% Trainings
def test_a_row_holds_what_train_and_fresh_episodes_give(tmp_path):
    tiny = "--total-steps 60 --warmup-steps 30 --eval-every 30 --eval-episodes 1"
    words = f"{tiny} --hidden 8 --batch-size 4 --seed 5 --seeds 2".split()
    run(tmp_path, *words)
    config = main.make_config(study.make_parser(words).parse_args(words))
    params, _, evaluations = main.train(config, 6, quiet=True)
    returns, _, _ = main.evaluate(np.random.default_rng([6, 2]), params, 4, config)
    _, last = evaluations[-1]

    found = read_file(tmp_path)
    assert [row["seed"] for row in found] == ["5", "6"]
    row = found[1]
    assert (row["steps"], row["solved"]) == ("60", "0")
    assert np.array(row["returns"].split(), float) == pytest.approx(returns)
    assert float(row["mean"]) == pytest.approx(returns.mean())
    assert float(row["lowest"]) == returns.min()
    assert float(row["predicted"]) == pytest.approx(last.predicted.mean())
    assert float(row["achieved"]) == pytest.approx(last.achieved.mean())
    assert float(row["last"]) == pytest.approx(last.returns.mean())
    assert (tmp_path / "study.png").exists()


def test_a_network_that_diverges_solves_nothing_and_spends_its_budget(tmp_path):
    words = "--warmup-steps 30 --eval-every 30 --eval-episodes 1 --goal 1 --total-steps"
    run(tmp_path, *words.split(), "90", "--learning-rate", "1e30", "--seeds", "1")
    (row,) = read_file(tmp_path)
    assert (row["steps"], row["solved"], row["predicted"]) == ("90", "0", "nan")


def test_each_seed_trains_the_default_first_and_then_the_variants(trained, tmp_path):
    run(tmp_path, "--seed", "7", "--seeds", "2", "--compare", "tau=0.5", "no-double")
    assert [seed for seed, _ in trained] == [7, 7, 7, 8, 8, 8]
    variants = [DEFAULT, HALF, replace(DEFAULT, double=False)]
    assert [config for _, config in trained] == variants * 2


def test_a_variant_changes_what_it_names_and_options_may_follow(trained, tmp_path):
    variant = "hidden=8,16 dueling"
    run(tmp_path, "--seeds", "1", "--compare", variant, "--gamma", "0.9")
    default = replace(DEFAULT, gamma=0.9)
    changed = replace(default, hidden=(8, 16), dueling=True)
    assert [config for _, config in trained] == [default, changed]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_default_is_what_main_would_train(trained, tmp_path):
    words = ["--env-id", "MountainCar-v0", "--total-steps", "9000"]
    run(tmp_path, *words, "--seeds", "1")
    args = main.make_parser(words).parse_args(words)
    assert trained == [(0, main.make_config(args))]


@pytest.mark.parametrize(
    "words",
    [
        "--compare tau=2",
        "--compare ''",
        "--compare no-such",
        "--compare hidden=8,x",
        "--compare seed=1",
        "--compare out=x",
        "--compare goal=1",
        "--compare env-id=Acrobot-v1",
        "--compare episodes=1",
        "--compare total-steps=1",
        "--compare --no-double",
        "--evaluate params.pkl",
        "--watch",
        "--env-id NoGame-v0",
        "--seed -1",
        "--seeds 0",
    ],
)
def test_wrong_options_are_refused_before_any_work(words, trained, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *shlex.split(words))
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_options_and_trains_nothing(trained, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(tmp_path, "--help")
    assert end.value.code == 0
    assert "--compare" in capsys.readouterr().out
    assert trained == []


# %% Rows
def test_a_stopped_study_goes_on_where_it_was_stopped(
    trained, tmp_path, monkeypatch, capsys
):
    words = ("--seeds", "2", "--compare", "tau=0.5")
    train = main.train

    def stop(config, seed, quiet):
        if (seed, config) == (1, DEFAULT):
            raise KeyboardInterrupt
        return train(config, seed, quiet)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(main, "train", stop)
        run(tmp_path, *words)
    assert len(read_file(tmp_path)) == 2

    capsys.readouterr()
    run(tmp_path, *words)
    assert trained == [(0, DEFAULT), (0, HALF), (1, DEFAULT), (1, HALF)]
    table = capsys.readouterr().out.splitlines()
    assert "2 of 4 " in table[0]
    assert str(tmp_path / "study.csv") in table[0]

    run(tmp_path, *words)
    assert len(trained) == 4
    assert capsys.readouterr().out.splitlines()[1:] == table[1:]


@pytest.mark.parametrize("change", ["settings", "episodes", "main.py"])
def test_a_row_counts_only_for_what_it_was_made_with(
    change, trained, tmp_path, monkeypatch
):
    run(tmp_path, "--seeds", "1")
    before = read_file(tmp_path)
    words = ["--seeds", "1"]
    if change == "settings":
        words += ["--gamma", "0.5"]
    if change == "episodes":
        words += ["--episodes", "5"]
    if change == "main.py":
        monkeypatch.setattr(study, "PROGRAM", "another")

    study.run(["--out", str(tmp_path), "--episodes", "4", *words])
    assert len(trained) == 2
    assert read_file(tmp_path)[:1] == before
    assert len(read_file(tmp_path)) == 2


def test_two_studies_in_one_folder_keep_the_rows_of_both(
    trained, tmp_path, monkeypatch
):
    path = tmp_path / "study.csv"
    train = main.train
    replacing = main.replacing

    def train_beside_another(config, seed, quiet):
        other = made(100 + seed, 1)
        study.save_rows(path, {(other.seed, 2, "settings", "program"): other})
        if seed == 2:  # The other study writes at the same time, without this row.
            old = path.read_bytes()
            monkeypatch.setattr(main, "replacing", lambda path: losing(path, old))
        return train(config, seed, quiet)

    @study.main.contextmanager
    def losing(path, old):
        with replacing(path) as new:
            yield new
        monkeypatch.setattr(main, "replacing", replacing)
        path.write_bytes(old)

    monkeypatch.setattr(main, "train", train_beside_another)
    run(tmp_path, "--seeds", "3")
    seeds = sorted(int(row["seed"]) for row in read_file(tmp_path))
    assert seeds == [0, 1, 2, 100, 101, 102]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b",100,", b",x,"),
        (b",100,", b",,"),
        (b",100,", b","),
        (b",100,", b",100\xff,"),
        (study.PROGRAM.encode(), b"x,x"),
        (b"0.125 ", b""),
        (b"seed,", b"seeds,"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(old, new, trained, tmp_path, capsys):
    run(tmp_path, "--seeds", "1")
    path = tmp_path / "study.csv"
    damaged = path.read_bytes().replace(old, new, 1)
    path.write_bytes(damaged)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, "--seeds", "1")
    assert stop.value.code == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_bytes() == damaged


# %% Table
def test_a_line_of_the_table_by_hand():
    rows = [
        made(1, 100, returns=(500.0, 500.0)),
        made(2, 300, solved=0, returns=(0.0, 8.0)),
        made(6, 400, returns=(499.0, 501.0)),
    ]
    assert study.make_line(rows, [made(1, 100)] * 3) == {
        "solved": "2/3",
        "mean-return": "334.67",
        "lowest-mean": "4.00",
        "lowest-return": "0.00",
        "last-mean": "167.33",
        "median-steps": "300",
        "most-steps": "400",
        "predicted": "20.00",
        "achieved": "30.00",
        "steps-ratio": ">2.29",  # the third root of 1 * 3 * 4
        "ratio-from": "-",
        "ratio-to": "-",
        "CPU-seconds": "1.5",
    }


def test_ratios_are_paired_by_seed():
    default = [made(seed, 100 * seed) for seed in range(1, 6)]
    twice = [made(seed, 200 * seed) for seed in range(1, 6)]
    assert study.compare_steps(twice, default) == ["2.00", "2.00", "2.00"]


def test_fewer_than_five_seeds_have_no_interval():
    rows = [made(0, 100)] * 4
    assert study.compare_steps(rows, rows) == ["1.00", "-", "-"]


@pytest.mark.parametrize(
    ("solved", "default_solved", "expected"),
    [
        (0, 1, [">2.00", "2.00", "-"]),
        (1, 0, ["<2.00", "-", "2.00"]),
        (0, 0, ["-", "-", "-"]),
    ],
)
def test_the_ratio_of_a_spent_budget_is_a_limit(solved, default_solved, expected):
    rows = [made(0, 200)] * 4 + [made(4, 200, solved)]
    default = [made(0, 100, default_solved)] + [made(1, 100)] * 4
    assert study.compare_steps(rows, default) == expected


def test_an_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    default = [made(0, 1_000_000)] * 30
    n_held = 0
    for _ in range(100):
        steps = 1_000_000 * np.exp(rng.normal(size=30))
        _, low, high = study.compare_steps([made(0, n) for n in steps], default)
        n_held += float(low) <= 1 <= float(high)
    assert 90 <= n_held <= 97


def test_the_table_has_a_line_for_each_variant_and_no_two_columns_of_one_name(
    trained, tmp_path, capsys
):
    run(tmp_path, "--seeds", "4", "--compare", "tau=0.5 no-double")
    columns, *lines = capsys.readouterr().out.splitlines()[1:4]
    assert len(set(columns.split())) == len(columns.split())
    assert all(f" {name}" in line for name, line in zip(["default", "tau=0.5"], lines))


# %% Figure
def test_run_lengths_are_an_empirical_distribution_of_every_variant():
    some = [made(0, 512), made(1, 2048, solved=0), made(2, 1024), made(3, 256)]
    none = [made(seed, 2048, solved=0) for seed in range(4)]
    left, right = Figure().subplots(1, 2)
    study.draw_distributions(left, right, {"default": some, "no-double": none})
    curve, flat = left.get_lines()
    assert [curve.get_label(), flat.get_label()] == ["default", "no-double"]
    assert curve.get_drawstyle() == "steps-post"
    jumps = [(256, 0.25), (512, 0.5), (1024, 0.75)]
    assert [tuple(point) for point in curve.get_xydata()[1:-1]] == jumps
    assert curve.get_ydata()[-1] == 0.75
    assert set(flat.get_ydata()) == {0}
    assert len(right.get_lines()) == 2


@pytest.mark.parametrize(("n_seeds", "n_variants"), [(1, 1), (30, 2), (4, 9)])
def test_the_figure_shows_every_seed_of_every_variant(
    n_seeds, n_variants, tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    rows = {}
    for i in range(n_variants):
        returns = (500.0 - 50 * i, 490.0 - 50 * i, 500.0, 500.0)
        seeds = range(2**32, 2**32 + n_seeds)
        rows[str(i)] = [made(seed, 100, returns=returns) for seed in seeds]
    study.draw_study({"default": rows["0"], **rows}, DEFAULT, tmp_path / "study.png")

    (figure,) = figures
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["default", *rows]
    for i, name in enumerate(rows):
        left, right = figure.axes[4 + 2 * i : 6 + 2 * i]
        assert left.get_title(loc="left") == name
        expected = 0.75 if i == 0 else 0.5
        assert list(left.get_lines()[0].get_ydata()) == [expected] * n_seeds
        first, last = right.get_xlim()
        assert first < 0
        assert last > n_seeds - 1
        low, high = right.get_ylim()
        assert low < 490 - 50 * i
        assert high > 500
        assert len(right.patches) == n_seeds
