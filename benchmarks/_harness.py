"""Helpers shared by the benchmarks: one process per backend, alternating measurements, rows in `results/`."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from keras_resattn.utils.io import append_row
from keras_resattn.utils.provenance import package_version

BACKENDS = ("tensorflow", "jax", "torch")
RESULTS = Path(__file__).parents[1] / "results"
WARMUP = 2  # repetitions that compile and warm up; not counted


def installed(backends):
    """Return the backends of a list that are installed."""
    return [name for name in backends if importlib.util.find_spec(name)]


def run_on_backend(backend, command):
    """Run a Python command line in a new process on a backend. Return the JSON value of its last line of output."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def time_steps(networks, x, y, pairs):
    """Time inference and training steps of several networks in alternation.

    Alternating the networks means that a change in the machine's load affects all of them.

    Args:
        networks: `{name: model}`. Each model ends in a softmax.
        x: A batch of inputs.
        y: Their integer labels.
        pairs: Number of timed steps of each kind for each network.

    Returns:
        `{"inference" or "training": {name: [seconds, ...]}}`.
    """
    import keras

    for network in networks.values():
        network.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "sparse_categorical_crossentropy")
    steps = {
        "inference": lambda network: network.predict_on_batch(x),
        "training": lambda network: float(network.train_on_batch(x, y)),
    }
    times = {step: {name: [] for name in networks} for step in steps}
    for step, run in steps.items():
        for repeat in range(WARMUP + pairs):
            for name, network in networks.items():
                started = time.perf_counter()
                run(network)
                if repeat >= WARMUP:
                    times[step][name].append(time.perf_counter() - started)
    return times


def append_result(name, row):
    """Append a row with today's date to `results/<name>.csv`."""
    append_row(RESULTS / f"{name}.csv", {"date": datetime.date.today().isoformat(), **row})


def versions(backend):
    """Return the versions that the numbers depend on, as `name version` joined by semicolons."""
    found = [f"python {platform.python_version()}", f"keras_resattn {package_version()}"]
    for name in ("keras", "numpy", backend):
        for distribution in (name, f"{name}-cpu"):
            try:
                found.append(f"{name} {importlib.metadata.version(distribution)}")
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return "; ".join(found)
