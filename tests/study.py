r"""Train agents with many seeds, and compare variants of the method on the same seeds.

    python tests/study.py --seeds 10
    python tests/study.py --seeds 10 --compare no-double "tau=0.05 target-period=1"

The table of ablations in README.md comes from this command for bash, with Python 3.11,
jax 0.10.1, optax 0.2.8, gymnasium 1.4.0 and numpy 2.4.6 on an AMD EPYC. Other versions
and processors round otherwise, so that agents differ. It takes more than an hour of CPU
time:

    python tests/study.py --seed 34000 --seeds 100 --total-steps 20000 --compare \
        no-double "tau=0.05 target-period=1" target-period=200 train-every=4 \
        no-scale-observations reward-mode=raw memory-size=50000 \
        "no-double reward-mode=raw no-scale-observations memory-size=50000 \
        target-period=200 learning-rate=0.001 epsilon-decay=5000 total-steps=50000"

All options of main.py but --evaluate and --watch can be given, too. The first agent of
each variant is trained with --seed, the next one with --seed + 1, and so on. A variant
is a text of options without dashes: no-double stands for --no-double, tau=0.1 for
--tau 0.1, and hidden=64,64 for --hidden 64 64. It is trained with these options, and is
not tuned anew. It can change all settings but the game and the goal.

Each agent becomes a row of study.csv in the folder --out, as soon as it is trained. A
study that was stopped goes on with the rows that are there, but a row counts only if it
was made with the same settings, the same number of episodes and the same main.py.
Versions of packages and the machine are not compared. When all rows are there, the
study prints a table and draws study.png. Steps include the random ones. Those of a
variant are compared with those of the default by the geometric mean of their ratios,
seed by seed, with a bootstrap interval of 95%.
"""

import argparse
import csv
import hashlib
import itertools
import sys
import textwrap
import time
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import main

# %% Rows: what is known about each agent, and the file that keeps it
PROGRAM = hashlib.sha256(Path(main.__file__).read_bytes()).hexdigest()[:12]


class Row(NamedTuple):
    """One agent: how its training went, and how it played afterwards."""

    seed: int
    variant: str
    steps: int  # until its training reached the goal, or all that it was allowed
    solved: int  # 1 if its training reached the goal, and else 0
    last: float  # the mean return in the last evaluation of the training
    cpu_seconds: float
    mean: float  # of the returns below
    lowest: float
    predicted: float  # the discounted return, in the last evaluation, too
    achieved: float
    episodes: int
    returns: str  # of fresh episodes, with spaces between them
    settings: str  # all settings of main.py
    program: str  # a hash of main.py


def returns_of(row):
    """Return the returns of a row as numbers."""
    return np.array(row.returns.split(), float)


def read_rows(path):
    """Return the rows of a file by what they depend on. Raise a ValueError if it is
    damaged.
    """
    if not path.exists():
        return {}
    csv.field_size_limit(2**30)  # Many returns make a long cell.
    kinds = Row.__annotations__.values()
    rows = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names, *lines = csv.reader(file, strict=True)
        if tuple(names) != Row._fields:
            raise ValueError("it has other columns")
        for cells in lines:
            row = Row(*[kind(cell) for kind, cell in zip(kinds, cells, strict=True)])
            if len(returns_of(row)) != row.episodes:
                raise ValueError(f"the row of seed {row.seed} lacks returns")
            rows[row.seed, row.episodes, row.settings, row.program] = row
    except Exception as error:
        raise ValueError(f"{path} is damaged, delete it: {error}") from error
    return rows


