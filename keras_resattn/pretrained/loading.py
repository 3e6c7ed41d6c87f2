"""Strict loading by layer name: every variable is filled and every tensor used, or the model stays unchanged."""

import warnings
from collections import Counter

import keras
import numpy as np

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.layers.names import STEM, is_top
from keras_resattn.pretrained.hdf5 import file_errors, object_limit, open_weights, printable
from keras_resattn.pretrained.resolution import WeightsSource
from keras_resattn.pretrained.tensors import open_layers
from keras_resattn.typing import PathLike


def load(model: keras.Model, source: WeightsSource, input_tensor: keras.KerasTensor | None = None) -> None:
    """Load the weights of a `WeightsSource` into a network of this package.

    Keras keys a `.weights.h5` file by layer class and order, but also stores the layers' names. Matching by name lets
    one file serve networks with and without their top, and networks built on other layers. The file is untrusted
    input: names, shapes and dtypes are compared before data is read.

    Args:
        model: A network of this package.
        source: The `WeightsSource` that `resolve` returned.
        input_tensor: The tensor that the network was built on. Layers before it are not part of the network and keep
            their weights.

    Raises:
        ValueError: if the file cannot be read or was not written by Keras, lacks a layer of the network, holds a tensor
            that the network lacks (except for a dropped top) or whose shape differs, or holds NaN, infinite values or
            negative variances. The model is then unchanged.
        OSError: if the file has to be downloaded, and the download fails. The model is then unchanged.
    """
    layers = _named_layers(model, input_tensor)
    with source.open() as (path, file), open_layers(path, file, object_limit(len(model.weights))) as tensors:
        for name, layer in layers.items():
            _check_fits(name, layer, tensors, path)
        has_top = any(map(is_top, layers))
        unused = [name for name in tensors if name not in layers and (has_top or not is_top(name))]
        if unused:
            raise ValueError(
                f"Expected every tensor of {path} to belong to {model.name}; no place for: {_abbreviated(unused)}."
            )
        assignments = [(layer, _read(name, layer, tensors[name], path)) for name, layer in layers.items()]
    for layer, arrays in assignments:
        layer.load_own_variables(arrays)


def load_saved_weights(model: keras.Model, path: PathLike) -> None:
    """Load a file written by `model.save_weights` into any Keras model, with the same file checks as `load`.

    Args:
        model: A built `keras.Model`. After an error its weights are undefined, so pass a newly built model.
        path: The `.weights.h5` file.

    Raises:
        ValueError: if the file cannot be read, does not belong to the model, or holds NaN, infinite values or negative
            variances.
    """
    with open_weights(path, limit=object_limit(len(model.weights))) as (_, _, tensors):
        if any(tensor.chunked for tensor in tensors):  # Keras would let HDF5 decompress them to any size
            raise ValueError(f"Expected {path} to be written by keras.Model.save_weights; its arrays are compressed.")
        shapes = Counter(tensor.shape for tensor in tensors if tensor.location[0] != "optimizer")
    if foreign := shapes - Counter(tuple(weight.shape) for weight in model.weights):
        raise ValueError(
            f"Expected {path} to hold the weights of {model.name}; no place for shapes: {list(foreign)[:5]}."
        )
    try:
        model.load_weights(path)
    except Exception as error:
        raise ValueError(f"Expected {path} to hold the weights of {model.name}; loading failed ({error}).") from error
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if keras.backend.is_float_dtype(weight.dtype):
            values = values.astype("float32")  # NumPy does not treat bfloat16 as a float
        _check_values(weight.path, weight, values, path)


def _named_layers(model, input_tensor):
    """Return `{names joined by slashes: layer}` for every layer with weights, except those before `input_tensor`."""
    foreign = set()
    if input_tensor is not None:
        before = keras.Model(keras.utils.get_source_inputs(input_tensor), input_tensor)
        foreign = {id(layer) for layer in before.layers}
    named = {}

    def visit(layer, names):
        names = (*names, layer.name)
        if isinstance(layer, CompositeLayer) and layer.sublayers:
            for sublayer in layer.sublayers:
                visit(sublayer, names)
        elif layer.weights:  # `variables` also has dropout's seeds, which are not saved
            named["/".join(names)] = layer

    for layer in model.layers:
        if id(layer) not in foreign:
            visit(layer, ())
    return named


def _check_fits(name, layer, tensors, path):
    """Raise a `ValueError` if a layer's tensors are missing or have other shapes. Reads no data."""
    if name not in tensors:
        raise ValueError(f"Expected tensors of the layer {name} in {path}; it has none. It is another network's file.")
    shapes = {key: tuple(variable.shape) for key, variable in _own(layer).items()}
    found = {key: tensor.shape for key, tensor in tensors[name].items()}
    if _sum_over_rgb(name, shapes, found):
        shapes["0"] = found["0"]
    if found != shapes:
        raise ValueError(
            f"Expected tensors of shapes {list(shapes.values())} for the layer {name}; "
            f"{path} has {list(found.values())[:5]}."
        )


def _own(layer):
    own = {}
    layer.save_own_variables(own)
    return own


def _sum_over_rgb(name, shapes, found):
    """Return whether the layer is a stem with one input channel, and the file has a stem with three."""
    kernel, stored = shapes.get("0", ()), found.get("0", ())
    return name == STEM and len(kernel) == 4 and kernel[2] == 1 and stored == (*kernel[:2], 3, *kernel[3:])


def _read(name, layer, tensors, path):
    """Return one layer's arrays in float32; raise a `ValueError` for values that cannot be weights."""
    own, arrays = _own(layer), {}
    for key, tensor in tensors.items():
        with file_errors(path), np.errstate(over="ignore", invalid="ignore"):
            arrays[key] = tensor.read().astype("float32")
        _check_values(f"{name}/{own[key].name}", own[key], arrays[key], path)
    shapes = {key: tuple(variable.shape) for key, variable in own.items()}
    if _sum_over_rgb(name, shapes, {key: array.shape for key, array in arrays.items()}):
        warnings.warn(
            "The weights expect three input channels and the input has one: the stem's kernel is summed over RGB.",
            stacklevel=4,
        )
        arrays["0"] = arrays["0"].sum(axis=2, keepdims=True)
    return arrays


def _check_values(name, variable, array, path):
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite weights in {path}; {name} has NaN or infinite values.")
    if "variance" in variable.name and (array < 0).any():
        raise ValueError(f"Expected variances of at least 0 in {path}; {name} has negative ones.")


def _abbreviated(names, limit=5):
    names = sorted(map(printable, names))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
