"""Prioritized replay: probabilities, weights and priorities, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, new_params, same
from test_replay import step

import main


def remember(priorities, size=10):
    """Return a memory whose transitions have been replayed with these errors."""
    memory = main.PrioritizedMemory(size)
    for i, priority in enumerate(priorities):
        memory.append(step(i))
        memory.priorities[-1] = priority
    return memory


@pytest.fixture
def replay(watch):
    """Return a function that draws 40,000 transitions, whose errors are `errors` then,
    at a part of the training; and returns their numbers and their weights.
    """

    def draw(memory, at=0, errors=0.0):
        updates = watch("update_fn", lambda *args: "new learner")
        watch("batch_td_errors", lambda *args: np.full(40_000, errors))
        config = replace(SMALL, batch_size=40_000, total_steps=1000)
        args = np.random.default_rng(0), main.Learner({}, {}, ()), memory
        assert main.prioritized_update(*args, int(1000 * at), config) == "new learner"
        (_, batch, _, weights), _ = updates[0]
        return batch.obs[:, 0].astype(int), np.asarray(weights)

    return draw


@pytest.mark.parametrize(("at", "beta"), [(0, 0.4), (0.5, 0.7), (1, 1.0)])
def test_probabilities_and_weights_equal_the_ones_worked_by_hand(at, beta, replay):
    priorities = np.array([0.1, 0.2, 0.5, 3.0])
    numbers, weights = replay(remember(priorities), at)
    powers = np.array(
        [0.2512, 0.3807, 0.6598, 1.9332]
    )  # priorities to the power of 0.6
    shares = np.bincount(numbers) / len(numbers)
    assert shares == pytest.approx(powers / powers.sum(), abs=0.01)
    np.testing.assert_allclose(
        weights, (powers[0] / powers[numbers]) ** beta, rtol=1e-3
    )


def test_what_is_new_has_the_highest_priority_yet(replay):
    memory = main.PrioritizedMemory(10)
    memory.append(step(0))
    memory.append(step(1))
    assert memory.priorities[0] == memory.priorities[1] > 0
    memory.priorities[0] = 0.7
    memory.priorities[1] = 0.5
    memory.append(step(2))
    assert list(memory.priorities) == pytest.approx([0.7, 0.5, 0.7])
    replay(memory, errors=-0.2)
    memory.append(step(3))
    assert list(memory.priorities) == pytest.approx([0.2] * 4, abs=1e-3)


def test_what_was_predicted_exactly_can_be_drawn_again(replay):
    memory = remember([1.0, 1.0])
    replay(memory, errors=0.0)
    assert min(memory.priorities) > 0
    assert set(replay(memory)[0]) == {0, 1}


def test_priorities_are_forgotten_with_their_transitions(replay):
    memory = remember([5.0, 4.0, 3.0, 2.0], size=3)
    assert list(memory.priorities) == [4.0, 3.0, 2.0]
    assert set(replay(memory)[0]) == {1, 2, 3}


def test_priorities_are_the_errors_of_the_learner_who_then_learns():
    params, config = new_params()
    learner = main.init_learner(params, config)
    learner = learner._replace(target_params=new_params(1)[0])
    memory = remember([1.0, 1.0, 1.0])
    batch = main.stack([memory[i] for i in (0, 1, 2, 2)])
    errors = main.batch_td_errors(learner.params, learner.target_params, batch, config)
    rng = np.random.default_rng(2)
    after = main.prioritized_update(rng, learner, memory, 1, config)
    found = np.array(memory.priorities)
    replayed = found != 1
    assert replayed.sum() >= 2
    assert found[replayed] == pytest.approx(np.abs(errors[:3])[replayed], abs=1e-5)
    assert not same(after.params, params)
