"""Speed and memory of this package and of its alternatives: `make bench`.

    python benchmarks/run.py [--only SUITE ...] [--match WORD ...] [--again] [--list]

Each measured path is a process of its own with one Keras backend or runtime. It takes turns with a process of its peer,
so that a change in the machine's load affects both. A row of results/benchmarks.csv holds the medians and the median
ratio of the pairs, the time and memory that the process needed, versions, and machine. Rows that the file already has
for these versions and this machine are skipped: rerun the command to resume. A path that fails or takes longer than the
limit is a row with its error. Prints at the end which goals are met. See docs/results/benchmarks.md.
"""

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from _driver import FailedProcessError, Process, alternate, summarise
from _goals import print_goals
from _harness import RESULTS, machine, today, versions
from _once import SUFFIXES
from _suites import NAMES, RUNTIMES, STARTING, SUITES, Suite, tiny
from _table import ResultsFile

FORMATS = {"openvino": "openvino", "onnxruntime": "onnx"}


class Runner:
    """Measures rows and appends them to a file of results.

    Args:
        results: The `ResultsFile`.
        folder: Folder for exported networks and caches.
        limit: Seconds that a path may take to start, and to reply to a turn.
        budget: Seconds of alternating pairs per row.
    """

    def __init__(self, results, folder, limit, budget):
        self.results, self.folder, self.limit, self.budget = results, Path(folder), limit, budget
        self._exported = {}
        self._peer = None  # the live process of the peer of the current suite

    def run_suite(self, suite, chosen):
        """Measure the paths of a suite, of which `chosen(name)` says whether they are wanted."""
        try:
            for path in suite.paths:
                row = self._row_of(suite, path)
                if chosen(path.name) and not self.results.has(row):
                    self._record(row, lambda path=path: self._measure(suite, path))
        finally:
            self._close_peer()

    def run_once(self, suite, actions, chosen):
        """Measure actions of fresh processes, in turn with those of their peers."""
        for once in actions:
            row = {"suite": suite, "name": f"{once.name} {once.backend}".strip(), "mode": once.action["do"]}
            row |= {**once.columns(), "peer": once.peer[0] if once.peer else ""}
            row |= {"versions": versions("keras", "numpy", *once.backend.split())}
            if chosen(row["name"]) and not self.results.has(row):
                self._record(row, lambda once=once: self._measure_once(once))

    def _row_of(self, suite, path):
        used = {"pytorchcv": ("torch", "pytorchcv")}.get(path.library, ("keras", "numpy", path.backend, path.engine))
        row = {"suite": suite.name, "name": path.name, **suite.task(), **path.columns(), "peer": suite.peer.name}
        return row | {"versions": versions(*used)}

    def _record(self, row, measure):
        started = time.monotonic()
        try:
            row = row | measure()
        except FailedProcessError as error:
            row = row | {"error": str(error)}
        self.results.add({"date": today(), **row, **machine(), "load": f"{os.getloadavg()[0]:.1f}"})
        speed = row.get("error") or f"{float(row['seconds']):9.4f} s{float(row.get('ratio') or 1):8.3f}"
        print(f"{time.monotonic() - started:5.0f} s  {row['suite']:<28}{row['name']:<60}{speed}", flush=True)

    def _measure(self, suite, path):
        process = None
        try:
            if self._peer is None:
                self._peer = self._start(suite, suite.peer)
            process = self._start(suite, path)
            found = summarise(*alternate(process, self._peer, self.budget))
        except FailedProcessError:
            self._close_peer()  # it may have been the one that failed; the next row starts another
            raise
        finally:
            if process is not None:
                process.close()
        found["images_per_s"] = f"{suite.batch_size / float(found['seconds']):.2f}"
        starting = {name: f"{process.first[name]:.2f}" for name in ("start_s", "first_step_s")}
        return found | starting | {"peak_mb": process.peak_mb}

    def _close_peer(self):
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _start(self, suite, path):
        """Return a process of a path that has run one step."""
        specification = {"path": dataclasses.asdict(path), "task": suite.task(), "exported": None}
        if path.engine in RUNTIMES:
            specification["exported"] = self._export(suite, path)
        process = Process(specification, path.backend, self.limit, self.folder)
        try:
            process.first = process.reply()
        except BaseException:
            process.close()
            raise
        return process

    def _export(self, suite, path):
        """Export the network of a path for its runtime, once per run. Return the file."""
        format, dtype = FORMATS[path.engine], "int8" if path.dtype == "int8" else "float32"
        key = f"{path.network}-{suite.size}-{dtype}-{format}"
        if key not in self._exported:
            target = str(self.folder / f"{key}{SUFFIXES[format]}")
            action = {"do": "export", "network": path.network, "size": suite.size, "classes": suite.classes}
            self._reply({**action, "format": format, "dtype": dtype, "target": target}, "tensorflow")
            self._exported[key] = target
        return self._exported[key]

    def _measure_once(self, once):
        actions = [once.action, once.peer[1]] if once.peer else [once.action]
        seconds, peak = [[] for _ in actions], 0
        for repeat in range(once.repeats + 1):
            for action, measured in zip(actions, seconds, strict=True):
                reply = self._reply(action, once.backend)
                if action is once.action:
                    peak = reply["peak_mb"]
                if repeat or once.repeats == 1:  # the first fills the disk cache
                    measured.append(reply["seconds"])
            if once.repeats == 1:
                break
        found = summarise(seconds[0], seconds[-1])
        if not once.peer:
            found["ratio"] = found["peer_seconds"] = ""
        return found | {"peak_mb": peak}

    def _reply(self, specification, backend):
        process = Process(specification, backend, self.limit, self.folder)
        try:
            return process.reply()
        finally:
            process.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="SUITE", help="suites, in this order"
    )
    parser.add_argument("--match", nargs="+", default=[], metavar="WORD", help="rows whose name has all of these words")
    parser.add_argument("--again", action="store_true", help="measure rows again that the file has")
    parser.add_argument("--limit", type=float, default=600, help="seconds a path may take (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=4, help="seconds of pairs per row (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "benchmarks.csv", help="default: results/benchmarks.csv"
    )
    parser.add_argument("--tiny", action="store_true", help="small images and batches, to try the benchmark")
    parser.add_argument("--list", action="store_true", help="list suites and rows, and measure nothing")
    arguments = parser.parse_args()
    if arguments.tiny and arguments.output == RESULTS / "benchmarks.csv":
        parser.error("Expected --output with --tiny, whose rows are no results.")

    suites = {suite.name: tiny(suite) if arguments.tiny else suite for suite in SUITES} | {STARTING[0]: STARTING[1]}

    def chosen(name):
        return set(arguments.match) <= set(name.split())

    if arguments.list:
        for name in arguments.only:
            rows = suites[name].paths if isinstance(suites[name], Suite) else suites[name]
            print(name, *(f"  {row.name}" for row in rows if chosen(row.name)), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes are ended
    results = ResultsFile(arguments.output, again=arguments.again)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(results, folder, arguments.limit, arguments.budget)
        for name in arguments.only:
            if isinstance(suites[name], Suite):
                runner.run_suite(suites[name], chosen)
            else:
                runner.run_once(name, suites[name], chosen)
    print_goals(results.rows())
    return 0


if __name__ == "__main__":
    sys.exit(main())
