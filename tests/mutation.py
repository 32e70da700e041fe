"""Mutation testing of main.py's pure part: would the tests notice a wrong line in it?

    python tests/mutation.py              every mutant, two at a time, and the share killed
    python tests/mutation.py --every 5    a fifth of them
    python tests/mutation.py --only 17    one mutant, with what the tests say
    python tests/mutation.py --options    each option of a run in turn does nothing

A mutant is main.py with one small change in the cells from Network to Games: an operator, a
number, a condition, a name or a statement; or, in the whole of main.py, an option that keeps its
default whatever was asked for. It is killed if a test fails. Not part of the test run: a
hundred mutants take a quarter of an hour.
"""

import argparse
import ast
import contextlib
import copy
import io
import os
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "main.py").read_text()
CELLS = (
    "# %% Network",
    "# %% Policy",
    "# %% Replay",
    "# %% Learning",
    "# %% Training",
    "# %% Prioritized",
    "# %% Games",
)
TESTS = ("network", "replay", "policy", "learning", "games", "training", "config")

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "argmax": "argmin",
    "zeros": "ones",
    "ones": "zeros",
    "mean": "sum",
    "max": "min",
    "min": "max",
    "params": "target",
    "target": "params",
    "obs": "next_obs",
    "next_obs": "obs",
    "reward": "discount",
    "discount": "reward",
    "coin": "choice",
    "choice": "coin",
    "terminated": "truncated",
    "truncated": "terminated",
    "relu": "tanh",
    "silu": "relu",
    "huber_loss": "squared_error",
    "squared_error": "huber_loss",
    "scale_by_adam": "scale_by_amsgrad",
    "scale_by_amsgrad": "scale_by_adam",
    "clip_value": "clip_norm",
    "clip_norm": "clip_value",
}


def lines_of_cells():
    """The lines that are mutated: their number, and the tests of their cell."""
    cell, lines = "", {}
    for number, line in enumerate(SOURCE.split("\n"), 1):
        cell = line if line.startswith("# %% ") else cell
        if cell.startswith(CELLS):
            lines[number] = cell.split()[2].strip(":").lower()
    return lines


def changes(node):
    """Every small change of one node: a function that changes it in place, and a description."""

    def set_(name, value):
        return lambda n: setattr(n, name, value)

    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        yield set_("op", new()), f"{type(node.op).__name__} -> {new.__name__}"
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield set_("ops", [new()]), f"{type(node.ops[0]).__name__} -> {new.__name__}"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield set_("value", node.value + 1), f"{node.value} -> {node.value + 1}"
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield set_("value", not node.value), f"{node.value} -> {not node.value}"
    if isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield set_("attr", NAMES[node.attr]), f".{node.attr} -> .{NAMES[node.attr]}"
    if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield set_("id", NAMES[node.id]), f"{node.id} -> {NAMES[node.id]}"
    if isinstance(node, (ast.If, ast.IfExp)):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)), "condition negated"
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "stop_gradient":
        yield (
            lambda n: n.__dict__.update(func=ast.Name("float32_identity", ast.Load())),
            "stop_gradient removed",
        )
    if isinstance(node, ast.AugAssign):
        yield lambda n: n.__dict__.update(value=ast.Constant(1), op=ast.Mult()), "statement removed"


def annotations(tree):
    """Nodes that are types, docstrings or assertions about shapes: they do not compute."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                yield from ast.walk(getattr(node, name))
        if isinstance(node, ast.Expr):
            yield from ast.walk(node)


def mutants():
    """(line, description, tree) of every mutant."""
    tree, lines = ast.parse(SOURCE), lines_of_cells()
    passive = set(annotations(tree))
    for index, node in enumerate(ast.walk(tree)):
        if getattr(node, "lineno", 0) not in lines or node in passive:
            continue
        for number in range(len(list(changes(node)))):
            mutant = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(mutant)) if i == index)
            change, description = list(changes(target))[number]
            change(target)
            yield node.lineno, description, ast.fix_missing_locations(mutant)


def dead_options():
    """(line, description, tree) of main.py for each option, which does nothing there."""
    tree = ast.parse(SOURCE)
    config = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config")
    options = [n for n in config.body if isinstance(getattr(n, "value", None), ast.Call)]
    for option in options[[o.target.id for o in options].index("total_steps") :]:
        mutant = copy.deepcopy(tree)
        reads = (f"config.{option.target.id}", f"self.{option.target.id}")
        for node in ast.walk(mutant):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in reads:
                node.value = ast.Name("Config", ast.Load())
        yield option.lineno, "ignored", ast.fix_missing_locations(mutant)


def survives(tree, first="network", show=False):
    """Whether all tests pass with this main.py, in a forked process; a hang counts as a failure.

    The tests of the cell that was changed come first.
    """
    child = os.fork()
    if child == 0:
        import pytest

        module = types.ModuleType("main")
        module.__file__ = str(ROOT / "main.py")
        module.float32_identity = lambda x: x
        sys.modules["main"] = module
        try:
            exec(compile(tree, "main.py", "exec"), module.__dict__)
            names = sorted(TESTS, key=lambda name: name != first)
            files = [str(ROOT / "tests" / f"test_{name}.py") for name in names]
            with contextlib.redirect_stdout(sys.stdout if show else io.StringIO()):
                status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files])
        except BaseException:
            status = 1
        os._exit(0 if status == 0 else 1)
    for _ in range(2400):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--options", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ["JAX_PLATFORMS"] = "cpu"
    import gymnasium, hypothesis, imageio.v3, matplotlib.figure, optax  # noqa: E401, F401, I001

    cells = lines_of_cells()
    chosen = list(enumerate(dead_options() if args.options else mutants()))[:: args.every]
    if args.only is not None:
        chosen = [m for m in chosen if m[0] == args.only]
    if not survives(ast.parse(SOURCE)):
        sys.exit("the tests fail without any change")

    def report(item):
        number, (line, description, tree) = item
        alive = survives(tree, cells.get(line, "learning"), show=args.only is not None)
        text = SOURCE.split("\n")[line - 1].strip()
        print(
            f"{'SURVIVED' if alive else 'killed  '} {number:4} line {line}: {description}: {text}",
            flush=True,
        )
        return alive

    with ThreadPoolExecutor(args.jobs) as pool:
        alive = list(pool.map(report, chosen))
    print(f"{len(alive) - sum(alive)} of {len(alive)} mutants killed, {sum(alive)} survived")


if __name__ == "__main__":
    main()
