"""Configuration: the same words mean the same from a shell, a notebook and a test."""

import subprocess
import sys
from dataclasses import fields

import gymnasium as gym
import pytest
from conftest import ROOT

import main
from main import Config


@pytest.mark.parametrize(
    "words",
    [
        "--gamma 1", "--gamma nan", "--tau 0", "--seed -1", "--seed 1.5", "--updates 0",
        "--batch-size 1e3", "--hidden 8 0", "--hidden eight", "--loss cubic", "--epsilon-end 1.1",
        "--total-steps 200000000", "--learning-rate inf", "--sed 1", "--no-gamma", "--gamma", "7",
        "--seed 4294967295 --seeds 2", "--seeds 2 --evaluate x.pkl",
        "--evaluate x.pkl --compare --vanilla",
        "--gamma 0.9 --compare '--gamma 7'", "--loss huber --compare '--loss cubic'",
        "--compare \"'x\"", "--compare --vanilla --out x", "--compare --vanilla --out=x",
        "--compare '--env-id Acrobot-v1'",
        "--compare '--seed 3' --vanilla", "--env-id Nowhere-v0",
        "--hidden 1024 1024 1024 1024 1024 1024", "--hidden" + 2400 * " 1",
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_with_one_line_that_names_the_option(words, capsys):
    with pytest.raises(ValueError, match=words.split()[0]) as refused:
        Config(words)
    assert "\n" not in str(refused.value)
    assert main.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_an_open_quote_is_bad_input(capsys):
    with pytest.raises(main.BadInput, match="words"):
        Config("--out 'x")
    assert main.main("--out 'x") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "low", "high"), [("gamma", 0, 0.9999), ("tau", 1e-6, 1), ("n-step", 1, 1000)]
)
def test_the_ends_of_a_range_are_allowed_and_the_refusal_names_them(option, low, high):
    for value in (low, high):
        assert getattr(Config(f"--{option} {value}"), option.replace("-", "_")) == value
    with pytest.raises(ValueError, match=f"--{option}.*{low:g}.*{high:g}.*{high + 1}"):
        Config(f"--{option} {high + 1}")


def test_words_and_a_line_of_words_are_the_same():
    config = Config("--memory-size 777 --hidden 8 9 --gamma 0.5 --no-double")
    assert config == Config(
        ["--memory-size", "777", "--hidden", "8", "9", "--gamma=.5", "--no-double"]
    )
    assert (config.memory_size, config.hidden, config.gamma) == (777, (8, 9), 0.5)
    assert config.sizes == (4, 8, 9, 2)
    assert Config("--double --no-double").double is False


def test_an_option_counts_more_than_a_preset_and_a_preset_more_than_the_game(monkeypatch):
    wanted = "--n-step 3 --tau 0.005 --target-return -104"
    monkeypatch.setitem(main.PRESETS, "MountainCar-v0", wanted)
    game = Config("--env-id MountainCar-v0")
    assert (game.n_step, game.tau, game.target_return) == (3, 0.005, -104)
    config = Config("--activation tanh --vanilla --env-id MountainCar-v0 --target-return 7")
    assert (config.n_step, config.tau, config.activation, config.double) == (1, 1, "tanh", False)
    assert config.target_return == 7
    assert not Config("--steady").early_stop
    assert Config("--n-step 1 --steady").n_step == 1


@pytest.mark.parametrize("game", [name for name in main.PRESETS if name in gym.registry])
def test_vanilla_is_without_every_idea_in_every_game(game):
    config = Config(f"--env-id {game} --vanilla")
    ideas = "double dueling optimistic prioritized scale_observations scale_rewards bound_targets"
    assert not any(getattr(config, name) for name in (*ideas.split(), "decay_learning_rate"))
    assert (config.n_step, config.tau) == (1, 1)
    assert (config.network, config.activation) == ("online", "relu")
    assert config.updates / config.train_every == 1 / 4
    assert config.target_period > 100


def test_a_game_that_is_not_listed_is_solved_where_gymnasium_says(monkeypatch):
    assert Config("--env-id FrozenLake-v1").target_return == 0.7
    assert Config("--env-id Blackjack-v1").target_return == float("inf")
    monkeypatch.setitem(main.PRESETS, "FrozenLake-v1", "--gamma 0.9")  # an entry keeps the rest
    config = Config("--env-id FrozenLake-v1")
    assert (config.gamma, config.target_return, config.max_reward) == (0.9, 0.7, float("inf"))


def test_a_config_as_options_is_the_same_config():
    for words in (
        "--report-episodes 7 --out x",
        "--vanilla --hidden",
        "--env-id Pendulum-v1 --seed 7 --hidden 9 --no-double --target-return=-1e-7",
    ):
        again, expected = Config(main.as_options(Config(words))), vars(Config(words)).copy()
        assert vars(again) == expected | {"out": "."}  # where its files go is not what a run is


def test_two_seeds_share_one_compilation():
    assert hash(Config("--seed 1 --out a")) == hash(Config("--seed 2 --out b"))
    assert Config("--seed 1 --out a") == Config("--seed 2 --out b")
    assert Config("--gamma 0.5") != Config()


def test_the_help_names_every_option_with_its_meaning(capsys):
    assert main.main("--help") == main.main(["--seed", "7", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert main.main("--out=--help --seed=-1") == 2  # a folder's name asks for no help
    for f in (f for f in fields(Config) if f.metadata):
        assert "--" + f.name.replace("_", "-") in text
        assert " ".join(f.metadata["meaning"].split()) in text
    assert all(words in text for words in main.PRESETS.values())


def test_importing_has_no_side_effects(tmp_path):
    """Nor does it choose the host's devices, windows or figures."""
    code = (
        f"import sys, os; sys.path.insert(0, {str(ROOT)!r}); before = dict(os.environ); "
        "import main; "
        "changed = {k for k, v in os.environ.items() if before.get(k) != v}; "
        "assert not changed & {'JAX_PLATFORMS', 'SDL_VIDEODRIVER', 'MPLBACKEND'}, changed"
    )
    bare = {
        k: v for k, v in main.os.environ.items() if k not in ("JAX_PLATFORMS", "SDL_VIDEODRIVER")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", "-c", code],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_without_docstrings_the_help_still_helps(capsys, monkeypatch):
    monkeypatch.setattr(main, "__doc__", None)  # as python -OO leaves it
    assert main.main("--help") == 0
    assert "--gamma" in capsys.readouterr().out


def test_bad_input_costs_nothing(tmp_path):
    assert main.main(["--env-id", "Nowhere-v0", "--out", str(tmp_path / "new")]) == 2
    assert list(tmp_path.iterdir()) == []
