"""params.pkl: it comes back as it was, and a stranger's file runs no code."""

import contextlib
import copyreg
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, TINY, names, new_params, rows, same, status

import main


@pytest.fixture
def path(here):
    return here / "params.pkl"


@pytest.fixture
def save(path, monkeypatch):
    """Return a function that saves parameters even if they cannot be loaded."""

    def save_unread(params, config):
        with monkeypatch.context() as unread:
            unread.setattr(main, "load_agent", lambda path: None)
            main.save_params(path, params, config)

    return save_unread


def refuse(path):
    """Check that nobody can load this file."""
    with pytest.raises(ValueError, match=r"params\.pkl cannot be used: ."):
        main.load_params(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": (8, 9), "gamma": 0.5, "goal": float("inf")},
        {"hidden": (), "dueling": True},
        {"env_id": "Pendulum-v1", "action_bins": 5},
    ],
)
def test_parameters_and_settings_come_back_as_they_were_saved(settings, path):
    params, config = new_params(**settings)
    params["scale"] *= np.float32(1 / 3)
    main.save_params(path, main.jit(lambda x: x)(params), config)
    first = path.read_bytes()
    loaded, loaded_config = main.load_agent(str(path))
    assert same(loaded, params)
    assert same(main.load_params(path), params)
    assert {loaded_config: 1} == {config: 1}
    assert main.policy_fn(None, loaded, params["scale"]).shape == ()
    main.save_params(path, loaded, config)
    assert path.read_bytes() == first


def test_a_plain_pickle_load_gives_builtins_without_main_or_jax(path):
    main.save_params(path, *new_params())
    code = """
import pickle

def check(x):
    assert type(x) in (dict, list, tuple, str, int, float, bool), type(x)
    for part in x.values() if isinstance(x, dict) else x if type(x) is list else []:
        check(part)

with open("params.pkl", "rb") as file:
    check(pickle.load(file))
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_what_a_student_adds_to_the_parameters_is_saved_and_loaded(path, monkeypatch):
    plain = main.init_params

    def edited(rng, env, config):
        own = {"w": np.float32(rng.normal(size=(4, 3))), "parts": [np.ones(2, "f4")]}
        return plain(rng, env, config) | {"own": own}

    with monkeypatch.context() as student:
        student.setattr(main, "init_params", edited)
        params, config = new_params()
        main.save_params(path, params, config)
        assert same(main.load_params(path), params)
    refuse(path)  # Without the edit, nobody knows what it is.


# Files of strangers
class Reduces:
    def __reduce__(self):
        return os.mkdir, ("ran",)


class News:
    def __new__(cls, name):
        os.mkdir(name)
        return object.__new__(cls)


class Builds:
    def __setstate__(self, state):
        os.mkdir(state)


EXTENSION = 240
HERE = __name__.encode()
HOSTILE = {
    **{f"REDUCE, protocol {n}": pickle.dumps(Reduces(), n) for n in range(6)},
    "GLOBAL": b"cos\nmkdir\n(Vran\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x03ran\x85R.",
    "INST": b"(Vran\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nVran\no.",
    "NEWOBJ": b"\x80\x02c" + HERE + b"\nNews\nVran\n\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04c" + HERE + b"\nNews\nVran\n\x85}\x92.",
    "BUILD": b"\x80\x02c" + HERE + b"\nBuilds\n)\x81Vran\nb.",
    "an extension code": b"\x80\x02\x82" + bytes([EXTENSION]) + b"Vran\n\x85R.",
    "a module that is imported": b"cstranger\nnothing\n.",
    "beside good content": pickle.dumps({"params": {}, "config": {}, "x": Reduces()}),
}


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Let there be a module and an extension code that a file may ask for."""
    (tmp_path / "stranger.py").write_text("import os; nothing = os.mkdir('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    copyreg.add_extension("os", "mkdir", EXTENSION)
    yield
    copyreg.remove_extension("os", "mkdir", EXTENSION)
    sys.modules.pop("stranger", None)


@pytest.mark.parametrize("way", HOSTILE)
def test_a_hostile_file_runs_no_code_and_is_a_value_error(way, path, stranger):
    """The plain loader then falls for it, so the file is a real one."""
    path.write_bytes(HOSTILE[way])
    refuse(path)
    assert "ran" not in names(path.parent)
    pickle.loads(path.read_bytes())
    assert "ran" in names(path.parent)


def test_the_game_in_a_file_imports_no_module(path, save, stranger):
    params, config = new_params()
    save(params, replace(config, env_id="stranger:CartPole-v1"))
    with contextlib.suppress(ValueError):
        main.load_params(path)
    assert "ran" not in names(path.parent)


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"N.", b"}.", b"].", b"I7\n.", b"Pfile\n.", b"VQ\nQ.", b"}}b.",
     b"\x80\x63N.", b"(" * 100_000 + b"l" * 100_000 + b".", b"h\x07.", b"0."],
)  # fmt: skip
def test_what_is_no_parameter_file_is_a_value_error(data, path):
    refuse(path)  # It is missing yet.
    path.write_bytes(data)
    refuse(path)


