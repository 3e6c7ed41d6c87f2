"""Arguments that several commands share, and checks that need no Keras."""

import argparse
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from keras_resattn.typing import PathLike

#: Formats of figures.
FIGURES = (".png", ".pdf", ".svg", ".jpg")


def expanded(value: str) -> str:
    """Return a string with `~` or `~user` at its beginning replaced by the home folder, as shells do."""
    return os.path.expanduser(value)


def path(value: str) -> Path:
    """Return the `Path` of an argument, `~` expanded; the `type` of arguments that are paths."""
    return Path(expanded(value))


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add `--json` and `--csv`, which exclude each other; `arguments.format` is `"json"`, `"csv"` or `None`."""
    formats = parser.add_mutually_exclusive_group()
    for name in ("json", "csv"):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {name.upper()} instead of text"
        )


def check_least(option: str, value: float | None, least: float) -> None:
    """Raise a `ValueError` for a number below `least`; `None` is an option that was not given."""
    if value is not None and value < least:
        raise ValueError(f"Expected {option} to be {least} or more; received: {value}.")


def check_output(option: str, output: Path | None, suffixes: Collection[str], inputs: Iterable[PathLike] = ()) -> None:
    """Raise a `ValueError` if a file cannot be written.

    Args:
        option: Name of the option.
        output: Path of the file, or `None` if the option was not given.
        suffixes: Suffixes of the formats that can be written.
        inputs: Files that it must not replace.
    """
    if output is None:
        return
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"Expected {option} to end in one of {', '.join(suffixes)}; received: {output}.")
    for wrong, reason in (
        (output.is_dir(), "it is a folder"),
        (not output.parent.is_dir(), f"there is no folder {output.parent}"),
        (output.exists() and not os.access(output, os.W_OK), "it is write-protected"),
        (not os.access(output.parent, os.W_OK | os.X_OK), f"the folder {output.parent} is write-protected"),
        (any(_same(output, file) for file in inputs), "it is one of the input files"),
    ):
        if wrong:
            raise ValueError(f"Expected {option} to be a file that can be written; {output} cannot: {reason}.")


def check_folder(option: str, folder: Path) -> None:
    """Raise a `ValueError` if a folder does not exist and cannot be made, or cannot be written to."""
    for existing in (folder, *folder.parents):
        if not existing.exists():
            continue
        if not existing.is_dir():
            raise ValueError(f"Expected {option} to be a folder; {existing} is a file.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(f"Expected {option} to be a folder that can be written to; {existing} is write-protected.")
        return


def _same(one, other):
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
