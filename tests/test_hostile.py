"""Parameter files from strangers: loaded to the same arrays or refused, and nothing runs."""

import codecs
import contextlib
import functools
import hashlib
import json
import os
import pickle
import pickletools
import random as stdlib_random
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, reseal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import tree

import main
from main import Config

pytestmark = pytest.mark.filterwarnings("error")
CONFIG = Config("--hidden 8")


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The path and the arrays of a good parameter file."""
    path = tmp_path_factory.mktemp("good") / "params.pkl"
    params = main.init_params(CONFIG)
    main.save_params(path, params, config=CONFIG)
    return path, tree.map(np.asarray, params)


def sealed(data):
    return data + hashlib.sha256(data).digest()


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be used") as error:
        main.load_params(path)
    assert str(error.value).isprintable()


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
        "numpy.memmap": Runs(np.memmap, str(marker), "u1", "w+", 0, 10),
        "numpy.load": Runs(np.load, str(marker)),
    }
    for name, maker in makers.items():
        for protocol in (0, 2, 4, 5):
            data = pickle.dumps({"env_id": "CartPole-v1", "options": "", "params": maker}, protocol)
            yield f"{name}, protocol {protocol}", data
    command = shell.encode()
    yield "global", b"cos\nsystem\n(S'" + command + b"'\ntR."
    chain = b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n(S'os'\ntRS'system'\ntR"
    yield "getattr chain", chain + b"(S'" + command + b"'\ntR."
    yield "inst", b"(S'" + command + b"'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nS'" + command + b"'\no."


def test_no_payload_runs(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "params.pkl"
    for name, data in payloads(marker):
        for file in (data, sealed(data)):
            refused(path, file)
            assert not marker.exists(), name


def test_a_payload_beside_good_parameters_does_not_run_either(good, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "params.pkl"
    content = pickle.loads(good[0].read_bytes()) | {"more": Runs(os.system, f"touch {marker}")}
    path.write_bytes(sealed(pickle.dumps(content, 4)))
    with contextlib.suppress(ValueError):
        main.load_params(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # it was a real one


@pytest.mark.filterwarnings("ignore")
def test_the_payloads_would_run_if_they_were_let(tmp_path):
    """The plain loader falls for them: so the tests above test something."""
    marker, fell = tmp_path / "marker", set()
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


SMILES, MANY = "\N{GRINNING FACE}".encode(), struct.pack("<I", 2**24 - 100)
BOMBS = {
    "a tuple doubled forty times": b"}(" + b")" + b"2\x86" * 40 + b"Nu.",
    "a chain of duplicates": b"\x80\x04]" + b"2a" * 50_000 + b".",
    "nested tuples": b"\x80\x04)" + b"\x85" * 5_000_000 + b".",
    "nested lists": b"\x80\x04" + b"(" * 8_000_000 + b"l" * 8_000_000 + b".",
    "a memo of 2^31 places": b"\x80\x04Nr" + struct.pack("<I", 2**31) + b".",
    "a memo of 2^31 places, in text": b"Np2147483648\n.",
    "a memo read a million times": b"\x80\x04]\x94" + b"h\x00a" * 3_000_000 + b".",
    "bytes that claim 4 GB": b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"x.",
    "a text that claims 2^62 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    "sixteen MB of instructions": b"\x80\x04" + b"N" * (2**24 - 100) + b".",
    "sixteen MB of smiles": b"\x80\x04X" + MANY + SMILES * (2**22 - 25) + b".",
    "a number of sixteen MB": b"\x80\x04\x8b" + MANY + b"\x7f" * (2**24 - 100) + b".",
    "a number of a million digits": b"I" + b"7" * 1_000_000 + b"\n.",
    "a text of sixteen MB": b"V" + b"\\u0041" * 2_700_000 + b"\n.",
    "a GIF": b"GIF89a" + bytes(100),
    "nothing": b"",
    "a persistent id": b"\x80\x04Pfile\n.",
    "an extension": b"\x80\x04\x82\x01.",
    "a protocol from the future": b"\x80\x63N.",
}  # fmt: skip


@pytest.fixture(scope="session")
def patience(tmp_path_factory):
    """Loads files in a process of its own; returns seconds and more megabytes than at first."""
    code = f"""
import json, sys, time; sys.path.insert(0, {str(ROOT)!r})
import main
main.load_params(sys.argv[1])
def peak():  # not ru_maxrss, which begins with what the parent process had
    if sys.platform != "linux":
        return 0
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
found = {{}}
for path in sys.argv[2:]:
    start = time.perf_counter()
    try:
        main.load_params(path)
        what = "loaded"
    except ValueError:
        what = "refused"
    found[path] = what, time.perf_counter() - start, (peak() - before) / 1024
