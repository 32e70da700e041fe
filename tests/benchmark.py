"""Measure what a run of main.py costs, and where its time goes.

    python tests/benchmark.py                       runs in turn with the bare imports
    python tests/benchmark.py --other old/main.py   runs in turn with another main.py
    python tests/benchmark.py --parts               one run, function by function

All other options are those of main.py, as in --parts --prioritized. Nothing else should
run on the machine meanwhile. Times change from hour to hour, so that only the ratios of
runs that took turns can be compared. Linux or macOS is needed, but not for --parts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = (
    "import jax.numpy, optax, chex, gymnasium, matplotlib.figure, imageio.v3, tqdm"
)


def measure(*words):
    """Return the CPU seconds, wall seconds and peak MB of Python with these words."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, *words], cwd=folder, **quiet)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    if status != 0:
        sys.exit(f"benchmark.py: this failed: python {' '.join(words)}")

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / unit


def compare(other, n_runs, words):
    """Print what each run costs, and what the run costs that took turns with it."""
    ratios = []
    print("          main.py                  other")
    print("seed    CPU s   wall s     MB    CPU s   wall s     MB   ratio of CPU s")
    for seed in range(1, n_runs + 1):
        options = ["--seed", str(seed), *words]
        ours = measure(str(ROOT / "main.py"), *options)
        if other is None:
            theirs = measure("-c", IMPORTS)
        else:
            theirs = measure(str(other.resolve()), *options)
        ratios.append(ours[0] / theirs[0])
        numbers = "".join(f"{c:9.2f}{w:9.2f}{mb:7.0f}" for c, w, mb in (ours, theirs))
        print(f"{seed:4}{numbers}{ratios[-1]:8.2f}", flush=True)
    print(f"The median ratio is {median(ratios):.2f}.")


def time_calls(function, times):
    """Return a function that does the same, and adds the seconds of each call."""
    import jax

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = jax.block_until_ready(function(*args, **kwargs))
        times.append(time.perf_counter() - start)
        return result

    return timed


def print_parts(words):
    """Print the seconds of each function in one run. The first call may compile it.

    What a function calls is counted again there. JAX calls some only to compile them.
    """
    sys.path.insert(0, str(ROOT))
    start = time.perf_counter()
    import main

    print(f"{time.perf_counter() - start:.2f} seconds for imports")
    times = defaultdict(list)
    for name, value in list(vars(main).items()):
        is_ours = getattr(value, "__module__", "") == "main" and name != "main"
        if is_ours and not isinstance(value, type):
            setattr(main, name, time_calls(value, times[name]))

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        main.main([*words, "--out", folder])
        print(f"{time.perf_counter() - start:.2f} seconds for the run")
    print("function             all calls  first call    calls")
    for name, seconds in sorted(times.items(), key=lambda item: -sum(item[1])):
        if seconds:
            print(f"{name:20}{sum(seconds):10.3f}{seconds[0]:12.3f}{len(seconds):9}")


def run():
    """Do what the command line asks for."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=summary, allow_abbrev=False)
    parser.add_argument("--other", type=Path, help="another main.py")
    parser.add_argument("--runs", type=int, default=5, help="how many seeds, from 1 on")
    parser.add_argument("--parts", action="store_true", help="time each function")
    args, words = parser.parse_known_args()
    if args.parts:
        print_parts(words)
    else:
        compare(args.other, args.runs, words)


if __name__ == "__main__":
    run()
