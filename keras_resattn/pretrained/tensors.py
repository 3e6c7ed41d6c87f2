"""Read `.weights.h5` files by layer name; names must be unique, and every array must belong to a layer."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader

from keras_resattn.pretrained.hdf5 import (
    FLOATS,
    MAX_NAME_LENGTH,
    MAX_OBJECTS,
    InvalidFileError,
    Tensor,
    file_errors,
    location_name,
    open_weights,
    printable,
)
from keras_resattn.typing import PathLike


@contextlib.contextmanager
def open_layers(
    path: PathLike, file: BufferedReader | None = None, limit: int = MAX_OBJECTS
) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Open a `.weights.h5` file by layer name, without reading any array.

    Args:
        path: Path of the file, for messages.
        file: The open file; by default `path` is opened.
        limit: Maximum number of groups and arrays; see `object_limit`.

    Yields:
        A dictionary from layer names (nested ones joined by slashes, outermost first) to their `Tensor`s, keyed `"0"`,
        `"1"`, ... in the layer's order. Layers without variables and the optimizer are omitted.

    Raises:
        ValueError: in the cases of `open_weights`; also for duplicate or missing layer names, and for arrays that do
            not belong to a layer or are not floating-point numbers, none of which `keras.Model.save_weights` writes.
    """
    with open_weights(path, file, limit) as (groups, names, tensors):
        with file_errors(path):
            layers = _by_layer(groups, names, tensors)
        yield layers


def read_tensors(path: PathLike) -> dict:
    """Read a `.weights.h5` file by layer name.

    Args:
        path: Path of the file.

    Returns:
        A dictionary from layer names (nested ones joined by slashes, outermost first) to their arrays, keyed `"0"`,
        `"1"`, ... in the layer's order. Layers without variables are omitted.

    Raises:
        ValueError: if the file cannot be read or was not written by `keras.Model.save_weights`.
    """
    with open_layers(path) as layers, file_errors(path):
        return {name: {key: tensor.read() for key, tensor in own.items()} for name, own in layers.items()}


def _by_layer(groups, own_names, tensors):
    """Return `{joined layer names: {key: Tensor}}` for the group `layers`."""
    names, layers = _layer_names(groups, own_names), {}
    for tensor in tensors:
        location = tensor.location
        if location[0] == "optimizer":
            continue
        if location[-2:-1] != ("vars",) or location[:-2] not in names:
            raise InvalidFileError(f"{location_name(location)} belongs to no layer")
        if tensor.dtype not in (*FLOATS, "bfloat16"):
            raise InvalidFileError(f"{location_name(location)} holds {tensor.dtype}, not floating-point numbers")
        layers.setdefault(names[location[:-2]], {})[location[-1]] = tensor
    for name, own in layers.items():
        if set(own) != {str(i) for i in range(len(own))}:
            raise InvalidFileError(f"the arrays of the layer {printable(name)} are not numbered from 0")
    return {name: dict(sorted(own.items(), key=lambda item: int(item[0]))) for name, own in layers.items()}


def _layer_names(groups, own_names):
    """Return `{location: joined names}` for every layer; a nested layer's name follows those of its outer layers."""
    if ("layers",) not in groups:
        raise InvalidFileError("it has no layers")
    prefixes: dict[tuple[str, ...], tuple[str, ...]] = {("layers",): ()}
    names = {}
    for location in sorted(groups):  # outer groups first
        if location[:1] != ("layers",) or len(location) == 1 or location[-1] == "vars":
            continue
        if location[:-1] not in prefixes:
            raise InvalidFileError(f"{location_name(location)} is a group where only arrays belong")
        prefixes[location] = prefixes[location[:-1]]
        if location in own_names:
            name = own_names[location]
            if not name or "/" in name or len(name) > MAX_NAME_LENGTH:
                raise InvalidFileError(f"{location_name(location)} has no valid layer name")
            prefixes[location] += (name,)
            names[location] = "/".join(prefixes[location])
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    if repeated:
        raise InvalidFileError(f"two layers have the name {printable(repeated[0])}")
    return names