print(json.dumps(found))
"""
    folder = tmp_path_factory.mktemp("bombs")
    main.save_params(folder / "good", main.init_params(CONFIG), config=CONFIG)
    names = {}
    for number, (what, data) in enumerate(BOMBS.items()):
        for kind, file in (("bare", data), ("sealed", sealed(data))):
            names[str(folder / f"{number}-{kind}")] = what
            (folder / f"{number}-{kind}").write_bytes(file[: 2**24 - 1] if kind == "bare" else file)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "good"), *names],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {names[path] + path[-6:]: row for path, row in json.loads(done.stdout).items()}


def test_every_bomb_is_refused_within_a_second_and_a_hundred_megabytes(patience):
    assert len(patience) == 2 * len(BOMBS)
    for what, (outcome, seconds, megabytes) in patience.items():
        assert outcome == "refused", what
        assert seconds < 3, what  # one on a quiet machine
        assert megabytes < 100, what


def test_a_missing_file_a_folder_and_a_terabyte_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "terabyte", "wb") as file:
        file.truncate(2**40)
    for name in ("missing", "folder", "terabyte"):
        with pytest.raises(ValueError, match="cannot be used"):
            main.load_params(tmp_path / name)


def same_or_refused(path, arrays):
    try:
        loaded = main.load_params(path)
    except ValueError:
        return False
    assert tree.structure(loaded) == tree.structure(arrays)
    assert all(tree.leaves(tree.map(np.array_equal, loaded, arrays)))
    return True


def test_a_file_cut_at_any_byte_is_refused(good, tmp_path):
    data = good[0].read_bytes()
    for n in range(len(data)):
        refused(tmp_path / "params.pkl", data[:n])


def test_other_protocols_are_loaded_to_the_same_arrays_or_refused(good, tmp_path):
    content, path, loaded = pickle.loads(good[0].read_bytes()), tmp_path / "params.pkl", []
    for protocol in range(6):
        path.write_bytes(sealed(pickle.dumps(content, protocol)))
        loaded.append(same_or_refused(path, good[1]))
    assert loaded[4]
    path.write_bytes(sealed(pickletools.optimize(good[0].read_bytes()[:-32])))
    assert same_or_refused(path, good[1])


@pytest.mark.parametrize("seal", [False, True])
def test_a_thousand_mutations_are_loaded_to_the_same_arrays_or_refused(good, tmp_path, seal):
    """A changed byte is noticed; with a right checksum it may only be another number."""
    rng, data, path = stdlib_random.Random(0), good[0].read_bytes()[:-32], tmp_path / "params.pkl"
    for _ in range(500):
        mutant = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        path.write_bytes(
            sealed(bytes(mutant)) if seal else bytes(mutant) + good[0].read_bytes()[-32:]
        )
        try:
            loaded = main.load_params(path)
        except ValueError:
            continue
        assert tree.structure(loaded) == tree.structure(good[1])
        if not seal:
            assert all(tree.leaves(tree.map(np.array_equal, loaded, good[1])))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_edit_is_loaded_to_the_same_arrays_or_refused(good, tmp_path_factory, data):
    original = good[0].read_bytes()
    start = data.draw(st.integers(0, len(original)))
    stop = data.draw(st.integers(start, min(len(original), start + 20)))
    path = tmp_path_factory.getbasetemp() / "edited.pkl"
    path.write_bytes(original[:start] + data.draw(st.binary(max_size=20)) + original[stop:])
    same_or_refused(path, good[1])


@pytest.mark.parametrize(
    "options",
    ["--env-id=stranger:CartPole-v1 --compare", "OPTIONS --compare=--env-id=stranger:CartPole-v1",
     "--env-id=stranger:CartPole-v1 --hidden", "--env-id=stranger:CartPole-v1 --",
     "--env-id=stranger:CartPole-v1 --comp--compareare",
     "--env-id=stranger:CartPole-v1 --com''pare",
     "OPTIONS --comp--compareare=--env-id=stranger:CartPole-v1"],
)  # fmt: skip
def test_options_in_a_file_import_no_module(options, tmp_path, monkeypatch):
    """Gymnasium imports what stands before the colon of an id."""
    (tmp_path / "stranger.py").write_text("import pathlib; pathlib.Path('here').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)  # of another case
    path = tmp_path / "params.pkl"
    main.save_params(path, main.init_params(Config()), config=Config())
    reseal(path, lambda c: c.update(options=options.replace("OPTIONS", c["options"])))
    for config in (None, Config()):
        with contextlib.suppress(main.BadInput):
            main.load_params(path, config)
    assert not (tmp_path / "here").exists()
