"""The network: observations to Q-values."""

import numpy as np
import pytest
from conftest import new_params, same, table
from jax import tree

import main

OBS = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)


def test_every_observation_has_one_q_value_per_action_alone_or_in_a_batch():
    params, _ = new_params()
    together = main.q_values(params, OBS[:6])
    assert together.shape == (6, 2)
    assert main.q_values(params, OBS[:6].reshape(2, 3, 4)).shape == (2, 3, 2)
    for obs, q in zip(OBS, together):
        np.testing.assert_allclose(main.q_values(params, obs), q, rtol=1e-4)


def test_two_layers_equal_the_ones_worked_by_hand():
    def silu(x):
        return x / (1 + np.exp(-x))

    params = {
        "scale": np.float32([2]),
        "hidden": [{"w": np.float32([[1, -1]]), "b": np.float32([0, 1])}],
        "output": {"w": np.float32([[1], [10]]), "b": np.float32([0.5])},
    }
    q = main.q_values(params, np.float32([4]))  # The hidden layer sees 4 / 2.
    assert q == pytest.approx([silu(2) + 10 * silu(-2 + 1) + 0.5], rel=1e-5)


def test_dueling_adds_the_value_and_takes_off_the_mean_advantage():
    params = table([[1, 2, 6], [10, 20, 60]])
    params["value"] = {"w": np.float32([[10], [20]]), "b": np.float32([0.5])}
    expected = [[10.5 - 2, 10.5 - 1, 10.5 + 3], [20.5 - 20, 20.5 - 10, 20.5 + 30]]
    q = main.q_values(params, np.eye(2, dtype=np.float32))
    assert q == pytest.approx(np.array(expected))


def test_layers_have_the_sizes_that_were_asked_for_and_are_float32():
    def sizes(**settings):
        arrays = tree.leaves(new_params(**settings)[0])
        assert {array.dtype for array in arrays} == {np.dtype("float32")}
        return sorted(array.shape for array in arrays if array.ndim == 2)

    assert sizes(hidden=(7, 5)) == [(4, 7), (5, 2), (7, 5)]
    assert sizes(hidden=(7, 5), dueling=True) == [(4, 7), (5, 1), (5, 2), (7, 5)]
    assert sizes(env_id="Acrobot-v1", hidden=()) == [(6, 3)]


def test_weights_keep_the_variance_and_differ_by_layer_and_by_seed():
    sizes = {"hidden": (100, 400, 100, 400)}
    params, _ = new_params(**sizes)
    other, _ = new_params(1, **sizes)
    assert same(params, new_params(**sizes)[0])
    _, one, _, two = params["hidden"]
    assert one["w"].var() == pytest.approx(1 / 100, rel=0.05)
    assert not one["b"].any()
    for layer in (two, other["hidden"][1]):
        assert abs(np.corrcoef(one["w"].ravel(), layer["w"].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("dueling", [False, True])
def test_no_action_looks_good_before_it_has_been_tried(dueling):
    q = main.q_values(new_params(hidden=(64, 64), dueling=dueling)[0], OBS)
    assert 0 < np.abs(q).max() < 0.1
