"""Passes over images that do not lie in memory: in threads, a sample of them, their shape and their statistics."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_resattn.data import arrays
from keras_resattn.typing import Size, Statistics

SAMPLE = 10_000  # images that statistics are taken from, where they have to be read one by one
CHUNK = 16  # images read at once in a pass
MEASURED = ("channel", "pixel_mean")  # normalisations that depend on the data


def sample(length: int, count: int = SAMPLE) -> Iterator[np.ndarray]:
    """Yields the indices of at most `count` evenly spaced images of `length`, in chunks."""
    rows = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 32) -> Generator[Any]:
    """Yields `function(item)` in the order of `items`, up to `ahead` of them computed before they are asked for.

    They are computed in threads, as Pillow lets go of Python's lock; `items` are taken in the caller's.
    """
    items = iter(items)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        waiting = deque(pool.submit(function, item) for item in itertools.islice(items, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
                yield result
        finally:  # an error, or a caller that stops early
            for future in waiting:
                future.cancel()


def one_shape(shapes: Iterable[Size], channels: int) -> tuple[int, ...] | None:
    """Returns `(h, w, channels)` if all of `(h, w)` are the same, else `None`; stops at the first that differs."""
    first: tuple[int, ...] = ()
    for shape in shapes:
        first = first or tuple(shape)
        if tuple(shape) != first:
            return None
    return (*first, channels)


def accumulated_statistics(
    batches: Callable[[], Iterable[np.ndarray]], normalization: str, channels: int
) -> Statistics:
    """Returns `(mean, std)` as `data.arrays.statistics` does, from batches of images of one shape.

    Args:
        batches: A function that returns an iterator of images `(n, h, w, c)`; not called where it is not needed.
        normalization: A recipe's `normalization`.
        channels: Number of channels.
    """
    if normalization not in MEASURED:
        return arrays.statistics(np.zeros((1, 1, 1, channels), "uint8"), normalization)
    count = 0
    total: Any = 0.0
    squares: Any = 0.0
    for x in batches():
        count += len(x)
        total = total + x.sum(0, dtype="float64")
        if normalization == "channel":
            squares = squares + np.square(x, dtype="float64").sum((0, 1, 2))
    if normalization == "pixel_mean":
        return (total / count).tolist(), [1.0] * channels
    count *= total.shape[0] * total.shape[1]
    mean = total.sum((0, 1)) / count
    return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()