def save_rows(path, rows):
    """Write these rows beside those that are in the file."""
    found = read_rows(path)
    while not rows.keys() <= found.keys():  # Another study may write at the same time.
        with (
            main.replacing(path) as new,
            open(new, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows({**found, **rows}.values())
        found = read_rows(path)


# %% Training: a row for each seed and variant
def train_agent(config, variant, seed, episodes):
    """Train an agent, and let the best one play fresh episodes."""
    start = time.process_time()
    params, _, evaluations = main.train(config, seed, quiet=True)
    cpu_seconds = time.process_time() - start

    rng = np.random.default_rng([seed, 2])  # Training has other random numbers.
    returns, _, _ = main.evaluate(rng, params, episodes, config)
    steps, last = evaluations[-1]
    diverged = not np.isfinite(last.predicted).all()
    solved = not diverged and last.returns.mean() >= config.goal
    return Row(
        seed=seed,
        variant=variant,
        steps=steps if solved else config.total_steps,
        solved=int(solved),
        last=float(last.returns.mean()),
        cpu_seconds=round(cpu_seconds, 2),
        mean=float(returns.mean()),
        lowest=float(returns.min()),
        predicted=float(last.predicted.mean()),
        achieved=float(last.achieved.mean()),
        episodes=episodes,
        returns=" ".join(str(float(number)) for number in returns),
        settings=repr(config),
        program=PROGRAM,
    )


def train_agents(variants, seeds, episodes, path):
    """Return the rows of all seeds and variants. Train what the file lacks."""
    keys = {}
    for seed, name in itertools.product(seeds, variants):
        keys[seed, name] = (seed, episodes, repr(variants[name]), PROGRAM)

    rows = read_rows(path)
    n_read = sum(key in rows for key in keys.values())
    print(f"{n_read} of {len(keys)} rows were read from {path}.", flush=True)
    for (seed, name), key in tqdm(keys.items(), "study"):
        if key not in rows:
            rows[key] = train_agent(variants[name], name, seed, episodes)
            save_rows(path, rows)
    return {name: [rows[keys[seed, name]] for seed in seeds] for name in variants}


# %% Table: a line for each variant
LEAST_SEEDS = 5  # With fewer seeds, bootstrap intervals are far too narrow.
NOTES = """
A seed is solved if its training reached the goal, a mean return of {goal:g}. The best
agent of each seed then played {episodes} fresh episodes: mean-return is the mean of all
of them, lowest-mean that of the worst agent, and lowest-return the worst return of all.
Last-mean is the mean return of the last agents, in the last evaluation of the training,
which is also the best one if the seed is solved.
Median-steps, most-steps and CPU-seconds (a median) tell what the training cost. Steps
of evaluations do not count as steps, but their seconds count.
Predicted is the discounted return that the network expected at the start of an episode,
and achieved is what came (medians of the means in the last evaluation of the training).

Steps-ratio is the geometric mean, over the seeds, of the steps divided by those of the
default. Its 95% bootstrap interval goes from ratio-from to ratio-to; it needs {least}
seeds, and is too narrow if there are few: if the logarithms are normal, it holds the
truth in 84% of cases with 5 seeds and in 90% with 10. A training that does not reach
the goal spends its budget, and might have needed more. If only the variant has such
seeds, the ratio is above the number after >. If only the default has them, it is below
the number after <. If both have them, nothing is known, and the table shows a dash."""


def compare_steps(rows, default):
    """Return the ratio of steps and both ends of its interval, as the table has them."""
    lacking = not all(row.solved for row in rows)
    default_lacking = not all(row.solved for row in default)
    if lacking and default_lacking:
        return ["-", "-", "-"]

    ratios = [row.steps / other.steps for row, other in zip(rows, default)]
    logarithms = np.log(ratios)
    sign = ">" if lacking else "<" if default_lacking else ""
    ratio = f"{sign}{np.exp(logarithms.mean()):.2f}"
    if len(rows) < LEAST_SEEDS:
        return [ratio, "-", "-"]

    rng = np.random.default_rng(0)
    means = rng.choice(logarithms, (10_000, len(rows))).mean(axis=1)
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    lower_end = "-" if default_lacking else f"{low:.2f}"
    upper_end = "-" if lacking else f"{high:.2f}"
    return [ratio, lower_end, upper_end]


def make_line(rows, default):
    """Return the cells of a line of the table by the names of their columns."""
    steps = [row.steps for row in rows]
    ratio, lower_end, upper_end = compare_steps(rows, default)
    return {
        "solved": f"{sum(row.solved for row in rows)}/{len(rows)}",
        "mean-return": f"{np.mean([row.mean for row in rows]):.2f}",
        "lowest-mean": f"{min(row.mean for row in rows):.2f}",
        "lowest-return": f"{min(row.lowest for row in rows):.2f}",
        "last-mean": f"{np.mean([row.last for row in rows]):.2f}",
        "median-steps": f"{np.median(steps):.0f}",
        "most-steps": str(max(steps)),
        "predicted": f"{np.median([row.predicted for row in rows]):.2f}",
        "achieved": f"{np.median([row.achieved for row in rows]):.2f}",
        "steps-ratio": ratio,
        "ratio-from": lower_end,
        "ratio-to": upper_end,
        "CPU-seconds": f"{np.median([row.cpu_seconds for row in rows]):.1f}",
    }


def print_table(study, config):
    """Print a line for each variant, and what its columns mean."""
    lines = [make_line(rows, study["default"]) for rows in study.values()]
    print(*lines[0], "variant", sep="  ")
    for name, line in zip(study, lines):
        cells = [cell.rjust(len(column)) for column, cell in line.items()]
        print(*cells, name, sep="  ")
    episodes = study["default"][0].episodes
    print(NOTES.format(goal=config.goal, episodes=episodes, least=LEAST_SEEDS))


# %% Figure: two panels for all variants, and below them two for each variant
def draw_distributions(left, right, study):
    """Draw which share of seeds is solved in so many steps, and the returns of all."""
    all_steps = [row.steps for rows in study.values() for row in rows]
    start = min(all_steps) / 2
    end = max(all_steps) * 1.2
    for i, (name, rows) in enumerate(study.items()):
        # Lines that coincide can be told apart: the later ones are thinner.
        style = {"color": f"C{i}", "ls": ["-", "--", ":"][i % 3], "lw": 1 + 2 / (1 + i)}
        solved = sorted(row.steps for row in rows if row.solved)
        shares = np.arange(len(solved) + 1) / len(rows)
        x = [start, *solved, end]
        y = [*shares, shares[-1]]
        left.step(x, y, where="post", label=textwrap.fill(name, 40), **style)
        returns = np.concatenate([returns_of(row) for row in rows])
        right.ecdf(returns, complementary=True, **style)

    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.set(title="distribution of run lengths", xlabel="steps", xlim=(start, end))
    left.set(ylabel="share of seeds solved", ylim=(-0.05, 1.05))
    right.set(title="distribution of returns", xlabel="return", ylim=(-0.05, 1.05))
    right.set(ylabel="share of episodes\nwith at least this return")


def draw_seeds(left, right, rows, goal, i):
    """Draw the success rate of each seed, and a box plot of its returns."""
    color = f"C{i}"
    places = np.arange(len(rows))
    returns = [returns_of(row) for row in rows]
    rates = [np.mean(numbers >= goal) for numbers in returns]
    left.vlines(places, 0, rates, color=color)
    left.plot(places, rates, ".", color=color)
    left.set(ylabel="share of episodes\nat the goal or above", ylim=(-0.05, 1.05))

    right.boxplot(
        returns,
        positions=places,
        widths=0.6,
        patch_artist=True,
        boxprops={"facecolor": color, "alpha": 0.5},
        medianprops={"color": "black"},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": color},
    )
    right.set(ylabel="return")

    shown = places[:: 1 + (len(rows) - 1) // 10]
    half = max(5, len(rows)) / 2 + 0.5  # A single seed does not fill the panel.
    for axes in (left, right):
        axes.set_xticks(shown, labels=[str(rows[place].seed) for place in shown])
        axes.set(xlabel="seed", xlim=(places.mean() - half, places.mean() + half))


def draw_study(study, config, path):
    """Draw all panels."""
    heights = [4] + [2.2] * len(study)
    figure = Figure(figsize=(14, sum(heights) + 1), layout="constrained")
    panels = figure.subplots(len(heights), 2, height_ratios=heights)
    draw_distributions(*panels[0], study)
    for i, (name, rows) in enumerate(study.items()):
        left, right = panels[i + 1]
        left.set_title(name, loc="left")
        if i > 0:
            right.sharey(panels[1, 1])
        draw_seeds(left, right, rows, config.goal, i)

    title = f"{config.env_id}: the goal is a mean return of {config.goal:g}"
    figure.legend(title=title, loc="outside upper center", ncols=3)
    figure.savefig(path)


# %% Command line: the options of main.py, and some more
class HelpFormatter(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    """Show the description as it is, and all defaults."""


def make_parser(words):
    """Return the parser of main.py for these words, with the options of a study."""
    parser = main.make_parser(words)
    parser.prog = "study.py"
    parser.usage = "python tests/study.py [options]"
    parser.description = __doc__
    parser.epilog = None
    parser.formatter_class = HelpFormatter
    add = parser.add_argument
    add("--seeds", type=int, default=10, help="number of seeds, from --seed on")
    add("--episodes", type=int, default=100, help="fresh episodes of an agent")
    several = {"nargs": "+", "action": "extend", "default": []}
    add("--compare", metavar="VARIANT", help="options without dashes", **several)
    return parser


def read_variant(text):
    """Return a variant as words of the command line: "tau=0.1" becomes --tau 0.1."""
    words = []
    for change in text.split():
        name, equals, value = change.partition("=")
        words.append(f"--{name}")
        if equals:
            words.extend(value.split(","))
    return words


def make_variants(parser, args):
    """Return the settings of the default and of all variants. Refuse wrong ones."""
    settings = {setting.name for setting in fields(main.Config)}
    variable = settings - {"env_id", "goal"}
    variants = {"default": main.make_config(args)}
    for text in args.compare:
        if not text.strip():
            parser.error("argument --compare: a variant names some options")
        changed = parser.parse_args(read_variant(text), copy(args))
        for name, value in vars(args).items():
            if name not in variable and getattr(changed, name) != value:
                parser.error(f"argument --compare: no variant may change {name}")
        variants[" ".join(text.split())] = main.make_config(changed)

    for config in variants.values():
        main.check_numbers(parser, config)
        main.check_game(parser, config)
    return variants


def run(words):
    """Run a study with these words of a command line."""
    parser = make_parser(words)
    args = parser.parse_args(words)
    with main.refuse_if_fails(parser, "--seed"):
        np.random.default_rng(args.seed)
    for name in ("seeds", "episodes"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: a number above 0 is needed")
    variants = make_variants(parser, args)

    out = main.make_folder(parser, args.out)
    path = out / "study.csv"
    try:
        read_rows(path)
    except ValueError as error:
        parser.error(str(error))

    seeds = range(args.seed, args.seed + args.seeds)
    study = train_agents(variants, seeds, args.episodes, path)
    print_table(study, variants["default"])
    with main.replacing(out / "study.png") as new:
        draw_study(study, variants["default"], new)
    print(f"study.csv and study.png are in {out}.")


if __name__ == "__main__":
    run(sys.argv[1:])
