"""The switches: each idea of the course does what its paper says, and nothing when it is off."""

import csv
from collections import deque
from dataclasses import replace

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Glimpse, state, table
from jax import jit, random, tree
from test_learning import ONLINE, TARGET, batch, learner, step

import main
from main import Config, Transition

TINY = Config(
    total_steps=300,
    warmup_steps=100,
    train_every=50,
    updates=2,
    hidden=(8,),
    batch_size=4,
    eval_every=100,
    eval_episodes=3,
)


@pytest.fixture
def stored(monkeypatch):
    """Trains with some options; returns every transition that was stored, and the history."""

    def train(**options):
        kept = []
        pack = main.pack
        with monkeypatch.context() as patch:
            patch.setattr(main, "pack", lambda t: kept.append(t) or pack(t))
            history = main.train(replace(TINY, **options))[1]
        return kept, history

    return train


# Network


def test_the_activation_is_the_named_one():
    x = np.float32([-1.0, 2.0])
    layer = {"w": np.eye(2, dtype=np.float32), "b": np.zeros(2, np.float32)}
    base = {"scale": np.ones(2, np.float32), "output": layer}
    for name, expected in {
        "relu": [0.0, 2.0],
        "silu": x / (1 + np.exp(-x)),
        "tanh": np.tanh(x),
    }.items():
        q = main.q_values(base | {"hidden": {name: [layer]}}, x)
        np.testing.assert_allclose(q, expected, rtol=1e-5)
    params = main.init_params(random.key(0), (2, 4, 2), config=Config(activation="tanh"))
    assert list(params["hidden"]) == ["tanh"]


def test_hidden_layers_have_the_sizes_that_were_asked_for():
    params = main.new_learner(Config(hidden=(7, 5))).params
    layers = (*params["hidden"]["silu"], params["output"])
    assert [layer["w"].shape for layer in layers] == [(4, 7), (7, 5), (5, 2)]


def test_dueling_heads_add_the_value_and_take_off_the_mean_advantage():
    params = table([[1.0, 2.0, 6.0]] * 2)
    params["value"] = {"w": np.float32([[10.0], [20.0]]), "b": np.float32([0.5])}
    assert main.q_values(params, np.float32([0, 1])) == pytest.approx(
        20.5 + np.array([1, 2, 6]) - 3
    )
    assert "value" not in main.init_params(random.key(0), (2, 4, 3))
    dueling = main.init_params(random.key(0), (2, 4, 3), config=Config(dueling=True))
    assert dueling["value"]["w"].shape == (4, 1)


@pytest.mark.parametrize("dueling", [False, True])
def test_optimism_is_the_best_return_there_is(dueling):
    obs = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)

    def values(**options):
        config = Config(dueling=dueling, gamma=0.9, **options)
        return np.asarray(
            main.q_values(main.init_params(random.key(0), (2, 4, 3), config=config), obs)
        )

    assert values() == pytest.approx(np.ones((100, 3)), abs=0.5)
    assert values(scale_rewards=False) == pytest.approx(np.full((100, 3), 10.0), abs=0.5)
    assert values(max_reward=-2.0) == pytest.approx(np.full((100, 3), -2.0), abs=0.5)
    assert values(max_reward=5.0, clip_rewards=True) == pytest.approx(np.ones((100, 3)), abs=0.5)
    assert abs(values(optimistic=False).mean()) < 0.5
    assert values(optimistic=False).std() > 3 * values().std()


@pytest.mark.parametrize("dueling", [False, True])
def test_optimism_shrinks_the_last_weights_to_a_hundredth_and_no_others(dueling):
    def weights(optimistic):
        config = Config(dueling=dueling, optimistic=optimistic)
        params = main.init_params(random.key(0), (2, 4, 3), config=config)
        heads = [params[name]["w"] for name in ("output", "value") if name in params]
        return params["hidden"]["silu"][0]["w"], heads

    (hidden, heads), (plain_hidden, plain_heads) = weights(True), weights(False)
    np.testing.assert_array_equal(hidden, plain_hidden)
    assert len(heads) == 1 + dueling
    for head, plain in zip(heads, plain_heads, strict=True):
        np.testing.assert_allclose(head, 0.01 * plain, rtol=1e-6)


