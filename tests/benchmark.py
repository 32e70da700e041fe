"""How long a run takes, beside the bare imports or another main.py, in turn; and where it goes.

    python tests/benchmark.py                       five runs of seeds 1 to 5, and of the imports
    python tests/benchmark.py --other old/main.py   the same beside another version
    python tests/benchmark.py --parts               one run, function by function
    python tests/benchmark.py --growth              what a step costs as the memory grows

Not part of the test run. Let nothing else run on the machine meanwhile, and quote ratios: each is
the median over pairs of runs, one after the other.
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
    "import jax, jax.numpy, optax, chex, gymnasium, numpy, matplotlib.pyplot, imageio.v3, tqdm"
)
COMPILED = ("update_round", "policy_fn", "new_learner")
TIMED = (
    *COMPILED, "action_fn", "remember", "sample_batch", "measure_scale", "evaluate", "train",
    "save_params", "load_params", "record", "learning_curve", "hand_in",
)  # fmt: skip


def seconds(*words):
    """Wall-clock seconds and peak memory in MB of a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - start
    if status:
        sys.exit(f"benchmark.py: {' '.join(words)[:80]} failed")
    return took, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def compare(other, seeds, repeats):
    """Whole runs, each in turn with what it is compared with."""
    ratios = []
    print(f"{'seed':>5}{'seconds':>9}{'other':>9}{'ratio':>7}{'MB':>6}")
    for seed in seeds:
        ours, theirs = [], []
        for _ in range(repeats):
            words = ["--seed", str(seed)]
            ours.append(seconds(str(ROOT / "main.py"), *words))
            theirs.append(seconds(other, *words) if other else seconds("-c", IMPORTS))
        pairs = [a / b for (a, _), (b, _) in zip(ours, theirs, strict=True)]
        ratios.append(median(pairs))
        a, b = median(t for t, _ in ours), median(t for t, _ in theirs)
        print(
            f"{seed:5}{a:9.2f}{b:9.2f}{ratios[-1]:7.2f}{max(m for _, m in ours):6.0f}", flush=True
        )
    print(f"median ratio {median(ratios):.2f}")


def parts(seed):
    """Seconds in each function of one run; a first call compiles, so it stands apart."""
    sys.path.insert(0, str(ROOT))
    start = time.perf_counter()
    import jax

    import main

    print(f"{'imports':18}{time.perf_counter() - start:8.2f}")
    calls = defaultdict(list)

    def timed(name, function):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = jax.block_until_ready(function(*args, **kwargs))
            calls[name].append(time.perf_counter() - start)
            return result

        return call

    for name in TIMED:
        setattr(main, name, timed(name, getattr(main, name)))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        main.main(["--seed", str(seed), "--out", folder])
    print(
        f"{'run':18}{time.perf_counter() - start:8.2f}\n{'':18}{'all':>8}{'first':>8}{'calls':>7}"
    )
    for name, times in sorted(calls.items(), key=lambda item: -sum(item[1])):
        print(f"{name:18}{sum(times):8.3f}{times[0]:8.3f}{len(times):7}")


def growth():
    """Microseconds of a step, with its share of a round, while the memory holds so many."""
    sys.path.insert(0, str(ROOT))
    import main

    for filled in (1_000, 10_000, 100_000):
        config = main.Config(
            f"--memory-size {filled} --warmup-steps {filled} --total-steps {filled + 4000} "
            "--no-early-stop --eval-every 1000000 --eval-episodes 1"
        )
        ends, update_round = [], main.update_round

        def watched(*args, ends=ends, update_round=update_round, **kwargs):
            ends.append(time.perf_counter())
            return update_round(*args, **kwargs)

        main.update_round = watched
        main.train(config, quiet=True)
        main.update_round = update_round
        rounds = [b - a for a, b in zip(ends[1:], ends[2:], strict=False)]
        print(f"{filled:8} transitions {1e6 * median(rounds) / config.train_every:8.0f} us a step")


def run():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--other", help="another main.py, instead of the bare imports")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.parts:
        parts(options.seeds[0])
    elif options.growth:
        growth()
    else:
        other = options.other and str(Path(options.other).resolve())
        compare(other, options.seeds, options.repeats)


if __name__ == "__main__":
    run()
