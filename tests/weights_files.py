"""Weights files for tests of reading untrusted input, and functions that change them."""

import h5py
import numpy as np

CONV, NORM = "layers/conv2d/vars", "layers/batch_normalization/vars"


def write_good(path):
    """Write a file as Keras does: a convolution and a batch normalisation, with an optimizer."""
    with h5py.File(path, "w") as file:
        for group, name, shapes in ((CONV, "conv", [(3, 3, 3, 4)]), (NORM, "bn", [(4,)] * 4)):
            file.create_group(group).attrs["name"] = name
            for i, shape in enumerate(shapes):
                file[group].create_dataset(str(i), data=np.ones(shape, "float32"))
        file.create_group("layers/activation/vars").attrs["name"] = "relu"
        file.create_group("optimizer/vars").create_dataset("0", data=np.int32(7))
        file.create_group("vars")


def edit(remove, change):
    """Return a function that deletes `remove` from a file, then calls `change` with the open file."""

    def apply(path):
        with h5py.File(path, "r+") as file:
            if remove:
                del file[remove]
            change(file)

    return apply


def add(change):
    """Return a function that calls `change` with the open file."""
    return edit(None, change)


def replace(dtype="float32", shape=(3, 3, 3, 4), **options):
    """Return a function that replaces the kernel with another kind of array."""
    fill = {} if "data" in options or "external" in options else {"data": np.full(shape, 0.5).astype(dtype)}
    return edit(
        f"{CONV}/0", lambda file: file[CONV].create_dataset("0", **{"dtype": dtype, "shape": shape} | fill | options)
    )
