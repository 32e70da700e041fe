"""The policies: greedy, random and epsilon-greedy."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, table

import main

PARAMS = table([[0, 3, 1], [2, 0, 1]])
OBS = np.eye(2, dtype=np.float32)


def act(*epsilon, seed=0, n=5000):
    """Return epsilon-greedy actions where 1 is the greedy one of 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    return np.array([main.action_fn(rng, PARAMS, OBS[0], *epsilon) for _ in range(n)])


def test_the_greedy_action_has_the_largest_q_value():
    assert main.policy_fn(None, PARAMS, OBS).tolist() == [1, 0]
    assert main.policy_fn(None, PARAMS, OBS[0]) == 1


def test_random_actions_are_all_equally_likely():
    rng = np.random.default_rng(0)
    actions = main.random_policy_fn(rng, np.tile(OBS[0], (20_000, 1)), 3)
    assert np.bincount(actions) / 20_000 == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    assert main.random_policy_fn(rng, OBS[0]) in (0, 1)  # two actions unless told


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_share_of_random_actions_which_the_coin_does_not_choose(epsilon):
    expected = np.full(3, epsilon / 3)
    expected[1] += 1 - epsilon  # One random action in three is the greedy one.
    shares = np.bincount(act(epsilon), minlength=3) / 5000
    assert shares == pytest.approx(expected, abs=0.02)


def test_epsilon_is_a_small_share_unless_it_is_said():
    assert 0.01 < np.mean(act() != 1) < 0.1


def test_the_same_generator_acts_the_same_and_another_one_otherwise():
    first = act(1.0, n=50).tolist()
    assert first == act(1.0, n=50).tolist()
    assert first != act(1.0, n=50, seed=1).tolist()


@pytest.mark.parametrize(
    ("fall", "remaining"),
    [
        ("linear", [1, 399 / 400, 0.5, 0, 0]),
        ("exponential", np.exp([0, -1 / 400, -0.5, -1, -9])),
    ],
)
def test_epsilon_falls_from_its_start_to_its_end(fall, remaining):
    config = replace(SMALL, epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=400.0)
    config = replace(config, warmup_steps=100, epsilon_fall=fall)
    epsilons = [main.epsilon_at(step, config) for step in (100, 101, 300, 500, 3700)]
    assert epsilons == pytest.approx(0.1 + 0.8 * np.array(remaining))
