"""Games: how an agent is scored."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL, Glimpse, new_params, register

import main


class RandomWalk(Glimpse):
    """A game of random length. Each step pays its action, and a little more each time."""

    def step(self, action):
        self.at += 1
        obs = self.np_random.normal(size=1).astype(np.float32)
        return obs, action + self.at / 8, self.np_random.random() < 0.05, False, {}


register(RandomWalk, max_episode_steps=20)


def play_alone(params, seed, config):
    """Return the sum of rewards of one greedy episode."""
    env = main.make_game(config)
    obs, _ = env.reset(seed=seed)
    total = 0
    over = False
    while not over:
        action = int(main.policy_fn(None, params, obs))
        obs, reward, terminated, truncated, _ = env.step(action)
        total += reward
        over = terminated or truncated
    env.close()
    return total


@pytest.mark.parametrize(
    ("env_id", "games"), [("CartPole-v1", 1), ("RandomWalk-v0", 5)]
)
def test_games_side_by_side_equal_games_alone_whose_first_episodes_count(env_id, games):
    params, config = new_params(env_id=env_id)
    returns, *_ = main.evaluate(np.random.default_rng(0), params, games, config)
    seed = int(np.random.default_rng(0).integers(2**31))  # Games have successive seeds.
    alone = [play_alone(params, seed + i, config) for i in range(games)]
    assert returns == pytest.approx(alone)
    assert len(set(alone)) == games


@pytest.mark.parametrize(("rewards", "unit"), [("scaled", 2), ("raw", 1)])
def test_an_evaluation_tells_what_was_achieved_and_predicted(rewards, unit):
    """In the corridor, which ends after 4 steps: 1 + 1/2 + 1/4 + 1/8."""
    params, config = new_params(env_id="Corridor-v0", gamma=0.5, reward_mode=rewards)
    params["output"]["b"] += np.float32([0.25, 0.75])
    q = main.q_values(params, np.float32([0]))
    results = main.evaluate(np.random.default_rng(0), params, 3, config)
    expected = [4, 1.875, unit * float(q.max())]
    for values, value in zip(results, expected):
        assert values == pytest.approx(np.full(3, value), rel=1e-4)


def test_an_evaluation_depends_on_its_generator_and_its_agent_alone():
    params, config = new_params()

    def returns(seed, config):
        return main.evaluate(np.random.default_rng(seed), params, 5, config)[0].tolist()

    assert returns(0, config) == returns(0, replace(config, gamma=0.5))
    assert returns(0, config) != returns(1, config)


def test_a_random_agent_scores_about_22_and_knows_nothing_of_the_game(watch):
    """Its first actions are independent of the first observations' signs."""
    choices = watch("random_policy_fn")
    _, rewards = main.play_episodes(np.random.default_rng(0), None, 4000, SMALL)
    assert rewards.sum(axis=0).mean() == pytest.approx(22.25, abs=0.6)
    (_, obs, _), actions = choices[0]
    agree = (obs > 0) == (actions[:, None] == 1)
    assert agree.mean(axis=0) == pytest.approx(np.full(4, 0.5), abs=0.05)
