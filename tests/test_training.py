"""Training: what is acted on, remembered, learned and evaluated; what is returned, and when."""

import re
import resource
import sys
from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from conftest import TINY, Glimpse
from jax import tree

import main
from main import Config


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


def q_values_after_training(words, states):
    base = "--total-steps 1500 --warmup-steps 200 --hidden 32 --eval-every 1500 --eval-episodes 3"
    config = Config(f"{base} --no-scale-observations --no-early-stop --gamma 0.5 {words}")
    params, _ = main.train(config, quiet=True)
    return main.q_values(params, np.float32(states)[:, None]) / (1 - 0.5)  # rewards are scaled


def test_training_learns_what_each_observation_asks_for():
    q = q_values_after_training("--env-id Echo-v0", [-1, 1])
    assert q == pytest.approx(np.array([[1, 0], [0, 1]]), abs=0.1)


@pytest.mark.parametrize("words", ["", "--n-step 2", "--prioritized --dueling --updates 32"])
def test_training_carries_a_reward_back_through_time(words):
    q = q_values_after_training(f"--env-id TwoSteps-v0 {words}", [0, 1])
    assert q == pytest.approx(np.array([[0.5, 0.5], [1, 1]]), abs=0.1)


def test_what_happened_is_remembered_as_it_happened(monkeypatch):
    """The true last observation of an episode; the first of the next; raw rewards."""
    kept = []
    monkeypatch.setattr(main, "remember", lambda memory, step: kept.append(step))
    monkeypatch.setattr(main, "update_round", lambda learner, batch, config: learner)
    monkeypatch.setattr(main, "sample_batch", lambda *a: None)
    main.train(Config(f"{TINY} --env-id Corridor-v0 --no-scale-observations"), quiet=True)
    obs, action, reward, terminated, truncated, next_obs = (
        np.ravel(x).tolist() for x in zip(*kept[:10], strict=True)
    )
    assert obs == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert next_obs == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert set(reward) == {1}
    assert terminated == [False] * 3 + [True] + [False] * 6
    assert truncated == [False] * 9 + [True]
    assert len(kept) == 300
    assert kept[10][0] == 0
    assert set(action) == {0, 1}


def scored(monkeypatch, words, evaluations, confirmations=()):
    """Trains while evaluations have these means; returns what was played and what came of it."""
    scores = {"evaluation": iter(evaluations), "confirm": iter(confirmations)}
    played = []

    def fake(params, episodes, purpose="report", *, config):
        played.append((purpose, episodes, params))
        return np.array([next(scores[purpose.split()[0]])])

    with monkeypatch.context() as patch:
        patch.setattr(main, "evaluate", fake)
        params, history = main.train(Config(f"{TINY} {words}"), quiet=True)
    return [p[:2] for p in played], [p[2] for p in played], params, history


def test_training_stops_when_a_perfect_evaluation_is_confirmed(monkeypatch):
    played, agents, params, history = scored(monkeypatch, "", [500, 500], [499, 500])
    first = [("evaluation 100", 3), ("confirm 100", 5)]
    assert played == [*first, ("evaluation 200", 3), ("confirm 200", 5)]
    assert params is agents[-1]
    assert history.evaluations == [(100, 499), (200, 500)]
    assert history.score == 500


def test_a_refused_confirmation_counts_for_what_it_was(monkeypatch):
    """A lucky evaluation is not handed in: its score is the mean of its confirmation."""
    _, agents, params, history = scored(monkeypatch, "", [500, 450, 400], [300])
    assert params is agents[2]
    assert history.score == 450


def test_the_best_evaluated_parameters_are_returned_or_the_last(monkeypatch):
    _, agents, params, history = scored(monkeypatch, "", [3, 7, 5])
    assert (params is agents[1], history.score) == (True, 7)
    _, agents, params, history = scored(monkeypatch, "--no-keep-best", [3, 7, 5])
    assert (params is agents[2], history.score) == (True, 5)


