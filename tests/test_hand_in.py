"""The hand-in as the grader meets it: whole runs, the zip, a notebook's cells."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import FILES, ROOT, SMALL, TINY, names, noise, rows, same

import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = (ROOT / "main.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)


def run_python(*words, cwd, **variables):
    """Run a fresh Python, with some environment variables more or less."""
    env = {k: v for k, v in (os.environ | variables).items() if v is not None}
    words = [sys.executable, "-B", *map(str, words)]
    settings = {"cwd": cwd, "env": env, "encoding": "utf-8", "timeout": 300}
    return subprocess.run(words, capture_output=True, check=False, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder and the process of one default run in an empty folder."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run_python(ROOT / "main.py", cwd=folder)


def test_a_run_writes_all_files_and_ends_with_a_perfect_agent_without_noise(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    assert names(folder) == FILES
    assert noise(process.stderr) == []
    assert len(process.stdout.splitlines()) < 10
    table = rows(process.stdout)
    assert table["trained"] == [500, 0, 500, 100]
    assert 18 < table["random"][0] < 28
    assert table["untrained"][0] < 300
    assert [scores[3] for scores in table.values()] == [100] * 3


ODD = {  # There is no display and no terminal, and plots are a notebook's.
    "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "MPLCONFIGDIR": None,
    "MPLBACKEND": "module://matplotlib_inline.backend_inline", "TERM": None,
    "PYTHONIOENCODING": "ascii:backslashreplace", "LC_ALL": "POSIX", "DISPLAY": ":99",
    "SDL_VIDEODRIVER": None, "SDL_AUDIODRIVER": None, "JAX_PLATFORMS": None,
}  # fmt: skip


def test_the_zip_trains_the_same_bytes_again_in_an_odd_place(finished, tmp_path):
    folder = tmp_path / "Abgabe für Übung 3 (Müller's)"
    with zipfile.ZipFile(finished[0] / "hand-in.zip") as archive:
        archive.extractall(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    words = folder / "main.py", "--out", "läufe/7"
    again = run_python(*words, cwd=folder, **ODD)
    assert again.returncode == 0, again.stderr
    assert noise(again.stderr) == []
    assert rows(again.stdout) == rows(finished[1].stdout)
    out = folder / "läufe" / "7"
    assert names(out) == FILES
    for name in FILES:
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_committed_files_are_of_the_kind_that_a_run_writes(finished, capsys):
    """Other versions of JAX round otherwise, so their bytes may differ."""
    main.main(["--evaluate", ROOT / "params.pkl"])
    out, err = capsys.readouterr()
    [[mean, *_]] = rows(out).values()
    assert mean >= 499
    assert err == ""
    for name in ("agent.gif", "random.gif", "learning_curve.png"):
        one, other = [iio.imread(at / name, index=0) for at in (ROOT, finished[0])]
        assert one.shape == other.shape


def test_another_seed_is_another_agent_and_a_spent_budget_is_said(
    here, capsys, no_pictures
):
    for seed in "12":
        main.main(f"{TINY} --seed {seed} --out {seed}")
        assert names(here / seed) == FILES
        out, err = capsys.readouterr()
        assert noise(err) == []
        assert "500" in out.split("trained")[-1]
        assert "--total-steps" in out
    one, other = [(here / seed / "params.pkl").read_bytes() for seed in "12"]
    assert one != other


def test_a_network_that_diverges_costs_no_file_and_is_said(here, capsys, no_pictures):
    main.main(f"{TINY} --train-every 1 --learning-rate 1e30")
    assert names(here) == FILES
    out = capsys.readouterr().out
    assert "--learning-rate" in out
    assert "--total-steps" not in out


def test_what_is_scored_is_what_is_handed_in(here, capsys, watch, no_pictures):
    runs = watch("train")
    main.make_hand_in(SMALL, 0, here)
    scores = rows(capsys.readouterr().out)["trained"]
    main.main("--evaluate params.pkl --eval-episodes 3")
    assert list(rows(capsys.readouterr().out).values()) == [scores]
    best_params = runs[0][1][0]
    assert same(main.load_params("params.pkl"), main.tree.map(np.asarray, best_params))


def test_the_untrained_agent_is_the_one_that_training_began_with(
    here, watch, no_pictures
):
    starts = watch("start_training")
    scored = watch("print_score")
    main.make_hand_in(SMALL, 0, here)
    agents = {args[0]: args[1] for args, _ in scored}
    _, learner = starts[0][1]
    assert same(agents["untrained"], main.tree.map(np.asarray, learner.params))


@pytest.fixture
def old(tmp_path):
    """Return a folder with the files of an earlier run, and some of the user's."""
    for name in FILES | {"notes.txt", ".hidden", "new-1-params.pkl"}:
        (tmp_path / name).write_text(f"old {name}")
    return tmp_path


