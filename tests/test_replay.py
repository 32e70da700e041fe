"""The memory: what goes in comes out, whole; and what it is worth when it is learned from."""

from collections import deque

import numpy as np
import pytest
from conftest import remembered

import main
from main import Config

RAW = "--no-scale-rewards --gamma 0.5"


def step(i, reward=None, terminated=False, truncated=False):
    """A step of CartPole's shape whose every field tells that it is number i."""
    obs, after = np.full(4, i, np.float32), np.full(4, i + 0.5, np.float32)
    return obs, i % 2, 2.0 * i if reward is None else reward, terminated, truncated, after


def sample(steps, size=2000, words=RAW, seed=0, n=0):
    batch = main.sample_batch(
        np.random.default_rng(seed), remembered(steps), size, Config(words), n
    )
    return batch, batch.obs[:, 0].astype(int)


def test_a_sample_holds_whole_transitions_and_covers_the_memory():
    batch, numbers = sample(map(step, range(50)))
    assert set(numbers) == set(range(50))
    assert batch.obs.shape == batch.next_obs.shape == (2000, 4)
    np.testing.assert_array_equal(batch.obs, np.tile(numbers[:, None], 4))
    np.testing.assert_array_equal(batch.next_obs, np.tile(numbers[:, None] + 0.5, 4))
    np.testing.assert_array_equal(batch.action, numbers % 2)
    np.testing.assert_array_equal(batch.reward, 2.0 * numbers)
    assert set(batch.weight.tolist()) == {1.0}
    assert batch.reward.dtype == batch.discount.dtype == batch.obs.dtype == np.float32


def test_the_memory_forgets_the_oldest():
    memory = deque(maxlen=10)
    for i in range(25):
        main.remember(memory, step(i))
    batch = main.sample_batch(np.random.default_rng(0), memory, 1000, Config(RAW))
    assert set(batch.obs[:, 0].astype(int)) == set(range(15, 25))


def test_sampling_is_uniform_and_with_replacement():
    _, numbers = sample(map(step, range(10)), 20_000)  # 20,000 of 10: with replacement
    assert np.bincount(numbers) / 20_000 == pytest.approx([0.1] * 10, abs=0.01)
    _, few = sample(map(step, range(100)), 100)
    assert 50 < len(set(few)) < 75  # 63 are expected; without replacement there were 100


def test_sampling_depends_on_its_generator_alone():
    one, same, other = (sample(map(step, range(100)), 50, seed=s)[1].tolist() for s in (0, 0, 1))
    assert one == same != other


def test_termination_discounts_to_zero_and_a_time_limit_does_not():
    ends = {
        2: {"terminated": True},
        4: {"truncated": True},
        6: {"terminated": True, "truncated": True},
    }
    batch, numbers = sample(step(i, **ends.get(i, {})) for i in range(9))
    expected = np.where(np.isin(numbers, (2, 6)), 0, 0.5)
    np.testing.assert_array_equal(batch.discount, expected)


def test_n_step_returns_equal_the_ones_worked_by_hand():
    """Episodes of steps 0 to 3, which terminates, 4 to 6, which is cut short, and 7 to 8 so far."""
    rewards = [8, 4, 2, 1, 8, 4, 2, 16, 32]
    ends = {3: {"terminated": True}, 6: {"truncated": True}}
    steps = [step(i, r, **ends.get(i, {})) for i, r in enumerate(rewards)]
    batch, numbers = sample(steps, words=f"{RAW} --n-step 3")
    returns = [8 + 2 + 0.5, 4 + 1 + 0.25, 2 + 0.5, 1, 8 + 2 + 0.5, 4 + 1, 2, 16 + 16, 32]
    discounts = [0.125, 0, 0, 0, 0.125, 0.25, 0.5, 0.25, 0.5]
    last = np.array([2, 3, 3, 3, 6, 6, 6, 8, 8])
    np.testing.assert_allclose(batch.reward, np.array(returns)[numbers])
    np.testing.assert_allclose(batch.discount, np.array(discounts)[numbers])
    np.testing.assert_array_equal(batch.next_obs[:, 0], last[numbers] + 0.5)
    np.testing.assert_array_equal(batch.obs[:, 0], numbers)


