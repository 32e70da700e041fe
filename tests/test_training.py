"""Training: what is acted on, remembered, learned and evaluated, and when it ends."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, Glimpse, names, noise, register, same

import main


class Echo(Glimpse):
    """Show -1 or 1, and pay 1 for action 0 at -1 and for action 1 at 1."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = self.np_random.choice([-1, 1])
        return np.float32([self.shown]), {}

    def step(self, action):
        right = action == (self.shown > 0)
        return np.float32([self.shown]), float(right), True, False, {}


class TwoSteps(Glimpse):
    """Its first step pays nothing, and its second pays 1, whatever is done."""

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), self.at - 1.0, self.at == 2, False, {}


class Still(Glimpse):
    """Show the same number at all times."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([0.1]), {}


SEEDS = []


class Seeded(Glimpse):
    """Note the seeds that games are started with."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            SEEDS.append(seed)
        return super().reset(seed=seed)


class Pays(Glimpse):
    """Pay -7, 0.5 and 7 in the three steps of an episode."""

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), (-7, 0.5, 7)[self.at - 1], self.at == 3, False, {}


for game in (Echo, TwoSteps, Still, Seeded, Pays):
    register(game)

PRIORITIZED = {"prioritized": True, "dueling": True}
OLD_SCHOOL = {
    "optimizer": "adamw", "loss": "squared", "reward_mode": "raw", "double": False,
    "tau": 1.0, "target_period": 20, "clip_value": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("env_id", "settings", "states", "expected"),
    [
        ("Echo-v0", {}, [-1, 1], [[1, 0], [0, 1]]),  # what each observation asks for
        ("TwoSteps-v0", {}, [0, 1], [[0.5, 0.5], [1, 1]]),  # a reward back through time
        ("TwoSteps-v0", PRIORITIZED, [0, 1], [[0.5, 0.5], [1, 1]]),
        ("TwoSteps-v0", OLD_SCHOOL, [0, 1], [[0.5, 0.5], [1, 1]]),
    ],
)
def test_training_learns_what_actions_are_worth(env_id, settings, states, expected):
    config = main.Config(
        env_id=env_id, total_steps=1200, warmup_steps=200, hidden=(32,), gamma=0.5,
        eval_every=1200, eval_episodes=1, learning_rate=5e-3, batch_size=64,
    )  # fmt: skip
    config = replace(config, **settings)
    params, _, _ = main.train(config, 0, quiet=True)
    q = main.q_values(params, np.float32(states)[:, None])
    if config.reward_mode == "scaled":
        q = q / (1 - 0.5)
    assert q == pytest.approx(np.array(expected), abs=0.1)


def test_what_happened_is_remembered_and_returned_as_it_happened(watch, no_learning):
    """Episodes end by termination after 4 steps, and by the time limit after 6. The
    warm-up has ten of both, and the game starts again after it.
    """
    samples = watch("sample_batch")
    config = replace(SMALL, env_id="Corridor-v0", memory_size=1000)
    _, episodes, _ = main.train(config, 0, quiet=True)
    (_, memory, _), _ = samples[-1]
    obs, action, reward, next_obs, terminated = zip(*memory)
    assert np.ravel(obs[:11]).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0]
    assert np.ravel(next_obs[:10]).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert list(terminated[:10]) == [False] * 3 + [True] + [False] * 6
    assert set(reward) == {1 - config.gamma}
    assert set(action[:100]) == {0, 1}  # They are random in the warm-up.
    assert episodes[0::2] == [(10 * i + 6, 6) for i in range(10, 30)]
    assert episodes[1::2] == [(10 * i + 10, 4) for i in range(10, 30)]


@pytest.mark.parametrize(
    ("reward_mode", "learned", "achieved"),
    [
        ("raw", [-7, 0.5, 7], -7 + 0.75 * 0.5 + 0.75**2 * 7),
        ("clipped", [-1, 0.5, 1], -1 + 0.75 * 0.5 + 0.75**2),
        ("scaled", [-1.75, 0.125, 1.75], -7 + 0.75 * 0.5 + 0.75**2 * 7),
    ],
)
def test_rewards_are_learned_raw_or_clipped_or_times_1_minus_gamma_and_returns_are_raw(
    reward_mode, learned, achieved, watch, no_learning
):
    samples = watch("sample_batch")
    config = replace(SMALL, env_id="Pays-v0", gamma=0.75, reward_mode=reward_mode)
    _, episodes, evaluations = main.train(config, 0, quiet=True)
    (_, memory, _), _ = samples[-1]
    rewards = [step.reward for step in memory]
    assert rewards[:99] == pytest.approx(learned * 33)  # in the warm-up
    assert rewards[100:298] == pytest.approx(learned * 66)
    assert {score for _, score in episodes} == {0.5}
    assert evaluations[-1][1].returns.tolist() == [0.5] * 3
    assert evaluations[-1][1].achieved == pytest.approx([achieved] * 3)


