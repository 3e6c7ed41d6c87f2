"""Import cost: seconds and modules that all public names of `keras_resattn` add to `import keras`.

    python benchmarks/import_time.py [--backends tensorflow jax torch] [--pairs 7]

Each import runs in a fresh process; the two alternate, so that a change in the machine's load affects both. Rows
are appended to results/import_time.csv. Exits with status 1 if a heavy module is loaded that Keras alone does not load.
"""

import argparse
import statistics
import sys

from _harness import BACKENDS, append_result, installed, run_on_backend, versions

HEAVY = ("PIL", "huggingface_hub", "keras_cv", "keras_hub", "matplotlib", "rich", "tensorflow_datasets")
GOAL = 0.2  # seconds added

PROBE = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(name for name in sys.modules if "." not in name)]))
"""


#: `import keras_resattn` alone imports nothing heavy; the names do when they are first used.
STATEMENTS = {"keras": "import keras", "keras_resattn": "from keras_resattn import *"}


def measure(package, backend):
    """Import `package` in a new process. Return the seconds, and the names of the top-level modules loaded."""
    seconds, modules = run_on_backend(backend, ["-c", PROBE.format(statement=STATEMENTS[package])])
    return seconds, set(modules)


def compare(backend, pairs):
    """Measure one backend. Return a row of the table, and the heavy modules that Keras alone does not load."""
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
        "backend": backend,
        "keras_s": f"{keras_s:.3f}",
        "keras_resattn_s": f"{resattn_s:.3f}",
        "added_s": f"{resattn_s - keras_s:.3f}",
        "ratio": f"{resattn_s / keras_s:.3f}",
        "versions": versions(backend),
    }
    return row, sorted((modules["keras_resattn"] - modules["keras"]).intersection(HEAVY))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all that are installed")
    parser.add_argument("--pairs", type=int, default=7, help="alternating imports of each (default: %(default)s)")
    arguments = parser.parse_args()
    backends = arguments.backends or installed(BACKENDS)

    rows, loaded = [], {}
    print(f"{'backend':<12}{'keras':>9}{'keras_resattn':>16}{'added':>9}{'ratio':>8}")
    for backend in backends:
        row, loaded[backend] = compare(backend, arguments.pairs)
        rows.append(row)
        verdict = "" if float(row["added_s"]) < GOAL else f"   over the goal of {GOAL} s"
        times = f"{row['keras_s']:>7} s{row['keras_resattn_s']:>14} s{row['added_s']:>7} s{row['ratio']:>8}"
        print(f"{backend:<12}{times}{verdict}", flush=True)
    for row in rows:
        append_result("import_time", row)
    for backend, modules in loaded.items():
        if modules:
            print(f"{backend}: loaded beyond the modules that Keras loads: {', '.join(modules)}", file=sys.stderr)
    return int(any(loaded.values()))


if __name__ == "__main__":
    sys.exit(main())
