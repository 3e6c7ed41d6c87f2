"""Processes that take turns: the driver keeps one live process per path and asks them alternately for steps."""

import contextlib
import json
import math
import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _harness import threads

WORKER = str(Path(__file__).with_name("_worker.py"))
WARMUP = 2  # turns of each process that are not counted
TURN = 0.2  # seconds that a turn lasts at least: several steps, if they are short
LEAST, MOST = 5, 15  # number of counted pairs


class FailedProcessError(Exception):
    """A process ended, or took too long."""


class Process:
    """A `_worker.py` with a specification, in a process group of its own.

    Args:
        specification: JSON content for `_worker.py`.
        backend: Keras backend.
        limit: Seconds until the first reply, and for each reply after it.
        folder: Folder for messages of the process and for the cache of `torch.compile`.
        command: The program (default: `_worker.py`).
    """

    def __init__(self, specification, backend, limit, folder, command=(sys.executable, WORKER)):
        self.limit = limit
        self.first = self.peak_mb = None  # first reply, and the largest memory reported so far
        self._pending = b""
        self._messages = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in `close`)
        count = str(threads())
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend or "tensorflow",
            "OMP_NUM_THREADS": count,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TORCHINDUCTOR_CACHE_DIR": str(folder),  # so that the first step of a compiled network compiles it
        }
        self._process = subprocess.Popen(
            [*command, json.dumps(specification)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            start_new_session=True,
        )

    def reply(self):
        """Return the next reply. Raises `FailedProcessError` if the process ends, or exceeds its limit."""
        deadline = time.monotonic() + self.limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0, deadline - time.monotonic())):
                    raise FailedProcessError(f"no reply within {self.limit:g} s")
                read = os.read(self._process.stdout.fileno(), 65536)
                if not read:
                    raise FailedProcessError(self._last_message())
                self._pending += read
        line, _, self._pending = self._pending.partition(b"\n")
        content = json.loads(line)
        self.peak_mb = content["peak_mb"]
        return content

    def turn(self, count):
        """Run some steps. Return the reply, with the seconds of one step."""
        try:
            self._process.stdin.write(f"{count}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedProcessError(self._last_message()) from None
        return self.reply()

    def close(self):
        """End the process and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._messages):
            with contextlib.suppress(OSError):
                file.close()

    def _last_message(self):
        code = self._process.wait()
        self._messages.seek(0)
        lines = [line.strip() for line in self._messages.read().decode(errors="replace").splitlines() if line.strip()]
        return (lines[-1] if lines else f"ended with exit code {code}")[:300]


def alternate(measured, peer, budget):
    """Time the steps of two processes in turn.

    Args:
        measured: A `Process` that has given its first reply.
        peer: Another one.
        budget: Seconds after which no further pair starts, once there are enough.

    Returns:
        The seconds per step of both: two lists of the same length.
    """
    counts, times = {}, {measured: [], peer: []}
    for process in times:
        for _ in range(WARMUP):
            seconds = process.turn(1)["seconds"]
        counts[process] = max(1, math.ceil(TURN / max(seconds, 1e-6)))
    started = time.monotonic()
    while len(times[peer]) < LEAST or (len(times[peer]) < MOST and time.monotonic() - started < budget):
        for process, seconds in times.items():
            seconds.append(process.turn(counts[process])["seconds"])
    return times[measured], times[peer]


def summarise(measured, peer):
    """Return the columns of two lists of seconds: medians, and the median of the speed ratios pair by pair."""
    ratios = [theirs / ours for ours, theirs in zip(measured, peer, strict=True)]
    return {
        "seconds": f"{statistics.median(measured):.5g}",
        "ratio": f"{statistics.median(ratios):.4f}",
        "peer_seconds": f"{statistics.median(peer):.5g}",
        "pairs": len(measured),
    }
