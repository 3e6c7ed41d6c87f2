"""Cost of gated attention: WARN-28-10 relative to WRN-28-10, in inference and training steps.

    python benchmarks/warn_overhead.py [--backends tensorflow jax torch] [--pairs 7] [--batch-size 16] [--classes 10]

For each backend, one process holds both networks. Their steps alternate, so that a change in the machine's load affects
both. The result is the ratio of the medians; the goal is 1.05. Rows are appended to results/warn_overhead.csv.
"""

import argparse
import json
import statistics
import sys

from _harness import BACKENDS, append_result, installed, run_on_backend, time_steps, versions

GOAL = 1.05


def measure(arguments):
    """Time the steps on the backend of this process. Return `{step: {"wrn" or "warn": [seconds, ...]}}`."""
    import numpy as np

    from keras_resattn import WARN, WideResNet

    options = {"weights": None, "depth": arguments.depth, "width": arguments.width, "classes": arguments.classes}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(arguments.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, arguments.classes, arguments.batch_size)
    return time_steps({"wrn": WideResNet(**options), "warn": WARN(**options)}, x, y, arguments.pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all that are installed")
    parser.add_argument("--pairs", type=int, default=7, help="alternating steps of each (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=28, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0

    from keras_resattn.recipes.report import environment

    for backend in arguments.backends or installed(BACKENDS):
        for step, times in run_on_backend(backend, [__file__, "--measure", *sys.argv[1:]]).items():
            wrn, warn = (statistics.median(times[name]) for name in ("wrn", "warn"))
            verdict = "" if warn / wrn <= GOAL else f"   over the goal of {GOAL}"
            print(f"{backend:<12}{step:<11}{wrn:9.3f} s{warn:9.3f} s{warn / wrn:8.3f}{verdict}", flush=True)
            row = {
                "backend": backend,
                "step": step,
                "networks": f"WARN-{arguments.depth}-{arguments.width} / WRN-{arguments.depth}-{arguments.width}",
                "classes": arguments.classes,
                "batch_size": arguments.batch_size,
                "pairs": arguments.pairs,
                "wrn_s": f"{wrn:.4f}",
                "warn_s": f"{warn:.4f}",
                "ratio": f"{warn / wrn:.3f}",
                "processor": environment()["processor"],
                "versions": versions(backend),
            }
            append_result("warn_overhead", row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
