"""Settings: they mean the same in a shell, in a notebook and in Python."""

import re
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from conftest import names, status

import main
from main import Config


@pytest.fixture
def received(monkeypatch, here):
    """Return a list of what main would run: settings, seed and folder."""
    calls = []
    monkeypatch.setattr(main, "make_hand_in", lambda *args: calls.append(args))
    return calls


def flag(name):
    return "--" + name.replace("_", "-")


def another(setting):
    """Return a value that is not the default, and the words that ask for it."""
    default = setting.default
    if isinstance(default, bool):
        return not default, flag("no_" + setting.name if default else setting.name)
    if isinstance(default, tuple):
        return (8, 9), f"{flag(setting.name)} 8 9"
    value = 0.25
    if isinstance(default, int):
        value = default + 1
    if isinstance(default, str):
        value = setting.metadata["choices"][-1]
    return value, f"{flag(setting.name)} {value}"


def test_every_setting_is_an_option(received):
    for setting in fields(Config):
        if setting.name == "env_id":
            continue  # Another game has other settings, too.
        value, words = another(setting)
        main.main(words)
        assert received.pop() == (Config(**{setting.name: value}), 0, Path.cwd())
        assert value != setting.default


def test_one_text_a_list_and_the_shell_mean_the_same(received, monkeypatch):
    words = ["--seed", 7, "--gamma", 0.5, "--hidden", 8, 9, "--no-double"]
    main.main("--seed 7 --gamma 0.5 --hidden 8 9 --no-double --out 'a b'")
    main.main([*words, "--out", Path("a b")])
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words), "--out=a b"])
    main.main()
    config = Config(gamma=0.5, hidden=(8, 9), double=False)
    assert received == [(config, 7, Path.cwd() / "a b")] * 3


@pytest.mark.parametrize("game", ["MountainCar-v0", "Acrobot-v1", "Pendulum-v1"])
def test_an_option_counts_more_than_a_game_and_a_game_more_than_defaults(
    game, received
):
    main.main(f"--env-id {game}")
    main.main(f"--goal 7 --env-id {game}")
    main.main(f"--env-id {game} --gamma {Config.gamma}")
    of_game, with_goal, with_gamma = [config for config, _, _ in received]
    assert of_game != Config(env_id=game)
    assert with_goal == replace(of_game, goal=7.0)
    assert with_gamma == replace(of_game, gamma=Config.gamma)


def test_a_game_of_which_nothing_is_known_has_no_goal(received):
    main.main("--env-id FrozenLake-v1")
    assert received[0][0].goal == float("inf")


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_says_what_an_option_means_and_its_default(
    word, received, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "1000")
    for words in ("", "--env-id MountainCar-v0"):
        main.main(words)
        config, _, _ = received.pop()
        assert status(f"{word} {words}") == 0
        assert received == []
        parts = re.split(r"\n  (?=-)", capsys.readouterr().out)
        entries = {
            part.split()[0].strip(","): " ".join(part.split()) for part in parts[1:]
        }
        for setting in fields(Config):
            entry = entries[flag(setting.name)]
            assert setting.metadata["help"] in entry
            default = getattr(config, setting.name)
            if setting.name == "env_id":
                default = "CartPole-v1"
            assert f"(default: {default})" in entry


@pytest.mark.parametrize(
    "words",
    [
        "--gamma 2", "--gamma 1", "--gamma nan", "--gamma", "--tau -1",
        "--epsilon-end 1.1", "--learning-rate nan",
        "--seed x", "--seed -1", "--batch-size 0", "--batch-size 1e3", "--hidden",
        "--hidden 8 0", "--hidden eight", "--loss cubic", "--learning-rate 0",
        "--goal high", "--goal nan", "--total-steps 300 --warmup-steps 300", "--sed 1",
        "--gam 0.9", "--no-gamma", "7", "--env-id Nowhere-v0 --out new",
        "--env-id nowhere:X-v0", "--env-id", "--env-id ''", "--evaluate missing.pkl", "--evaluate .",
        "--evaluate ''", "--out file", "--out file/below",
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_its_name_and_costs_nothing(
    words, received, here, capsys
):
    (here / "file").write_text("mine")
    assert status(words) == 2
    assert received == []
    assert names(here) == {"file"}
    assert (here / "file").read_text() == "mine"
    assert words.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_folder_is_made_and_may_lie_at_home(received, here, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(here / "home"))
    main.main("--out=~/runs/7")
    assert received[0][2] == here / "home" / "runs" / "7"
    assert received[0][2].is_dir()
    assert names(here) == {"home"}
