"""What several tests share: the path to main.py, runs of it, and Q-functions that are tables."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def run_main(*args, cwd, script=ROOT / "main.py", **env):
    """`python main.py *args` in a fresh process, with a few environment variables more or less."""
    environment = {k: v for k, v in (os.environ | env).items() if v is not None}
    return subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder and the process of one whole default run, started in an empty folder."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_main(cwd=folder)


def table(q):
    """Parameters whose Q-function is the table q [S, A], for one-hot observations of S states."""
    q = np.asarray(q, np.float32)
    return {
        "scale": np.ones(q.shape[0], np.float32),
        "hidden": {"silu": []},
        "output": {"w": q, "b": np.zeros(q.shape[1], np.float32)},
    }


def state(i, n=2):
    """The one-hot observation of state i of n."""
    return np.eye(n, dtype=np.float32)[i]


class Glimpse(gym.Env):
    """A game of a single step, which cannot be drawn; other odd games are made from it."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([0]), {}

    def step(self, action):
        return np.float32([action]), 1.0, True, False, {}
