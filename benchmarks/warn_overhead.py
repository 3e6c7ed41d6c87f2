"""What gated attention costs: WARN-28-10 against WRN-28-10, a step of inference and a step of training.

    python benchmarks/warn_overhead.py [--backends tensorflow jax torch] [--pairs 7] [--batch-size 16] [--classes 10]

Both networks live in one process for each backend, and their steps alternate, so that a change in the machine's load
meets both. The ratio of the medians is the result; the goal is 1.05. Rows go to results/warn_overhead.csv.
"""

import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL = 1.05
RESULTS = Path(__file__).parent / "results" / "warn_overhead.csv"
BACKENDS = ("tensorflow", "jax", "torch")


def measure(arguments):
    """Times the steps on this process' backend. Returns `{step: {network: [seconds, ...]}}`."""
    import keras
    import numpy as np

    from keras_resattn import WARN, WideResNet

    options = {"weights": None, "depth": arguments.depth, "width": arguments.width, "classes": arguments.classes}
    networks = {"wrn": WideResNet(**options), "warn": WARN(**options)}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(arguments.batch_size, 32, 32, 3)).astype("float32")
    y = rng.integers(0, arguments.classes, arguments.batch_size)
    for network in networks.values():
        network.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "sparse_categorical_crossentropy")
    steps = {
        "inference": lambda network: network.predict_on_batch(x),
        "training": lambda network: float(network.train_on_batch(x, y)),
    }
    times = {step: {name: [] for name in networks} for step in steps}
    for step, run in steps.items():
        for repeat in range(arguments.pairs + 2):  # the first two compile and warm up
            for name, network in networks.items():
                started = time.perf_counter()
                run(network)
                if repeat >= 2:
                    times[step][name].append(time.perf_counter() - started)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all that are installed")
    parser.add_argument("--pairs", type=int, default=7, help="steps of each, alternating (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=28, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0

    from import_time import versions

    from keras_resattn.recipes.report import environment
    from keras_resattn.utils.io import append_row

    for backend in arguments.backends or [name for name in BACKENDS if importlib.util.find_spec(name)]:
        command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
        variables = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        output = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout
        for step, times in json.loads(output.splitlines()[-1]).items():
            wrn, warn = (statistics.median(times[name]) for name in ("wrn", "warn"))
            verdict = "" if warn / wrn <= GOAL else f"   over the goal of {GOAL}"
            print(f"{backend:<12}{step:<11}{wrn:9.3f} s{warn:9.3f} s{warn / wrn:8.3f}{verdict}", flush=True)
            row = {
                "date": datetime.date.today().isoformat(),
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
            append_row(RESULTS, row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
