"""The hand-in as the grader meets it: whole runs in fresh processes, and a notebook's cells."""

import ast
import re
import shlex
import subprocess
import sys
import types
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import ROOT, TINY, run_main

import main

ARTIFACTS = set(main.FILES)
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = (ROOT / "main.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
FUNCTIONS = {n.name: n for n in TREE.body if isinstance(n, ast.FunctionDef)}


def rows(text):
    """The final table: agent -> [mean, std, min, episodes]."""
    found = re.findall(r"^(random|untrained|trained) +(.+)$", text, re.M)
    return {agent: [float(x) for x in numbers.split()] for agent, numbers in found}


def test_a_run_writes_every_file_and_nothing_else(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    assert {p.name for p in folder.iterdir()} == ARTIFACTS


def test_a_run_ends_with_a_perfect_agent_far_above_chance(finished):
    table = rows(finished[1].stdout)
    assert table["trained"] == [500, 0, 500, 100]
    assert 18 < table["random"][0] < 28
    assert table["untrained"][0] < 200


def test_a_run_prints_its_table_its_files_and_no_noise(finished):
    out, err = finished[1].stdout, finished[1].stderr
    assert all(name in out for name in ARTIFACTS)
    assert all(len(line) <= 80 for line in out.splitlines()[:5])
    bars = [line for line in re.split(r"[\r\n]+", err) if line]
    assert all(line.startswith("training") for line in bars)
    assert "100%" in bars[-1]
    assert len(bars) <= 4  # a log file is not flooded


def test_both_recordings_last_ten_seconds(finished):
    for name in ("agent.gif", "random.gif"):
        path = finished[0] / name
        n = iio.improps(path, index=...).n_images
        assert sum(iio.immeta(path, index=i)["duration"] for i in range(n)) == 10_000


ODD = {  # no HOME, a C locale, an ASCII terminal, no display, a notebook's plots
    "HOME": "/proc/nowhere",
    "XDG_CACHE_HOME": None,
    "XDG_CONFIG_HOME": None,
    "MPLCONFIGDIR": None,
    "LC_ALL": "POSIX",
    "PYTHONIOENCODING": "ascii",
    "DISPLAY": ":99",
    "SDL_VIDEODRIVER": None,
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "JAX_PLATFORMS": None,
    "TERM": None,
}


def test_the_zip_unpacked_in_an_odd_environment_trains_the_same_bytes_again(finished, tmp_path):
    folder = tmp_path / "unpacked elsewhere, mit Ümläuten"
    with zipfile.ZipFile(finished[0] / "hand-in.zip") as archive:
        archive.extractall(folder)
    for picture in re.findall(r"\((\S+\.(?:gif|png))\)", README):
        assert (folder / picture).read_bytes() == (finished[0] / picture).read_bytes()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    odd = ODD | {"TMPDIR": str(temporary)}
    again = run_main("--out", tmp_path / "läufe", cwd="/", script=folder / "main.py", **odd)
    assert again.returncode == 0, again.stderr
    assert list(temporary.iterdir()) == []
    assert all(x.startswith("training") for x in re.split(r"[\r\n]+", again.stderr) if x)
    assert rows(again.stdout) == rows(finished[1].stdout)
    for name in ARTIFACTS:
        there, here = tmp_path / "läufe" / name, finished[0] / name
        assert there.read_bytes() == here.read_bytes(), name


def test_a_spent_budget_is_no_failure_but_is_said_and_another_seed_is_another_agent(
    tmp_path, capsys, quick
):
    for seed in (1, 2):
        assert main.main(f"{TINY} --seed {seed} --out '{tmp_path / str(seed)}'") == 0
        assert {p.name for p in (tmp_path / f"{seed}").iterdir()} == ARTIFACTS
        out = capsys.readouterr().out
        assert "not solved" in out
        assert "--total-steps" in out
    for name in ARTIFACTS:
        assert (tmp_path / "1" / name).read_bytes() != (tmp_path / "2" / name).read_bytes(), name


def test_the_handed_in_parameters_are_scored_without_training(tmp_path, capsys, quick):
    assert main.main(["--evaluate", str(ROOT / "params.pkl"), "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert (rows(out), err) == ({"trained": [500, 0, 500, 100]}, "")
    assert {p.name for p in tmp_path.iterdir()} == {"agent.gif"}
    assert out.endswith(f"\nwrote agent.gif\nto {tmp_path}\n")


def test_the_committed_files_are_what_a_run_writes():
    """In kind: other versions of JAX round differently, so the bytes are compared by hand."""
    config = main.Config()
    params = main.load_params(ROOT / "params.pkl", config)
    assert main.evaluate(params, 100, "another", config=config).mean() >= 499
    for name in ("agent.gif", "random.gif"):
        assert iio.improps(ROOT / name, index=0).shape == (200, 300, 3)
    assert iio.imread(ROOT / "learning_curve.png").shape[:2] == (400, 800)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "FrozenLake-v1"])
def test_other_games_run_and_their_files_follow(env_id, tmp_path, capsys, quick):
    assert main.main(f"{TINY} --env-id {env_id} --out '{tmp_path}'") == 0
    assert {p.name for p in tmp_path.iterdir()} == ARTIFACTS
    params = main.load_params(tmp_path / "params.pkl")
    assert len(params["scale"]) == main.Config(f"--env-id {env_id}").sizes[0]


def test_a_game_that_cannot_be_drawn_has_no_recordings(tmp_path, capsys):
    words = f"{TINY} --env-id Glimpse-v0 --out '{tmp_path}'"
    assert main.main(words) == 0
    assert "params.pkl, learning_curve.png, hand-in.zip" in capsys.readouterr().out
    assert main.main(f"{words} --evaluate '{tmp_path}/params.pkl'") == 0
    assert not list(tmp_path.glob("*.gif"))


def test_requirements_are_those_that_main_names_for_uv():
    block = SOURCE.split("# /// script")[1].split("# ///")[0]
    listed = re.findall(r'"([^"]+)"', block.split("dependencies")[1])
    assert sorted(listed) == sorted((ROOT / "requirements.txt").read_text().split())


def test_main_imports_only_what_the_course_allows():
    allowed = {"chex", "gymnasium", "imageio.v3", "jax.numpy", "numpy", "optax", "tqdm"}
    allowed |= {"matplotlib.figure", "importlib.metadata", *sys.stdlib_module_names}
    from_jax = {"Array", "grad", "jit", "lax", "nn", "random", "tree", "vmap"}
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom) and node.module == "jax":
            assert {alias.name for alias in node.names} <= from_jax
        elif isinstance(node, ast.ImportFrom):
            assert node.module in allowed


def test_main_has_the_names_and_leading_arguments_that_the_grader_knows():
    arguments = {name: [a.arg for a in f.args.args] for name, f in FUNCTIONS.items()}
    assert arguments["random_policy_fn"][:2] == ["rng", "obs"]
    assert arguments["policy_fn"][:3] == arguments["action_fn"][:3] == ["rng", "params", "obs"]
    assert arguments["sample_batch"][:3] == ["rng", "memory", "batch_size"]
    assert arguments["update_fn"][:2] == ["learner", "batch"]
    assert {"train", "evaluate", "save_params", "load_params", "main"} <= set(arguments)


def test_the_file_stays_short_enough_to_be_read():
    lines = SOURCE.splitlines()
    assert len(lines) <= 850
    assert FUNCTIONS["train"].end_lineno <= 520
    assert max(f.end_lineno - f.lineno + 1 for f in FUNCTIONS.values()) <= 45
    assert next(n for n, line in enumerate(lines) if line.startswith("# %% Network")) < 160


def test_the_readme_has_250_words_its_pictures_and_two_commands():
    assert 240 <= len(README.split()) <= 260
    assert all(f"({name})" in README for name in ("agent.gif", "random.gif", "learning_curve.png"))
    assert len(re.findall(r"```sh\n(.+)\n(.+)\n```", README)) == 1


@pytest.mark.parametrize("line", re.search(r"```sh\n(.+?)\n```", README, re.S)[1].split("\n"))
def test_the_readmes_commands_are_shell_and_name_files_that_exist(line):
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
    for word in shlex.split(line):
        if word.endswith((".txt", ".py")):
            assert (ROOT / word).exists()


def test_cells_run_one_by_one_and_then_one_call_does_everything(
    tmp_path, monkeypatch, capsys, quick
):
    """As a notebook runs them: as __main__, with the kernel's arguments and without __file__."""
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    monkeypatch.chdir(tmp_path)
    for cell in re.split(r"(?m)^(?=# %%)", SOURCE):
        exec(compile(cell, "cell", "exec"), vars(notebook))
    assert list(tmp_path.iterdir()) == []  # nothing is trained until it is asked for
    assert notebook.main(TINY) == 0
    assert {p.name for p in tmp_path.iterdir()} == ARTIFACTS
    assert np.isfinite(rows(capsys.readouterr().out)["trained"]).all()