def test_steady_trains_on_and_hands_in_its_last_parameters(monkeypatch):
    played, agents, params, history = scored(monkeypatch, "--steady", [500, 500, 499])
    assert played == [(f"evaluation {step}", 3) for step in (100, 200, 300)]
    assert (params is agents[2], history.score) == (True, 499)


def test_training_stops_at_its_target_return(monkeypatch):
    for target, steps in (("495", 300), ("490", 100)):
        _, _, _, history = scored(monkeypatch, f"--target-return {target}", [490] * 3, [490] * 3)
        assert history.evaluations[-1][0] == steps


@pytest.mark.parametrize("agent", ["target", "online"])
def test_the_online_network_acts_and_the_one_asked_for_is_evaluated(agent, monkeypatch):
    learners, acted, played = [], [], []
    learn, act = main.update_round, main.action_fn

    def watch(learner, batch, *, config):
        learners.append(learn(learner, batch, config=config))
        return learners[-1]

    def watch_action(rng, params, *rest):
        acted.append((len(learners), params))
        return act(rng, params, *rest)

    def fake(params, episodes, purpose="report", *, config):
        played.append((params, learners[-1].target if agent == "target" else learners[-1].params))
        return np.zeros(1)

    monkeypatch.setattr(main, "update_round", watch)
    monkeypatch.setattr(main, "action_fn", watch_action)
    monkeypatch.setattr(main, "evaluate", fake)
    params, _ = main.train(Config(f"{TINY} --network {agent} --no-keep-best"), quiet=True)
    assert params is played[-1][0]
    assert len(learners) == 5
    assert all(params is learners[n - 1].params for n, params in acted if n)
    assert len(played) == 3
    assert all(params is expected for params, expected in played)


def test_the_scale_is_measured_once_and_can_be_off():
    params, _ = main.train(Config(TINY), quiet=True)
    assert np.all(params["scale"] != 1)
    params, _ = main.train(Config(f"{TINY} --no-scale-observations"), quiet=True)
    assert np.all(params["scale"] == 1)


def test_confirmation_never_replays_the_episodes_of_an_evaluation_nor_does_the_report(monkeypatch):
    seeds, real = [], gym.make_vec

    def make(*args, **kwargs):
        envs = real(*args, **kwargs)
        reset = envs.reset
        envs.reset = lambda **k: seeds.append(k["seed"]) or reset(**k)
        return envs

    monkeypatch.setattr(gym, "make_vec", make)
    config = Config(f"{TINY} --target-return 5 --confirm-episodes 3 --no-keep-best")
    params, history = main.train(config, quiet=True)
    main.evaluate(params, 3, config=config)
    assert len(history.evaluations) == 1
    assert len(set(seeds)) == 3


def test_history_holds_every_episode_and_every_evaluation():
    _, history = main.train(Config(f"{TINY} --env-id Corridor-v0"), quiet=True)
    assert history.lengths == history.returns == [4, 6] * 30  # each step gives 1
    _, many = main.train(Config(f"{TINY} --env-id Glimpse-v0"), quiet=True)
    assert many.lengths == [1] * 300
    assert [step for step, _ in history.evaluations] == [100, 200, 300]


def test_the_same_seed_trains_the_same_agent_and_another_seed_another():
    one, same, other = (main.train(Config(f"{TINY} --seed {s}"), quiet=True) for s in (0, 0, 1))
    assert one[1] == same[1] != other[1]
    assert all(tree.leaves(tree.map(np.array_equal, one[0], same[0])))


def test_the_memory_has_its_size_and_forgets(monkeypatch):
    sizes, sample = [], main.sample_batch

    def watch(rng, memory, *rest):
        sizes.append(len(memory))
        assert isinstance(memory, deque)
        return sample(rng, memory, *rest)

    monkeypatch.setattr(main, "sample_batch", watch)
    main.train(Config(f"{TINY} --memory-size 180"), quiet=True)
    assert sizes == [100, 150, 180, 180, 180]


