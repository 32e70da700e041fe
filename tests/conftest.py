"""What several tests share: tiny settings, networks that are tables, small games."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from jax import tree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import main

FILES = {"params.pkl", "agent.gif", "random.gif", "learning_curve.png", "hand-in.zip"}

# Training with these options takes a moment, and updates after steps 150, 200, ... 300.
TINY = (
    "--total-steps 300 --warmup-steps 100 --train-every 50 --hidden 8 --batch-size 4 "
    "--eval-every 100 --eval-episodes 3"
)
SMALL = main.Config(
    total_steps=300, warmup_steps=100, train_every=50, hidden=(8,), batch_size=4,
    eval_every=100, eval_episodes=3,
)  # fmt: skip


def new_params(seed=0, **settings):
    """Return the parameters of a new network for a game, and its configuration."""
    config = replace(SMALL, **settings)
    env = main.make_game(config)
    params = main.init_params(np.random.default_rng(seed), env, config)
    env.close()
    return params, config


def table(q):
    """Return parameters whose Q-values are the table q [S, A] for one-hot states."""
    q = np.float32(q)
    output = {"w": q, "b": np.zeros(q.shape[1], np.float32)}
    return {"scale": np.ones(len(q), np.float32), "hidden": [], "output": output}


def same(one, other):
    """Return whether two trees of arrays are equal."""
    if tree.structure(one) != tree.structure(other):
        return False
    return all(tree.leaves(tree.map(np.array_equal, one, other)))


def names(folder):
    """Return the names of what is in a folder."""
    return {path.name for path in folder.iterdir()}


def status(words):
    """Return the exit status of main.py with these words."""
    try:
        return main.main(words) or 0
    except SystemExit as end:
        return end.code


def rows(text):
    """Return the table of scores: agent -> [mean, deviation, minimum, episodes]."""
    pattern = r"(?m)^" + 4 * r" +(-?[\d.]+)" + r"  (?:reached|not reached|none) +(.+)$"
    found = re.findall(pattern, text)
    return {agent: [float(number) for number in numbers] for *numbers, agent in found}


def noise(err):
    """Return the lines of stderr that are not tqdm's bar of the training."""
    lines = re.split(r"[\r\n]+", err)
    return [line for line in lines if line and not line.startswith("training")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return an empty folder, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def watch(monkeypatch):
    """Return a function that lets all calls of a function of main.py be noted in a list
    of arguments and results. Another function may be called instead.
    """

    def start(name, instead=None):
        function = instead or getattr(main, name)
        calls = []

        def noted(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append((args, result))
            return result

        monkeypatch.setattr(main, name, noted)
        return calls

    return start


@pytest.fixture
def no_learning(watch):
    """Let updates change nothing, where it does not matter what is learned."""
    return watch("update_fn", lambda learner, *rest: learner)


@pytest.fixture
def no_pictures(monkeypatch):
    """Let pictures be a few bytes, where it does not matter what they show."""
    monkeypatch.setattr(main, "record", lambda *args: args[-1].write_bytes(b"GIF"))
    monkeypatch.setattr(main, "draw_curves", lambda *args: args[-1].write_bytes(b"PNG"))


class Glimpse(gym.Env):
    """A game of a single step that pays 1. Other games are made from it."""

    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.float32([0]), {}

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), 1.0, True, False, {}


class Corridor(Glimpse):
    """Show 0, 1, 2, ...; terminate at 4 in every other episode, and else go on."""

    episode = 0

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.at == 4 and self.episode % 2 == 1, False, info


def register(game, **settings):
    """Let Gymnasium know a game under its name, and return its id."""
    env_id = f"{game.__name__}-v0"
    gym.registry.pop(env_id, None)
    gym.register(env_id, game, **settings)
    return env_id


register(Corridor, max_episode_steps=6)
