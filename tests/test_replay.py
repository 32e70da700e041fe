"""The memory: what goes in comes out, whole."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL

import main


def step(i):
    """Return a transition whose every field tells that it is number i."""
    obs = np.full(4, i, np.float32)
    return main.Transition(obs, i % 2, 2.0 * i, obs + 0.5, i % 3 == 0)


def sample(n, size, seed=0):
    """Return a batch from a memory of n transitions, and the numbers of what it holds."""
    memory = deque(step(i) for i in range(n))
    batch = main.sample_batch(np.random.default_rng(seed), memory, size)
    return batch, batch.obs[:, 0].astype(int)


def test_the_memory_forgets_the_oldest():
    memory = main.make_memory(replace(SMALL, memory_size=3))
    memory.extend("abcde")
    assert isinstance(memory, deque)
    assert list(memory) == ["c", "d", "e"]


def test_a_batch_holds_whole_transitions():
    batch, numbers = sample(50, 200)
    for name in main.Transition._fields:
        expected = np.array([getattr(step(i), name) for i in numbers])
        np.testing.assert_array_equal(getattr(batch, name), expected)


def test_sampling_is_uniform_with_replacement_and_depends_on_its_generator_alone():
    _, numbers = sample(10, 20_000)
    assert np.bincount(numbers) / 20_000 == pytest.approx(np.full(10, 0.1), abs=0.01)
    _, few = sample(100, 100)
    assert 50 < len(set(few)) < 75  # About 63 are expected with replacement.
    assert few.tolist() == sample(100, 100)[1].tolist()
    assert few.tolist() != sample(100, 100, seed=1)[1].tolist()
