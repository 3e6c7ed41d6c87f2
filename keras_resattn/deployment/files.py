"""Paths of exports, written atomically. Does not need Keras."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_resattn.deployment.formats import FORMATS, Format
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import user_path

SUFFIXES = tuple(format.suffix for format in FORMATS.values() if format.suffix)


def check_path(path: PathLike, format: Format, overwrite: bool, option: str = "overwrite=True") -> Path:
    """Return the path of an export, with `~` expanded; messages name the `option` that replaces an existing file.

    Raises:
        ValueError: If its suffix is not that of the format, or it cannot be written.
        FileExistsError: If it exists, without `overwrite`.
    """
    target = user_path(path)
    if target.suffix != format.suffix and (format.suffix or target.suffix in SUFFIXES):
        wanted = f"a path that ends in {format.suffix}" if format.suffix else "the path of a folder"
        raise ValueError(f"Expected {wanted}, for an export to {format.title}; received: {target}.")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(f"Expected a path in an existing folder that can be written to; received: {target}.")
    for file in files_of(target):
        if not file.exists():
            continue
        if file.is_dir() != (not format.suffix):
            kinds = "file", "folder"
            raise ValueError(f"Expected the path of a {kinds[not format.suffix]}; {file} is a {kinds[file.is_dir()]}.")
        if file.is_dir() and any(file.iterdir()) and not (file / "saved_model.pb").is_file():
            raise ValueError(
                f"Expected a new path, or the folder of a SavedModel; {file} is a folder with other content."
            )
        if not overwrite:
            raise FileExistsError(f"Expected a new path; {file} exists. Choose another path, or pass {option}.")
    return target


def files_of(target: Path) -> list[Path]:
    """Return the files of an export, the one that is opened first: OpenVINO's weights are in a second file."""
    return [target, target.with_suffix(".bin")] if target.suffix == ".xml" else [target]


@contextlib.contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Yield a path to write an export to, which replaces `target` if the block succeeds.

    If it fails, what it wrote is deleted, and an existing export stays. Parts of two exports are never mixed, even if
    the process is killed: an existing export of two files or a folder is moved away first.

    Args:
        target: Path of the export. The path that is yielded has the same name, in a temporary folder beside it.

    Raises:
        OSError: If the export cannot be written; the message names it.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        partial = folder / target.name
        yield partial
        _replace(files_of(target), files_of(partial), folder / "previous")
    except OSError as error:
        kept = "the previous export is intact" if target.exists() else "no file was created"
        message = f"{target} could not be written ({error}); {kept}. Fix the problem, then repeat the export."
        raise (OSError(error.errno, message) if error.errno else OSError(message)) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _replace(targets, written, previous):
    """Move `written` files to `targets`; existing ones are moved to the folder `previous`, and back if this fails."""
    if len(targets) == 1 and not targets[0].is_dir():
        written[0].replace(targets[0])  # atomic
        return
    kept = [file for file in targets if file.exists()]
    previous.mkdir()
    try:
        for file in kept:
            file.replace(previous / file.name)
        for source, destination in reversed(list(zip(written, targets, strict=True))):
            source.replace(destination)
    except BaseException:
        for file in kept:
            if (previous / file.name).exists():
                (previous / file.name).replace(file)
        raise


def bytes_of(folder: Path) -> int:
    """Return the number of bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
