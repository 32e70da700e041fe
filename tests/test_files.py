"""The files: what is in them, and that they are replaced as a whole or not at all."""

import io
import pickle
import subprocess
import sys
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import TINY, reseal
from jax import tree

import main
from main import Config, History

CONFIG = Config("--hidden 8")


@pytest.fixture
def params():
    return main.init_params(CONFIG)


def frames(path):
    meta = [iio.immeta(path, index=i) for i in range(iio.improps(path, index=...).n_images)]
    return iio.imread(path, index=None), sum(m["duration"] for m in meta), meta[0]["loop"]


# params.pkl
@pytest.mark.parametrize(
    "words",
    ["--hidden 8", "--hidden --activation relu", "--dueling", "--env-id Pendulum-v1 --vanilla"],
)
def test_parameters_come_back_as_they_were_saved_and_are_played(words, tmp_path):
    config = Config(words)
    params = main.init_params(config)
    params["output"]["w"] = np.asfortranarray(params["output"]["w"])
    main.save_params(tmp_path / "p.pkl", params, config=config)
    for loaded in (
        main.load_params(tmp_path / "p.pkl"),
        main.load_params(tmp_path / "p.pkl", config),
    ):
        assert tree.structure(loaded) == tree.structure(params)
        assert all(tree.leaves(tree.map(np.array_equal, loaded, params)))
    obs = np.ones(config.sizes[0], np.float32)
    assert main.policy_fn(None, loaded, obs) == main.policy_fn(None, params, obs)


