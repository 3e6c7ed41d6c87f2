"""Tensors of `.weights.h5` files by layer name, and strictly: every name is unique, every array belongs to a layer."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader

from keras_resattn.pretrained.hdf5 import (
    FLOATS,
    LONGEST_NAME,
    MOST_OBJECTS,
    Refused,
    Tensor,
    at,
    naming_file,
    open_weights,
    shown,
)
from keras_resattn.typing import PathLike


@contextlib.contextmanager
def open_layers(
    path: PathLike, file: BufferedReader | None = None, most: int = MOST_OBJECTS
) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Open a `.weights.h5` file by layer names, without reading any array.

    Args:
        path: Path of the file; messages name it.
        file: The open file, where the caller has it already.
        most: Number of groups and arrays that the file may have; see `most_objects`.

    Yields:
        A dictionary from the names of a layer, outermost first and joined by slashes, to its `Tensor`s, keyed `"0"`,
        `"1"`, ... in the layer's own order. Layers without variables and the optimizer are left out.

    Raises:
        ValueError: as `open_weights`, and if the file is not what `keras.Model.save_weights` writes for floating-point
            layers: two layers of one name, layers without a name, arrays that belong to no layer or are not floats.
    """
    with open_weights(path, file, most) as (groups, names, tensors):
        with naming_file(path):
            layers = _by_layer(groups, names, tensors)
        yield layers


def read_tensors(path: PathLike) -> dict:
    """Read a `.weights.h5` file by layer name.

    Args:
        path: Path of the file.

    Returns:
        A dictionary from the names of a layer, outermost first and joined by slashes, to its
        arrays, keyed `"0"`, `"1"`, ... in the layer's own order. Layers without variables are left out.

    Raises:
        ValueError: if the file cannot be read, or is not what Keras' `save_weights` writes.
    """
    with open_layers(path) as layers, naming_file(path):
        return {name: {key: tensor.read() for key, tensor in own.items()} for name, own in layers.items()}


def _by_layer(groups, given, tensors):
    """`{joined layer names: {key: Tensor}}` of the group `layers`."""
    names, layers = _layer_names(groups, given), {}
    for tensor in tensors:
        location = tensor.location
        if location[0] == "optimizer":
            continue
        if location[-2:-1] != ("vars",) or location[:-2] not in names:
            raise Refused(f"{at(location)} belongs to no layer")
        if tensor.dtype not in (*FLOATS, "bfloat16"):
            raise Refused(f"{at(location)} holds {tensor.dtype}, not floating-point numbers")
        layers.setdefault(names[location[:-2]], {})[location[-1]] = tensor
    for name, own in layers.items():
        if set(own) != {str(i) for i in range(len(own))}:
            raise Refused(f"the arrays of the layer {shown(name)} are not numbered from 0")
    return {name: dict(sorted(own.items(), key=lambda item: int(item[0]))) for name, own in layers.items()}


def _layer_names(groups, given):
    """`{location: joined names}` of every layer, a layer inside another after the names of those around it."""
    if ("layers",) not in groups:
        raise Refused("it has no layers")
    around: dict[tuple[str, ...], tuple[str, ...]] = {("layers",): ()}
    names = {}
    for location in sorted(groups):  # outer groups first
        if location[:1] != ("layers",) or len(location) == 1 or location[-1] == "vars":
            continue
        if location[:-1] not in around:
            raise Refused(f"{at(location)} is a group where only arrays belong")
        around[location] = around[location[:-1]]
        if location in given:
            name = given[location]
            if not name or "/" in name or len(name) > LONGEST_NAME:
                raise Refused(f"{at(location)} has no valid layer name")
            around[location] += (name,)
            names[location] = "/".join(around[location])
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        raise Refused(f"two layers have the name {shown(repeated[0])}")
    return names
