"""The policies: greedy, random and epsilon-greedy."""

import numpy as np
import pytest
from conftest import table

import main
from main import Config

PARAMS = table([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
OBS = np.eye(2, dtype=np.float32)
MANY = np.tile(OBS[0], (20_000, 1))


def shares(actions):
    return np.bincount(actions, minlength=3) / len(actions)


def test_the_greedy_action_has_the_largest_q_value_and_nothing_is_random():
    assert main.policy_fn(None, PARAMS, OBS).tolist() == [1, 0]
    assert main.policy_fn(None, PARAMS, OBS[0]) == 1


def test_random_actions_are_uniform():
    actions = main.random_policy_fn(np.random.default_rng(0), MANY, 3)
    assert shares(actions) == pytest.approx(np.full(3, 1 / 3), abs=0.02)
    two = main.random_policy_fn(np.random.default_rng(0), MANY)
    assert set(two.tolist()) == {0, 1}  # two actions, unless told


def acted(*epsilon, seed=0, n=5000):
    """Epsilon-greedy actions for the same observation, whose greedy action is 1 of 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    return np.array([main.action_fn(rng, PARAMS, OBS[0], *epsilon) for _ in range(n)])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_is_the_share_of_random_actions(epsilon):
    expected = np.full(3, epsilon / 3)
    expected[1] += 1 - epsilon  # one random action in three is the greedy one
    assert shares(acted(epsilon)) == pytest.approx(expected, abs=0.02)


def test_the_coin_and_the_random_action_are_independent():
    """With one number for both, a small epsilon would only ever draw the first random actions."""
    actions = acted(0.3)
    assert np.mean(actions[actions != 1] == 0) == pytest.approx(0.5, abs=0.05)


def test_the_same_generator_acts_the_same_and_another_otherwise():
    first, same, other = (acted(1.0, seed=s, n=50).tolist() for s in (0, 0, 1))
    assert first == same != other
    assert set(first) == {0, 1, 2}


def test_epsilon_is_one_in_twenty_unless_it_is_said():
    assert np.mean(acted() != 1) == pytest.approx(0.05 * 2 / 3, abs=0.01)


def test_epsilon_is_one_while_warming_up_and_then_falls_from_its_start():
    words = "--warmup-steps 100 --epsilon-start 0.9 --epsilon-end 0.1 --epsilon-decay 400"
    linear, exponential = Config(words), Config(f"{words} --epsilon-schedule exponential")

    def epsilons(config):
        return [main.epsilon_at(step, config) for step in (1, 100, 101, 300, 500, 5000)]

    assert epsilons(linear) == pytest.approx([1, 1, 0.898, 0.5, 0.1, 0.1])
    left = np.exp([-1 / 400, -0.5, -1, -4900 / 400])
    assert epsilons(exponential) == pytest.approx([1, 1, *(0.1 + 0.8 * left)])