def test_a_plain_pickle_load_with_numpy_alone_gives_builtins_and_arrays(params, tmp_path):
    main.save_params(
        tmp_path / "p.pkl", params, config=Config("--hidden 8 --gamma 0.5"), score=12.5
    )
    code = """
import pickle, sys
sys.modules["jax"] = sys.modules["main"] = None
def check(x):
    assert type(x).__module__ in ("builtins", "numpy"), type(x)
    for y in x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
        check(y)
content = pickle.load(open("p.pkl", "rb"))
check(content)
assert content["env_id"] == "CartPole-v1" and content["score"] == 12.5
assert "jax" in content["versions"]
assert content["sizes"] == [4, 8, 2]
assert "--hidden 8" in content["options"] and "--gamma=0.5" in content["options"]
assert content["params"]["output"]["w"].shape == (8, 2)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_same_parameters_are_the_same_bytes_wherever_they_are_written(params, tmp_path):
    for name in "ab":
        main.save_params(tmp_path / name, params, config=Config(f"--hidden 8 --out {name}"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_for_another_game_is_refused_by_name(tmp_path):
    config = Config("--env-id MountainCar-v0 --hidden 8")
    main.save_params(tmp_path / "p.pkl", main.init_params(config), config=config)
    assert main.load_params(tmp_path / "p.pkl")["output"]["w"].shape == (8, 3)
    with pytest.raises(ValueError, match="MountainCar-v0"):
        main.load_params(tmp_path / "p.pkl", Config())


def test_a_file_is_not_played_with_other_actions_than_it_was_trained_with(tmp_path):
    five, three = (Config(f"--env-id Pendulum-v1 --action-bins {n}") for n in (5, 3))
    main.save_params(tmp_path / "p.pkl", main.init_params(five), config=five)
    assert main.load_params(tmp_path / "p.pkl", five)
    with pytest.raises(ValueError, match="cannot be used"):
        main.load_params(tmp_path / "p.pkl", three)


def set_output(value):
    def change(content):
        content["params"]["output"]["w"] = value

    return change


def set_scale(value):
    def change(content):
        content["params"]["scale"] = np.full(4, value, np.float32)

    return change


def set_item(**items):
    return lambda content: content | items


WRONG = {
    "NaN": set_output(np.full((8, 2), np.nan, np.float32)),
    "infinity": set_output(np.full((8, 2), np.inf, np.float32)),
    "a wrong shape": set_output(np.zeros((8, 3), np.float32)),
    "float64": set_output(np.zeros((8, 2))),
    "an object array": set_output(np.full((8, 2), None)),
    "a list for an array": set_output([[0.0] * 2] * 8),
    "a scale of zero": set_scale(0),
    "a scale below zero": set_scale(-1),
    "one layer less": lambda c: c["params"]["hidden"]["silu"].clear(),
    "one array more": lambda c: c["params"].update(value=np.zeros(8, np.float32)),
    "other layers": set_item(options="--hidden 9"),
    "another game's layers": set_item(env_id="MountainCar-v0"),
    "a game that does not exist": set_item(env_id="Nowhere-v0"),
    "a game in a module of its own": set_item(env_id="antigravity:CartPole-v1"),
    "a number for a game": set_item(env_id=3),
    "a game named in colour": set_item(env_id="\x1b[31mCartPole\n-v1"),
    "options that are none": set_item(options="--hidden 8 --gamma 9"),
    "options that ask for help": set_item(options="--help"),
    "options without end": set_item(options="--hidden" + " 8" * 10**6),
    "an open quote": set_item(options="--hidden '8"),
    "no options": lambda c: c.pop("options") and None,
    "nothing": lambda c: {"nothing": 0},
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_content_with_a_right_checksum_is_refused(what, params, tmp_path, capsys):
    path = tmp_path / "params.pkl"
    main.save_params(path, params, config=CONFIG)
    assert main.load_params(path)
    reseal(path, WRONG[what])
    with pytest.raises(ValueError, match="cannot be used") as refused:
        main.load_params(path)
    assert str(refused.value).isprintable()
    capsys.readouterr()
    assert main.main(["--evaluate", str(path), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_run_hands_in_its_best_agent_with_the_score_that_chose_it(tmp_path, monkeypatch, quick):
    scores, agents, real = iter([3.0, 7.0, 5.0]), [], main.evaluate

    def fake(params, episodes, purpose="report", *, config):
        if purpose == "report":
            return real(params, episodes, config=config)
        agents.append(params)
        return np.array([next(scores)])

    monkeypatch.setattr(main, "evaluate", fake)
    main.run(Config(f"{TINY} --out '{tmp_path}'"))
    loaded = main.load_params(tmp_path / "params.pkl")
    assert all(tree.leaves(tree.map(np.array_equal, loaded, agents[1])))
    assert pickle.loads((tmp_path / "params.pkl").read_bytes())["score"] == 7


# Replacing files
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "params.pkl"
    main.write(path, b"old")

    def fail(self, data):
        with open(self, "wb") as file:
            file.write(data[:1])
        raise OSError("disk full")

    monkeypatch.setattr(main.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        main.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writing_neighbour_is_left_alone(tmp_path, quick):
    """Two runs in one folder: neither takes away what the other is writing."""
    neighbour = tmp_path / ".params.pkl.1.part"
    neighbour.write_bytes(b"half")
    assert main.main(f"{TINY} --out '{tmp_path}'") == 0
    assert neighbour.read_bytes() == b"half"


# GIFs
def test_a_recording_shows_ten_seconds_in_real_time_for_ever(params, tmp_path):
    main.record(tmp_path / "a.gif", params, 1.0, config=CONFIG)
    pictures, duration, loop = frames(tmp_path / "a.gif")
    assert (duration, loop) == (10_000, 0)
    assert pictures.shape[1:] == (200, 300, 3)
    assert (tmp_path / "a.gif").stat().st_size < 300_000
    first, last = pictures[0].astype(int), pictures[-1]
    assert (first == 0).all(axis=-1).all(axis=-1).any()  # a black row: the track
    assert (np.abs(first - (202, 152, 101)).max(axis=-1) < 26).sum() > 100  # the brown pole
    assert np.any(first != last)


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "FrozenLake-v1"])
def test_a_game_with_few_pictures_a_second_keeps_its_pace(env_id, tmp_path):
    config = Config(f"--env-id {env_id} --hidden 8")
    main.record(tmp_path / "a.gif", main.init_params(config), 1.0, config=config)
    assert frames(tmp_path / "a.gif")[1] == 10_000


def test_a_recording_without_a_pace_and_one_of_a_game_that_cannot_be_drawn(
    params, tmp_path, monkeypatch
):
    real = main.make_game

    def without(config, **options):
        env = real(config, **options)
        env.unwrapped.metadata = {"render_modes": ["rgb_array"]}
        return env

    monkeypatch.setattr(main, "make_game", without)
    main.record(tmp_path / "a.gif", params, 1.0, config=CONFIG)
    assert frames(tmp_path / "a.gif")[1] == 10_000
    monkeypatch.undo()
    glimpse = Config("--env-id Glimpse-v0")
    main.record(tmp_path / "a.gif", main.init_params(glimpse), 1.0, config=glimpse)
    assert not (tmp_path / "a.gif").exists()  # nor is the other game's taken for one of this


def test_agent_gif_is_the_greedy_recording_and_random_gif_the_random_one(tmp_path, quick):
    config = Config(f"{TINY} --out '{tmp_path}'")
    main.run(config)
    params = main.load_params(tmp_path / "params.pkl")
    other = main.init_params(Config("--hidden 8 --seed 9"))
    for name, epsilon in (("agent.gif", 0.0), ("random.gif", 1.0)):
        main.record(tmp_path / "same", params, epsilon, config=config)
        main.record(tmp_path / "other", other, epsilon, config=config)
        assert (tmp_path / name).read_bytes() == (tmp_path / "same").read_bytes()
        same = (tmp_path / "same").read_bytes() == (tmp_path / "other").read_bytes()
        assert same == (name == "random.gif")


# The figure and the zip
def test_the_learning_curve_draws_its_three_series_and_the_goal():
    lengths = [*range(1, 151)]
    history = History(lengths, [2.0 * n for n in lengths], [(512, 9.0), (1024, 500.0)], 500.0)
    [axes] = main.learning_curve(history, config=CONFIG).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    episodes, mean, greedy, _ = lines.values()
    ends = np.cumsum(lengths)
    np.testing.assert_array_equal(episodes.get_xydata(), np.c_[ends, 2 * np.array(lengths)])
    expected = [np.mean(history.returns[max(0, i - 99) : i + 1]) for i in range(150)]
    np.testing.assert_allclose(mean.get_xydata(), np.c_[ends, expected])
    np.testing.assert_array_equal(greedy.get_xydata(), history.evaluations)
    assert [*lines["target return"].get_ydata()] == [500, 500]


def test_the_learning_curve_is_a_picture_even_of_very_little(tmp_path):
    for history in (History([], [], [(50, 9.0)], 9), History([20], [20.0], [(50, 9.0)], 9)):
        for config in (CONFIG, Config("--target-return inf")):
            main.write(tmp_path / "curve.png", main.learning_curve(history, config=config))
            assert iio.imread(tmp_path / "curve.png").shape[:2] == (400, 800)


def test_the_zip_holds_what_the_readme_names_and_the_same_bytes_everywhere(tmp_path, monkeypatch):
    for name in main.FILES:
        (tmp_path / name).write_bytes(name.encode())
    first = main.hand_in(tmp_path)
    assert first == main.hand_in(tmp_path)
    monkeypatch.setattr(zipfile.sys, "platform", "win32")  # which zipfile notes down
    assert first == main.hand_in(tmp_path)
    monkeypatch.undo()
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = set(archive.namelist())
        assert archive.read("params.pkl") == b"params.pkl"
    tests = {name for name in names if name.startswith("tests/")}
    assert {"tests/conftest.py", "tests/requirements.txt", "tests/test_files.py"} <= tests
    assert names - tests == {
        "main.py", "README.md", "requirements.txt", "params.pkl", "agent.gif", "random.gif",
        "learning_curve.png",
    }  # fmt: skip
    assert all(name.endswith((".py", ".txt")) for name in tests)
