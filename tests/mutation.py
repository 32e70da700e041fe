"""Change main.py in many small ways, and say which changes the tests do not notice.

    python tests/mutation.py              all mutants of the lecture, two at a time
    python tests/mutation.py --every 10   a tenth of them
    python tests/mutation.py --only 17    one of them, with what the tests say
    python tests/mutation.py --options    options that do nothing, one after the other

A mutant is main.py with another operator, number, name or condition, or without a
statement, somewhere in the cells Network to Training, Variations or Games. With
--options, main.py reads the default of an option instead of the option. The tests notice
a mutant if one of them fails or if they take too long. Some mutants compute the same as
before; nothing can notice these. Each mutant takes from a few seconds to a whole run of
the tests.
"""

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "main.py").read_text(encoding="utf-8")
CELLS = (
    "Network", "Policy", "Replay", "Learning", "Evaluation", "Training", "Variations",
    "Games",
)  # fmt: skip

OPERATORS = (
    "Add Sub, Mult Div, BitAnd BitOr, And Or, Lt LtE, Gt GtE, Eq NotEq, In NotIn"
)
NAMES = (
    "argmax argmin, max min, mean sum, ones zeros, params target_params, obs next_obs, "
    "terminated truncated, predicted achieved, huber_loss l2_loss"
)


def swaps(pairs):
    """Return a dictionary that has each word of a pair in place of the other one."""
    found = {}
    for pair in pairs.split(", "):
        one, other = pair.split()
        found[one] = other
        found[other] = one
    return found


def changes(node):
    """Yield what else could stand in the place of a node: a field and its new value."""
    operators = swaps(OPERATORS)
    names = swaps(NAMES)
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        operator = type(node.op).__name__
        if operator in operators:
            yield "op", getattr(ast, operators[operator])()
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        operator = type(node.ops[0]).__name__
        if operator in operators:
            yield "ops", [getattr(ast, operators[operator])()]
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "value", not node.value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "value", node.value + 1
    if isinstance(node, ast.Attribute) and node.attr in names:
        yield "attr", names[node.attr]
    is_read = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    if is_read and node.id in names:
        yield "id", names[node.id]


def replaced(node, text):
    """Return main.py with this text in the place of a node."""
    lines = SOURCE.encode().splitlines(keepends=True)  # The columns count bytes.
    before = b"".join(lines[: node.lineno - 1])
    before += lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :]
    after += b"".join(lines[node.end_lineno :])
    return (before + text.encode() + after).decode()


def mutants_of(node):
    """Yield the new text of a node and main.py with it, for each change of the node."""
    for name, value in changes(node):
        old = getattr(node, name)
        setattr(node, name, value)
        text = ast.unparse(node)
        setattr(node, name, old)
        yield text, replaced(node, f"({text})")
    if isinstance(node, (ast.If, ast.IfExp)):
        text = f"not ({ast.unparse(node.test)})"
        yield text, replaced(node.test, f"({text})")
    if isinstance(node, ast.UnaryOp):
        text = ast.unparse(node.operand)
        yield text, replaced(node, f"({text})")
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "lax.stop_gradient":
        text = ast.unparse(node.args[0])
        yield text, replaced(node, f"({text})")
    if isinstance(node, (ast.AugAssign, ast.Expr, ast.Break)):
        yield "pass", replaced(node, "pass")


def list_mutants():
    """Return line, new text and main.py of all mutants."""
    cell = ""
    cell_of_line = {}
    for number, line in enumerate(SOURCE.splitlines(), start=1):
        if line.startswith("# %% "):
            cell = line.split()[2].strip(":")
        cell_of_line[number] = cell

    tree = ast.parse(SOURCE)
    passive = set()  # docstrings, and texts with numbers in them
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passive.add(node)
        if isinstance(node, ast.JoinedStr):
            passive.update(ast.walk(node))

    found = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if cell_of_line.get(line) in CELLS and node not in passive:
            found += [(line, text, program) for text, program in mutants_of(node)]
    return sorted(found, key=lambda mutant: mutant[0])


def list_dead_options():
    """Return line, new text and main.py for each option, which has no effect there."""
    found = []
    for node in ast.parse(SOURCE).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            for setting in node.body:
                if isinstance(setting, ast.AnnAssign):
                    name = setting.target.id
                    program = re.sub(rf"\bconfig\.{name}\b", f"Config.{name}", SOURCE)
                    found.append((setting.lineno, f"Config.{name}", program))
    return found


def run_tests(program, tests, show=False):
    """Return whether these tests pass in a copy of the project with this main.py."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, copy)
        rubbish = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=rubbish)
        (copy / "main.py").write_text(program, encoding="utf-8")

        output = None if show else subprocess.DEVNULL
        settings = {"cwd": copy, "stdout": output, "stderr": output, "timeout": 600}
        words = [sys.executable, "-m", "pytest", "-x", "-q", *tests]
        try:
            subprocess.run(words, check=True, **settings)
        except subprocess.SubprocessError:
            return False
        return True


def main():
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--options", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="only these")
    args = parser.parse_args()

    mutants = list_dead_options() if args.options else list_mutants()
    numbers = range(0, len(mutants), args.every)
    if args.only is not None:
        numbers = [args.only]
    if not run_tests(SOURCE, args.tests):
        sys.exit("mutation.py: the tests fail without any change")

    def judge(number):
        line, text, program = mutants[number]
        unnoticed = run_tests(program, args.tests, show=args.only is not None)
        verdict = "UNNOTICED" if unnoticed else "noticed"
        old = SOURCE.splitlines()[line - 1].strip()
        print(f"{number:4} {verdict:9} line {line}: {old}  ->  {text}", flush=True)
        return unnoticed

    with ThreadPoolExecutor(args.jobs) as pool:
        n_unnoticed = sum(pool.map(judge, numbers))
    print(f"{n_unnoticed} of {len(numbers)} mutants were not noticed.")


if __name__ == "__main__":
    main()