def test_normalisation_measures_the_random_steps_and_can_be_off():
    last = main.train(TINY)[1].last
    assert np.all(last["scale"] != 1)
    assert np.all(main.train(replace(TINY, normalize=False))[1].last["scale"] == 1)


def test_an_input_that_never_changes_is_not_divided_by_zero():
    last = main.train(replace(TINY, env_id="FrozenLake-v1"))[1].last
    assert np.all(last["scale"] > 0)


# Policy


def test_epsilon_falls_exponentially_with_its_time_constant():
    config = Config(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=100, warmup_steps=1)
    linear = main.epsilon_schedule(config)
    exponential = main.epsilon_schedule(replace(config, epsilon_schedule="exponential"))
    assert exponential[[100, 300]] == pytest.approx(0.1 + 0.8 * np.exp([-1, -3]), rel=1e-4)
    assert linear[[1, 2, 50, 100, 300]] == pytest.approx([1, 0.884, 0.5, 0.1, 0.1])  # warmup: 1


def test_continuous_actions_become_bins_and_any_observation_a_vector():
    assert main.game_sizes(Config(env_id="Pendulum-v1", action_bins=7)) == (3, 7)
    assert main.game_sizes(Config(env_id="FrozenLake-v1")) == (16, 4)
    assert main.game_sizes(Config(env_id="Blackjack-v1")) == (45, 2)
    centres = main.make_game(Config(env_id="Pendulum-v1", action_bins=3))
    assert [centres.action(a)[0] for a in range(3)] == pytest.approx([-2, 0, 2], abs=1e-6)


# Replay


def test_n_step_returns_equal_the_ones_worked_by_hand():
    window = [(state(0), 1, 8.0), (state(1), 0, 4.0), (state(1), 0, 2.0)]
    t = main.n_step_transition(window, state(1), False, 0.5)
    assert (t.action, t.reward, t.discount) == (1, 8 + 2 + 0.5, 0.125)
    np.testing.assert_array_equal(t.obs, state(0))
    np.testing.assert_array_equal(t.next_obs, state(1))
    assert main.n_step_transition(window, state(1), True, 0.5).discount == 0
    assert main.n_step_transition(window[2:], state(1), False, 0.5)[1:4] == (0, 2.0, 0.5)


def test_n_steps_never_reach_over_the_end_of_an_episode(stored):
    """In CartPole each reward is 1: the return of k steps is 1 + g + ... + g^(k-1)."""
    kept, history = stored(n_step=3, gamma=0.5, scale_rewards=False)
    end = int(history.episodes[0][0])
    assert all(t.reward == 1.75 for t in kept[: end - 2])
    assert all(t.discount == 0.125 for t in kept[: end - 3])
    assert [t.reward for t in kept[end - 3 : end]] == [1.75, 1.5, 1.0]
    assert [t.discount for t in kept[end - 3 : end]] == [0.0] * 3
    np.testing.assert_array_equal(kept[0].next_obs, kept[3].obs)
    np.testing.assert_array_equal(kept[end - 1].next_obs, kept[end - 3].next_obs)


def test_one_step_is_the_plain_transition(stored):
    kept, _ = stored(gamma=0.5, scale_rewards=False)
    assert {t.reward for t in kept} == {1.0}
    assert {t.discount for t in kept} == {0.5, 0.0}


def test_rewards_are_clipped_for_learning_and_reported_raw(stored):
    kept, history = stored(env_id="Pendulum-v1", clip_rewards=True, scale_rewards=False)
    assert min(t.reward for t in kept) == -1
    assert min(r for _, r in history.episodes) < -200
    kept, _ = stored(env_id="Pendulum-v1", scale_rewards=False)
    assert min(t.reward for t in kept) < -1
    clip = Config(clip_rewards=True, scale_rewards=False)
    assert [main.reward_to_learn(r, clip) for r in (-7, -0.5, 0, 0.5, 7)] == [-1, -0.5, 0, 0.5, 1]