def test_a_round_learns_from_as_many_transitions_as_was_asked_for(monkeypatch):
    learned, learn = [], main.update_round

    def watch(learner, batch, *, config):
        learned.append(len(batch.action))
        return learn(learner, batch, config=config)

    monkeypatch.setattr(main, "update_round", watch)
    main.train(Config(f"{TINY} --updates 3 --batch-size 5"), quiet=True)
    assert learned == [15] * 5


def test_training_shows_its_bar_and_nothing_else(capsys):
    main.train(Config(TINY))
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.replace("\r", "\n").split("\n") if line.strip()]
    assert len(lines) <= 4  # a log file is not flooded
    assert all(line.startswith("training") for line in lines)
    assert all(word in lines[-1] for word in ("300/300", "epsilon", "return", "greedy"))
    main.train(Config(TINY), quiet=True)
    assert capsys.readouterr() == ("", "")


AGENTS = {  # of the course's documents: each is flags alone
    "a": "--hidden 100 50 --loss squared --learning-rate 0.001 --clip-value 1 --gamma 0.95 "
    "--epsilon-start 0.9 --memory-size 10000 --batch-size 64 --warmup-steps 400 --train-every 400 "
    "--updates 128 --target-period 128 --total-steps 80000 --eval-every 2000",
    "b": "--hidden 128 128 --amsgrad --weight-decay 0.01 --learning-rate 0.0001 --clip-value 5 "
    "--gamma 0.95 --tau 0.005 --target-period 1 --memory-size 1000 --batch-size 128 "
    "--warmup-steps 128 --train-every 1 --epsilon-start 0.9 --epsilon-end 0.1 --epsilon-decay 10 "
    "--epsilon-schedule exponential --total-steps 200000 --eval-every 2000",
    "c": "--hidden 64 64 --loss squared --learning-rate 0.001 --tau 0.001 --target-period 1 "
    "--memory-size 100000 --batch-size 64 --warmup-steps 64 --epsilon-start 0.9 "
    "--epsilon-end 0.01 --epsilon-decay 9.491 --epsilon-schedule exponential "
    "--total-steps 300000 --eval-every 4000",
}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agents_of_the_course_are_flags_alone_and_learn(agent):
    config = Config(f"--vanilla {AGENTS[agent]} --total-steps 900 --eval-every 900")
    params, _ = main.train(config, quiet=True)
    assert not np.array_equal(params["output"]["w"], main.init_params(config)["output"]["w"])


def test_a_long_budget_takes_no_memory(monkeypatch):
    monkeypatch.setattr(main, "evaluate", lambda *a, **k: np.array([500.0]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    main.train(Config(f"{TINY} --total-steps 100000000"), quiet=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000 * (1024 if sys.platform == "darwin" else 1)  # macOS counts bytes


def test_a_game_may_have_statistics_of_its_own():
    def make():
        return gym.wrappers.RecordEpisodeStatistics(Glimpse())

    gym.register("Counted-v0", make, max_episode_steps=6)
    _, history = main.train(Config(f"{TINY} --env-id Counted-v0"), quiet=True)
    assert (history.lengths, history.returns) == ([1] * 300, [1.0] * 300)


@pytest.mark.parametrize("enough", [True, False])
def test_solved_means_the_same_to_training_to_the_report_and_to_a_study(
    enough, monkeypatch, quick, tmp_path
):
    """At, and just above, the mean of a game in which each episode returns 0.25."""
    monkeypatch.setattr(main, "evaluate", lambda p, episodes, *a, **k: np.full(episodes, 0.25))
    goal = 0.25 if enough else 0.2500001
    options = f"{TINY} --target-return {goal} --out '{tmp_path}'"
    _, history = main.train(Config(options), quiet=True)
    assert history.evaluations[-1][0] == (100 if enough else 300)
    report = main.run(Config(options))
    assert ("not solved" not in report) is enough
    assert re.search(r"trained +0\.25 ", report)  # not rounded to a goal it has not reached
    assert (" 2/2 " if enough else " 0/2 ") in main.run_study(Config(f"{options} --seeds 2"))
