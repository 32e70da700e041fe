"""Where the time of a run goes, beside the least time that each part could take.

    python tests/benchmark.py              one table: medians over three runs, about a minute
    python tests/benchmark.py --quick      the same from one run
    python tests/benchmark.py --growth     and how cost grows with memory, run and batch

Not part of the test run. Needs Linux or macOS, which tell the peak memory of a process. Let nothing
else run on the machine meanwhile.

How it measures. Each repeat starts three fresh processes: the bare imports; `import main`; and
main.py itself, timed from outside and not changed in any way, which gives the total and the peak
memory. A fourth one imports main, puts timers around its functions and runs the same command. A
timer stops when the result is there, not when JAX has promised it; what the timers cost is measured
and taken off. Then the same process trains once more, all compiled and without timers, which is the
row of training: timers between the calls keep the processor's caches cold. Last it measures the
floors, with as many calls as it has counted. The total is more than the sum of the rows: it also
starts and ends Python, and compiles main.py, which an import finds in a cache.

How to read it. A floor is the least that the libraries take for the same work, without main.py:

    imports       the libraries that main.py needs, and pyplot, imported in a bare process
    acting        as many calls of the compiled policy_fn on one observation
    env stepping  as many steps of a bare gym.make, with random actions; resets are included
    sampling      as many indexed reads of a filled NumPy array of the memory's size
    updating      as many update_round calls on one batch that lies on the device
    evaluating    as many steps of bare vector games of the same size, with constant actions, and
                  as many calls of the compiled policy_fn on their observations; so does scoring
    rendering     as many frames of a bare env.render()
    training      the sum of the five floors of its parts
    total         the bare imports, from the start of the process to its end

A ratio near 1 leaves nothing to gain. Floors play other episodes than a trained agent: random play
resets more often, so a ratio may fall below 1. Compiling is a function's first call less a typical
later one; it is counted in its own row and in no other. Lines that begin with a space are parts of
the line above them; the timers make them a little longer in sum. `calls` is how often something was
called, for compiling how many programs.

How cost grows (--growth) is measured in main.py's own training loop, compiled beforehand:

    memory        a step, with its share of a round, while the memory holds that many transitions
    steps         train() for so many steps and for ten times as many; linear cost is a factor of 10
    batch         an update, in rounds as training does them, on one batch on the device
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "jax, jax.numpy, optax, chex, gymnasium, numpy, matplotlib.pyplot, imageio.v3, tqdm"
GAME = "CartPole-v1"

COMPILED = ("init_learner", "act", "policy_fn", "update_round")
TIMED = ("train", "evaluate", "sample_batch", "record", "learning_curve")

Row = tuple[float, float | None, int | None]  # milliseconds, floor, calls


# Timers around the functions of main.py
@dataclass
class Call:
    """One call of a timed function; `caller` is the timed call that it was made in."""

    name: str
    caller: "Call | None"
    shapes: tuple = ()  # of the result: another shape is another compilation
    seconds: float = 0.0
    first: float = 0.0  # what this call and those in it took longer for being the first
    timing: float = 0.0  # what the timers of this call and of those in it took

    @property
    def net(self) -> float:
        return self.seconds - self.first - self.timing


class Timers:
    """Times functions in place, and remembers each call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.caller: Call | None = None
        self.arguments: dict[str, tuple] = {}  # of the first update_round, as NumPy arrays

    def wrap(self, owner: Any, name: str, label: str = "", *, compiled: bool = False) -> None:
        """Replaces owner.name by itself with a timer."""
        import jax

        function = find(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if name == "update_round" and name not in self.arguments:
                self.arguments[name] = (to_numpy(args), kwargs)
            call = Call(label or name, self.caller)
            self.caller, start = call, time.perf_counter()
            try:
                result = function(*args, **kwargs)
                if compiled:
                    leaves = jax.tree.leaves(result)
                    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
                        return result  # part of the compilation of another function
                    jax.block_until_ready(leaves)
                    call.shapes = tuple(leaf.shape for leaf in leaves)
                call.seconds = time.perf_counter() - start
                self.calls.append(call)
                return result
            finally:
                self.caller = call.caller

        setattr(owner, name, timed)

    def wrap_maker(self, owner: Any, name: str, prefix: str) -> None:
        """Makes owner.name return games whose methods have timers."""
        make = find(owner, name)

        def made(*args: Any, **kwargs: Any) -> Any:
            game = make(*args, **kwargs)
            for method in ("step", "reset", "render"):
                self.wrap(game, method, f"{prefix} {method}")
            return game

        setattr(owner, name, made)

    def select(self, *names: str, inside: str | None) -> list[Call]:
        """The calls of these functions that were made in a call of `inside`, or in none."""
        return [
            call
            for call in self.calls
            if call.name in names and (call.caller.name if call.caller else None) == inside
        ]

    def take_off_timing(self) -> None:
        """Takes what the timers themselves have cost off the net time of the calls."""
        cost = {compiled: cost_of_timer(compiled=compiled) for compiled in (False, True)}
        for call in self.calls:
            compiled = bool(call.shapes)  # then most of the cost lies within the time of the call
            caller = call if compiled else call.caller
            while caller:
                caller.timing += cost[compiled]
                caller = caller.caller

    def set_first_calls_apart(self, names: tuple[str, ...]) -> float:
        """Finds what the first calls of these functions took longer than a typical later one;
        returns the sum, and takes it off the net time of these calls and of their callers."""
        groups: dict[tuple, list[Call]] = {}
        for call in self.calls:
            if call.name in names:
                groups.setdefault((call.name, call.shapes), []).append(call)
        total = 0.0
        for first, *later in groups.values():
            typical = median(call.seconds for call in later) if later else 0.0
            excess = max(0.0, first.seconds - typical)
            total += excess
            call: Call | None = first
            while call:
                call.first += excess
                call = call.caller
        return total


def cost_of_timer(*, compiled: bool) -> float:
    """Seconds that a timer adds to one call of the function that it is around."""
    import jax.numpy as jnp

    owner, n, result = SimpleNamespace(), 5_000, jnp.int32(0)
    owner.function = lambda: result
    bare = seconds_of(lambda: [owner.function() for _ in range(n)])
    Timers().wrap(owner, "function", compiled=compiled)
    return (seconds_of(lambda: [owner.function() for _ in range(n)]) - bare) / n


def find(owner: Any, name: str) -> Callable:
    if not hasattr(owner, name):
        where = getattr(owner, "__name__", type(owner).__name__)
        raise SystemExit(f"benchmark.py: {where} has no {name} any more; adapt benchmark.py")
    return getattr(owner, name)


def to_numpy(values: Any) -> Any:
    """A copy of nested arrays: what main.py does with its own later cannot change it."""
    import jax
    import numpy as np

    return jax.tree.map(np.array, values)


def seconds_of(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def total(calls: list[Call]) -> float:
    return sum(call.net for call in calls)


# Floors: the same work, done by the libraries alone
def floor_of_acting(main: Any, params: Any, n: int) -> float:
    import numpy as np

    obs = np.zeros(4, np.float32)
    int(main.policy_fn(None, params, obs))
    return seconds_of(lambda: [int(main.policy_fn(None, params, obs)) for _ in range(n)])


def floor_of_stepping(n: int) -> float:
    import gymnasium as gym
    import numpy as np

    env = gym.make(GAME)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=n).tolist()

    def play() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return seconds_of(play)


def floor_of_sampling(rows: int, size: int, n: int) -> float:
    import numpy as np

    memory = np.ones((rows, 11), np.float32)  # two observations and three numbers
    index = np.random.default_rng(0).integers(rows, size=size)
    return seconds_of(lambda: [memory[index] for _ in range(n)])


def floor_of_updating(update_round: Callable, arguments: tuple, n: int) -> float:
    import jax

    (learner, *batches), options = arguments
    learner, batches = jax.device_put((learner, batches))
    learner = jax.block_until_ready(update_round(learner, *batches, **options)[0])

    def update(learner: Any = learner) -> None:
        for _ in range(n):
            learner = update_round(learner, *batches, **options)[0]
        jax.block_until_ready(learner)

    return seconds_of(update)


def floor_of_evaluating(main: Any, params: Any, games: int, steps: int, actions: int) -> float:
    """Seconds for so many steps of `games` games, and for the network's choice of so many."""
    import gymnasium as gym
    import numpy as np

    envs = gym.make_vec(GAME, games)
    obs, _ = envs.reset(seed=0)
    right = np.ones(games, np.int64)
    stepping = seconds_of(lambda: [envs.step(right) for _ in range(steps)])
    np.asarray(main.policy_fn(None, params, obs))  # compiled, whatever has been called before
    return stepping + seconds_of(
        lambda: [np.asarray(main.policy_fn(None, params, obs)) for _ in range(actions)]
    )


def floor_of_rendering(n: int) -> float:
    import gymnasium as gym

    env = gym.make(GAME, render_mode="rgb_array")
    env.reset(seed=0)
    seconds = 0.0
    for step in range(n):
        seconds += seconds_of(env.render)
        _, _, terminated, truncated, _ = env.step(step % 2)
        if terminated or truncated:
            env.reset()
    return seconds


# One run with timers, in a process of its own
def measure_parts(seed: int) -> dict[str, Row]:
    """Runs main.py with timers, then measures the floors; returns the rows of the table."""
    import jax

    main = import_main()
    device = seconds_of(lambda: jax.jit(lambda x: x + 1)(0.0).block_until_ready())
    timers = Timers()
    original = {name: find(main, name) for name in (*COMPILED, *TIMED, "make_game", "make_games")}
    for name in COMPILED:
        timers.wrap(main, name, compiled=True)
    for name in TIMED:
        timers.wrap(main, name)
    timers.wrap(find(main, "iio"), "imwrite")
    timers.wrap_maker(main, "make_game", "game")
    timers.wrap_maker(main, "make_games", "games")

    with tempfile.TemporaryDirectory() as out:
        argv = ["--seed", str(seed), "--out", out]
        config = main.parse_config(argv)
        start = time.perf_counter()
        status = main.main(argv)
        whole = time.perf_counter() - start
        if status:
            raise SystemExit(f"benchmark.py: main.py ended with status {status}")
        params = jax.device_put(main.load_params(Path(out) / "params.pkl"))
    for name, function in original.items():
        setattr(main, name, function)
    training = seconds_of(lambda: main.train(config))

    timers.take_off_timing()
    compiling = timers.set_first_calls_apart(COMPILED)
    first_frame = timers.set_first_calls_apart(("game render",))
    rows: dict[str, Row] = {}

    def add(name: str, seconds: float, floor: float | None = None, n: int | None = None) -> None:
        rows[name] = (1000 * seconds, None if floor is None else 1000 * floor, n)

    def evaluations(inside: str | None) -> tuple[float, float, int]:
        calls, floor = timers.select("evaluate", inside=inside), 0.0
        for call in calls:
            steps, policies = (
                [part for part in timers.select(name, inside="evaluate") if part.caller is call]
                for name in ("games step", "policy_fn")
            )
            games = policies[0].shapes[0][0] if policies else config.eval_episodes
            floor += floor_of_evaluating(main, params, games, len(steps), len(policies))
        return total(calls), floor, len(calls)

    acts = timers.select("act", inside="train")
    steps = timers.select("game step", inside="train")
    resets = timers.select("game reset", inside="train")
    samples = timers.select("sample_batch", inside="train")
    rounds = timers.select("update_round", inside="train")
    size = config.updates * config.batch_size
    filled = min(len(steps), config.memory_size)
    parts = {
        " acting": (total(acts), floor_of_acting(main, params, len(acts)), len(acts)),
        " env stepping": (total(steps + resets), floor_of_stepping(len(steps)), len(steps)),
        " sampling": (
            total(samples),
            floor_of_sampling(filled, size, len(samples)),
            len(samples),
        ),
        " updating": (
            total(rounds),
            floor_of_updating(main.update_round, timers.arguments["update_round"], len(rounds)),
            len(rounds),
        ),
        " evaluating": evaluations("train"),
    }
    rest = total(timers.select("train", inside=None)) - sum(part[0] for part in parts.values())
    floor = sum(part[1] for part in parts.values())

    compilations = len({(c.name, c.shapes) for c in timers.calls if c.name in COMPILED})
    add("first device use", device)
    add("compiling", compiling, None, compilations)
    add("training, compiled", training, floor, 1)
    for name, part in parts.items():
        add(name, *part)
    add(" rest of training", rest)
    add("scoring before, after", *evaluations(None))

    frames = timers.select("game render", inside="record")
    images = timers.select("imwrite", inside="record")
    records = timers.select("record", inside=None)
    add("first frame: pygame", first_frame)
    add("rendering", total(frames), floor_of_rendering(len(frames)), len(frames))
    add("encoding GIFs", total(images), None, len(images))
    add("rest of recording", total(records) - total(frames) - total(images), None, len(records))
    figures = timers.select("learning_curve", inside=None)
    add("plotting", total(figures), None, len(figures))
    add("rest of the run", whole - sum(c.seconds for c in timers.calls if c.caller is None))
    return rows


def import_main() -> Any:
    sys.path.insert(0, str(ROOT))
    import main

    return main


# How cost grows, in a process of its own
class Stop(Exception):
    """Ends a training that has gone far enough."""


def train_by_the_clock(main: Any, config: Any, stop_at: int = 0) -> list[float]:
    """Trains with a progress bar that notes the time of each step; returns these times."""
    times: list[float] = []

    class Clock(find(main, "tqdm")):
        def update(self, n: int = 1) -> None:
            times.extend([time.perf_counter()] * int(n))
            if stop_at and len(times) >= stop_at:
                raise Stop

    find(main, "progress_bar")
    main.progress_bar = lambda total: Clock(total=total, disable=True)
    with contextlib.suppress(Stop):
        main.train(config)
    return times


def milliseconds_per_step(main: Any, config: Any, filled: int, rounds: int) -> float:
    """What a step of the training loop costs while the memory holds this many transitions."""
    steps = rounds * config.train_every
    first = -(-filled // config.train_every) * config.train_every  # the first round, which compiles
    config = replace(
        config,
        memory_size=filled,
        warmup_steps=filled,
        total_steps=first + config.train_every + steps + 1,
        early_stop=False,
        eval_every=10**9,
        eval_episodes=1,
    )
    times = train_by_the_clock(main, config, stop_at=config.total_steps)[first:]
    ends = times[config.train_every :: config.train_every]
    return 1000 * median(b - a for a, b in zip(ends, ends[1:], strict=False)) / config.train_every


def seconds_of_training(main: Any, config: Any, steps: int) -> float:
    """What train() takes for this many steps, all of it compiled beforehand."""
    config = replace(
        config,
        total_steps=steps,
        warmup_steps=config.train_every,
        early_stop=False,
        eval_every=10**9,
        eval_episodes=1,
    )
    train_by_the_clock(main, config, stop_at=2 * config.train_every)
    main.evaluate(0, main.new_learner(config).params, config=config)
    return seconds_of(lambda: train_by_the_clock(main, config))


def microseconds_per_update(main: Any, config: Any, batch_size: int, rounds: int) -> float:
    """What an update with this batch size takes, in the rounds that training does."""
    config = replace(config, batch_size=batch_size, warmup_steps=1024, eval_every=10**9)
    timers, update_round = Timers(), find(main, "update_round")
    timers.wrap(main, "update_round", compiled=True)
    try:
        train_by_the_clock(main, config, stop_at=1024 + config.train_every)
    finally:
        main.update_round = update_round
    seconds = floor_of_updating(update_round, timers.arguments["update_round"], rounds)
    return 1e6 * seconds / (rounds * config.updates)


def measure_growth(seed: int, quick: bool) -> dict[str, list]:
    main = import_main()
    config = main.Config(seed=seed)
    rounds, short = (8, 1_000) if quick else (32, 3_000)
    return {
        "memory": [
            (n, milliseconds_per_step(main, config, n, rounds))
            for n in (1_000, 10_000, 50_000, 100_000)
        ],
        "steps": [(n, seconds_of_training(main, config, n)) for n in (short, 10 * short)],
        "batch": [
            (n, microseconds_per_update(main, config, n, rounds // 4))
            for n in (32, 64, 128, 256, 512, 1024)
        ],
    }


# Fresh processes
def start(*arguments: str, folder: str) -> tuple[float, float, float]:
    """Runs Python with these arguments. Returns when it was started, as time.time() counts, how
    many seconds it took, and its peak memory in MB. Ends the benchmark if the process fails."""
    with open(Path(folder) / "stderr", "w+") as errors:
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.time() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{errors.read()}\nbenchmark.py: {' '.join(arguments)[:60]} failed")
    return began, seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def import_in_fresh_process(modules: str, folder: str) -> tuple[float, float, float]:
    """Milliseconds until these modules are imported, milliseconds until the end, peak memory."""
    path = Path(folder) / "imported"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {modules}\n"
        f"import time; print(time.time(), file=open({str(path)!r}, 'w'))"
    )
    began, seconds, memory = start("-c", code, folder=folder)
    return 1000 * (float(path.read_text()) - began), 1000 * seconds, memory


def measure_in_fresh_process(what: str, *options: str, folder: str) -> dict:
    path = Path(folder) / "result.json"
    start(__file__, "--child", what, str(path), *options, folder=folder)
    return json.loads(path.read_text())


def one_repeat(seed: int) -> dict[str, Row]:
    """All rows of the table, from four fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        bare, bare_total, bare_memory = import_in_fresh_process(IMPORTS, folder)
        imports, _, _ = import_in_fresh_process("main", folder)
        script = str(ROOT / "main.py")
        out = str(Path(folder) / "out")
        _, seconds, memory = start(script, "--seed", str(seed), "--out", out, folder=folder)
        parts = measure_in_fresh_process("parts", "--seed", str(seed), folder=folder)
    return {
        "imports": (imports, bare, None),
        **parts,
        "total, without timers": (1000 * seconds, bare_total, None),
        "peak memory, MB": (memory, bare_memory, None),
    }


# Tables
def show(repeats: list[dict[str, Row]]) -> str:
    """The table of the medians."""
    lines = [f"{'':26}{'ms':>10}{'floor':>10}{'ratio':>8}{'calls':>8}"]
    for name in repeats[0]:
        rows = [repeat[name] for repeat in repeats if name in repeat]
        floor = ratio = "-"
        if rows[0][1] is not None:
            floor = f"{median(row[1] for row in rows):.1f}"
            ratio = f"{median(row[0] / row[1] for row in rows):.2f}"
        calls = "-" if rows[0][2] is None else f"{median(row[2] for row in rows):.0f}"
        value = f"{median(row[0] for row in rows):.1f}"
        lines += [""] if name.startswith("total") else []
        lines.append(f"{name:26}{value:>10}{floor:>10}{ratio:>8}{calls:>8}")
    return "\n".join(lines)


def show_growth(repeats: list[dict[str, list]]) -> str:
    """Three tables of medians, with the factor to the first line of each."""
    lines = []
    for key, title, unit in (
        ("memory", "transitions in the memory", "ms per step"),
        ("steps", "steps of train(), compiled", "seconds"),
        ("batch", "transitions in a batch", "us per update"),
    ):
        lines += ["", f"{title:26}{unit:>16}{'factor':>10}"]
        sizes = [size for size, _ in repeats[0][key]]
        values = [median(repeat[key][i][1] for repeat in repeats) for i in range(len(sizes))]
        for size, value in zip(sizes, values, strict=True):
            lines.append(f"{size:<26,}{value:16.3f}{value / values[0]:10.2f}")
        if key == "memory":
            ratio = values[sizes.index(100_000)] / values[sizes.index(10_000)]
            lines.append(f"{'100,000 to 10,000':26}{'':16}{ratio:10.2f}")
    return "\n".join(lines)


def run(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="runs to take the median of")
    parser.add_argument("--seed", type=int, default=0, help="of main.py, in each of the runs")
    parser.add_argument("--quick", action="store_true", help="one repeat, and shorter growth")
    parser.add_argument("--growth", action="store_true", help="also show how cost grows")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)  # what to measure, a path
    options = parser.parse_args(argv)
    if options.child:
        what, path = options.child
        if what == "parts":
            result = measure_parts(options.seed)
        else:
            result = measure_growth(options.seed, options.quick)
        Path(path).write_text(json.dumps(result))
        return

    repeats = 1 if options.quick else max(1, options.repeats)
    quick = ["--quick"] if options.quick else []
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(
            f"benchmark.py: the machine is busy (load {load:.1f}, {cores} cores); expect noise",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory() as folder:
        import_in_fresh_process("main", folder)  # from here on the files are in the disk's cache
    print(show([one_repeat(options.seed) for _ in range(repeats)]), flush=True)
    if options.growth:
        growth = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                growth.append(
                    measure_in_fresh_process(
                        "growth", "--seed", str(options.seed), *quick, folder=folder
                    )
                )
        print(show_growth(growth))


if __name__ == "__main__":
    run()
