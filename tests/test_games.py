"""Games: what is played, and how an agent is scored."""

import gymnasium as gym
import numpy as np
import pytest
from conftest import TINY, Glimpse

import main
from main import Config


class TwoChoices(Glimpse):
    """A game that asks for two choices at once."""

    action_space = gym.spaces.MultiDiscrete([2, 2])


class FromOne(Glimpse):
    """A game whose actions are 1 and 2."""

    action_space = gym.spaces.Discrete(2, start=1)


class Unbounded(Glimpse):
    """A game whose action may be any number."""

    action_space = gym.spaces.Box(-np.inf, np.inf, (1,))


class Levers(Glimpse):
    """A game with two continuous actions, each with its own range; it shows what it was given."""

    observation_space = gym.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.float32(action), 0.0, True, False, {}


for game in (TwoChoices, FromOne, Unbounded, Levers):
    gym.register(f"{game.__name__}-v0", game)


@pytest.mark.parametrize(
    "env_id",
    ["TwoChoices-v0", "FromOne-v0", "Unbounded-v0", "Nowhere-v0", "nowhere:X-v0", "CartPole"],
)
def test_a_game_whose_actions_do_not_fit_is_refused(env_id):
    with pytest.raises(ValueError, match="--env-id"):
        Config(f"--env-id {env_id}")


def test_any_observation_becomes_a_vector():
    assert Config("--env-id FrozenLake-v1 --hidden 8").sizes == (16, 8, 4)
    assert Config("--env-id Blackjack-v1 --hidden 8").sizes == (45, 8, 2)


def test_continuous_actions_become_a_grid_that_reaches_the_ends():
    env = main.make_game(Config("--env-id Levers-v0 --action-bins 3"))
    env.reset()
    grid = [env.step(a)[0].tolist() for a in range(9) if env.reset()]
    assert grid == [[x, y] for x in (-1, 0, 1) for y in (0, 2, 4)]
    assert Config("--env-id Pendulum-v1 --action-bins 7").sizes[-1] == 7


def test_episodes_of_an_endless_game_end():
    class Endless(Glimpse):
        steps = 0

        def step(self, action):
            self.steps += 1
            assert self.steps < 5_000
            return np.float32([0]), 1.0, False, False, {}

    gym.register("Endless-v0", Endless)
    assert set(main.evaluate(None, 2, config=Config("--env-id Endless-v0"))) == {1000}


def test_evaluation_plays_each_game_as_one_game_alone_would_play():
    config = Config("--env-id Corridor-v0")
    assert main.evaluate(None, 4, config=config).tolist() == [4.0] * 4  # even episodes terminate


def test_evaluation_depends_on_seed_and_purpose_alone():
    params = main.init_params(Config())

    def returns(words="", *purpose):
        return main.evaluate(params, 5, *purpose, config=Config(words)).tolist()

    assert returns() == returns("--out x --gamma 0.5")
    others = [returns("--seed 1"), returns("", "evaluation 7"), returns("", "evaluation 8")]
    assert len({tuple(r) for r in [returns(), *others]}) == 4


def test_evaluation_games_have_the_actions_that_were_asked_for():
    """The best of three torques is 0, the best of two is not."""
    torque = {"w": np.zeros((3, 3), np.float32), "b": np.float32([0, 1, 0])}
    params = {"scale": np.ones(3, np.float32), "hidden": {"relu": []}, "output": torque}
    three = Config("--env-id Levers-v0 --action-bins 3")
    envs = gym.vector.SyncVectorEnv([lambda: main.make_game(three)])
    assert envs.single_action_space.n == 9
    seen = []
    real = main.make_game
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "make_game", lambda c, **k: seen.append(c.action_bins) or real(c, **k))
        main.evaluate(params, 3, config=Config("--env-id Pendulum-v1 --action-bins 3"))
    assert set(seen) == {3}


def test_a_random_agent_scores_about_22():
    returns = main.evaluate(None, 4000, config=Config())
    assert returns.mean() == pytest.approx(22.25, abs=0.6)


def test_a_random_agent_knows_nothing_of_the_game(monkeypatch):
    """Its first actions are independent of the first observations' signs."""
    games, agree = [], []
    make_vec = gym.make_vec

    def watched(*args, **kwargs):
        envs = make_vec(*args, **kwargs)
        reset, step = envs.reset, envs.step
        envs.reset = lambda **k: games.append(reset(**k)) or games[-1]

        def first(actions):
            if not agree:
                agree.append((games[0][0] > 0) == (actions[:, None] == 1))
            return step(actions)

        envs.step = first
        return envs

    monkeypatch.setattr(gym, "make_vec", watched)
    main.evaluate(None, 4000, config=Config())
    assert agree[0].mean(axis=0) == pytest.approx(np.full(4, 0.5), abs=0.05)


def test_streams_of_random_numbers_are_independent():
    names = [
        "init",
        "training",
        "game",
        "evaluation 7",
        "evaluation 8",
        "confirm 7",
        "report",
        "gif",
    ]
    assert len({main.derive_seed(seed, name) for seed in range(5) for name in names}) == 40
    assert main.derive_seed(3, "evaluation 7") == main.derive_seed(3, "evaluation 7")


def test_parameters_that_are_not_finite_are_not_played():
    params = main.init_params(Config())
    params["output"]["b"][0] = np.nan
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        main.evaluate(params, 2, config=Config())


class NotANumber(Glimpse):
    """A game whose rewards are not numbers."""

    def step(self, action):
        return np.float32([0.5]), float("nan"), True, False, {}


gym.register("NotANumber-v0", NotANumber)


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_training_that_diverges_stops_and_says_why(capsys, tmp_path):
    words = f"{TINY} --env-id NotANumber-v0 --out '{tmp_path}'"
    assert main.main(words) == 1
    assert "--learning-rate" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "params.pkl").exists()


def test_too_many_combinations_of_levers_are_refused_at_once():
    class Organ(Glimpse):
        action_space = gym.spaces.Box(-1, 1, (100,))

    gym.register("Organ-v0", Organ)
    with pytest.raises(ValueError, match="--env-id must be a game with"):
        Config("--env-id Organ-v0")
