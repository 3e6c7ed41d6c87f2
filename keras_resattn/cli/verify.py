"""`keras-resattn verify`: compare bundled and downloaded files with the SHA-256 of their release."""

import argparse

from keras_resattn import pretrained
from keras_resattn.cli.output import complain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify` to an `argparse` parser: none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Return 1 if a file is missing, damaged or unreadable, else 0."""
    results = pretrained.verify()
    for result in results:
        print(f"{result.name}: {result.status}")
    failed = [result for result in results if result.failed]
    for result in failed:
        complain(result.problem)
    if failed:
        complain(
            "To restore weights of the package, reinstall it, or run `git checkout weights` in a clone. To restore "
            "those of another folder, delete its subfolder and repeat `keras-resattn download`."
        )
    return 1 if failed else 0