@pytest.mark.parametrize("prioritized", [False, True])
def test_each_step_after_the_warm_up_has_an_update(prioritized, no_learning):
    config = replace(SMALL, train_every=1, prioritized=prioritized)
    main.train(config, 0, quiet=True)
    batches = [args[1] for args, _ in no_learning]
    assert [len(batch.action) for batch in batches] == [4] * 200  # at 101, 102, ... 300


def test_actions_are_epsilon_greedy_with_the_newest_online_network(watch):
    actions = watch("action_fn")
    updates = watch("update_fn")
    main.train(SMALL, 0, quiet=True)
    expected = [main.epsilon_at(step, SMALL) for step in range(101, 301)]
    assert [args[3] for args, _ in actions] == expected
    learners = [args[0] for args, _ in updates] + [updates[-1][1]]
    assert len(learners) == 5
    for number, (args, _) in enumerate(actions):  # An update is after 50 steps.
        assert same(args[1], learners[number // 50].params)


def test_the_target_network_changes_once_in_a_period(watch):
    config = replace(SMALL, train_every=1, target_period=20)
    changes = watch("update_target")
    updates = watch("update_fn")
    main.train(config, 0, quiet=True)
    assert len(changes) == 10  # after steps 120, 140, ... 300
    for number, (args, _) in enumerate(changes):
        assert args[0] is updates[20 * number + 19][1]


@pytest.mark.parametrize(
    ("means", "episodes", "best", "evaluations"),
    [
        # The best agent is returned, or the first of equals; the last step is evaluated.
        ([3, 7, 7], [3, 3, 3], 1, [(200, 3), (300, 7), (350, 7)]),
        # Training stops at the goal of 500, if more episodes confirm it.
        ([9, 501, 500], [3, 3, 60], 2, [(200, 9), (300, 500)]),
        # A lucky evaluation counts as what its confirmation says.
        ([500, 300, 2, 1], [3, 60, 3, 3], 1, [(200, 300), (300, 2), (350, 1)]),
    ],
)
def test_the_best_agent_is_kept_and_a_goal_confirmed(
    means, episodes, best, evaluations, watch
):
    scores = iter(means)

    def fake(rng, params, episodes, config):
        return main.Evaluation(np.full(2, next(scores)), np.zeros(2), np.ones(2))

    played = watch("evaluate", fake)
    config = replace(SMALL, total_steps=350, goal=500.0)
    params, _, found = main.train(config, 0, quiet=True)
    assert params is played[best][0][1]
    assert [args[2] > 3 for args, _ in played] == [number > 3 for number in episodes]
    assert [(step, one.returns.mean()) for step, one in found] == evaluations
    results = [id(result) for _, result in played]
    assert all(id(one) in results for _, one in found)


@pytest.mark.parametrize("prioritized", [False, True])
def test_training_ends_where_a_network_diverges_which_is_not_kept(prioritized):
    config = replace(SMALL, prioritized=prioritized, learning_rate=1e30, train_every=1)
    params, _, evaluations = main.train(config, 0, quiet=True)
    assert not np.isfinite(evaluations[-1][1].predicted).any()
    assert evaluations[-1][0] < config.total_steps
    assert all(np.isfinite(array).all() for array in main.tree.leaves(params))


@pytest.mark.parametrize(
    ("env_id", "on", "scale"),
    [
        ("Corridor-v0", True, np.std([0, 1, 2, 3, 0, 1, 2, 3, 4, 5])),
        ("Corridor-v0", False, 1),
        ("Still-v0", True, 1),  # A number that never changes does not divide.
    ],
)
def test_observations_are_divided_by_their_deviation(env_id, on, scale, no_learning):
    config = replace(SMALL, env_id=env_id, scale_observations=on)
    params, _, _ = main.train(config, 0, quiet=True)
    (learner, _, _), _ = no_learning[0]
    for network in (params, learner.params, learner.target_params):
        assert network["scale"] == pytest.approx([scale])


def test_the_same_seed_trains_the_same_agent_and_another_seed_another_one():
    one, again, other = [main.train(SMALL, seed, quiet=True) for seed in (0, 0, 1)]
    assert same(one[0], again[0])
    assert one[1] == again[1]
    assert same(one[2], again[2])
    assert not same(one[0], other[0])
    assert one[1] != other[1]


def test_the_final_scores_come_of_other_episodes_than_the_training(here, no_pictures):
    SEEDS.clear()
    config = replace(SMALL, env_id="Seeded-v0")
    main.train(config, 3, quiet=True)
    in_training = set(SEEDS)
    main.make_hand_in(config, 3, here)
    in_the_end = set(SEEDS) - in_training
    assert len(in_training) == 1 + 2 * 3  # Each evaluation plays other episodes.
    assert len(in_the_end) == 3  # All agents play the same ones in the end.
    assert len(SEEDS) == 2 * len(in_training) + 3 * 3


def test_training_shows_its_bar_and_writes_nothing(here, capsys, no_learning):
    main.train(SMALL, 0)
    out, err = capsys.readouterr()
    assert (out, noise(err)) == ("", [])
    assert "200/200" in err
    assert "epsilon" in err
    main.train(SMALL, 0, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert names(here) == set()
