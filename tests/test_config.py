"""The configuration: one dataclass is the command line, its help and its validation."""

import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import ROOT, run_main

import main
from main import Config


def numeric_fields():
    return [f for f in fields(Config) if f.metadata["allowed"].startswith(("[", "("))]


@pytest.mark.parametrize("f", numeric_fields(), ids=lambda f: f.name)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1e12", "1e12", "four", ""])
def test_a_number_outside_its_range_is_refused_by_name(f, value, capsys):
    with pytest.raises(SystemExit) as refused:
        main.parse_config([f"{main.flag(f.name)}={value}"])
    out, err = capsys.readouterr()
    assert refused.value.code == 2
    assert out == ""
    assert main.flag(f.name) in err
    assert f.metadata["allowed"] in err
    assert value in err or repr(float(value)) in err
    assert err.count("\n") == 1


def test_the_command_line_sets_the_field_of_the_same_name():
    config = main.parse_config(["--memory-size", "777", "--hidden", "8", "9", "--gamma", "0.5"])
    assert (config.memory_size, config.hidden, config.gamma) == (777, (8, 9), 0.5)
    assert main.parse_config([]) == Config()


def test_the_help_names_every_option_with_meaning_default_and_range(capsys):
    with pytest.raises(SystemExit) as finished:
        main.parse_config(["--help"])
    assert finished.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for f in fields(Config):
        assert main.flag(f.name) in text
        assert " ".join(f.metadata["help"].split()) in text
        assert f.metadata["allowed"] in text


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.5, 0.999], [-1e-9, 1, float("nan")]),
        ("(0, 1]", [1e-9, 1], [0, 1.1]),
        ("[1, 1e9]", [1, 1e9], [0, 1e10, float("inf")]),
    ],
)
def test_an_interval_holds_what_mathematics_says(interval, inside, outside):
    assert all(main.is_allowed(x, interval) for x in inside)
    assert not any(main.is_allowed(x, interval) for x in outside)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--memory-size", "10"], ["--memory-size", "--batch-size", "64"]),
        (["--sed", "1"], ["--sed"]),
        (["--out", "main.py/runs"], ["--out", "main.py/runs"]),
        (["--evaluate", "nowhere.pkl"], ["--evaluate", "nowhere.pkl"]),
    ],
)
def test_bad_input_gets_one_sentence_and_status_2(argv, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as refused:
        main.parse_config(argv)
    err = capsys.readouterr().err
    assert refused.value.code == 2
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_a_typo_is_answered_before_the_slow_imports(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('imported')")
    refused = run_main("--gamma", "2", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode == 2
    assert "imported" not in refused.stderr


def test_two_seeds_share_one_compilation():
    assert Config(seed=1, out="a") == Config(seed=2, out="b")
    assert hash(Config(seed=1)) == hash(Config(seed=2))
    assert Config(gamma=0.5) != Config()


def test_importing_has_no_side_effects(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
