"""The policies: greedy, random and epsilon-greedy."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, run_main, table
from jax import random

import main

PARAMS = table([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
OBS = np.eye(2, dtype=np.float32)
MANY = np.tile(OBS[0], (20_000, 1))


def shares(actions):
    return np.bincount(actions, minlength=3) / len(actions)


def test_the_greedy_action_has_the_largest_q_value():
    assert main.policy_fn(random.key(0), PARAMS, OBS).tolist() == [1, 0]


def test_the_greedy_action_needs_no_key():
    assert main.policy_fn(None, PARAMS, OBS[0]) == 1


def test_random_actions_are_uniform():
    actions = main.random_policy_fn(random.key(0), MANY, 3)
    assert shares(actions) == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert set(main.random_policy_fn(random.key(0), MANY).tolist()) == {0, 1}  # two, unless told


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_share_of_random_actions(epsilon):
    actions = main.action_fn(random.key(0), PARAMS, MANY, epsilon)
    expected = np.full(3, epsilon / 3)
    expected[1] += 1 - epsilon  # one random action in three is the greedy one
    assert shares(actions) == pytest.approx(expected, abs=0.02)


def test_the_coin_and_the_random_action_are_independent():
    """With one key for both, a small epsilon would only ever draw the first random actions."""
    actions = np.asarray(main.action_fn(random.key(0), PARAMS, MANY, 0.3))
    others = actions[actions != 1]
    assert np.mean(others == 0) == pytest.approx(0.5, abs=0.05)


def test_each_step_flips_a_coin_of_its_own():
    actions = [int(main.act(random.key(0), n, PARAMS, OBS[0], 1.0)) for n in range(50)]
    assert set(actions) == {0, 1, 2}
    assert actions == [int(main.act(random.key(0), n, PARAMS, OBS[0], 1.0)) for n in range(50)]


def test_no_random_key_is_used_twice(tmp_path):
    """JAX's own checker watches a short training; and it does notice a key that is used twice."""
    short = ("--total-steps", 700, "--eval-episodes", 2, "--hidden", 8)
    checked = run_main(*short, cwd=tmp_path, JAX_DEBUG_KEY_REUSE="1")
    assert checked.returncode == 0, checked.stderr
    twice = "import main; k = main.random.key(0); main.random.normal(k); main.random.normal(k)"
    caught = subprocess.run(
        [sys.executable, "-c", twice],
        cwd=ROOT,
        env=main.os.environ | {"JAX_DEBUG_KEY_REUSE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "KeyReuseError" in caught.stderr


def test_epsilon_is_one_in_twenty_unless_it_is_said():
    actions = main.action_fn(random.key(0), PARAMS, MANY)
    assert np.mean(np.asarray(actions) != 1) == pytest.approx(0.05 * 2 / 3, abs=0.01)
