"""Strict loading: by layer name, every variable filled, every tensor used, or nothing changed."""

import re
import warnings

import h5py
import keras
import numpy as np

from keras_resattn.layers.composite import CompositeLayer

#: Layers on top of a network, which a file may hold and a network without its top lacks.
TOP = r"predictions|classifier|global_gate(/.*)?|attention\d+_(mask|outputs)/.*"
STEM = "stem_conv"


def load(model, source, below=None):
    """Fills a network with the tensors of a `Source`.

    Keras keys a `.weights.h5` file by class and order; the layers' names stand in it too, and those
    decide here. So one file serves with and without top, and on top of other layers.

    Args:
        model: A network of this package, as built.
        source: What `resolve` returned.
        below: The tensor that the network was built on. Layers that lead to it are not the
            network's and stay as they are.

    Raises:
        ValueError: if the file is not one of Keras weights, a layer of the network is not in it, a tensor
            of it has no place in the network (the dropped top aside), or a shape differs. The model is
            unchanged then.
    """
    path = source.fetch()
    tensors = read_tensors(path)
    layers = _named_layers(model, below)
    assignments = [(layer, _fit(name, layer, tensors, path)) for name, layer in layers.items()]
    has_top = any(re.fullmatch(TOP, name) for name in layers)
    unused = [name for name in tensors if name not in layers and (has_top or not re.fullmatch(TOP, name))]
    if unused:
        raise ValueError(f"Expected every tensor of {path} to belong to {model.name}; no place for: {_some(unused)}.")
    for layer, arrays in assignments:
        layer.load_own_variables(arrays)


def read_tensors(path):
    """Reads a `.weights.h5` file by layer name.

    Returns:
        A dictionary from the names of a layer, outermost first and joined by slashes, to its
        arrays, keyed `"0"`, `"1"`, ... in the layer's own order. Layers without variables are left out.

    Raises:
        ValueError: if the file is not HDF5, or not written by Keras' `save_weights`.
    """
    tensors = {}

    def visit(group, names):
        own = group.get("vars")
        if own is not None and "name" in own.attrs:
            names = (*names, own.attrs["name"])
            if len(own):
                tensors["/".join(names)] = {key: np.asarray(value) for key, value in own.items()}
        for key, child in group.items():
            if key != "vars" and isinstance(child, h5py.Group):
                visit(child, names)

    try:
        with h5py.File(path, "r") as file:
            for group in file["layers"].values():
                visit(group, ())
    except (OSError, KeyError) as error:
        raise ValueError(
            f"Expected {path} to be a .weights.h5 file, as keras.Model.save_weights writes it; "
            f"it cannot be read as one ({error})."
        ) from error
    return tensors


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


def _fit(name, layer, tensors, path):
    """The arrays for one layer, in float32, or a `ValueError` that says what does not fit."""
    if name not in tensors:
        raise ValueError(f"Expected tensors of the layer {name} in {path}; it has none. It is another network's file.")
    own = {}
    layer.save_own_variables(own)
    arrays = {key: array.astype("float32") for key, array in tensors[name].items()}
    shapes = {key: tuple(variable.shape) for key, variable in own.items()}
    if name == STEM and shapes["0"][2] == 1 and arrays["0"].shape[2] == 3:
        warnings.warn(
            "The weights are for three channels and the input has one: the kernel of the stem is summed over RGB.",
            stacklevel=4,
        )
        arrays["0"] = arrays["0"].sum(axis=2, keepdims=True)
    found = {key: array.shape for key, array in arrays.items()}
    if found != shapes:
        raise ValueError(
            f"Expected tensors of shapes {list(shapes.values())} for the layer {name}; "
            f"{path} has {list(found.values())}."
        )
    return arrays


def _some(names, most=5):
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
