"""Files: atomic writing, guarded reading, JSON, CSV, and hashes."""

import contextlib
import csv
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from keras_resattn.typing import PathLike

#: Prefix of the names of files that are not yet written completely.
PARTIAL = ".partial-"


def user_path(path: PathLike) -> Path:
    """Return a path with a leading `~` or `~user` expanded to the home folder."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path in the same folder, and rename it to `path` at the end.

    Whatever happens in the block (an error, a full disk, a killed process), `path` is either the old file or the
    complete new one. The temporary name ends in the name of `path`, so suffixes keep their meaning.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    path = Path(path)
    partial = None
    try:
        handle, partial = tempfile.mkstemp(prefix=PARTIAL, suffix="-" + path.name, dir=path.parent)
        os.close(handle)
        yield Path(partial)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "the previous file is intact" if path.exists() else "no file was created"
        message = f"{path} could not be written ({error}); {kept}. Fix the problem, then repeat the call."
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error


@contextlib.contextmanager
def open_regular(path: PathLike) -> Iterator[BufferedReader]:
    """Open a regular file for reading in binary mode, without ever blocking on a pipe.

    Args:
        path: Path of the file; symbolic links are followed.

    Yields:
        The open file.

    Raises:
        ValueError: if the path does not exist, is not a regular file (for example a folder, named pipe, socket or
            device), or cannot be opened. The message names it.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)  # before opening, which may already act on a device
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"Expected {path} to be a readable file; it cannot be opened ({reason}).") from error
    try:
        _check_regular(path, os.fstat(handle).st_mode)  # the file may have been replaced since
    except ValueError:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        yield file


def reserve(path: PathLike, size: int) -> None:
    """Write `size` zero bytes to a file, to check that the disk has room for them.

    HDF5 does not handle a full disk: it raises various errors, and may abort the process.

    Raises:
        OSError: if the disk is full.
    """
    with open(path, "wb") as file:
        for first in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - first)))


def read_json(path: PathLike, remedy: str, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
        path: Path of the file.
        remedy: Sentence for the error message that says what to do about a damaged file.
        kind: Expected Python type of the content.

    Raises:
        ValueError: if the file does not exist, is damaged, or holds a value of another type.
    """
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"Expected {path} to be a JSON file; it cannot be read ({error}). {remedy}") from error
    if not isinstance(content, kind):
        raise ValueError(
            f"Expected {path} to hold a JSON {kind.__name__}; received: a {type(content).__name__}. {remedy}"
        )
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sha256(path: PathLike) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal.

    Raises:
        ValueError: if the file cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        return hash_of(file, path)


def hash_of(file: BufferedReader, path: PathLike) -> str:
    """Return the SHA-256 of an open file from its current position, in hexadecimal; `path` is for messages.

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


def read_rows(path: PathLike) -> list[dict[str, str]]:
    """Return the rows of a CSV file as dictionaries of strings; an empty list if the file does not exist."""
    path = Path(path)
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_row(path: PathLike, row: Mapping[str, Any]) -> None:
    """Append a row, `{column: value}`, to a CSV file, atomically. Missing columns stay empty.

    Creates the file and its folder if they do not exist.

    Raises:
        ValueError: if the row has columns that the file lacks.
        OSError: if it cannot be written.
    """
    rows = read_rows(path)
    if rows and set(row) - set(rows[0]):
        raise ValueError(f"Expected columns {', '.join(rows[0])} in {path}; received: {', '.join(row)}.")
    columns = list(rows[0]) if rows else list(row)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path)) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
