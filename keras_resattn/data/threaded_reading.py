"""Reading many images from files or records: in threads, in evenly spaced samples, and their common shape."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_resattn.typing import Size

STATISTICS_SAMPLE = 10_000  # number of images used for statistics if images are read one by one
CHUNK = 16  # images read by one task


def evenly_spaced(length: int, count: int = STATISTICS_SAMPLE) -> Iterator[np.ndarray]:
    """Yield indices of at most `count` evenly spaced images out of `length`, in chunks."""
    indices = np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))
    for start in range(0, len(indices), CHUNK):
        yield indices[start : start + CHUNK]


def map_in_threads(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 32) -> Generator[Any]:
    """Yield `function(item)` in the order of `items`, computed in threads (Pillow releases the GIL).

    Args:
        function: Thread-safe function.
        items: Its arguments, iterated over in the caller's thread.
        ahead: Number of results to compute in advance.
    """
    items = iter(items)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        pending = deque(pool.submit(function, item) for item in itertools.islice(items, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
                yield result
        finally:  # an error, or a caller that stops early
            for future in pending:
                future.cancel()


def common_shape(shapes: Iterable[Size], channels: int) -> tuple[int, ...] | None:
    """Return `(h, w, channels)` if all `(h, w)` are equal, else `None`; stop at the first difference."""
    first: tuple[int, ...] = ()
    for shape in shapes:
        first = first or tuple(shape)
        if tuple(shape) != first:
            return None
    return (*first, channels)
