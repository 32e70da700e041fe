"""The policies: greedy, random and epsilon-greedy."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY, table
from jax import random

import main
from main import Config

PARAMS = table([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
OBS = np.eye(2, dtype=np.float32)
MANY = np.tile(OBS[0], (20_000, 1))


def shares(actions):
    return np.bincount(actions, minlength=3) / len(actions)


def test_the_greedy_action_has_the_largest_q_value_and_needs_no_key():
    assert main.policy_fn(random.key(0), PARAMS, OBS).tolist() == [1, 0]
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
    """With one number for both, a small epsilon would only ever draw the first random actions."""
    actions = np.asarray(main.action_fn(random.key(0), PARAMS, MANY, 0.3))
    assert np.mean(actions[actions != 1] == 0) == pytest.approx(0.5, abs=0.05)


def test_each_step_flips_a_coin_of_its_own_and_the_same_one_again():
    def actions(seed):
        key = random.key(seed)
        return [int(main.action_fn(key, PARAMS, OBS[0], 1.0, step)) for step in range(50)]

    assert actions(0) == actions(0) != actions(1)
    assert set(actions(0)) == {0, 1, 2}


def test_epsilon_is_one_in_twenty_unless_it_is_said():
    actions = np.asarray(main.action_fn(random.key(0), PARAMS, MANY))
    assert np.mean(actions != 1) == pytest.approx(0.05 * 2 / 3, abs=0.01)


def test_epsilon_is_one_while_warming_up_and_then_falls_from_its_start():
    words = "--warmup-steps 100 --epsilon-start 0.9 --epsilon-end 0.1 --epsilon-decay 400"
    linear, exponential = Config(words), Config(f"{words} --epsilon-schedule exponential")

    def epsilons(config):
        return [main.epsilon_at(step, config) for step in (1, 100, 101, 300, 500, 5000)]

    assert epsilons(linear) == pytest.approx([1, 1, 0.898, 0.5, 0.1, 0.1])
    left = np.exp([-1 / 400, -0.5, -1, -4900 / 400])
    assert epsilons(exponential) == pytest.approx([1, 1, *(0.1 + 0.8 * left)])


def test_no_random_key_is_used_twice(tmp_path):
    """JAX's own checker watches a short training; and it does notice a key that is used twice."""
    code = f"""
import conftest, main
assert main.main("{TINY} --env-id Glimpse-v0 --out '{tmp_path}'") == 0
key = main.random.key(0)
main.random.normal(key)
main.random.normal(key)
"""
    watched = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "tests",
        env=main.os.environ | {"JAX_DEBUG_KEY_REUSE": "1", "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "AssertionError" not in watched.stderr
    assert "KeyReuseError" in watched.stderr
