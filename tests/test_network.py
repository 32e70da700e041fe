"""The network: observations to Q-values."""

import numpy as np
import pytest
from conftest import table
from jax import tree

import main
from main import Config

OBS = np.random.default_rng(1).normal(size=(1000, 4)).astype(np.float32)


@pytest.fixture
def params():
    return main.init_params(Config("--hidden 16 8"))


def test_every_observation_has_one_q_value_per_action(params):
    for batch in ((), (5,), (2, 5)):
        assert main.q_values(params, np.zeros((*batch, 4), np.float32)).shape == (*batch, 2)


def test_a_batch_is_its_observations_one_by_one(params):
    together = main.q_values(params, OBS[:6])
    for o, q in zip(OBS[:6], together, strict=True):
        np.testing.assert_allclose(main.q_values(params, o), q, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "f"),
    [("relu", lambda x: max(x, 0)), ("silu", lambda x: x / (1 + np.exp(-x))), ("tanh", np.tanh)],
)
def test_two_layers_equal_the_ones_worked_by_hand(name, f):
    params = {
        "scale": np.float32([2.0]),
        "hidden": {name: [{"w": np.float32([[1.0, -1.0]]), "b": np.float32([0.0, 1.0])}]},
        "output": {"w": np.float32([[1.0], [10.0]]), "b": np.float32([0.5])},
    }
    q = main.q_values(params, np.float32([4.0]))  # 4 / 2 = 2; hidden f(2), f(-2 + 1); output
    assert q == pytest.approx(np.array([f(2.0) + 10 * f(-1.0) + 0.5]), rel=1e-5)
    assert [*main.init_params(Config(f"--activation {name}"))["hidden"]] == [name]


def test_a_table_is_a_network_without_hidden_layers():
    q = [[1.0, 2.0], [3.0, 4.0]]
    np.testing.assert_array_equal(main.q_values(table(q), np.eye(2, dtype=np.float32)), q)


def test_layers_have_the_sizes_that_were_asked_for_and_are_float32():
    params = main.init_params(Config("--hidden 7 5"))
    layers = (*params["hidden"]["silu"], params["output"])
    assert [layer["w"].shape for layer in layers] == [(4, 7), (7, 5), (5, 2)]
    assert {leaf.dtype for leaf in tree.leaves(params)} == {np.dtype("float32")}


def test_initial_weights_keep_the_variance_and_differ_by_layer_and_by_seed():
    config = "--hidden 300 300 300 --no-optimistic --dueling"
    one, same, other = (main.init_params(Config(f"{config} --seed {s}")) for s in (0, 0, 1))
    assert all(tree.leaves(tree.map(np.array_equal, one, same)))
    layers = one["hidden"]["silu"][1:]
    for layer in layers:
        assert layer["w"].var() == pytest.approx(1 / 300, rel=0.05)
        assert not layer["b"].any()
    assert one["output"]["w"].var() == pytest.approx(1 / 300, rel=0.2)
    for a, b in ((layers[0], layers[1]), (layers[0], other["hidden"]["silu"][1])):
        assert abs(np.corrcoef(a["w"].ravel(), b["w"].ravel())[0, 1]) < 0.1
    both = np.corrcoef(one["output"]["w"][:, 0], one["value"]["w"][:, 0])
    assert abs(both[0, 1]) < 0.3


def test_dueling_heads_add_the_value_and_take_off_the_mean_advantage():
    params = table([[1.0, 2.0, 6.0]] * 2)
    params["value"] = {"w": np.float32([[10.0], [20.0]]), "b": np.float32([0.5])}
    q = main.q_values(params, np.float32([0, 1]))
    assert q == pytest.approx(20.5 + np.array([1, 2, 6]) - 3)
    assert "value" not in main.init_params(Config())
    assert main.init_params(Config("--dueling"))["value"]["w"].shape == (64, 1)


@pytest.mark.parametrize("dueling", ["--dueling", "--no-dueling"])
@pytest.mark.parametrize(
    ("words", "best"),
    [
        ("", 1),  # scaled by 1 - gamma: sum_k gamma^k (1 - gamma) = 1
        ("--no-scale-rewards --gamma 0.9", 10),
        ("--max-reward -2", 0),  # each step costs: the sooner it ends, the better
        ("--max-reward -5 --clip-rewards --no-scale-rewards", 0),
        ("--max-reward 5 --clip-rewards", 1),
        ("--max-reward 5", 5),
        ("--max-reward inf", 0),  # nobody knows
        ("--no-optimistic", 0),
    ],
)
def test_initial_values_are_the_best_return_there_is(words, best, dueling):
    q = main.q_values(main.init_params(Config(f"{words} {dueling}")), OBS)
    known = "inf" not in words and "--no-optimistic" not in words
    np.testing.assert_allclose(q.mean(), best, atol=0.1 if known else 0.6)
    assert 0 < np.std(q) < (0.05 if known else 1)
    assert known or np.std(q) > 0.1