def test_a_file_that_is_cut_anywhere_is_a_value_error(path):
    main.save_params(path, *new_params())
    data = path.read_bytes()
    for end in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:end])
        refuse(path)


@pytest.mark.parametrize("wrong", [{"goal": "high"}, {"env_id": 7}, {"hidden": 8}])
def test_settings_that_cannot_be_used_are_a_value_error(wrong, path, save):
    params, config = new_params()
    save(params, replace(config, **wrong))
    refuse(path)


WRONG = {
    "not a number": {"scale": np.float32([0, 1, 2, np.nan])},
    "infinite": {"scale": np.float32([0, 1, 2, np.inf])},
    "too large for float32": {"scale": np.array([0, 1, 2, 1e39])},
    "another size": {"scale": np.ones(3)},
    "a column": {"scale": np.ones((4, 1))},
    "a single number": {"scale": np.ones(())},
    "a text": {"scale": np.array(["a", "b", "c", "d"])},
    "a dictionary": {"scale": {"w": np.ones(4)}},
    "ragged rows": {"scale": [np.ones(2), np.ones(3)]},
    "a missing array": {"scale": None},
    "a layer less": {"hidden": []},
    "a layer more": {"hidden": new_params()[0]["hidden"] * 2},
    "a key more": {"more": np.ones(2)},
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("what", WRONG)
def test_parameters_that_do_not_fit_are_a_value_error(what, path, save):
    params, config = new_params()
    save(params | WRONG[what], config)
    refuse(path)
    del params["output"]  # a key less
    save(params, config)
    refuse(path)


def test_what_could_not_be_loaded_does_not_replace_a_good_file(path):
    params, config = new_params()
    main.save_params(path, params, config)
    with pytest.raises(ValueError, match="finite"):
        main.save_params(path, params | {"scale": np.full(4, np.inf)}, config)
    assert names(path.parent) == {path.name}
    assert same(main.load_params(path), params)


def test_a_training_that_runs_away_hands_in_what_can_be_played(path, no_pictures):
    with np.errstate(all="ignore"):
        main.main(f"{TINY} --learning-rate 1e30")
    assert main.load_params(path)


@pytest.mark.parametrize(
    "settings",
    [{"hidden": (9,)}, {"hidden": 8}, {"hidden": ("8",)}, {"dueling": True},
     {"env_id": "MountainCar-v0"}, {"env_id": "Nowhere-v0"}, {"env_id": 3},
     {"env_id": ["CartPole-v1"]}, {"env_id": "Pendulum-v1", "action_bins": 3}],
)  # fmt: skip
def test_settings_that_do_not_fit_are_a_value_error(settings, path, save):
    other = {"env_id": "Pendulum-v1"} if "action_bins" in settings else {}
    params, _ = new_params(**other)
    save(params, replace(SMALL, **settings))
    refuse(path)


def test_the_command_line_plays_the_game_of_a_file_or_refuses_it(path, capsys):
    main.save_params(path, *new_params(env_id="Corridor-v0"))
    assert status(["--evaluate", path, "--eval-episodes", 3]) == 0
    out, err = capsys.readouterr()
    assert list(rows(out).values()) == [[4, 0, 4, 3]]
    assert err == ""
    path.write_bytes(HOSTILE["GLOBAL"])
    assert status(["--evaluate", path]) == 2
    assert "--evaluate" in capsys.readouterr().err.splitlines()[-1]
    assert names(path.parent) == {path.name}


def test_many_files_are_scored_in_a_row_each_also_if_one_cannot_be(path, capsys):
    main.save_params("good.pkl", *new_params(env_id="Corridor-v0", goal=4.0))
    main.save_params("better.pkl", *new_params(env_id="Corridor-v0", goal=4.1))
    path.write_bytes(HOSTILE["GLOBAL"])
    words = f"--evaluate good.pkl {path} better.pkl --eval-episodes 3"
    assert status(words) == 2
    out, err = capsys.readouterr()
    assert list(rows(out)) == ["good.pkl", "better.pkl"]
    goals = [" ".join(line.split()[4:-1]) for line in out.splitlines()[1:]]
    assert goals == ["reached", "not reached"]
    assert str(path) in err
    assert status(words.replace(str(path), "")) == 0
