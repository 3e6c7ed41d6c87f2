"""Strict loading: by layer name, every variable filled, every tensor used, or nothing changed."""

import warnings
from collections import Counter

import keras
import numpy as np

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.layers.names import STEM, is_top
from keras_resattn.pretrained.hdf5 import most_objects, naming_file, open_weights, shown
from keras_resattn.pretrained.resolution import WeightsSource
from keras_resattn.pretrained.tensors import open_layers
from keras_resattn.typing import PathLike


def load(model: keras.Model, source: WeightsSource, below: keras.KerasTensor | None = None) -> None:
    """Fill a network with the tensors of a `WeightsSource`.

    Keras keys a `.weights.h5` file by class and order; the layers' names stand in it too, and those
    decide here. So one file serves with and without top, and on top of other layers. The file is
    untrusted input: names, shapes and dtypes are compared before data is read.

    Args:
        model: A network of this package, as built.
        source: What `resolve` returned.
        below: The tensor that the network was built on. Layers that lead to it are not the
            network's and stay as they are.

    Raises:
        ValueError: if the file cannot be read or is not one of Keras weights, a layer of the network is not in it, a
            tensor of it has no place in the network (the dropped top aside), a shape differs, or a value is NaN,
            infinite or a negative variance. The model is unchanged then.
    """
    layers = _named_layers(model, below)
    with source.open() as (path, file), open_layers(path, file, most_objects(len(model.weights))) as tensors:
        for name, layer in layers.items():
            _check_fits(name, layer, tensors, path)
        has_top = any(map(is_top, layers))
        unused = [name for name in tensors if name not in layers and (has_top or not is_top(name))]
        if unused:
            raise ValueError(
                f"Expected every tensor of {path} to belong to {model.name}; no place for: {_some(unused)}."
            )
        assignments = [(layer, _read(name, layer, tensors[name], path)) for name, layer in layers.items()]
    for layer, arrays in assignments:
        layer.load_own_variables(arrays)


def fill(model: keras.Model, path: PathLike) -> None:
    """Fill any Keras model with a file that its own `save_weights` wrote, after the same checks.

    Args:
        model: A built `keras.Model`. After an error its weights are undefined: pass one that was just built.
        path: The `.weights.h5` file.

    Raises:
        ValueError: if the file cannot be read, is not one of this model's weights, or holds NaN, infinite values or
            negative variances.
    """
    with open_weights(path, most=most_objects(len(model.weights))) as (_, _, tensors):
        if any(tensor.chunked for tensor in tensors):  # which Keras would have HDF5 inflate, to any size
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
            values = values.astype("float32")  # bfloat16 is no floating-point number to NumPy
        _check_values(weight.path, weight, values, path)


def _named_layers(model, below):
    foreign = set()
    if below is not None:
        foreign = {id(layer) for layer in keras.Model(keras.utils.get_source_inputs(below), below).layers}
    named = {}

    def visit(layer, names):
        names = (*names, layer.name)
        if isinstance(layer, CompositeLayer) and layer.sublayers:
            for part in layer.sublayers:
                visit(part, names)
        elif layer.weights:  # `variables` has the seeds of dropout too, which no file holds
            named["/".join(names)] = layer

    for layer in model.layers:
        if id(layer) not in foreign:
            visit(layer, ())
    return named


def _check_fits(name, layer, tensors, path):
    """Raises a `ValueError` that says what does not fit a layer, before any data is read."""
    if name not in tensors:
        raise ValueError(f"Expected tensors of the layer {name} in {path}; it has none. It is another network's file.")
    shapes = {key: tuple(variable.shape) for key, variable in _own(layer).items()}
    found = {key: tensor.shape for key, tensor in tensors[name].items()}
    if _sums_over_rgb(name, shapes, found):
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


def _sums_over_rgb(name, shapes, found):
    """Whether the stem takes one channel, and the file's three."""
    kernels = shapes.get("0", ()), found.get("0", ())
    three = (*kernels[0][:2], 3, *kernels[0][3:])
    return name == STEM and len(kernels[0]) == 4 and kernels[0][2] == 1 and kernels[1] == three


def _read(name, layer, tensors, path):
    """The arrays for one layer, in float32, or a `ValueError` where a value cannot be one of its weights."""
    own, arrays = _own(layer), {}
    for key, tensor in tensors.items():
        with naming_file(path), np.errstate(over="ignore", invalid="ignore"):
            arrays[key] = tensor.read().astype("float32")
        _check_values(f"{name}/{own[key].name}", own[key], arrays[key], path)
    shapes = {key: tuple(variable.shape) for key, variable in own.items()}
    if _sums_over_rgb(name, shapes, {key: array.shape for key, array in arrays.items()}):
        warnings.warn(
            "The weights are for three channels and the input has one: the kernel of the stem is summed over RGB.",
            stacklevel=4,
        )
        arrays["0"] = arrays["0"].sum(axis=2, keepdims=True)
    return arrays


def _check_values(name, variable, array, path):
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite weights in {path}; {name} has NaN or infinite values.")
    if "variance" in variable.name and (array < 0).any():
        raise ValueError(f"Expected variances of at least 0 in {path}; {name} has negative ones.")


def _some(names, most=5):
    names = sorted(map(shown, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
