"""Parameter files from strangers: loaded to the same arrays, or refused with one sentence."""

import codecs
import copy
import functools
import os
import pickle
import pickletools
import random as stdlib_random
import struct
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import random, tree

import main
from main import Config

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The path and the arrays of a good parameter file."""
    path = tmp_path_factory.mktemp("good") / "params.pkl"
    params = main.init_params(random.key(0), (4, 8, 2))
    main.save_params(path, params, config=Config(hidden=(8,)))
    return path, tree.map(np.asarray, params)


def refused(path, capsys):
    """Asserts that load_params and the command line refuse a file, and that nothing is written."""
    with pytest.raises(ValueError, match="cannot be used") as error:
        main.load_params(path)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()
    capsys.readouterr()
    before = sorted(path.parent.rglob("*"))
    try:
        status = main.main(["--evaluate", str(path), "--out", str(path.parent / "out")])
    except SystemExit as exit:
        status = exit.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("main.py: ")
    assert sorted(path.parent.rglob("*")) == before
    return str(error.value)


def replaced(content, value, *keys):
    """A copy of nested content in which the item at these keys is another value."""
    content = copy.deepcopy(content)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return content


OUTPUT_W = ("params", "output", "w")
WRONG = {
    "an object array": ("float32", lambda c: replaced(c, np.full((8, 2), None), *OUTPUT_W)),
    "a float64 array": ("float32", lambda c: replaced(c, np.zeros((8, 2)), *OUTPUT_W)),
    "big-endian": ("float32", lambda c: replaced(c, np.zeros((8, 2), ">f4"), *OUTPUT_W)),
    "a wrong shape": (
        "of shape (8, 2)",
        lambda c: replaced(c, np.zeros((2, 8), np.float32), *OUTPUT_W),
    ),
    "NaN": ("finite", lambda c: replaced(c, np.full((8, 2), np.nan, np.float32), *OUTPUT_W)),
    "infinity": ("finite", lambda c: replaced(c, np.full((8, 2), np.inf, np.float32), *OUTPUT_W)),
    "a zero scale": ("scale", lambda c: replaced(c, np.zeros(4, np.float32), "params", "scale")),
    "a list for an array": ("state", lambda c: replaced(c, [[0.0] * 2] * 8, *OUTPUT_W)),
    "a JAX array": ("would run jax", lambda c: replaced(c, jnp.zeros((8, 2)), *OUTPUT_W)),
    "no output layer": ("'w'", lambda c: replaced(c, {}, "params", "output")),
    "too many layers": ("[4, 8, 8, 2] are not there", lambda c: replaced(c, [4, 8, 8, 2], "sizes")),
    "wrong layer sizes": ("of shape (4, 9)", lambda c: replaced(c, [4, 9, 2], "sizes")),
    "text for sizes": ("4,8,2 are not there", lambda c: replaced(c, "4,8,2", "sizes")),
    "another game's sizes": (
        "do not fit the game MountainCar-v0",
        lambda c: replaced(c, "MountainCar-v0", "env_id"),
    ),
    "a game that does not exist": ("Nowhere-v0", lambda c: replaced(c, "Nowhere-v0", "env_id")),
    "a game in a module of its own": (
        "antigravity",
        lambda c: replaced(c, "antigravity:CartPole-v1", "env_id"),
    ),
    "a number for the game": ("game 3", lambda c: replaced(c, 3, "env_id")),
    "a game named in colour": ("x1b", lambda c: replaced(c, "\x1b[31mCartPole\n-v1", "env_id")),
    "no game": ("env_id", lambda c: {k: v for k, v in c.items() if k != "env_id"}),
    "a list": ("list indices", lambda c: [c]),
    "nothing": ("NoneType", lambda c: None),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_content_is_refused_with_its_reason(what, good, tmp_path, capsys):
    reason, spoil = WRONG[what]
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(spoil(pickle.loads(good[0].read_bytes())), protocol=4))
    assert reason in refused(path, capsys)


PUT = b"\x80\x04N" + b"r" + struct.pack("<I", 2**31) + b"."
RAW = {
    "an empty file": b"",
    "text": b"these are not parameters\n",
    "a picture": b"GIF89a" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a memo of 2^31 places": PUT,
    "a memo of 2^31 places, in text": b"Np2147483648\n.",
    "a string that claims 2^62 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "a million opcodes": b"\x80\x04" + b"N" * 1_000_000 + b".",
    "a deep nest": b"\x80\x04" + b"(" * 9_000 + b"l" * 9_000 + b".",
    "a protocol from the future": b"\x80\x63N.",
    "a persistent id": b"\x80\x04Pfile\n.",
    "a persistent object": b"\x80\x04NQ.",
    "an extension": b"\x80\x04\x82\x01.",
}


@pytest.mark.parametrize("what", RAW)
def test_what_is_no_parameter_file_is_refused(what, tmp_path, capsys):
    path = tmp_path / "params.pkl"
    path.write_bytes(RAW[what])
    refused(path, capsys)


def test_a_missing_file_and_a_folder_are_refused(tmp_path, capsys):
    refused(tmp_path / "missing.pkl", capsys)
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", capsys)


def test_a_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path, capsys):
    path = tmp_path / "params.pkl"
    with open(path, "wb") as file:
        file.truncate(2**40)
    refused(path, capsys)


def test_a_good_file_for_another_game_is_refused_by_name(tmp_path):
    path = tmp_path / "params.pkl"
    params = main.init_params(random.key(0), (2, 8, 3))
    main.save_params(path, params, config=Config(env_id="MountainCar-v0", hidden=(8,)))
    assert main.load_params(path)["output"]["w"].shape == (8, 3)
    with pytest.raises(ValueError, match="MountainCar-v0"):
        main.load_params(path, Config())


class Runs:
    """Pickles to a call of these functions with these arguments, once unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def payloads(marker):
    """Pickles that would make the file `marker`, by a dozen ways of running code."""
    shell, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    nested = pickle.dumps(Runs(os.system, shell))
    makers = {
        "os.system": Runs(os.system, shell),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "subprocess.Popen": Runs(subprocess.Popen, ["touch", str(marker)]),
        "functools.partial": Runs(functools.partial(os.system, shell)),
        "codecs.open": Runs(codecs.open, str(marker), "w"),
        "builtins.open": Runs(open, str(marker), "w"),
        "nested pickle.loads": Runs(pickle.loads, nested),
        "numpy.load": Runs(np.load, str(marker)),
        "numpy.memmap": Runs(np.memmap, str(marker), "u1", "w+", 0, 10),
        "numpy.fromfile": Runs(np.fromfile, str(marker)),
    }

    for name, maker in makers.items():
        for protocol in range(6):
            data = pickle.dumps({"env_id": "CartPole-v1", "params": maker}, protocol)
            yield f"{name}, protocol {protocol}", data
    command = shell.encode()
    yield "global", b"cos\nsystem\n(S'" + command + b"'\ntR."
    chain = b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(S'os'\ntRS'system'\ntR"
    yield "getattr chain", chain + b"(S'" + command + b"'\ntR."
    yield "inst", b"(S'" + command + b"'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nS'" + command + b"'\no."
    yield (
        "stack global",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.",
    )
    yield "dotted name", b"\x80\x04\x8c\x05numpy\x8c\x0eos.path.abspath\x93."
    yield "dtype's class", b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93."


def test_no_payload_runs(tmp_path, capsys):
    marker = tmp_path / "marker"
    path = tmp_path / "params.pkl"
    tried = 0
    for name, data in payloads(marker):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="cannot be used"):
            main.load_params(path)
        assert not marker.exists(), name
        tried += 1
    assert tried > 65
    refused(path, capsys)


