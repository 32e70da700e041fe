"""The GIFs, the figure and the zip."""

import os
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import FILES, SMALL, Glimpse, names, new_params, register

import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's advice


class Clock(Glimpse):
    """A game whose picture tells the step and the last action."""

    fps = 10
    last_step = 10_000
    action = 0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.fps}

    def step(self, action):
        self.at += 1
        self.action = action
        return np.float32([0]), 1.0, self.at == self.last_step, False, {}

    def render(self):
        color = self.at % 256, self.at // 256, 100 * self.action
        return np.full((30, 60, 3), color, np.uint8)


def read(path):
    """Return the pictures of a GIF, and the seconds after which each one ends."""
    number = iio.improps(path, index=...).n_images
    seconds = [iio.immeta(path, index=i)["duration"] / 1000 for i in range(number)]
    pictures = [iio.imread(path, index=i, mode="RGB") for i in range(number)]
    return np.int32(pictures), np.cumsum(seconds)


def film(path, epsilon=0.0, **attributes):
    """Record a clock. Return the steps and actions that are shown, and their ends."""
    game = type("Told", (Clock,), attributes)
    params, config = new_params(env_id=register(game))
    params["output"]["b"] += np.float32([0, 10])  # Action 1 looks best.
    main.record(0, params, epsilon, config, path)
    pictures, ends = read(path)
    red, green, blue = pictures[:, 0, 0].T
    return red + 256 * green, blue // 50, ends


@pytest.mark.parametrize("fps", [4, 15, 30, 50, 120])
def test_a_recording_shows_the_game_in_real_time(fps, tmp_path):
    steps, _, ends = film(tmp_path / "a.gif", fps=fps)
    starts = np.array([0, *ends[:-1]])
    assert len(steps) > 10
    assert np.abs(steps - fps * starts).max() <= 1 + 0.05 * steps.max()


def test_a_recording_is_greedy_or_random_and_strings_episodes_together(tmp_path):
    steps, greedy, ends = film(tmp_path / "agent.gif", last_step=7)
    _, random, random_ends = film(tmp_path / "random.gif", 1.0)
    assert steps.tolist() == [i % 7 for i in range(len(steps))]
    assert set(greedy[1:]) == {2}
    assert set(random[1:]) == {0, 2}
    assert random_ends[-1] == pytest.approx(ends[-1])
    assert iio.imread(tmp_path / "agent.gif", index=0).shape[:2] == (30, 60)