def test_rewards_are_clipped_and_then_scaled_for_learning():
    steps = [step(i, r) for i, r in enumerate([-7, -0.5, 0, 0.5, 7])]
    for words, expected in {
        "--no-scale-rewards": [-7, -0.5, 0, 0.5, 7],
        "--gamma 0.9": [-0.7, -0.05, 0, 0.05, 0.7],
        "--no-scale-rewards --clip-rewards": [-1, -0.5, 0, 0.5, 1],
        "--gamma 0.9 --clip-rewards": [-0.1, -0.05, 0, 0.05, 0.1],
    }.items():
        batch, numbers = sample(steps, words=words)
        np.testing.assert_allclose(batch.reward, np.array(expected)[numbers], atol=1e-6)


def test_prioritised_probabilities_and_weights_equal_the_ones_worked_by_hand():
    """P = .1, .2, .5 and, for what is new, the largest priority there is: .5, all over 1.3."""
    words = "--prioritized --priority-exponent 1 --importance-exponent 0.5 --total-steps 1000"
    memory = remembered(map(step, range(4)))
    config, rng = Config(words), np.random.default_rng(0)
    batch = main.sample_batch(rng, memory, 100, config)
    assert set(batch.weight.tolist()) == {1.0}  # all are new: uniform
    learned = batch._replace(slot=np.arange(3))
    errors = {"td_errors": lambda *a, **k: np.float32([-0.1, 0.2, 0.5])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "td_errors", errors["td_errors"])
        main.prioritize(memory, learned, main.Learner({}, {}, (), 0), config)
    p = np.array([0.1, 0.2, 0.5, 0.5]) / 1.3
    for n, beta in ((0, 0.5), (500, 0.75), (1000, 1.0)):
        batch = main.sample_batch(rng, memory, 40_000, config, n)
        numbers = batch.obs[:, 0].astype(int)
        assert np.bincount(numbers) / 40_000 == pytest.approx(p, abs=0.01)
        raw = (4 * p) ** -beta
        np.testing.assert_allclose(batch.weight, (raw / raw.max())[numbers], rtol=1e-4)
        np.testing.assert_array_equal(batch.slot, numbers)
    half = Config(f"{words} --priority-exponent 0.5")
    batch = main.sample_batch(rng, memory, 40_000, half)
    shares = np.bincount(batch.obs[:, 0].astype(int)) / 40_000
    assert shares == pytest.approx(np.sqrt(p) / np.sqrt(p).sum(), abs=0.01)


def test_priorities_are_the_errors_of_what_was_learned_from():
    words = "--prioritized --priority-exponent 1 --gamma 0.5 --no-scale-rewards --no-optimistic"
    config = Config(words)
    steps = [step(i, reward=0.0) for i in range(5)]
    memory, learner = remembered(steps), main.new_learner(config)
    learner = learner._replace(target=main.init_params(Config(f"{words} --seed 1")))  # not its own
    batch = main.sample_batch(np.random.default_rng(0), memory, 200, config)
    main.prioritize(memory, batch, learner, config)
    again = main.sample_batch(np.random.default_rng(0), memory, 50_000, config)
    obs, next_obs = (np.float32([x[k] for x in steps]) for k in (0, 5))
    q = np.asarray(main.q_values(learner.params, obs))[np.arange(5), np.arange(5) % 2]
    chosen = np.argmax(main.q_values(learner.params, next_obs), axis=1)
    y = 0.5 * np.asarray(main.q_values(learner.target, next_obs))[np.arange(5), chosen]
    errors = np.abs(y - q)
    shares = np.bincount(again.obs[:, 0].astype(int), minlength=5) / 50_000
    assert shares == pytest.approx(errors / errors.sum(), abs=0.01)


def test_without_the_switch_nothing_is_prioritised():
    memory = remembered(map(step, range(4)))
    before = [bytes(row) for row in memory]
    config = Config()
    batch = main.sample_batch(np.random.default_rng(0), memory, 10, config)
    main.prioritize(memory, batch, main.new_learner(config), config)
    assert [bytes(row) for row in memory] == before
