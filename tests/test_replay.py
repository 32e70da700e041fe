"""The memory: what goes in comes out, whole."""

from collections import Counter, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import main
from main import Transition


def transition(i, o=3):
    """A transition whose every field tells that it is number i."""
    return Transition(np.full(o, i, np.float32), i % 7, 2.0 * i, 0.5, np.full(o, i + 1, np.float32))


def memory_of(n, maxlen=None):
    return deque((main.pack(transition(i)) for i in range(n)), maxlen=maxlen)


@given(o=st.integers(1, 9), numbers=st.lists(st.integers(0, 10_000), min_size=1, max_size=9))
def test_unpacking_gives_back_what_was_packed(o, numbers):
    batch = main.unpack([main.pack(transition(i, o)) for i in numbers])
    assert batch.obs.dtype == batch.reward.dtype == batch.next_obs.dtype == np.float32
    for row, i in zip(zip(*batch, strict=True), numbers, strict=True):
        for got, expected in zip(row[:5], transition(i, o)[:5], strict=True):
            np.testing.assert_array_equal(got, expected)


@given(n=st.integers(1, 50), maxlen=st.integers(1, 30), size=st.integers(1, 40))
def test_a_sample_holds_only_whole_transitions_that_were_stored_and_not_forgotten(n, maxlen, size):
    batch = main.sample_batch(np.random.default_rng(0), memory_of(n, maxlen), size)
    assert batch.obs.shape == batch.next_obs.shape == (size, 3)
    assert batch.action.dtype == np.int32
    for row in zip(*batch, strict=True):
        i = int(row[0][0])
        assert max(0, n - maxlen) <= i < n
        for got, expected in zip(row[:5], transition(i)[:5], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_sampling_is_uniform():
    batch = main.sample_batch(np.random.default_rng(0), memory_of(10), 20_000)
    counts = Counter(batch.obs[:, 0].tolist())
    assert [counts[i] / 20_000 for i in range(10)] == pytest.approx([0.1] * 10, abs=0.01)


def test_sampling_depends_on_its_generator_alone():
    memory = memory_of(100)
    one, same, other = (
        main.sample_batch(np.random.default_rng(s), memory, 50).action.tolist() for s in (0, 0, 1)
    )
    assert one == same != other


def test_the_scale_is_one_and_a_half_deviations_of_what_was_seen_first():
    memory = [
        main.pack(Transition(np.float32([x, 7]), 0, 0.0, 0.0, np.float32([100 * x, 7])))
        for x in (1, 5)
    ]
    assert main.observation_scale(memory).tolist() == [3.0, 1.0]  # 7 never changes: not divided
