"""Fused batch normalization against Keras' own: a training step and a step of inference of Attention-56.

    python benchmarks/batch_normalization.py [--backends tensorflow torch] [--dtypes float32 mixed_bfloat16] [--pairs 7]

Two copies of one network live in a process for each backend and dtype policy; in one of them every
`keras_resattn.layers.BatchNormalization` computes as `keras.layers.BatchNormalization` does. Their steps alternate, so
that a change in the machine's load affects both. The result is the ratio of the medians, Keras' time over ours. Rows
go to results/batch_normalization.csv. JAX is left out: there the layer is Keras' own.
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

RESULTS = Path(__file__).parent / "results" / "batch_normalization.csv"
BACKENDS = ("tensorflow", "torch")


def measure(arguments):
    """Times the steps on this process' backend. Returns `{step: {"keras" or "fused": [seconds, ...]}}`."""
    import keras
    import numpy as np

    from keras_resattn import ResidualAttention56
    from keras_resattn.layers import BatchNormalization
    from keras_resattn.models.inspection import iter_layers

    keras.config.set_dtype_policy(arguments.dtypes[0])
    side, batch_size = arguments.size, arguments.batch_size
    networks = {
        name: ResidualAttention56(weights=None, classes=200, input_shape=(side, side, 3)) for name in ("keras", "fused")
    }
    for layer in iter_layers(networks["keras"]):
        if isinstance(layer, BatchNormalization):
            layer._fused = lambda *_: None
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch_size, side, side, 3)).astype("float32"), rng.integers(0, 200, batch_size)
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
    parser.add_argument("--dtypes", nargs="+", default=["float32", "mixed_bfloat16"], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=7, help="steps of each, alternating (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="side of the images (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0

    from import_time import versions

    from keras_resattn.recipes.report import environment
    from keras_resattn.utils.io import append_row

    backends = arguments.backends or [name for name in BACKENDS if importlib.util.find_spec(name)]
    for backend, dtype in [(backend, dtype) for backend in backends for dtype in arguments.dtypes]:
        command = [sys.executable, __file__, "--measure", "--dtypes", dtype, "--pairs", str(arguments.pairs)]
        command += ["--batch-size", str(arguments.batch_size), "--size", str(arguments.size)]
        variables = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        output = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout
        for step, times in json.loads(output.splitlines()[-1]).items():
            ours, theirs = (statistics.median(times[name]) for name in ("fused", "keras"))
            print(f"{backend:<12}{dtype:<16}{step:<11}{theirs:9.3f} s{ours:9.3f} s{theirs / ours:8.3f}", flush=True)
            row = {
                "date": datetime.date.today().isoformat(),
                "backend": backend,
                "dtype": dtype,
                "step": step,
                "size": arguments.size,
                "batch_size": arguments.batch_size,
                "pairs": arguments.pairs,
                "keras_s": f"{theirs:.4f}",
                "fused_s": f"{ours:.4f}",
                "ratio": f"{theirs / ours:.3f}",
                "processor": environment()["processor"],
                "versions": versions(backend),
            }
            append_row(RESULTS, row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
