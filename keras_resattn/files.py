"""Atomic writing, guarded opening and hashes of files."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path


def user_path(path):
    """Return the `Path` that a user means: `~` and `~user` at its beginning are home folders, as in a shell."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def atomic_write(path):
    """Yields a temporary path beside `path`, which becomes `path` if the block succeeds.

    Whatever happens in the block (an error, a full disk, a kill), `path` is the old file or the
    whole new one. The temporary name ends like `path`, so that suffixes keep their meaning.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def open_regular(path):
    """Open a regular file for reading in binary mode, without ever waiting for a writer.

    Args:
        path: Path of the file; symbolic links are followed.

    Yields:
        The open file.

    Raises:
        ValueError: if the path is no regular file (a folder, a named pipe, a socket, a device), does not exist, or
            cannot be opened. The message names it.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)  # opening a device may already do something
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"Expected {path} to be a readable file; it cannot be opened ({reason}).") from error
    try:
        _check_regular(path, os.fstat(handle).st_mode)  # another file may have taken its place
    except ValueError:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        yield file


def sha256(path):
    """Return the SHA-256 of a regular file, in hexadecimal.

    Raises:
        ValueError: if the file cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return hash_of(file, path)


def hash_of(file, path):
    """Return the SHA-256 of an open file from where it stands, in hexadecimal; `path` is for messages.

    Raises:
        ValueError: if reading fails.
    """
    try:
        return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"Expected {path} to be a readable file; reading failed ({error}).") from error


def _check_regular(path, mode):
    if stat.S_ISREG(mode):
        return
    kinds = {
        "a folder": stat.S_ISDIR,
        "a named pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    }
    kind = next((kind for kind, is_kind in kinds.items() if is_kind(mode)), "something else")
    raise ValueError(f"Expected {path} to be a regular file; it is {kind}.")