def are_old(folder, files):
    return all((folder / name).read_text() == f"old {name}" for name in files)


def test_each_old_file_is_whole_until_the_new_one_is(old, monkeypatch, no_learning):
    before = names(old)
    later = before - {"params.pkl", "learning_curve.png"}

    def interrupt(path, *args, **kwargs):
        path.write_text("half")
        assert are_old(old, later)
        raise KeyboardInterrupt

    monkeypatch.setattr(main.iio, "imwrite", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main.make_hand_in(SMALL, 0, old)
    assert names(old) == before
    assert are_old(old, later)
    assert main.load_params(old / "params.pkl")


def test_a_write_that_is_killed_leaves_the_old_file(old):
    """It dies without a chance to clean up, when half of the bytes are written."""
    code = f"""
import os, pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
import main

def half(path, data):
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2])
    os._exit(9)

pathlib.Path.write_bytes = half
main.save_params("params.pkl", {{"w": [1.0] * 1000}}, main.Config())
"""
    assert run_python("-c", code, cwd=old).returncode == 9
    assert are_old(old, FILES)


def test_importing_main_does_no_work(tmp_path):
    """It asks for no device and no window: there are none of these names."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import main"
    nothing = {"JAX_PLATFORMS": "none", "SDL_VIDEODRIVER": "none"}
    done = run_python("-c", code, cwd=tmp_path, **nothing)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert names(tmp_path) == set()


def test_cells_run_one_by_one_in_a_notebook_and_then_main(here, monkeypatch, capsys):
    notebook = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "argv", ["a/ipykernel_launcher.py", "-f", "x.json"])
    for cell in re.split(r"(?m)^(?=# %%)", SOURCE):
        exec(compile(cell, "cell", "exec"), vars(notebook))  # noqa: S102
    assert names(here) == set()
    assert capsys.readouterr() == ("", "")
    notebook.main(TINY)
    assert names(here) == FILES
    assert len(rows(capsys.readouterr().out)) == 3


def test_main_imports_only_what_the_course_allows_and_what_requirements_list():
    imported = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    allowed = {"chex", "gymnasium", "imageio", "jax", "matplotlib", "numpy", "optax"}
    from_jax = {"Array", "grad", "jit", "lax", "nn", "numpy", "random", "tree", "vmap"}
    packages = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert packages <= allowed | {"tqdm"}
    assert {name.split(".")[1] for name in imported if name[:4] == "jax."} <= set(
        from_jax
    )
    listed = re.findall(r"(?m)^[\w-]+", (ROOT / "requirements.txt").read_text())
    assert set(listed) == packages


def test_main_has_the_names_and_leading_arguments_that_the_grader_knows():
    functions = [node for node in TREE.body if isinstance(node, ast.FunctionDef)]
    arguments = {f.name: [arg.arg for arg in f.args.args] for f in functions}
    assert arguments["random_policy_fn"][:2] == ["rng", "obs"]
    assert arguments["policy_fn"][:3] == ["rng", "params", "obs"]
    assert arguments["action_fn"][:3] == ["rng", "params", "obs"]
    assert arguments["sample_batch"][:3] == ["rng", "memory", "batch_size"]
    assert arguments["update_fn"][:2] in (["params", "batch"], ["learner", "batch"])
    assert {"train", "evaluate", "save_params", "load_params", "main"} <= set(arguments)


def test_the_readme_shows_the_pictures_and_its_two_commands_are_shell():
    assert 240 <= len(README.split()) <= 270
    for name in ("agent.gif", "random.gif", "learning_curve.png"):
        assert f"({name})" in README
    block = re.search(r"```sh\n(.+?)\n```", README, re.DOTALL)[1]
    train, test = block.splitlines()
    assert "main.py" in train
    assert "pytest" in test
    for command in (train, test):
        if bash := shutil.which("bash"):
            subprocess.run([bash, "-n", "-c", command], check=True)
        files = [
            word for word in shlex.split(command) if word.endswith((".txt", ".py"))
        ]
        assert all((ROOT / file).exists() for file in files)
