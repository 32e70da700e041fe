"""Learning: the error, the loss, the update, by hand and against exact solutions."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import same, table
from jax import grad, jit, tree

import main
from main import Config, Transition

ONLINE = [[0, 0], [3, 5]]  # In state 1 the online network prefers action 1,
TARGET = [[0, 0], [8, 2]]  # and the target network prefers action 0.
PLAIN = {"gamma": 0.5, "reward_mode": "raw", "hidden": ()}
DEFAULT = Config(**PLAIN)
STATES = np.eye(2, dtype=np.float32)


def step(state=0, action=0, reward=1.0, after=1, terminated=False):
    """Return a transition between states 0 and 1."""
    return Transition(STATES[state], action, reward, STATES[after], terminated)


def batch(*steps):
    return Transition(*[np.array(column) for column in zip(*steps)])


def learner(q, config, target=None):
    """Return a learner whose networks are tables."""
    now = main.init_learner(table(q), config)
    assert same(now.params, now.target_params)
    return now._replace(target_params=table(target or q))


def error_of(transition, config):
    return float(main.td_error(table(ONLINE), table(TARGET), transition, config))


def test_the_td_error_equals_the_one_worked_by_hand():
    assert error_of(step(terminated=True), DEFAULT) == 1  # y = r
    assert error_of(step(), DEFAULT) == 1 + 0.5 * 2  # The online network chooses 1.
    assert error_of(step(reward=-3.0), DEFAULT) == -3 + 0.5 * 2
    assert error_of(step(state=1, after=0), DEFAULT) == 1 - 3  # Q(s, a) is 3.
    assert error_of(step(state=1, action=1), DEFAULT) == 1 + 0.5 * 2 - 5
    # Without Double DQN the target network chooses for itself.
    assert error_of(step(), Config(**PLAIN, double=False)) == 1 + 0.5 * 8


def test_a_value_above_the_limit_counts_as_the_limit():
    """Where rewards are halved, the limit is, too."""
    low = {**PLAIN, "double": False, "q_limit": 6.0}
    assert error_of(step(), Config(**low)) == 1 + 0.5 * 6
    assert error_of(step(terminated=True, reward=9.0), Config(**low)) == 9
    assert error_of(step(), Config(**low | {"reward_mode": "scaled"})) == 1 + 0.5 * 3


@pytest.mark.parametrize(
    ("loss", "losses"), [("huber", [0.125, 2.5, 1.5]), ("squared", [0.125, 4.5, 2.0])]
)
def test_the_loss_is_the_weighted_mean_of_the_losses(loss, losses):
    ends = step(reward=0.5, terminated=True), step(reward=3.0, terminated=True)
    three = batch(*ends, step())  # whose errors are 0.5, 3 and 2
    args = table(ONLINE), table(TARGET), three, Config(**PLAIN, loss=loss)
    for weights in np.float32([[1, 1, 1], [1, 0.25, 0.5]]):
        expected = np.mean(weights * losses)
        assert main.loss_fn(*args, weights) == pytest.approx(expected)


def test_no_gradient_flows_into_the_target_nor_into_the_scale():
    steps = batch(step(state=1, action=1))  # Its error is -3.
    args = table(ONLINE), table(TARGET), steps, DEFAULT, 1.0
    gradient = grad(main.loss_fn)(*args)
    assert not gradient["scale"].any()
    assert gradient["output"]["w"].tolist() == [[0, 0], [0, 1]]  # the chosen action
    through_target = grad(main.loss_fn, 1)(*args)
    assert not any(array.any() for array in tree.leaves(through_target))


LOOP = [step(s, a, after=s) for s in (0, 1) for a in (0, 1)]
CHAIN = [
    step(0, 0, reward=0.0),
    step(0, 1, reward=0.2),
    step(1, 0, reward=-2.0, terminated=True),
    step(1, 1, reward=1.0, terminated=True),
]


@pytest.mark.parametrize(
    ("steps", "q"), [(LOOP, [[2, 2], [2, 2]]), (CHAIN, [[0.5, 0.7], [-2, 1]])]
)
def test_updates_lead_to_the_exact_q_values(steps, q):
    """A loop is worth its geometric series, and a step what is best after it."""
    config = Config(**PLAIN, learning_rate=0.02, tau=0.1, target_period=1)
    now = learner([[0, 0], [0, 0]], config)
    for _ in range(600):
        now = main.update_fn(now, batch(*steps), config)
        now = main.update_target(now, config.tau)
    found = main.q_values(now.params, STATES)
    np.testing.assert_allclose(found, q, atol=0.02)


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_the_target_network_stays_and_then_follows_softly_or_as_a_copy(tau):
    config = Config(**PLAIN, tau=tau)
    before = learner(ONLINE, config, TARGET)
    now = main.update_fn(before, batch(*[step(reward=9.0)] * 4), config)
    assert not same(now.params, before.params)
    assert same(now.target_params, before.target_params)
    after = main.update_target(now, config.tau)
    expected = (1 - tau) * np.array(TARGET) + tau * now.params["output"]["w"]
    found = after.target_params["output"]["w"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert same(after.params, now.params)


# The optimizer
def moves(gradients, **settings):
    """Return what the optimizer adds to a matrix for each of these gradients."""
    optimizer = main.make_optimizer(Config(learning_rate=0.1, **settings))
    params = {"w": jnp.zeros((1, len(gradients[0])))}
    update = jit(optimizer.update)
    state = optimizer.init(params)
    found = []
    for gradient in gradients:
        change, state = update({"w": jnp.float32([gradient])}, state, params)
        found.append(change["w"][0])
    return np.array(found)


def test_the_steps_of_adam_equal_the_ones_worked_by_hand():
    """After gradients 2 and 1, m is 0.28 and v is 0.004996, before their correction."""
    second = (0.28 / (1 - 0.9**2)) / np.sqrt(0.004996 / (1 - 0.999**2))
    found = moves([[2.0], [1.0]]).ravel()
    assert found == pytest.approx([-0.1, -0.1 * second], rel=1e-4)


def test_amsgrad_does_not_forget_the_largest_gradient():
    gradients = [[100.0]] + [[0.1]] * 3000
    forgetful = moves(gradients)[-1]
    careful = moves(gradients, optimizer="adamw")[-1]
    assert -0.01 < careful < 0
    assert forgetful < 5 * careful


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_each_number_of_a_gradient_is_clipped_by_value(optimizer):
    gradients = np.array([[3.0, 0.4, -4.0], [0.5, -0.7, 0.2]])
    clipped = moves(gradients, optimizer=optimizer, clip_value=1.0)
    by_hand = moves([[1.0, 0.4, -1.0], gradients[1]], optimizer=optimizer)
    np.testing.assert_allclose(clipped, by_hand, rtol=1e-5)
    assert not np.allclose(clipped, moves(gradients, optimizer=optimizer))


def test_weight_decay_shrinks_weights_and_leaves_biases_and_scale_alone():
    config = Config(**PLAIN, optimizer="adamw", learning_rate=0.1)
    before = learner(ONLINE, config)
    before.params["output"]["b"] += 1
    after = main.update_fn(before, batch(*[step()] * 4), config, np.zeros(4)).params
    shrunk = after["output"]["w"][1] / before.params["output"]["w"][1]
    assert shrunk == pytest.approx(np.full(2, shrunk[0]))
    assert 0.99 < shrunk[0] < 1
    assert after["output"]["b"] == pytest.approx(1)
    assert after["scale"] == pytest.approx(1)
