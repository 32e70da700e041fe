"""What several tests share: runs of main.py, Q-functions that are tables, small games, memories."""

import hashlib
import os
import pickle
import subprocess
import sys
from collections import deque
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import main  # noqa: E402

# What the tests compile is kept for the next time; processes of their own know nothing of it.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# A training of a second: warm-up, rounds, evaluations, and the end of the budget.
TINY = (
    "--total-steps 300 --warmup-steps 100 --train-every 50 --updates 2 --hidden 8 --batch-size 4 "
    "--eval-every 100 --eval-episodes 3 --confirm-episodes 5 --report-episodes 4"
)


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


@pytest.fixture
def quick(monkeypatch):
    """Recordings of a second, where it does not matter what they show."""
    monkeypatch.setattr(main, "GIF_SECONDS", 1)


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


def remembered(steps):
    """A memory of these steps: (obs, action, reward, terminated, truncated, next_obs)."""
    memory = deque()
    for step in steps:
        main.remember(memory, step)
    return memory


def reseal(path, change):
    """Changes the content of a parameter file; its checksum is right again."""
    content = pickle.loads(path.read_bytes())
    data = pickle.dumps(change(content) or content, protocol=4)
    path.write_bytes(data + hashlib.sha256(data).digest())


class Glimpse(gym.Env):
    """A game of a single step, which cannot be drawn; other odd games are made from it."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([0]), {}

    def step(self, action):
        return np.float32([action]), 1.0, True, False, {}


class Corridor(Glimpse):
    """Walks 1, 2, 3, ...; terminates at 4 on even episodes, else is cut short after 6 steps."""

    observation_space = gym.spaces.Box(-1, 100, (1,), np.float32)
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.at = self.episode + 1, 0
        return np.float32([0]), {}

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), 1.0, self.at == 4 and self.episode % 2 == 0, False, {}


gym.register("Glimpse-v0", Glimpse)
gym.register("Corridor-v0", Corridor, max_episode_steps=6)
