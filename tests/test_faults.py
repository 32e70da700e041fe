"""Faults: whatever happens, files that were there stay whole, and one line says what happened."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from conftest import ROOT, Glimpse, run_main

import main
from main import Config

SHORT = ("--total-steps", 600, "--hidden", 8, "--eval-episodes", 4)
MAIN = [sys.executable, str(ROOT / "main.py")]


def parts(folder):
    return list(folder.rglob(".*.part"))


@pytest.fixture
def old(tmp_path):
    """A folder with the files of an earlier run."""
    for name in main.FILES:
        (tmp_path / name).write_bytes(b"old " + name.encode())
    return tmp_path


def is_old(folder):
    return all((folder / name).read_bytes() == b"old " + name.encode() for name in main.FILES)


@pytest.mark.parametrize("seconds", [0.4, 0.8, 1.2, 2.0, 3.0])
def test_ctrl_c_ends_at_once_with_one_line(old, seconds):
    process = subprocess.Popen(
        [*MAIN, "--out", str(old)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.count("interrupted") == 1
    assert err.endswith("as they were\n")
    assert not parts(old)


def test_an_interrupted_write_leaves_no_part(old):
    """Ctrl-C between writing and putting in place, the one moment when there is a part."""
    code = f"""
import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})
import main
main.quit_on_interrupt({str(old)!r})
os.replace = lambda *a: os.kill(os.getpid(), signal.SIGINT)
main.write(main.Path({str(old)!r}) / "params.pkl", b"new")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130
    assert is_old(old)
    assert not parts(old)


def test_a_killed_write_leaves_old_or_new_and_the_next_run_sweeps_up(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import main
path, n = main.Path("params.pkl"), 0
while True:
    main.write(path, bytes([n % 256]) * 3_000_000)
    n += 1
"""
    for delay in np.linspace(0, 0.1, 8):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        while not (tmp_path / "params.pkl").exists() and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        writer.kill()
        writer.wait()
        data = (tmp_path / "params.pkl").read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
    (tmp_path / ".params.pkl.1.part").write_bytes(b"left behind")
    (tmp_path / ".mine.part").write_bytes(b"not ours")
    assert run_main(*SHORT, cwd=tmp_path).returncode == 0
    assert [p.name for p in parts(tmp_path)] == [".mine.part"]


def test_a_full_disk_is_said_in_one_line_and_old_files_stay(old):
    def at_most_a_kilobyte():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    full = subprocess.run(
        [*MAIN, *map(str, SHORT), "--out", str(old)],
        preexec_fn=at_most_a_kilobyte,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1
    assert full.stdout == ""
    assert full.stderr.splitlines()[-1].startswith("main.py: OSError")
    assert "Traceback" not in full.stderr
    assert is_old(old)
    assert not parts(old)


@pytest.mark.parametrize("out", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_an_output_folder_that_cannot_be_written_is_bad_input(out, tmp_path):
    refused = run_main("--out", out, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"main.py: --out must be writable, not '{out}'")
    assert refused.stderr.count("\n") == 1


def test_a_folder_in_the_place_of_a_file_is_bad_input(tmp_path):
    (tmp_path / "agent.gif").mkdir()
    refused = run_main(cwd=tmp_path)
    assert refused.returncode == 2
    assert "agent.gif" in refused.stderr


def test_a_reader_that_has_gone_is_no_failure(tmp_path):
    process = subprocess.Popen(
        [*MAIN, *map(str, SHORT)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 0
    assert "Broken" not in err
    assert {p.name for p in tmp_path.iterdir()} == set(main.FILES)


def test_closed_streams_are_no_failure(tmp_path):
    command = f"'{sys.executable}' '{ROOT / 'main.py'}' {' '.join(map(str, SHORT))} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == set(main.FILES)


def test_an_odd_environment_changes_nothing(tmp_path):
    """No HOME that can be written, no UTF-8, a display that has gone, a window system for plots."""
    odd = {
        "HOME": "/proc/nowhere",
        "XDG_CACHE_HOME": None,
        "XDG_CONFIG_HOME": None,
        "MPLCONFIGDIR": None,
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
        "DISPLAY": ":99",
        "SDL_VIDEODRIVER": None,
        "MPLBACKEND": "TkAgg",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": None,
        "TERM": None,
    }
    out = tmp_path / "läufe und more"
    done = run_main(*SHORT, "--out", out, cwd="/", **odd)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == set(main.FILES)
    assert all(line.startswith("training") for line in done.stderr.splitlines() if line)


class NotANumber(Glimpse):
    """A game whose rewards are not numbers."""

    def step(self, action):
        return np.float32([0.5]), float("nan"), True, False, {}


gym.register("NotANumber-v0", NotANumber)


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
def test_parameters_that_are_not_finite_stop_the_training():
    config = Config(env_id="NotANumber-v0", total_steps=2000, hidden=(8,), eval_episodes=2)
    with pytest.raises(FloatingPointError, match="after 512 steps.*--learning-rate"):
        main.train(replace(config, warmup_steps=500))


def test_a_failure_is_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for failure, text in ((lambda config: {}["lost"], "KeyError: 'lost'"), (int, "TypeError")):
        monkeypatch.setattr(main, "train", failure)
        assert main.main([]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"main.py: {text}")
        assert err.count("\n") == 1
