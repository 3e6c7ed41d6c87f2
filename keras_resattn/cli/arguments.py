"""Arguments that several commands share, and checks of arguments. Does not need Keras."""

import argparse
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from keras_resattn.typing import PathLike

#: File formats of figures.
FIGURES = (".png", ".pdf", ".svg", ".jpg")


def expanded(value: str) -> str:
    """Return a string with a leading `~` or `~user` replaced by the home folder, as in a shell."""
    return os.path.expanduser(value)


def path(value: str) -> Path:
    """Return the `Path` of an argument, with `~` expanded; the `type` of arguments that are paths."""
    return Path(expanded(value))


def add_data(parser: argparse.ArgumentParser, arrays: str, required: bool = True) -> None:
    """Add `--data` and `--data-dir`.

    Args:
        parser: An `argparse` parser.
        arrays: Names of the arrays that an `.npz` file needs.
        required: Whether `--data` is required.
    """
    data = f".npz file with {arrays}, folder of class folders, or dataset name such as cifar10"
    parser.add_argument("--data", required=required, type=expanded, metavar="DATA", help=data)
    parser.add_argument("--data-dir", type=path, metavar="DIR", help="folder of TensorFlow Datasets, for dataset names")


def add_resize_mode(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--resize-mode`, whose help describes its default."""
    parser.add_argument(
        "--resize-mode",
        choices=("crop", "squash", "pad"),
        help=f"how to fit images to the aspect ratio of the network (default: {default})",
    )


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add `--json` and `--csv`, which are exclusive; `arguments.format` is `"json"`, `"csv"` or `None`."""
    formats = parser.add_mutually_exclusive_group()
    for name in ("json", "csv"):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {name.upper()} instead of text"
        )


def check_least(option: str, value: float | None, least: float) -> None:
    """Raise a `ValueError` if a number is below `least`; `None` stands for an option that was not given."""
    if value is not None and value < least:
        raise ValueError(f"Expected {option} to be {least} or more; received: {value}.")


def check_output(option: str, output: Path | None, suffixes: Collection[str], inputs: Iterable[PathLike] = ()) -> None:
    """Raise a `ValueError` if an output file cannot be written.

    Args:
        option: Name of the option.
        output: Path of the file, or `None` if the option was not given.
        suffixes: Allowed suffixes.
        inputs: Files that must not be overwritten.
    """
    if output is None:
        return
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"Expected {option} to end in one of {', '.join(suffixes)}; received: {output}.")
    for invalid, reason in (
        (output.is_dir(), "it is a folder"),
        (not output.parent.is_dir(), f"the folder {output.parent} does not exist"),
        (output.exists() and not os.access(output, os.W_OK), "it is write-protected"),
        (not os.access(output.parent, os.W_OK | os.X_OK), f"the folder {output.parent} is write-protected"),
        (any(_same(output, file) for file in inputs), "it is one of the input files"),
    ):
        if invalid:
            raise ValueError(f"Expected {option} to be a writable file; {output} is not: {reason}.")


def check_folder(option: str, folder: Path) -> None:
    """Raise a `ValueError` if a folder can be neither created nor written to."""
    for existing in (folder, *folder.parents):
        if not existing.exists():
            continue
        if not existing.is_dir():
            raise ValueError(f"Expected {option} to be a folder; {existing} is a file.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ValueError(f"Expected {option} to be a writable folder; {existing} is write-protected.")
        return


def _same(one, other):
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
