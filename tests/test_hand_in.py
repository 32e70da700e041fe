"""The hand-in as the grader meets it: whole runs, in fresh processes."""

import ast
import re
import shlex
import subprocess
import sys
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import ROOT, run_main

import main

ARTIFACTS = set(main.FILES)
README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "main.py").read_text()
TREE = ast.parse(SOURCE)


def rows(process):
    """The final table: agent -> [mean, std, min, episodes]."""
    found = re.findall(r"^(random|untrained|trained) +(.+)$", process.stdout, re.M)
    return {agent: [float(x) for x in numbers.split()] for agent, numbers in found}


def test_a_run_writes_every_file_and_nothing_else(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    assert {p.name for p in folder.iterdir()} == ARTIFACTS


def test_a_run_ends_with_a_perfect_agent_far_above_chance(finished):
    table = rows(finished[1])
    assert table["trained"] == [500, 0, 500, 100]
    assert 18 < table["random"][0] < 28
    assert table["untrained"][0] < 200


def test_a_run_prints_its_table_its_files_and_no_noise(finished):
    out, err = finished[1].stdout, finished[1].stderr
    assert all(name in out for name in ARTIFACTS)
    assert all(len(line) <= 80 for line in out.splitlines()[:4])
    bars = [line for line in re.split(r"[\r\n]+", err) if line]
    assert all(line.startswith("training") for line in bars)
    assert len(bars) <= 4  # a log file is not flooded


def test_both_recordings_last_ten_seconds(finished):
    for name in ("agent.gif", "random.gif"):
        path = finished[0] / name
        n = iio.improps(path, index=...).n_images
        assert sum(iio.immeta(path, index=i)["duration"] for i in range(n)) == 10_000
        assert path.stat().st_size <= 300_000


def test_the_zip_unpacked_elsewhere_trains_the_same_bytes_again(finished, tmp_path):
    folder = tmp_path / "unpacked elsewhere, mit Ümläuten"
    with zipfile.ZipFile(finished[0] / "hand-in.zip") as archive:
        archive.extractall(folder)
    for name in ("params.pkl", "agent.gif", "random.gif"):
        (folder / name).unlink()
    again = run_main(cwd=tmp_path, script=folder / "main.py")
    assert again.returncode == 0, again.stderr
    assert rows(again) == rows(finished[1])
    for name in ARTIFACTS:
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_another_seed_trains_another_agent(finished, tmp_path):
    other = run_main("--seed", 1, "--out", tmp_path / "a b" / "c", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a b"]
    for name in ARTIFACTS:
        one, two = finished[0] / name, tmp_path / "a b" / "c" / name
        assert one.read_bytes() != two.read_bytes(), name


def test_a_spent_budget_is_no_failure_but_is_said(tmp_path):
    short = run_main("--total-steps", 600, "--eval-every", 300, cwd=tmp_path)
    assert short.returncode == 0, short.stderr
    assert {p.name for p in tmp_path.iterdir()} == ARTIFACTS
    assert "not solved" in short.stdout
    assert "--total-steps" in short.stdout


def test_evaluating_the_handed_in_parameters_trains_nothing(finished, tmp_path):
    done = run_main("--evaluate", finished[0] / "params.pkl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(done) == {"trained": [500, 0, 500, 100]}
    assert {p.name for p in tmp_path.iterdir()} == {"agent.gif"}
    assert done.stderr == ""


def test_the_committed_files_are_what_a_run_writes():
    """In kind: other versions of JAX round differently, so the bytes are compared by hand."""
    params = main.load_params(ROOT / "params.pkl", main.Config())
    returns = main.evaluate(12345, params, config=main.Config())
    assert returns.mean() >= 499
    for name in ("agent.gif", "random.gif"):
        assert iio.improps(ROOT / name, index=0).shape == (200, 300, 3)
    assert iio.imread(ROOT / "learning_curve.png").shape[:2] == (400, 800)


def test_requirements_are_those_at_the_top_of_main():
    block = SOURCE.split("# ///")[1]
    assert re.findall(r'#   "(.+)",', block) == (ROOT / "requirements.txt").read_text().split()


def test_main_imports_only_what_the_course_allows():
    allowed = {
        "collections.abc",
        "importlib.metadata",
        "chex",
        "gymnasium",
        "imageio.v3",
        "jax.numpy",
        "numpy",
        "optax",
    }
    allowed |= {"matplotlib.figure", "tqdm"} | set(sys.stdlib_module_names)
    from_jax = {"Array", "grad", "jit", "lax", "nn", "random", "tree", "vmap"}
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom) and node.module == "jax":
            assert {alias.name for alias in node.names} <= from_jax
        elif isinstance(node, ast.ImportFrom):
            assert node.module in allowed


def test_main_has_the_names_and_leading_arguments_that_the_grader_knows():
    arguments = {
        n.name: [a.arg for a in n.args.args] for n in TREE.body if isinstance(n, ast.FunctionDef)
    }
    assert arguments["random_policy_fn"][:2] == ["rng", "obs"]
    assert arguments["policy_fn"][:3] == arguments["action_fn"][:3] == ["rng", "params", "obs"]
    assert arguments["sample_batch"][:3] == ["rng", "memory", "batch_size"]
    assert arguments["update_fn"][:2] == ["learner", "batch"]
    assert {"train", "evaluate", "save_params", "load_params", "main"} <= set(arguments)


def test_the_readme_has_250_words_both_pictures_and_two_commands():
    assert 240 <= len(README.split()) <= 260
    assert all(f"({name})" in README for name in ("agent.gif", "random.gif", "learning_curve.png"))
    assert len(re.findall(r"```sh\n(.+)\n(.+)\n```", README)) == 1


@pytest.mark.parametrize("line", re.search(r"```sh\n(.+?)\n```", README, re.S)[1].split("\n"))
def test_the_readmes_commands_are_shell_and_name_files_that_exist(line):
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
    for word in shlex.split(line):
        if word.endswith((".txt", ".py")):
            assert (ROOT / word).exists()


def test_cells_run_one_by_one_without_the_command_line(tmp_path, monkeypatch):
    """As an editor runs them: as __main__, with arguments of the editor; nothing is trained."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    monkeypatch.setitem(sys.modules, "__main__", main)
    for cell in SOURCE.split("# %% "):
        exec(compile("# " + cell, "cell", "exec"), namespace)
    params, history = namespace["train"](
        namespace["Config"](total_steps=600, hidden=(8,), eval_episodes=2)
    )
    assert history.evaluations
    assert np.isfinite(params["scale"]).all()
    assert list(tmp_path.iterdir()) == []
