"""Learning: the target, the loss, the update, checked by hand and against exact solutions."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import remembered, state, table
from jax import grad, jit, tree

import main
from main import Batch, Config, Learner

GAMMA = 0.5
ONLINE = [[0.0, 0.0], [3.0, 5.0]]  # in state 1 the online network prefers action 1
TARGET = [[0.0, 0.0], [8.0, 2.0]]  # and the target network action 0


def step(action=0, reward=1.0, discount=GAMMA, s=0, s2=1, weight=1.0):
    numbers = np.float32(reward), np.float32(discount)
    return Batch(state(s), np.int32(action), *numbers, state(s2), np.float32(weight), np.int32(0))


def batch(*transitions):
    return Batch(*map(np.stack, zip(*transitions, strict=True)))


def learner(q, config, target=None):
    params, target = (tree.map(jnp.asarray, table(x)) for x in (q, target or q))
    return Learner(params, target, main.make_optimizer(config).init(params), jnp.int32(0))


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
    assert main.td_error(table(ONLINE), table(TARGET), t, config=Config()) == pytest.approx(error)


def test_without_double_dqn_the_target_network_chooses_for_itself():
    config = Config("--no-double --no-bound-targets")
    error = main.td_error(table(ONLINE), table(TARGET), step(), config=config)
    assert error == 1 + 0.5 * 8


@pytest.mark.parametrize(
    ("words", "highest"),
    [
        ("", 3),  # which is 1 for rewards of 1, scaled
        ("--max-reward 2", 6),
        ("--no-scale-rewards --gamma 0.5", 6),
        ("--max-reward -1", 0),  # each step costs: nothing is worth more than the end
        ("--max-reward inf", 9),  # nobody knows: as it is
        ("--no-bound-targets", 9),
        ("--no-bound-targets --max-reward -1", 9),
    ],
)
def test_a_target_is_at_most_three_times_the_upper_bound_of_q_values(words, highest):
    t, config = step(reward=9.0, discount=0.0), Config(words)
    assert main.td_error(table(ONLINE), table(TARGET), t, config=config) == pytest.approx(highest)
    low = step(reward=-9.0, discount=0.0)
    assert main.td_error(table(ONLINE), table(TARGET), low, config=config) == -9


@pytest.mark.parametrize(
    ("words", "loss"),
    [("", (0.5 * 0.5**2 + 2.5 + 1.5) / 3), ("--loss squared", (0.5**2 + 3**2 + 2**2) / 2 / 3)],
)
def test_the_loss_is_the_mean_of_the_losses(words, loss):
    ends = [step(reward=0.5, discount=0.0), step(reward=3.0, discount=0.0)]
    transitions = batch(*ends, step())  # whose errors are 0.5, 3 and, by the target network, 2
    found = main.loss_fn(table(ONLINE), table(TARGET), transitions, config=Config(words))
    assert found == pytest.approx(loss)


def test_importance_weights_weigh_the_loss():
    transitions = batch(step(reward=0.5, discount=0.0), step(reward=3, discount=0.0, weight=0.25))
    found = main.loss_fn(table(ONLINE), table(TARGET), transitions, config=Config())
    assert found == pytest.approx((0.5 * 0.5**2 + 0.25 * 2.5) / 2)


def test_no_gradient_flows_into_the_target_nor_into_the_scale():
    for argnums in (0, 1):
        g = grad(main.loss_fn, argnums)(
            table(ONLINE), table(TARGET), batch(step()), config=Config()
        )
        assert not g["scale"].any()
    assert all(not leaf.any() for leaf in tree.leaves(g))


def test_the_gradient_reaches_the_chosen_action_alone():
    transitions = batch(step(action=1))
    w = grad(main.loss_fn)(table(ONLINE), table(TARGET), transitions, config=Config())["output"][
        "w"
    ]
    assert w[0, 1] != 0
    assert np.count_nonzero(w) == 1


def fixed_point(transitions, q):
    config = Config("--learning-rate 0.02 --tau 0.1 --total-steps 3000 --warmup-steps 1")
    x = learner(q, config)
    for _ in range(3000):
        x = main.update_fn(x, transitions, config=config)
    return np.asarray(x.params["output"]["w"] + x.params["output"]["b"])


def test_a_terminal_reward_is_learned_as_it_is():
    q = fixed_point(batch(step(action=0, reward=0.7, discount=0.0)), [[0, 0], [0, 0]])
    assert q[0, 0] == pytest.approx(0.7, abs=0.01)


def test_an_endless_loop_is_worth_its_geometric_series():
    loops = batch(*(step(s=s, action=a, s2=s, reward=1.0) for s in (0, 1) for a in (0, 1)))
    q = fixed_point(loops, [[0, 0], [0, 0]])
    assert q == pytest.approx(np.full((2, 2), 1 / (1 - GAMMA)), abs=0.02)


def test_value_flows_back_from_the_best_next_action():
    chain = batch(
        step(s=0, action=0, s2=1, reward=0.0),
        step(s=0, action=1, s2=1, reward=0.2),
        step(s=1, action=0, s2=1, reward=0.0, discount=0.0),
        step(s=1, action=1, s2=1, reward=1.0, discount=0.0),
    )
    q = fixed_point(chain, [[0, 0], [0, 0]])
    assert q == pytest.approx(np.array([[0.5, 0.7], [0.0, 1.0]]), abs=0.02)


@pytest.mark.parametrize("period", [1, 3])
def test_the_target_network_moves_by_tau_every_period(period):
    config = Config(f"--tau 0.25 --target-period {period}")
    x = learner(ONLINE, config)
    for n in range(1, 7):
        before = x
        x = main.update_fn(x, batch(step(reward=9.0)), config=config)
        assert x.count == n
        for new, old, online in zip(
            *map(tree.leaves, (x.target, before.target, x.params)), strict=True
        ):
            expected = 0.25 * online + 0.75 * old if n % period == 0 else old
            np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_a_round_is_its_updates_one_after_the_other():
    config = Config("--updates 2 --batch-size 2")
    first, second = (step(), step()), (step(reward=3.0), step(s=1))
    one = main.update_fn(learner(ONLINE, config), batch(*first), config=config)
    one = main.update_fn(one, batch(*second), config=config)
    both = main.update_round(learner(ONLINE, config), batch(*first, *second), config=config)
    for a, b in zip(tree.leaves(one), tree.leaves(both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_online_and_target_network_start_equal_and_get_the_same_scale():
    config = Config()
    x = main.new_learner(config)
    steps = [(np.float32([i, 0.1, -i, 2 * i]), 0, 0.0, False, False, np.zeros(4)) for i in (1, 5)]
    steps *= 500  # rounding must not make a deviation of what never changes
    y = main.measure_scale(x, remembered(steps), config)
    for learner in (x, y):
        for a, b in zip(tree.leaves(learner.params), tree.leaves(learner.target), strict=True):
            np.testing.assert_array_equal(a, b)
    assert x.params["scale"].tolist() == [1, 1, 1, 1]
    assert y.params["scale"].tolist() == [3, 1, 3, 6]  # deviations 2, 0, 2, 4; 0 does not divide
    assert x.count == 0


# The optimiser
def moves(words, gradients, params=None):
    """What the optimiser adds to a parameter for each of these gradients in turn."""
    optimizer = main.make_optimizer(Config(words))
    params = params or {"w": jnp.zeros(np.shape(gradients[0]))}
    opt_state, found, advance = optimizer.init(params), [], jit(optimizer.update)
    for gradient in gradients:
        updates, opt_state = advance({"w": jnp.float32(gradient)}, opt_state, params)
        found.append(np.asarray(updates["w"]))
    return found


@pytest.mark.parametrize(("total", "warmup"), [(64, 10), (63, 12), (63, 9)])
def test_the_learning_rate_falls_linearly_to_zero_at_the_last_update_or_stays(total, warmup):
    words = f"--total-steps {total} --warmup-steps {warmup} --learning-rate 0.5 --updates 2"
    words += " --train-every 4"
    rounds = len([s for s in range(1, total + 1) if s >= warmup and s % 4 == 0])
    falling = moves(words, [1.0] * (2 * rounds + 1))  # Adam's step is the learning rate itself
    assert falling == pytest.approx(-0.5 * np.linspace(1, 0, 2 * rounds + 1), abs=1e-4)
    staying = moves(f"{words} --no-decay-learning-rate", [1.0] * 30)
    assert staying == pytest.approx([-0.5] * 30, abs=1e-4)


def test_the_longest_run_that_is_allowed_learns():
    [move] = moves("--total-steps 100000000 --updates 1000000 --train-every 1", [1.0])
    assert move == pytest.approx(-Config().learning_rate, rel=1e-4)


def test_clipping_by_value_and_by_norm_differ(monkeypatch):
    monkeypatch.setattr(optax, "scale_by_adam", optax.identity)  # it hides a gradient's size
    base = "--learning-rate 1 --no-decay-learning-rate"
    gradient, norm = np.array([3.0, 0.4, -4.0]), np.sqrt(9 + 0.16 + 16)
    assert -moves(base, [gradient])[0] == pytest.approx(gradient)
    assert -moves(f"{base} --clip-value 1", [gradient])[0] == pytest.approx([1, 0.4, -1])
    assert -moves(f"{base} --clip-norm 1", [gradient])[0] == pytest.approx(gradient / norm)


def test_weight_decay_shrinks_weights_and_neither_biases_nor_the_target():
    config = Config("--weight-decay 0.1 --learning-rate 0.5 --no-decay-learning-rate --tau 1e-6")
    x = learner(ONLINE, config, TARGET)
    x.params["output"]["b"] += 1
    x = main.update_fn(x, batch(step(weight=0)), config=config)
    np.testing.assert_allclose(x.params["output"]["w"], 0.95 * np.float32(ONLINE), rtol=1e-6)
    np.testing.assert_allclose(x.params["output"]["b"], 1)
    np.testing.assert_allclose(x.params["scale"], 1)
    np.testing.assert_allclose(x.target["output"]["w"], TARGET, rtol=1e-5)


def test_amsgrad_remembers_the_largest_gradient():
    plain, amsgrad = (
        moves(f"--no-decay-learning-rate {words}", [100.0] + [0.1] * 3000)[-1]
        for words in ("", "--amsgrad")
    )
    assert -amsgrad < -plain / 5
