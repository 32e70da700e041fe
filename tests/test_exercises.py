"""What a student would add: each is new code, and at most one place of main.py that is touched."""

import importlib.util
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, TINY, Glimpse

SOURCE = (ROOT / "main.py").read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Imports a copy of main.py: with a cell added after one of its cells, or a line replaced."""

    def make(cell="", code="", line="", by=""):
        assert not line or SOURCE.count(line) == 1
        source = SOURCE.replace(line, by) if line else SOURCE
        if cell:
            ends = re.search(rf"(?ms)^# %% {cell}.*?(?=^# %%)", source).end()
            source = source[:ends] + code + "\n\n" + source[ends:]
        path = tmp_path / "student.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("student", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "student", module)
        spec.loader.exec_module(module)
        module.GIF_SECONDS = 1
        return module

    return make


def test_a_layer_of_ones_own_is_trained_saved_loaded_and_played(copy, tmp_path):
    """Hidden layers with a linear path around them, which has parameters of its own."""
    student = copy(
        "Network",
        """
plain_init, plain_dense = init_dense, dense


def init_dense(rng, n, m, shrink=1.0, bias=0.0):
    return plain_init(rng, n, m, shrink, bias) | {"around": {"w": 0.1 * np.ones((n, m), "f4")}}


def dense(layer, x):
    return plain_dense(layer, x) + jnp.tanh(x) @ layer["around"]["w"]
""",
    )
    config = student.Config(f"{TINY} --out '{tmp_path}'")
    assert student.main(f"{TINY} --out '{tmp_path}'") == 0
    loaded = student.load_params(tmp_path / "params.pkl")
    around = np.asarray(loaded["hidden"]["silu"][0]["around"]["w"])
    assert around.shape == (4, 8)
    assert not np.allclose(around, 0.1)  # it has learned
    assert student.policy_fn(None, loaded, np.zeros(4, np.float32)) in (0, 1)
    assert student.evaluate(loaded, 3, config=config).min() > 0
    import main

    with pytest.raises(ValueError, match="cannot be used"):
        main.load_params(tmp_path / "params.pkl")


class Guess(Glimpse):
    """Pays 2 for action 1, and nothing for action 0."""

    def step(self, action):
        return np.float32([0]), 2.0 * action, True, False, {}


def test_a_game_of_ones_own_needs_one_entry(copy, tmp_path):
    gym.register("Guess-v0", Guess)
    student = copy(
        line="PRESETS = {", by='PRESETS = {\n    "Guess-v0": "--target-return 2 --gamma 0.5",'
    )
    words = f"{TINY} --env-id Guess-v0 --total-steps 3000 --epsilon-decay 100 --out '{tmp_path}'"
    assert student.Config(words).gamma == 0.5
    assert student.main(words) == 0
    config = student.Config(words)
    params = student.load_params(tmp_path / "params.pkl", config)
    assert set(student.evaluate(params, 5, config=config)) == {2}


def test_a_memory_of_ones_own_replaces_ours(copy, tmp_path):
    """One that keeps a random selection of all that happened (reservoir sampling)."""
    student = copy(
        "Replay",
        """
class Reservoir(list):
    def __init__(self, maxlen):
        self.maxlen, self.seen, self.rng = maxlen, 0, np.random.default_rng(0)

    def append(self, row):
        self.seen += 1
        if len(self) < self.maxlen:
            super().append(row)
        elif (slot := self.rng.integers(self.seen)) < self.maxlen:
            self[slot] = row
""",
    )
    source = (tmp_path / "student.py").read_text(encoding="utf-8")
    line = next(x for x in source.splitlines() if "deque(maxlen=" in x)
    exec(
        compile(source.replace(line, "    memory = Reservoir(config.memory_size)"), "m", "exec"),
        vars(student),
    )
    sizes, sample = [], student.sample_batch

    def watch(rng, memory, *rest):
        sizes.append((type(memory).__name__, len(memory)))
        return sample(rng, memory, *rest)

    student.sample_batch = watch
    params, _ = student.train(student.Config(f"{TINY} --memory-size 120"), quiet=True)
    assert sizes == [("Reservoir", 100)] + [("Reservoir", 120)] * 4
    assert np.all(params["scale"] != 1)
