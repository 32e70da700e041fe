"""Learning: the target, the loss, the update, checked by hand and against exact solutions."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import state, table
from jax import grad, jit, tree

import main
from main import Config, Learner, Transition

GAMMA = 0.5
ONLINE = [[0.0, 0.0], [3.0, 5.0]]  # in state 1 the online network prefers action 1
TARGET = [[0.0, 0.0], [8.0, 2.0]]  # and the target network action 0


def step(action=0, reward=1.0, discount=GAMMA, s=0, s2=1, n=2):
    return Transition(
        state(s, n),
        np.int32(action),
        np.float32(reward),
        np.float32(discount),
        state(s2, n),
        np.float32(1),
        np.int32(0),
    )


def batch(*transitions):
    return Transition(*map(np.stack, zip(*transitions, strict=True)))


@pytest.mark.parametrize(
    ("t", "error"),
    [
        (step(reward=1.0, discount=0.0), 1.0),  # terminated: y = r
        (step(reward=1.0), 1.0 + 0.5 * 2.0),  # y = r + gamma Q(s', 1; target): chosen online
        (step(reward=-1.0, discount=0.25), -1.0 + 0.25 * 2.0),  # whatever the discount says
        (step(s=1, action=0, s2=0), 1.0 - 3.0),  # the next state is worth 0, Q(s, a) is 3
        (step(s=1, action=1, s2=1), 1.0 + 0.5 * 2.0 - 5.0),
    ],
)
def test_the_td_error_equals_the_one_worked_by_hand(t, error):
    assert main.td_error(table(ONLINE), table(TARGET), t) == pytest.approx(error)


def test_the_loss_is_the_mean_of_huber_losses():
    transitions = batch(step(reward=0.5, discount=0.0), step(reward=3.0, discount=0.0))
    loss, errors = main.loss_fn(table(ONLINE), table(TARGET), transitions)
    assert loss == pytest.approx((0.5 * 0.5**2 + (3.0 - 0.5)) / 2)
    assert errors.tolist() == [0.5, 3.0]


def test_the_loss_and_the_update_judge_by_the_target_network():
    transitions = batch(step(s=1, action=0, s2=1))  # y = 1 + Q(s', 1; target) / 2 = 2
    loss, errors = main.loss_fn(table(ONLINE), table(TARGET), transitions)
    assert errors.tolist() == [2.0 - 3.0]
    x = learner(ONLINE, Config())._replace(target=tree.map(jnp.asarray, table(TARGET)))
    assert main.update_fn(x, transitions).td_error.tolist() == [2.0 - 3.0]


def test_no_gradient_flows_into_the_target():
    transitions = batch(step())
    into_target = grad(main.loss_fn, argnums=1, has_aux=True)(
        table(ONLINE), table(TARGET), transitions
    )[0]
    assert all(not leaf.any() for leaf in tree.leaves(into_target))


def test_the_gradient_reaches_the_chosen_action_alone():
    into_params = grad(main.loss_fn, has_aux=True)(
        table(ONLINE), table(TARGET), batch(step(action=1))
    )[0]
    w = into_params["output"]["w"]
    assert w[0, 1] != 0
    assert np.count_nonzero(w) == 1
    assert not into_params["scale"].any()


def learner(q, config):
    params = tree.map(jnp.asarray, table(q))
    return Learner(
        params,
        params,
        main.make_optimizer(config).init(params),
        jnp.int32(0),
        jnp.zeros(config.batch_size),
    )


def fixed_point(transitions, q, **options):
    config = Config(
        learning_rate=0.02, tau=0.1, total_steps=3000, warmup_steps=1, batch_size=1, **options
    )
    x = learner(q, config)
    for _ in range(3000):
        x = main.update_fn(x, transitions, config=config)
    return np.asarray(x.params["output"]["w"] + x.params["output"]["b"]), x


def test_a_terminal_reward_is_learned_as_it_is():
    q, _ = fixed_point(batch(step(action=0, reward=0.7, discount=0.0)), [[0, 0], [0, 0]])
    assert q[0, 0] == pytest.approx(0.7, abs=0.01)


def test_an_endless_loop_is_worth_its_geometric_series():
    loops = batch(*(step(s=s, action=a, s2=s, reward=1.0) for s in (0, 1) for a in (0, 1)))
    q, _ = fixed_point(loops, [[0, 0], [0, 0]])
    assert q == pytest.approx(np.full((2, 2), 1 / (1 - GAMMA)), abs=0.02)


def test_value_flows_back_from_the_best_next_action():
    chain = batch(
        step(s=0, action=0, s2=1, reward=0.0),
        step(s=0, action=1, s2=1, reward=0.2),
        step(s=1, action=0, s2=1, reward=0.0, discount=0.0),
        step(s=1, action=1, s2=1, reward=1.0, discount=0.0),
    )
    q, _ = fixed_point(chain, [[0, 0], [0, 0]])
    assert q == pytest.approx(np.array([[0.5, 0.7], [0.0, 1.0]]), abs=0.02)


@pytest.mark.parametrize("period", [1, 2, 3])
def test_the_target_network_moves_by_tau_every_period(period):
    config = Config(tau=0.25, target_period=period)
    x = learner(ONLINE, config)
    for n in range(1, 7):
        before = x
        x = main.update_fn(x, batch(step(reward=9.0)), config=config)
        assert x.step == n
        for new, old, online in zip(
            *map(tree.leaves, (x.target, before.target, x.params)), strict=True
        ):
            expected = 0.25 * online + 0.75 * old if n % period == 0 else old
            np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_the_input_scale_is_never_learned():
    _, x = fixed_point(batch(step(), step(s=1, action=1)), ONLINE)
    np.testing.assert_array_equal(x.params["scale"], np.ones(2))


def test_the_learning_rate_falls_linearly_to_zero():
    config = Config(learning_rate=0.5, total_steps=640, train_every=64, updates=64)
    optimizer = main.make_optimizer(config)
    params = {"w": jnp.zeros(())}
    opt_state, moves = optimizer.init(params), []
    advance = jit(optimizer.update)
    for _ in range(641):
        updates, opt_state = advance({"w": jnp.ones(())}, opt_state, params)
        moves.append(-float(updates["w"]))
    assert moves[0] == pytest.approx(0.5, rel=1e-3)  # Adam's step is the learning rate itself
    assert moves[320] == pytest.approx(0.25, rel=1e-3)
    assert moves[640] == pytest.approx(0, abs=1e-6)


def test_a_round_is_its_updates_one_after_the_other():
    config = Config(batch_size=2)
    first, second = batch(step(), step()), batch(step(reward=3.0), step(s=1))
    batches = Transition(*map(np.stack, zip(first, second, strict=True)))
    one = main.update_fn(learner(ONLINE, config), first, config=config)
    one = main.update_fn(one, second, config=config)
    both, errors = main.update_round(learner(ONLINE, config), batches, config=config)
    for a, b in zip(tree.leaves(one), tree.leaves(both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(errors[1], one.td_error, rtol=1e-5)


def test_online_and_target_network_start_equal():
    x = main.init_learner(main.random.key(0), sizes=(4, 8, 2), config=Config())
    for a, b in zip(tree.leaves(x.params), tree.leaves(x.target), strict=True):
        np.testing.assert_array_equal(a, b)
    assert x.step == 0
