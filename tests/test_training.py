"""The environment: evaluation, the training loop, and what it remembers."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from conftest import Glimpse
from jax import tree

import main
from main import Config

SHORT = Config(total_steps=1500, warmup_steps=200, hidden=(8,), eval_every=500, eval_episodes=3)


class Corridor(gym.Env):
    """Walks 1, 2, 3, ...; terminates at 4 on even episodes, else is cut short after 6 steps."""

    observation_space = gym.spaces.Box(-1, 100, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.at = self.episode + 1, 0
        return np.float32([0]), {}

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), 1.0, self.at == 4 and self.episode % 2 == 0, False, {}


gym.register("Corridor-v0", Corridor, max_episode_steps=6)


class Echo(Glimpse):
    """Shows +1 or -1, and pays 1 for the action that answers it: 1 to +1, 0 to -1; else nothing."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = np.float32([self.np_random.choice([-1, 1])])
        return self.shown, {}

    def step(self, action):
        return self.shown.copy(), float(action == (self.shown[0] > 0)), True, False, {}


class TwoSteps(Glimpse):
    """Its first step pays nothing, its second pays 1, whatever is done."""

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.at += 1
        return np.float32([self.at]), float(self.at - 1), self.at == 2, False, {}


gym.register("Echo-v0", Echo)
gym.register("TwoSteps-v0", TwoSteps)


def q_values_after_training(env_id, states):
    options = {"normalize": False, "optimistic": False, "early_stop": False, "gamma": 0.5}
    params, _ = main.train(replace(SHORT, env_id=env_id, hidden=(32,), **options))
    return main.q_values(params, np.float32(states)[:, None]) / (1 - 0.5)  # rewards are scaled


def test_training_learns_what_each_observation_asks_for():
    q = q_values_after_training("Echo-v0", [-1, 1])
    assert q == pytest.approx(np.array([[1, 0], [0, 1]]), abs=0.1)


def test_training_carries_a_reward_back_through_time():
    q = q_values_after_training("TwoSteps-v0", [0, 1])
    assert q == pytest.approx(np.array([[0.5, 0.5], [1, 1]]), abs=0.1)


@pytest.fixture
def remembered(monkeypatch):
    """Every transition that a short training in the corridor stores."""
    kept = []
    pack = main.pack
    monkeypatch.setattr(main, "pack", lambda t: kept.append(t) or pack(t))
    main.train(replace(SHORT, env_id="Corridor-v0", gamma=0.9, total_steps=300))
    return kept


def test_the_last_observation_of_an_episode_is_the_true_one(remembered):
    assert [t.next_obs[0] for t in remembered[:10]] == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert all(t.next_obs[0] == t.obs[0] + 1 for t in remembered)


def test_an_episode_starts_at_its_own_first_observation(remembered):
    assert [t.obs[0] for t in remembered[:11]] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0]


def test_termination_discounts_to_zero_and_a_time_limit_does_not(remembered):
    discounts = [float(t.discount) for t in remembered[:10]]
    assert discounts == pytest.approx([0.9, 0.9, 0.9, 0.0] + 6 * [0.9])


def test_rewards_are_scaled_so_that_values_stay_within_one_reward(remembered):
    assert [float(t.reward) for t in remembered[:3]] == pytest.approx([0.1] * 3)


def test_history_holds_every_episode_and_every_evaluation():
    _, history = main.train(SHORT)
    steps, returns = np.transpose(history.episodes)
    assert np.diff(np.r_[0, steps]).tolist() == returns.tolist()  # each CartPole step gives 1
    assert [step for step, _ in history.evaluations] == [500, 1000, 1500]


def test_training_returns_the_best_evaluated_parameters(monkeypatch):
    scores, seen = iter([3.0, 7.0, 5.0]), []

    def fake(seed, params, episodes, *, config):
        seen.append(params)
        return np.array([next(scores)])

    monkeypatch.setattr(main, "evaluate", fake)
    best, _ = main.train(SHORT)
    assert best is seen[1]


def test_training_stops_when_a_perfect_evaluation_is_confirmed(monkeypatch):
    scores, played = iter([500.0, 499.0, 500.0, 500.0]), []

    def fake(seed, params, episodes, *, config):
        played.append(episodes)
        return np.array([next(scores)])

    monkeypatch.setattr(main, "evaluate", fake)
    _, history = main.train(replace(SHORT, confirm_episodes=70))
    assert [step for step, _ in history.evaluations] == [500, 1000]
    assert played == [3, 70, 3, 70]


def test_the_same_seed_trains_the_same_agent_and_another_seed_another():
    one, same, other = (main.train(replace(SHORT, seed=s)) for s in (0, 0, 1))
    assert one[1][:2] == same[1][:2]
    assert all(tree.leaves(tree.map(np.array_equal, one[0], same[0])))
    assert one[1][:2] != other[1][:2]


def test_evaluation_depends_on_its_own_seed_alone():
    params = main.train(SHORT)[0]
    one, same, other = (main.evaluate(s, params, 5, config=SHORT).tolist() for s in (5, 5, 6))
    assert one == same != other


def test_evaluation_plays_each_game_as_one_game_alone_would_play():
    config = replace(SHORT, env_id="Corridor-v0")
    assert main.evaluate(0, None, 4, config=config).tolist() == [4.0] * 4  # even episodes terminate


def test_a_random_agent_scores_about_22():
    returns = main.evaluate(0, None, 2000, config=SHORT)
    assert returns.mean() == pytest.approx(22.3, abs=1.5)


def test_epsilon_is_one_while_warming_up_then_falls_to_its_end():
    epsilons = main.epsilon_schedule(
        Config(warmup_steps=100, epsilon_start=0.9, epsilon_end=0.1, epsilon_decay=400)
    )
    assert set(epsilons[:101]) == {1.0}
    assert epsilons[[200, 400, 5000]] == pytest.approx([0.5, 0.1, 0.1])


def test_streams_of_random_numbers_are_independent():
    names = ["init", "agent", "game", "memory", "evaluation", "confirmation", "report", "gif"]
    seeds = {
        main.stream(seed, name, step) for seed in range(5) for name in names for step in (0, 1)
    }
    assert len(seeds) == 80
    assert main.stream(3, "evaluation", 7) == main.stream(3, "evaluation", 7)


def test_the_agent_that_is_evaluated_is_the_target_network(monkeypatch):
    learners, played = [], []
    learn = main.update_round

    def watch(*args, **kwargs):
        learners.append(learn(*args, **kwargs)[0])
        return learn(*args, **kwargs)

    def fake(seed, params, episodes, *, config):
        played.append((params, learners[-1].target))
        return np.zeros(1)

    monkeypatch.setattr(main, "update_round", watch)
    monkeypatch.setattr(main, "evaluate", fake)
    main.train(SHORT)
    assert len(played) == 3
    for params, target in played:
        assert all(tree.leaves(tree.map(np.array_equal, params, target)))