def test_prioritised_probabilities_and_weights_equal_the_ones_worked_by_hand():
    memory = deque(main.pack(Transition(state(0), i, 0.0, 0.0, state(1))) for i in range(3))
    priorities = [1.0, 2.0, 5.0]  # P = .125, .25, .625
    rng = np.random.default_rng(0)
    batch = main.sample_batch(rng, memory, 40_000, priorities, 0.5)
    assert np.bincount(batch.action) / 40_000 == pytest.approx([0.125, 0.25, 0.625], abs=0.01)
    raw = np.array([0.375, 0.75, 1.875]) ** -0.5
    assert batch.weight == pytest.approx((raw / raw[0])[batch.action], rel=1e-5)
    np.testing.assert_array_equal(batch.slot, batch.action)
    assert set(main.sample_batch(rng, memory, 100, priorities).weight.tolist()) == {1.0}
    assert set(main.sample_batch(rng, memory, 100).weight.tolist()) == {1.0}


def test_importance_weights_weigh_the_loss():
    transitions = batch(step(reward=0.5, discount=0.0), step(reward=3.0, discount=0.0))
    transitions = transitions._replace(weight=np.float32([1.0, 0.25]))
    loss, _ = main.loss_fn(table(ONLINE), table(TARGET), transitions)
    assert loss == pytest.approx((0.5 * 0.5**2 + 0.25 * 2.5) / 2)


def test_priorities_are_errors_of_what_was_learned_and_the_most_for_what_is_new(monkeypatch):
    sampled, errors = [], []
    sample, learn = main.sample_batch, main.update_round

    def watch_sample(rng, memory, n, priorities, beta):
        batch = sample(rng, memory, n, priorities, beta)
        sampled.append((np.array(priorities), batch.slot, beta))
        return batch

    def watch_learn(*args, **kwargs):
        learner, e = learn(*args, **kwargs)
        assert e.shape == (TINY.updates, TINY.batch_size)
        errors.append((np.abs(e).ravel() + 1e-6) ** 0.9)
        return learner, e

    monkeypatch.setattr(main, "sample_batch", watch_sample)
    monkeypatch.setattr(main, "update_round", watch_learn)
    options = {"priority_exponent": 0.9, "importance_exponent": 0.7, "memory_size": 180}
    main.train(replace(TINY, prioritized=True, **options))
    assert [len(p) for p, *_ in sampled] == [100, 150, 180, 180, 180]
    assert np.all(sampled[0][0] == 1)
    assert [beta for *_, beta in sampled] == pytest.approx([0.8, 0.85, 0.9, 0.95, 1.0])
    expected = np.ones(100)
    expected[sampled[0][1]] = errors[0]
    np.testing.assert_allclose(sampled[1][0][:100], expected)
    assert np.all(sampled[1][0][100:] == expected.max())
    kept = sampled[1][0].copy()
    kept[sampled[1][1]] = errors[1]
    np.testing.assert_allclose(sampled[2][0][:130], kept[20:])  # of 200, 180 fit: 20 are forgotten


# Learning


def test_without_double_dqn_the_target_network_chooses_for_itself():
    t = step()  # online prefers action 1, worth 2; the target network action 0, worth 8
    double = main.td_error(table(ONLINE), table(TARGET), t)
    single = main.td_error(table(ONLINE), table(TARGET), t, config=Config(double=False))
    assert (double, single) == (1 + 0.5 * 2, 1 + 0.5 * 8)


def test_the_squared_loss_squares():
    transitions = batch(step(reward=3.0, discount=0.0))
    loss, _ = main.loss_fn(table(ONLINE), table(TARGET), transitions, config=Config(loss="squared"))
    assert loss == 9


def first_update(gradient, **options):
    """What the optimizer does with its first gradient, in units of the learning rate."""
    config = Config(learning_rate=0.5, decay_learning_rate=False, **options)
    params = tree.map(lambda g: jnp.full_like(g, 2.0), gradient)
    optimizer = main.make_optimizer(config)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    return tree.map(lambda u: -u / 0.5, updates)


def clipped(monkeypatch, gradient, **options):
    """The gradient as it leaves the clipping: Adam, which hides its size, is taken away."""
    monkeypatch.setattr(optax, "scale_by_adam", optax.identity)
    return first_update(gradient, **options)


