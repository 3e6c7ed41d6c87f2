"""Image files and folders on the command line. Unreadable images are reported and skipped."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_resattn.cli.arguments import add_resize_mode, path
from keras_resattn.cli.output import complain

if TYPE_CHECKING:
    import numpy as np

    from keras_resattn.cli.network import Network

BATCH = 256  # images in memory at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the images and `--resize-mode`."""
    parser.add_argument(
        "images", nargs="+", type=path, metavar="IMAGE", help="image file, or folder of image files at any depth"
    )
    add_resize_mode(parser, "as in training if known, otherwise crop")


class Images:
    """The images on a command line.

    Args:
        arguments: Parsed arguments with `images`, a list of paths, and `resize_mode` (`None`: the network's mode).

    Attributes:
        skipped: Number of images that could not be read.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.given = []
        self.resize_mode = arguments.resize_mode
        self.skipped = self.total = 0
        for given in arguments.images:
            if os.path.exists(given):
                self.given.append(given)
            else:
                self._skip(f"Expected an image file or folder; {given} does not exist.")

    def paths(self) -> list[Path]:
        """Return the paths of all files in the order of the arguments, sorted by name within a folder."""
        from keras_resattn.data.images import SUFFIXES

        paths = []
        for given in self.given:
            if not given.is_dir():
                paths.append(given)
                continue
            inside = [file for file in sorted(given.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
            inside = [file for file in inside if not any(part[0] == "." for part in file.relative_to(given).parts)]
            if not inside:
                self._skip(f"Expected images ({', '.join(SUFFIXES)}) in the folder {given}; found: none.")
            paths += inside
        return paths

    def batches(self, network: "Network") -> Iterator[tuple[list[Path], "np.ndarray"]]:
        """Yield `(paths, images)`: images `(n, h, w, c)`, uint8, resized to the input size of a `Network`."""
        import numpy as np

        paths = self.paths()
        self.total = len(paths) + self.skipped
        for start in range(0, len(paths), BATCH):
            read = [(file, self._read(file, network)) for file in paths[start : start + BATCH]]
            read = [(file, image) for file, image in read if image is not None]
            if read:
                yield [file for file, _ in read], np.stack([image for _, image in read])

    def finish(self) -> int:
        """Return the exit code: 2 if images were skipped, else 0."""
        if self.skipped and self.total > 1:
            complain(f"skipped {self.skipped} of {self.total} images")
        return 2 if self.skipped else 0

    def _read(self, file, network):
        from keras_resattn.data.images import load_image

        try:
            mode = self.resize_mode or network.resize_mode
            return load_image(file, str(file), network.size, channels=network.channels, resize_mode=mode)
        except ValueError as error:
            self._skip(error)

    def _skip(self, message):
        complain(message)
        self.skipped += 1