@pytest.mark.filterwarnings("ignore")
def test_the_payloads_would_run_if_they_were_let(tmp_path):
    """The plain loader falls for them: so the test above tests something."""
    marker = tmp_path / "marker"
    fell = set()
    for name, data in payloads(marker):
        try:
            result = pickle.loads(data)
            made = result["params"] if isinstance(result, dict) else None
            if isinstance(made, subprocess.Popen):
                made.wait()
            if hasattr(made, "close"):
                made.close()
        except Exception:
            continue
        if marker.exists():
            fell.add(name.split(",")[0])
            marker.unlink()
    assert len(fell) >= 9


def same_or_refused(path, arrays):
    """Whether a file was loaded, to parameters of the same structure; or else was refused."""
    try:
        loaded = main.load_params(path)
    except main.BadInput:
        return False
    assert tree.structure(loaded) == tree.structure(arrays)
    return True


def equal(path, arrays):
    return all(tree.leaves(tree.map(np.array_equal, main.load_params(path), arrays)))


def test_a_file_cut_at_any_byte_is_refused(good, tmp_path):
    data, path = good[0].read_bytes(), tmp_path / "params.pkl"
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match="cannot be used"):
            main.load_params(path)


def test_any_protocol_is_loaded_to_the_same_arrays_or_refused(good, tmp_path):
    content, path = pickle.loads(good[0].read_bytes()), tmp_path / "params.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(content, protocol))
        assert not same_or_refused(path, good[1]) or equal(path, good[1])
    path.write_bytes(pickletools.optimize(good[0].read_bytes()))
    assert equal(path, good[1])


def test_a_thousand_mutations_are_loaded_to_the_same_arrays_or_refused(good, tmp_path):
    """A file with a changed byte is refused, or the byte did not matter to the arrays."""
    rng, data = stdlib_random.Random(0), good[0].read_bytes()
    path = tmp_path / "params.pkl"
    for _ in range(1000):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        path.write_bytes(mutant)
        assert not same_or_refused(path, good[1]) or equal(path, good[1])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_edit_is_loaded_to_the_same_arrays_or_refused(good, tmp_path_factory, data):
    original = good[0].read_bytes()
    start = data.draw(st.integers(0, len(original)))
    stop = data.draw(st.integers(start, min(len(original), start + 20)))
    edited = original[:start] + data.draw(st.binary(max_size=20)) + original[stop:]
    path = tmp_path_factory.getbasetemp() / "edited.pkl"
    path.write_bytes(edited)
    assert not same_or_refused(path, good[1]) or equal(path, good[1])
