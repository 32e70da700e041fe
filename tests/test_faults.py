"""Faults: whatever happens, files that were there stay whole, and one line says what happened."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY

import main

MAIN = [sys.executable, str(ROOT / "main.py")]
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path):
    """A folder with the files of an earlier run."""
    for name in main.FILES:
        (tmp_path / name).write_bytes(b"old " + name.encode())
    return tmp_path


def is_old(folder):
    return all((folder / name).read_bytes() == b"old " + name.encode() for name in main.FILES)


def test_one_ctrl_c_ends_a_run_silently_by_the_signal_and_a_shell_loop_with_it(old):
    run = f"{' '.join(MAIN)} --steady --out '{old}' --seed $s"
    shell = subprocess.Popen(
        ["bash", "-c", f"for s in 1 2; do {run}; touch '{old}/after'; done"],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    err = ""
    while "training" not in err:
        err += shell.stderr.read(1) or pytest.fail(err)
    os.killpg(shell.pid, signal.SIGINT)
    out, rest = shell.communicate(timeout=20)
    err += rest
    assert (shell.returncode, out) == (-signal.SIGINT, "")
    assert all(line.startswith("training") for line in err.replace("\r", "\n").split("\n") if line)
    assert is_old(old)
    assert names(old) == set(main.FILES)


def test_a_killed_write_leaves_old_or_new(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import main
path, n = main.Path("params.pkl"), 0
while True:
    main.write(path, bytes([n % 256]) * 3_000_000)
    n += 1
"""
    for delay in (0, 0.03, 0.1):
        writer = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        while not (tmp_path / "params.pkl").exists() and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        writer.kill()
        writer.wait()
        data = (tmp_path / "params.pkl").read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_a_full_disk_is_said_in_one_line_and_old_files_stay(old):
    full = subprocess.run(
        [*MAIN, *TINY.split(), "--out", str(old)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (full.returncode, full.stdout) == (1, "")
    assert full.stderr.splitlines()[-1].startswith("main.py: OSError")
    assert "Traceback" not in full.stderr
    assert is_old(old)
    assert names(old) == set(main.FILES)


def test_what_windows_does_not_replace_is_kept_and_named(old, monkeypatch, capsys, quick):
    """There a file cannot be replaced while a viewer has it open."""
    real = os.replace

    def replace(new, path):
        if path.name == "agent.gif":
            raise PermissionError(13, "Permission denied", str(new), None, str(path))
        real(new, path)

    monkeypatch.setattr(os, "replace", replace)
    assert main.main(f"{TINY} --out '{old}'") == 1
    [kept] = names(old) - set(main.FILES)
    said = capsys.readouterr().err.splitlines()[-1]
    assert kept in said
    assert str(old / "agent.gif") in said
    assert (old / kept).read_bytes().startswith(b"GIF")
    assert (old / "agent.gif").read_bytes() == b"old agent.gif"
    assert main.load_params(old / "params.pkl")["output"]["b"].shape == (2,)


def test_an_old_python_is_told_so_in_one_sentence():
    code = "import itertools, runpy, sys; del itertools.pairwise; runpy.run_path(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, MAIN[1]], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "main.py needs Python 3.10 or newer\n"


def test_a_session_goes_on_printing_after_a_file_has_failed(tmp_path):
    """As in a notebook: stdout is only given up where it is stdout that has failed."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main\n"
        "def run(config): raise PermissionError(13, 'denied', 'agent.gif')\n"
        f"main.run = run; print(main.main(['--out', {str(tmp_path)!r}])); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["1", "still here"]


@pytest.mark.parametrize("platform", ["cuda", "warp"])
def test_a_device_that_is_not_there_is_bad_input(platform, tmp_path):
    done = subprocess.run(
        [*MAIN, "--out", str(tmp_path / "new")],
        env=ENVIRONMENT | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"main.py: JAX_PLATFORMS must name devices here, not {platform}: "
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["/proc/nowhere", "/dev/null", "/dev/null/below"])
def test_an_output_folder_that_cannot_be_written_is_bad_input(out, capsys):
    assert main.main(["--out", out]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("main.py: --out must be writable, not ")
    assert (out, err.count("\n")) == ("", 1)


def test_a_folder_in_the_place_of_a_file_is_said_and_the_new_content_kept(tmp_path, capsys, quick):
    (tmp_path / "agent.gif").mkdir()
    assert main.main(f"{TINY} --out '{tmp_path}'") == 1
    [new] = tmp_path.glob("new-*-agent.gif")
    assert new.name in capsys.readouterr().err.splitlines()[-1]
    assert new.read_bytes().startswith(b"GIF")


def test_a_file_of_the_users_is_never_touched(tmp_path, quick):
    for name in ("test", "notes.txt", ".hidden"):
        (tmp_path / name).write_text("mine")
    assert main.main(f"{TINY} --out '{tmp_path}'") == 0
    assert names(tmp_path) == {*main.FILES, "test", "notes.txt", ".hidden"}
    assert (tmp_path / "test").read_text() == "mine"


def shell(script, cwd):
    command = script.replace("MAIN", f"'{MAIN[0]}' '{MAIN[1]}' {TINY}")
    return subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_a_reader_that_has_gone_and_closed_streams_are_no_failure(tmp_path):
    done = shell("set -o pipefail; MAIN --help 2>&- | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_streams_it_trains_all_the_same(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it where the shell has closed them
    monkeypatch.setattr(sys, "stderr", None)
    assert main.main(f"{TINY} --out '{tmp_path}'") == 0
    assert main.main(f"{TINY} --out '{tmp_path}' --seeds 2") == 0
    assert names(tmp_path) == {*main.FILES, "study.csv", "study.png"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_stdout_is_said_in_one_line(tmp_path):
    done = shell("MAIN --help > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("main.py: OSError")
    assert done.stderr.count("\n") == 1


def test_a_failure_is_one_line_and_status_1(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def fails(config):
        raise KeyError("many\nlines")

    monkeypatch.setattr(main, "train", fails)
    assert main.main("--report-episodes 2") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("main.py: KeyError")
    assert err.count("\n") == 1


def test_it_runs_under_a_profiler_and_before_a_prompt_without_docstrings_or_warnings(tmp_path):
    words = ["-OO", "-Werror", "-i", "-m", "cProfile", str(ROOT / "main.py"), "--help"]
    profile = subprocess.run(
        [sys.executable, *words],
        input="print('asked', 6 * 7)\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in profile.stderr.replace("SystemExit", "")
    assert all(word in profile.stdout for word in ("--gamma", "cumtime", "asked 42"))