def test_a_recording_shows_cartpole_as_gymnasium_draws_it_and_repeats(tmp_path):
    params, config = new_params()
    env = main.make_game(config, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render().astype(int)
    env.close()
    for name, seed in (("a.gif", 0), ("b.gif", 0), ("c.gif", 1)):
        main.record(seed, params, 1.0, config, tmp_path / name)
    a, b, c = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert a == b != c
    assert len(a) < 300_000
    picture = read(tmp_path / "a.gif")[0][0]
    assert picture.shape[0] / picture.shape[1] == pytest.approx(400 / 600, abs=0.01)
    for color in ((255, 255, 255), (0, 0, 0), (202, 152, 101)):  # sky, cart, pole
        drawn, shown = [
            np.all(abs(x - color) < 40, -1).mean() for x in (frame, picture)
        ]
        assert drawn > 0.001
        assert shown == pytest.approx(drawn, rel=0.7)
    assert iio.immeta(tmp_path / "a.gif")["loop"] == 0


def test_the_figure_shows_returns_their_means_and_evaluations(watch, tmp_path):
    figures = watch("Figure")
    episodes = [[10 * i, float(i)] for i in range(1, 151)]
    early = main.Evaluation(*np.array([[9.0, 9.0], [6.0, 8.0], [8.0, 8.0]]))
    late = main.Evaluation(*np.array([[500.0, 500.0], [99.0, 99.0], [110.0, 130.0]]))
    evaluations = [(512, early), (1024, late)]
    main.draw_curves(episodes, evaluations, SMALL, tmp_path / "curve.png")
    axes = figures[0][1].axes
    lines = [line.get_xydata().tolist() for one in axes for line in one.get_lines()]
    means = [[10 * i, np.mean(range(max(1, i - 99), i + 1))] for i in range(1, 151)]
    assert episodes in lines
    assert means in lines
    for first, last in ((9, 500), (7, 99), (8, 120)):
        assert [[512, first], [1024, last]] in lines


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("episodes", [[], [(20, 20.0)]])
def test_the_figure_of_very_little_is_drawn_to_the_same_bytes(episodes, tmp_path):
    paths = tmp_path / "1.png", tmp_path / "2.png"
    for path in paths:
        main.draw_curves(episodes, [(50, main.Evaluation(*np.eye(3)))], SMALL, path)
        assert min(iio.imread(path).shape[:2]) > 300
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_agent_is_watched_in_a_window_or_the_lack_of_a_display_is_said(
    monkeypatch, capsys, watch
):
    shown = watch("play_and_draw", lambda *args: None)
    monkeypatch.setattr(main.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    main.watch(0, *new_params())
    assert shown == []
    assert "display" in capsys.readouterr().err

    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for _ in range(2):
        main.watch(0, *new_params())
    assert [args[-1] for args, _ in shown] == ["human", "human"]
    assert "SDL_VIDEODRIVER" not in main.os.environ
    assert capsys.readouterr().err == ""


RESULTS = FILES - {"hand-in.zip"}
PROGRAM = {
    "main.py", "README.md", "requirements.txt", "tests/requirements.txt",
    "tests/test_x.py", "tests/study.py",
}  # fmt: skip
RUBBISH = [
    "tests/._test_x.py", "tests/.DS_Store", "tests/test_x.py~", "tests/.test_x.py.swp",
    "tests/#test_x.py#", "tests/test_x.py.orig", "tests/Thumbs.db", "tests/study.csv",
    "tests/__pycache__/test_x.py", "notes.py", ".DS_Store", "new-1-params.pkl",
]  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a folder with a hand-in. Each file's content is its name."""
    (tmp_path / "tests" / "__pycache__").mkdir(parents=True)
    for name in PROGRAM | RESULTS | set(RUBBISH):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "main.py"))
    return tmp_path


def pack(out, env_id="CartPole-v1"):
    """Write the zip. Return its bytes and the names of what it holds."""
    main.write_zip(out, main.Config(env_id=env_id))
    with zipfile.ZipFile(out / "hand-in.zip") as archive:
        content = {name: archive.read(name).decode() for name in archive.namelist()}
    assert all(name == text for name, text in content.items())
    return (out / "hand-in.zip").read_bytes(), set(content)


def test_the_zip_holds_the_hand_in_without_the_rubbish_beside_it(home, capsys):
    before = names(home)
    assert pack(home)[1] == PROGRAM | RESULTS
    assert names(home) == before | {"hand-in.zip"}
    assert capsys.readouterr().out == ""


def test_the_zip_holds_a_game_of_ones_own(home):
    (home / "mygame.py").write_text("mygame.py")
    assert pack(home)[1] == PROGRAM | RESULTS
    assert pack(home, "mygame:My-v0")[1] == PROGRAM | RESULTS | {"mygame.py"}
    for name in ("minigrid:Empty-v0", "ALE/Pong-v5", "ale_py:ALE/Pong-v5"):
        assert pack(home, name)[1] == PROGRAM | RESULTS


def test_the_zip_has_the_same_bytes_again_also_in_a_notebook(home, monkeypatch):
    first, _ = pack(home)
    os.utime(home / "params.pkl", (10**9, 10**9))
    (home / "README.md").chmod(0o444)
    assert pack(home)[0] == first
    monkeypatch.delattr(main, "__file__")
    monkeypatch.chdir(home)
    assert pack(home)[0] == first


def test_a_renamed_program_is_packed_as_main_py(home, monkeypatch, tmp_path_factory):
    (home / "main.py").rename(home / "main (1).py")
    monkeypatch.setattr(main, "__file__", str(home / "main (1).py"))
    out = tmp_path_factory.mktemp("out")
    for name in RESULTS:
        (home / name).rename(out / name)
    assert pack(out)[1] == PROGRAM | RESULTS


def test_what_is_missing_is_said(home, capsys):
    (home / "README.md").unlink()
    (home / "agent.gif").unlink()
    assert pack(home)[1] == (PROGRAM | RESULTS) - {"README.md", "agent.gif"}
    said = capsys.readouterr().out
    assert "README.md" in said
    assert "agent.gif" in said
    assert "random.gif" not in said
