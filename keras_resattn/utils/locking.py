"""Lock of a run folder: one process trains in it at a time."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from keras_resattn.utils.io import PARTIAL

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes for the duration of a block. The lock ends with the process.

    Partial files, left behind by a process that was killed while writing, are deleted.

    Args:
        folder: The folder, created if it does not exist.

    Raises:
        BlockingIOError: if another process, or another call in this process, holds the lock; the message names it.
        OSError: if the lock file cannot be written.
    """
    import filelock  # needed only for training

    path = Path(folder) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise BlockingIOError(
            f"Expected no other process to train in {folder}; it is locked by {_holder(path)}. Wait until it ends, or "
            "pass another run_dir."
        ) from error
    try:
        with contextlib.suppress(OSError):  # used only in error messages
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        for partial in path.parent.glob(f"{PARTIAL}*"):
            partial.unlink()
        yield
    finally:
        lock.release()


def _holder(path):
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")[:200].strip() or "another process"
    return "another process"