def test_clipping_by_value_and_by_norm_differ(monkeypatch):
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([0.4, -4.0])}
    assert clipped(monkeypatch, gradient)["b"].tolist() == pytest.approx([0.4, -4])
    by_value = clipped(monkeypatch, gradient, clip_value=1.0)
    assert [*by_value["a"], *by_value["b"]] == pytest.approx([1, 0.4, -1])
    by_norm = clipped(monkeypatch, gradient, clip_norm=1.0)
    norm = np.sqrt(9 + 0.16 + 16)
    assert [*by_norm["a"], *by_norm["b"]] == pytest.approx([3 / norm, 0.4 / norm, -4 / norm])


def test_weight_decay_shrinks_weights_and_neither_biases_nor_scale():
    still = tree.map(jnp.zeros_like, {"w": jnp.ones((2, 2)), "b": jnp.ones(2)})
    updates = first_update(still, weight_decay=0.1)
    np.testing.assert_allclose(updates["w"], np.full((2, 2), 0.2), rtol=1e-6)
    assert not updates["b"].any()
    assert not first_update(still)["w"].any()


def test_weight_decay_shrinks_the_online_network_and_leaves_its_target_alone():
    config = Config(weight_decay=0.1, learning_rate=0.5, decay_learning_rate=False, tau=1e-9)
    x = learner(ONLINE, config)._replace(target=tree.map(jnp.asarray, table(TARGET)))
    nothing = batch(step())._replace(weight=np.zeros(1, np.float32))
    x = main.update_fn(x, nothing, config=config)
    np.testing.assert_allclose(x.params["output"]["w"], 0.95 * np.float32(ONLINE), rtol=1e-6)
    np.testing.assert_allclose(x.target["output"]["w"], TARGET, rtol=1e-6)


def test_amsgrad_remembers_the_largest_gradient():
    moves = {}
    for amsgrad in (False, True):
        optimizer = main.make_optimizer(Config(amsgrad=amsgrad))
        state = optimizer.init(jnp.zeros(()))
        advance = jit(optimizer.update)
        _, state = advance(jnp.float32(100.0), state)
        for _ in range(3000):
            update, state = advance(jnp.float32(0.1), state)
        moves[amsgrad] = -float(update)
    assert moves[True] < moves[False] / 5


def test_the_learning_rate_stays_if_it_is_told_to():
    for decays, last in ((True, 0.0), (False, 1.0)):
        config = Config(
            learning_rate=1.0,
            decay_learning_rate=decays,
            total_steps=512,
            updates=1,
            train_every=64,
        )
        optimizer = main.make_optimizer(config)
        state = optimizer.init(jnp.zeros(()))
        for _ in range(9):
            update, state = optimizer.update(jnp.float32(1.0), state)
        assert -float(update) == pytest.approx(last, abs=1e-3)


# Runs


def test_without_early_stop_training_goes_on_to_its_end(monkeypatch):
    monkeypatch.setattr(main, "evaluate", lambda *a, **k: np.array([500.0]))
    for early_stop, steps in ((True, [100]), (False, [100, 200, 300])):
        _, history = main.train(replace(TINY, early_stop=early_stop))
        assert [s for s, _ in history.evaluations] == steps


def test_training_stops_at_its_target_return_or_at_what_the_game_calls_solved(monkeypatch):
    monkeypatch.setattr(main, "evaluate", lambda *a, **k: np.array([490.0]))
    for target, steps in ((495.0, 300), (490.0, 100), (None, 100)):  # CartPole's own is 475
        _, history = main.train(replace(TINY, target_return=target))
        assert history.evaluations[-1][0] == steps
    assert main.goal(Config(env_id="Pendulum-v1", target_return=None)) == np.inf  # it has none


def test_options_count_more_than_vanilla_and_vanilla_more_than_the_game():
    config = main.parse_config(["--env-id", "MountainCar-v0", "--vanilla", "--activation", "tanh"])
    assert config.n_step == main.GAMES["MountainCar-v0"]["n_step"]
    assert config.tau == 1.0
    assert config.activation == "tanh"
    assert not config.double
    assert main.parse_config(["--env-id", "FrozenLake-v1"]).optimistic is False
    assert not main.parse_config(["--steady"]).early_stop
    assert main.parse_config(["--steady", "--n-step", "1"]).n_step == 1


