"""The network: observations to Q-values."""

import numpy as np
import pytest
from conftest import table
from jax import random, tree

import main


@pytest.fixture
def params():
    return main.init_params(random.key(0), (4, 16, 8, 3))


def test_every_observation_has_one_q_value_per_action(params):
    for batch in ((), (5,), (2, 5)):
        assert main.q_values(params, np.zeros((*batch, 4), np.float32)).shape == (*batch, 3)


def test_a_batch_is_its_observations_one_by_one(params):
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    together = main.q_values(params, obs)
    for o, q in zip(obs, together, strict=True):
        np.testing.assert_allclose(main.q_values(params, o), q, rtol=1e-5)


def test_two_layers_equal_the_ones_worked_by_hand():
    params = {
        "scale": np.float32([2.0]),
        "hidden": {"silu": [{"w": np.float32([[1.0, -1.0]]), "b": np.float32([0.0, 1.0])}]},
        "output": {"w": np.float32([[1.0], [10.0]]), "b": np.float32([0.5])},
    }
    # 4 / 2 = 2; hidden (2, -2 + 1); SiLU x / (1 + e^-x); output
    a, b = 2 / (1 + np.exp(-2.0)), -1 / (1 + np.exp(1.0))
    assert main.q_values(params, np.float32([4.0])) == pytest.approx(np.array([a + 10 * b + 0.5]))


def test_the_scale_divides_the_observation(params):
    obs = np.float32([1.0, -2.0, 3.0, 0.5])
    doubled = params | {"scale": np.full(4, 2.0, np.float32)}
    np.testing.assert_allclose(
        main.q_values(doubled, 2 * obs), main.q_values(params, obs), rtol=1e-6
    )


def test_initial_values_are_optimistic(params):
    obs = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)
    q = main.q_values(params, obs)
    assert np.all(np.abs(q - 1) < 0.5)
    assert np.std(q) > 0


def test_initial_weights_differ_by_layer_and_by_key():
    one, same, other = (
        main.init_params(random.key(s), (9, 9, 9, 9), config=main.Config(dueling=True))
        for s in (0, 0, 1)
    )
    assert all(tree.leaves(tree.map(np.array_equal, one, same)))
    assert not np.array_equal(one["output"]["w"], other["output"]["w"])
    layers = (*one["hidden"]["silu"], one["output"], one["value"])
    alike = np.corrcoef([layer["w"][:, 0] for layer in layers]) - np.eye(len(layers))
    assert np.abs(alike).max() < 0.9


def test_all_parameters_are_float32(params):
    assert {leaf.dtype for leaf in tree.leaves(params)} == {np.dtype("float32")}


def test_a_table_is_a_network_without_hidden_layers():
    q = [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(main.q_values(table(q), np.eye(2, dtype=np.float32)), q)
