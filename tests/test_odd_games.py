"""Games as students write them: they are played, or refused in a sentence."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from conftest import (
    FILES,
    SMALL,
    TINY,
    Glimpse,
    names,
    new_params,
    noise,
    register,
    rows,
    status,
)
from gymnasium import spaces

import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's advice
RECORD = main.record
OPENED = set()


class Walk(Glimpse):
    """A game of five to nine steps, each worth 1. It is noted while it is open."""

    def __init__(self):
        OPENED.add(self)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look(), {}

    def step(self, action):
        self.at += 1
        over = self.at >= 5 + self.np_random.integers(5)
        return self.look(), 1.0, bool(over), False, {}

    def look(self):
        return np.float32([self.at])

    def close(self):
        OPENED.remove(self)


@pytest.fixture
def play(here, capsys, no_learning, no_pictures):
    """Return a function that runs main.py on a game, and returns its table of scores.
    It checks that all files are written, but pictures for which stderr has a line.
    """

    def run(game, words="", lost=()):
        assert status(f"{TINY} --env-id {register(game)} {words}") == 0
        assert names(here) == FILES - set(lost)
        out, err = capsys.readouterr()
        lines = noise(err)
        assert len(lines) == (len(lost) > 0)
        assert all(name in lines[0] for name in lost)
        return rows(out)

    yield run
    left = len(OPENED)
    OPENED.clear()
    assert left == 0  # All that was opened has been closed.


def test_an_ordinary_game_of_ones_own_is_played(play):
    table = play(Walk)
    assert 5 <= table["trained"][2] <= table["trained"][0] <= 9
    assert [scores[3] for scores in table.values()] == [3, 3, 3]


def test_infos_may_hold_anything_and_rewards_and_ends_may_be_of_numpy(play):
    infos = itertools.cycle([
        {"winner": 1}, {"winner": None}, {"training": True}, {7: [1, "a"]},
        {"episode": {"r": 1}}, {"_x": np.zeros(3)}, {"final_obs": 1}, {"x": {}},
    ])  # fmt: skip
    winners = itertools.cycle([{"winner": 1}, {"winner": None}])

    class Odd(Walk):
        def reset(self, **kwargs):
            obs, _ = super().reset(**kwargs)
            return obs, next(winners)

        def step(self, action):
            obs, _, over, _, _ = super().step(action)
            kind = (np.float32, np.float64, np.int64, np.array, int)[self.at % 5]
            return obs, kind(1), np.bool_(over), np.bool_(False), next(infos)

    assert 5 <= play(Odd)["trained"][0] <= 9


ACTIONS = []


class Listens(Walk):
    """Note the actions, and change them in place where that is possible."""

    def step(self, action):
        ACTIONS.append((type(action), float(np.sum(action))))
        action *= 2
        return super().step(action)


FROM_1 = spaces.Discrete(2, start=1)
TORQUE = spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize(
    ("space", "actions"), [(FROM_1, {1, 2}), (TORQUE, {-1, -0.5, 0, 0.5, 1})]
)
def test_a_game_gets_actions_of_one_type_and_may_change_them(space, actions, play):
    ACTIONS.clear()
    play(type("Spoils", (Listens,), {"action_space": space}), "--action-bins 5")
    assert {value for _, value in ACTIONS} == actions
    assert len({kind for kind, _ in ACTIONS}) == 1


def test_several_continuous_actions_become_a_grid_that_reaches_the_ends():
    space = spaces.Box(np.float32([-1, 0]), np.float32([1, 4]))
    choices = main.list_choices(space, 3)
    assert all(space.contains(choice) for choice in choices)
    expected = [[x, y] for x in (-1, 0, 1) for y in (0, 2, 4)]
    assert sorted(choice.tolist() for choice in choices) == expected


def test_observations_of_every_kind_become_vectors(play):
    kinds = {
        "Discrete": (spaces.Discrete(5, start=2), 5),
        "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), 5),
        "MultiBinary": (spaces.MultiBinary(3), 3),
        "Box": (spaces.Box(0, 255, (2, 3), np.uint8), 6),
        "Tuple": (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2, 2))]), 6),
    }
    kinds["Dict"] = spaces.Dict({name: space for name, (space, _) in kinds.items()}), 25
    for name, (space, size) in kinds.items():
        game = type(f"Sees{name}", (Walk,), {"observation_space": space})
        game.look = lambda self: self.observation_space.sample()
        env = main.make_game(replace(SMALL, env_id=register(game)))
        assert env.reset()[0].shape == env.observation_space.shape == (size,)
        env.close()
    play(game)


def test_a_game_may_show_the_same_array_again_and_again(play, watch):
    class Reuses(Walk):
        array = np.zeros(1, np.float32)

        def look(self):
            self.array[0] = self.at
            return self.array

    samples = watch("sample_batch")
    play(Reuses)
    (_, memory, _), _ = samples[-1]
    steps = [(memory[i].obs[0], memory[i].next_obs[0]) for i in range(5)]
    assert steps == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    params, config = new_params(env_id="Reuses-v0", reward_mode="raw")
    params["output"]["w"][:] = 1  # The Q-values depend on what is shown.
    *_, predicted = main.evaluate(np.random.default_rng(0), params, 2, config)
    first = float(main.q_values(params, np.float32([0])).max())
    assert predicted == pytest.approx([first, first], rel=1e-4)


def test_an_endless_game_ends():
    class Endless(Glimpse):
        def step(self, action):
            return np.float32([0]), 1.0, False, False, {}

    config = replace(SMALL, env_id=register(Endless))
    _, rewards = main.play_episodes(np.random.default_rng(0), None, 2, config)
    assert rewards.sum(axis=0).tolist() == [1000, 1000]


def fail(self):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("reason", "attributes"),
    [
        ("inf", {"action_space": spaces.Box(-np.inf, np.inf, (1,))}),
        (
            "inf",
            {"action_space": spaces.Box(np.float32([0, 0]), np.float32([1, np.inf]))},
        ),
        ("MultiDiscrete", {"action_space": spaces.MultiDiscrete([2, 2])}),
        ("--action-bins", {"action_space": spaces.Box(-1, 1, (5,))}),
        ("--action-bins", {"action_space": spaces.Box(-1, 1, (100,))}),
        ("observations", {"observation_space": spaces.Sequence(spaces.Discrete(3))}),
        ("observations", {"observation_space": spaces.Dict(words=main.gym.Space())}),
        (
            "observations",
            {"observation_space": spaces.Dict(a=spaces.Graph(spaces.Box(-1, 1), None))},
        ),
        ("NotImplementedError", {"__init__": fail}),
    ],
)
def test_a_game_that_does_not_fit_is_refused(reason, attributes, play, here, capsys):
    env_id = register(type("Unfit", (Walk,), attributes))
    assert status(f"{TINY} --env-id {env_id} --action-bins 11") == 2
    assert names(here) == set()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--env-id" in said
    assert reason in said


def test_a_name_that_is_not_complete_is_refused_at_once(here, capsys):
    """Its settings would be those of a game of which nothing is known."""
    assert status(f"{TINY} --env-id CartPole") == 2
    assert "CartPole-v1" in capsys.readouterr().err.splitlines()[-1]
    assert names(here) == set()


def test_a_game_in_a_file_of_ones_own_is_played_and_scored(
    here, monkeypatch, no_learning, no_pictures, capsys
):
    code = "import conftest\nclass Homemade(conftest.Glimpse):\n    pass\n"
    (here / "homemade.py").write_text(f"{code}conftest.register(Homemade)\n")
    monkeypatch.syspath_prepend(here)
    words = "--evaluate new/params.pkl --eval-episodes 3"
    assert status(f"{TINY} --env-id homemade:Homemade-v0 --out new") == 0
    assert names(here / "new") == FILES
    main.gym.registry.pop("Homemade-v0")
    assert status(words) == 2  # The game is not known yet.
    assert "--env-id" in capsys.readouterr().err.splitlines()[-1]
    main.sys.modules.pop("homemade")
    assert status(f"{words} --env-id homemade:Homemade-v0") == 0
    assert list(rows(capsys.readouterr().out).values()) == [[1, 0, 1, 3]]


PICTURES = {"render_modes": ["rgb_array"]}


class Drawn(Walk):
    """A game that can be drawn."""

    metadata = PICTURES | {"render_fps": 10}
    picture = np.zeros((40, 60, 3), np.uint8)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        super().__init__()

    def render(self):
        if self.picture is None:
            raise RuntimeError("no display")
        return self.picture


@pytest.mark.parametrize(
    ("lost", "attributes"),
    [
        (0, {}),
        (0, {"picture": np.zeros((40, 60, 4), np.uint8)}),  # with transparency
        (2, {"metadata": PICTURES | {"render_fps": 0}}),
        (2, {"picture": None}),
        (2, {"picture": "no picture"}),
        (2, {"metadata": {"render_modes": []}}),
    ],
)
def test_what_cannot_be_drawn_costs_its_picture_and_a_line(
    lost, attributes, play, watch, here
):
    watch("record", RECORD)
    for name in ("agent.gif", "random.gif"):
        (here / name).write_text("a picture of another agent or another game")
    pictures = ["agent.gif", "random.gif"][:lost]
    table = play(type("Shown", (Drawn,), attributes), lost=pictures)
    assert table["trained"][2] >= 5


@pytest.mark.parametrize("last", [50, 101])  # in the training, in an evaluation
def test_a_mistake_of_the_students_is_a_traceback_and_games_are_closed(last, play):
    steps = []

    class Fragile(Walk):
        def step(self, action):
            steps.append(action)
            if len(steps) == last:
                raise ArithmeticError("a mistake of the student's")
            return super().step(action)

    with pytest.raises(ArithmeticError):
        play(Fragile)
    with pytest.raises(ValueError, match="cannot be used"):  # A file's game, too.
        main.save_params("bad.pkl", {}, replace(SMALL, env_id="Fragile-v0"))
        main.load_params("bad.pkl")
