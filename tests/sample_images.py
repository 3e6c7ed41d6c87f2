"""Twenty-two images of four classes, and the forms in which the tests hand them over."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (22, 16, 16, 3), dtype="uint8")
Y = RNG.integers(0, 4, 22)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


def write_folder(root, x=X, y=Y, names="abcd"):
    """A folder for each class; files are numbered so that their order is that of the arrays within a class."""
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(encoded(image))
    return root


def by_class(x=X, y=Y):
    """Images and labels in the order in which a folder has them."""
    order = np.argsort(y, kind="stable")
    return x[order], y[order]


def import_torch():
    """PyTorch takes as long to import as all tests here; it is tested where it is there already."""
    if keras.backend.backend() != "torch":
        pytest.skip("with the torch backend")
    import torch

    return torch


class MapStyle:
    """A dataset as PyTorch's and grain's are."""

    def __init__(self, record, **attributes):
        self.record = record
        self.__dict__.update(attributes)

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return self.record(row)


class Batches:
    """An iterable of batches with a length, the last of which may be smaller."""

    def __init__(self, size, change=lambda x, y: (x, y)):
        self.size, self.change = size, change

    def __len__(self):
        return -(-len(X) // self.size)

    def __iter__(self):
        for first in range(0, len(X), self.size):
            yield self.change(X[first : first + self.size], Y[first : first + self.size])
