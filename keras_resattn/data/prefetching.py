"""Access to batches by index: prefetched by threads, or located in a stream."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_resattn.data.batch_stream import BatchStream


class Prefetcher:
    """Items `make(i)` by index; threads compute the next few in advance.

    Args:
        make: Thread-safe function of an index.
        count: Number of items.
        threads: Number of threads, and of items computed in advance; 0 computes items on access.
    """

    def __init__(self, make: Callable[[int], Any], count: int, threads: int) -> None:
        self._make, self._count, self._threads = make, count, threads
        # Idle threads of a pool end when it is garbage-collected.
        self._pool: Any = ThreadPoolExecutor(threads, "batches") if threads else None
        self._lock = threading.Lock()
        self._futures: dict[int, Future] = {}

    def __getitem__(self, i: int) -> Any:
        if self._pool is None:
            return self._make(i)
        with self._lock:
            if i not in self._futures:  # a jump, for which a stream restarts its epoch: pending results are useless
                self._futures = {}
            for j in range(i, max(min(i + 1 + self._threads, self._count), i + 1)):
                if j not in self._futures:
                    self._futures[j] = self._pool.submit(self._make, j)
            self._futures = {j: future for j, future in self._futures.items() if j >= i}
            future = self._futures[i]
        return future.result()


class ResumableIterator:
    """Batches of a `BatchStream` by epoch and step.

    A later step of the same epoch continues the iteration; an earlier step or another epoch starts a new one.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._next = 0
        self._batches: Any = None

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of a batch. Batches before it are read and discarded."""
        with self._lock:
            if epoch != self._epoch or step < self._next:
                self._epoch, self._next, self._batches = epoch, 0, iter(self._stream.epoch(epoch))
            for x, y in self._batches:
                self._next += 1
                if self._next > step:
                    return np.asarray(x), np.asarray(y)
            length, self._epoch = self._next, None
        raise ValueError(f"Expected more than {step} batches in epoch {epoch} of the stream; received: {length}.")
