"""Finish the running step before Ctrl-C or a scheduler's SIGTERM stops the process."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred_signals(receive: Callable[[int], None]) -> Iterator[None]:
    """Pass the first SIGINT or SIGTERM inside the block to `receive`; the second raises `KeyboardInterrupt`.

    Outside the main thread, where Python does not allow signal handlers, the block runs unchanged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def handle(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        receive(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
