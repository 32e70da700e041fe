"""The files: what is in them, and that they are replaced as a whole or not at all."""

import io
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
from jax import random, tree

import main
from main import Config, History

CONFIG = Config(hidden=(8,), eval_episodes=2, confirm_episodes=2)


@pytest.fixture
def params():
    return main.init_params(random.key(0), (4, 8, 2))


def test_parameters_come_back_as_they_were_saved(params, tmp_path):
    main.save_params(tmp_path / "p.pkl", params, config=CONFIG)
    loaded = main.load_params(tmp_path / "p.pkl", CONFIG)
    assert tree.structure(loaded) == tree.structure(params)
    assert all(tree.leaves(tree.map(np.array_equal, loaded, params)))
    obs = np.float32([0.1, -0.2, 0.3, 0.4])
    assert main.policy_fn(None, loaded, obs) == main.policy_fn(None, params, obs)


def test_a_parameter_file_holds_builtins_and_arrays_alone(params, tmp_path):
    """A plain pickle.load reads it where NumPy is, and JAX and main.py are not."""
    main.save_params(tmp_path / "p.pkl", params, config=CONFIG)
    code = """
import pickle, sys
sys.modules["jax"] = sys.modules["main"] = None
def check(x):
    module = type(x).__module__
    assert module in ("builtins", "numpy"), type(x)
    for y in x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ():
        check(y)
content = pickle.load(open("p.pkl", "rb"))
check(content)
assert content["env_id"] == "CartPole-v1" and content["sizes"] == [4, 8, 2]
assert content["config"]["gamma"] == 0.98 and "jax" in content["versions"]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "params.pkl"
    main.write(path, b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(main.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        main.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_shows_ten_seconds_in_real_time_for_ever(params):
    for epsilon in (0.0, 1.0):
        gif = main.record(0, params, epsilon, config=CONFIG)
        n = iio.improps(gif, extension=".gif", index=...).n_images
        meta = [iio.immeta(gif, extension=".gif", index=i) for i in range(n)]
        assert sum(m["duration"] for m in meta) == 10_000
        assert meta[0]["loop"] == 0
        assert len(gif) < 300_000


def test_a_random_recording_is_the_same_for_any_parameters_and_a_greedy_one_is_not(params):
    other = main.new_learner(replace(CONFIG, seed=1)).params
    for epsilon, same in ((0.0, False), (1.0, True)):
        one, another = (main.record(0, p, epsilon, config=CONFIG) for p in (params, other))
        assert (one == another) == same


def test_a_recording_shows_cart_pole_and_track_and_moves(params):
    gif = main.record(0, params, 1.0, config=CONFIG)
    frames = iio.imread(gif, extension=".gif", index=None)
    assert frames.shape[1:] == (200, 300, 3)
    assert (frames[0] == 0).all(axis=-1).all(axis=-1).any()  # a black row: the track
    assert np.any(frames[0] != frames[-1])
    brown = np.abs(frames[0].astype(int) - (202, 152, 101)).max(axis=-1) < 26
    assert brown.sum() > 100  # the pole, in its colour


def test_the_zip_holds_what_the_course_asks_for_and_the_same_bytes_each_time(tmp_path):
    for name in main.FILES:
        (tmp_path / name).write_bytes(name.encode())
    first, second = main.hand_in(tmp_path), main.hand_in(tmp_path)
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert set(archive.namelist()) == {
            "main.py", "README.md", "requirements.txt", "params.pkl", "agent.gif", "random.gif",
        }  # fmt: skip
        assert archive.read("params.pkl") == b"params.pkl"


def test_the_learning_curve_is_a_picture_even_of_very_little():
    for history in (
        History([(20, 20.0)], [], {}),
        History([(20, 20.0), (50, 30.0)], [(50, 9.0)], {}),
        History([], [], {}),
    ):
        picture = iio.imread(main.learning_curve(history, config=CONFIG), extension=".png")
        assert picture.shape[:2] == (400, 800)


def test_every_stream_of_a_run_is_used_for_one_purpose(params, monkeypatch):
    """The episodes that chose the agent never report it."""
    seeds = []
    real = main.evaluate
    monkeypatch.setattr(
        main, "evaluate", lambda seed, *a, **k: seeds.append(seed) or real(seed, *a, **k)
    )
    main.train(replace(CONFIG, total_steps=1000, eval_every=300))
    assert len(set(seeds)) == len(seeds) >= 4
    assert main.stream(0, "report") not in seeds


def test_pickles_of_the_same_parameters_are_the_same_bytes(params, tmp_path):
    for name in "ab":
        main.save_params(tmp_path / name, params, config=replace(CONFIG, out=name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pickle.loads((tmp_path / "a").read_bytes())["seed"] == 0
