"""What all public names of `keras_resattn` add to `import keras`: seconds, and modules.

    python benchmarks/import_time.py [--backends tensorflow jax torch] [--pairs 7]

Each import runs in a fresh process; the two alternate, so that a change in the machine's load meets both. Rows go to
results/import_time.csv. Ends with status 1 if a heavy module is loaded that Keras alone does not load.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from keras_resattn.utils.io import append_row

BACKENDS = ("tensorflow", "jax", "torch")
HEAVY = ("PIL", "huggingface_hub", "keras_cv", "keras_hub", "matplotlib", "rich", "tensorflow_datasets")
GOAL = 0.2  # seconds added
RESULTS = Path(__file__).parent / "results" / "import_time.csv"

PROBE = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(name for name in sys.modules if "." not in name)]))
"""


#: `import keras_resattn` alone imports nothing heavy: its names do, at first use.
STATEMENTS = {"keras": "import keras", "keras_resattn": "from keras_resattn import *"}


def measure(package, backend):
    """Imports `package` in a new process. Returns seconds, and the names of the top-level modules loaded."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", PROBE.format(statement=STATEMENTS[package])]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds, modules = json.loads(result.stdout.splitlines()[-1])
    return seconds, set(modules)


def compare(backend, pairs):
    """Measures one backend. Returns a row of the table, and the heavy modules that Keras alone does not load."""
    for package in ("keras", "keras_resattn"):
        measure(package, backend)  # fills the disk cache and compiles bytecode; not counted
    times = {"keras": [], "keras_resattn": []}
    modules = {}
    for _ in range(pairs):
        for package, seconds in times.items():
            elapsed, modules[package] = measure(package, backend)
            seconds.append(elapsed)
    keras_s, resattn_s = (statistics.median(seconds) for seconds in times.values())
    row = {
        "date": datetime.date.today().isoformat(),
        "backend": backend,
        "keras_s": f"{keras_s:.3f}",
        "keras_resattn_s": f"{resattn_s:.3f}",
        "added_s": f"{resattn_s - keras_s:.3f}",
        "ratio": f"{resattn_s / keras_s:.3f}",
        "versions": versions(backend),
    }
    return row, sorted((modules["keras_resattn"] - modules["keras"]).intersection(HEAVY))


def versions(backend):
    """Returns the versions that the numbers depend on, as `name version` joined by semicolons."""
    names = {"keras_resattn": "keras-resattn", "keras": "keras", "numpy": "numpy", backend: backend}
    found = [f"python {platform.python_version()}"]
    for name, distribution in names.items():
        for candidate in (distribution, f"{distribution}-cpu"):
            try:
                found.append(f"{name} {importlib.metadata.version(candidate)}")
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return "; ".join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all that are installed")
    parser.add_argument("--pairs", type=int, default=7, help="imports of each, alternating (default: %(default)s)")
    arguments = parser.parse_args()
    backends = arguments.backends or [name for name in BACKENDS if importlib.util.find_spec(name)]

    rows, loaded = [], {}
    print(f"{'backend':<12}{'keras':>9}{'keras_resattn':>16}{'added':>9}{'ratio':>8}")
    for backend in backends:
        row, loaded[backend] = compare(backend, arguments.pairs)
        rows.append(row)
        verdict = "" if float(row["added_s"]) < GOAL else f"   over the goal of {GOAL} s"
        times = f"{row['keras_s']:>7} s{row['keras_resattn_s']:>14} s{row['added_s']:>7} s{row['ratio']:>8}"
        print(f"{backend:<12}{times}{verdict}", flush=True)
    for row in rows:
        append_row(RESULTS, row)
    for backend, modules in loaded.items():
        if modules:
            print(f"{backend}: loaded beyond what Keras loads: {', '.join(modules)}", file=sys.stderr)
    return int(any(loaded.values()))


if __name__ == "__main__":
    sys.exit(main())