AGENTS = {
    "a": "--hidden 100 50 --loss squared --clip-value 1 --memory-size 10000 --batch-size 64 "
    "--updates 128 --train-every 400",
    "b": "--hidden 128 128 --amsgrad --weight-decay 0.01 --learning-rate 1e-4 --tau 0.005 "
    "--target-period 1 --clip-value 5 --gamma 0.95 --memory-size 1000 --batch-size 128 "
    "--epsilon-start 0.9 --epsilon-end 0.1 --epsilon-decay 10 --epsilon-schedule exponential "
    "--train-every 1 --updates 1",
    "c": "--hidden 64 64 --loss squared --learning-rate 1e-3 --tau 0.001 --target-period 1 "
    "--train-every 4 --updates 1 --memory-size 100000 --batch-size 64",
}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agents_of_the_course_are_flags_alone_and_train(agent):
    config = main.parse_config(["--vanilla", *AGENTS[agent].split()])
    short = replace(
        config, total_steps=900, warmup_steps=400, eval_every=450, target_period=1, eval_episodes=3
    )
    _, history = main.train(short)
    assert [s for s, _ in history.evaluations] == [450, 900]
    assert not np.array_equal(
        history.last["output"]["w"], main.new_learner(short).params["output"]["w"]
    )


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1"])
def test_other_games_run_and_their_files_follow(env_id, tmp_path):
    options = "--total-steps 300 --warmup-steps 200 --hidden 8 --eval-every 300 --eval-episodes 2"
    config = main.parse_config(["--env-id", env_id, "--out", str(tmp_path), *options.split()])
    message = main.run(config)
    if env_id != "FrozenLake-v1":
        assert "not solved" in message
    assert {p.name for p in tmp_path.iterdir()} == set(main.FILES)
    params = main.load_params(tmp_path / "params.pkl")
    assert params["scale"].shape == (main.game_sizes(config)[0],)


@pytest.mark.parametrize(
    ("env_id", "reason"), [("Nowhere-v0", "doesn't exist"), ("CartPole-v9", "CartPole-v9")]
)
def test_a_game_that_cannot_be_played_is_bad_input(env_id, reason, capsys, tmp_path):
    assert main.main(["--env-id", env_id, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "--env-id" in err
    assert reason in err
    assert err.count("\n") == 1


class TwoChoices(Glimpse):
    """A game that asks for two choices at once."""

    action_space = gym.spaces.MultiDiscrete([2, 2])


gym.register("TwoChoices-v0", TwoChoices)
gym.register("Glimpse-v0", Glimpse)


def test_a_game_that_cannot_be_drawn_has_no_recordings(tmp_path, capsys):
    config = replace(TINY, env_id="Glimpse-v0", out=str(tmp_path))
    assert "params.pkl, learning_curve.png" in main.run(config)
    evaluation = replace(config, evaluate=str(tmp_path / "params.pkl"))
    assert "trained" in main.run_evaluation(evaluation)
    assert not list(tmp_path.glob("*.gif"))


def test_a_game_whose_actions_do_not_fit_is_bad_input(capsys):
    assert main.main(["--env-id", "TwoChoices-v0"]) == 2
    assert "MultiDiscrete" in capsys.readouterr().err


def test_a_study_is_its_runs_one_after_the_other(tmp_path):
    goal = {"target_return": 15.0, "early_stop": False}
    config = replace(TINY, seed=5, seeds=3, out=str(tmp_path), **goal)
    message = main.run_study(config)
    assert {p.name for p in tmp_path.iterdir()} == set(main.STUDY_FILES)
    rows = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert [row["seed"] for row in rows] == ["5", "6", "7"]
    one = replace(config, seed=6, seeds=1)
    params, history = main.train(one)
    returns = main.evaluate(main.stream(6, "report"), params, config=one)
    assert rows[1]["episodes"] == str(len(history.episodes))
    assert rows[1]["steps"] == "300"
    assert rows[1]["mean"] == f"{returns.mean():.1f}"
    assert rows[1]["min"] == f"{returns.min():.1f}"
    assert 0 < np.mean(returns >= 15) < 1
    assert rows[1]["success"] == f"{np.mean(returns >= 15):.2f}"
    assert len(message.splitlines()) == 3 + 3
