"""From pictures to a network's input, and from its output to names."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_resattn.checkpoints import find, tags
from keras_resattn.layers.composite import channel_axis, is_integer, standardize_data_format


def preprocess_input(x, weights="default", data_format=None):
    """Normalises pictures as the weights expect them: `(x - mean) / std` for each channel.

    Args:
        x: Pictures from 0 to 255, uint8 or float: a NumPy array or a tensor of the running backend, of
            shape `(n, h, w, 3)` or `(h, w, 3)` (channels first likewise). A single channel takes the mean
            of the three channels' values. Never changed. Float arrays that end at 1 get a warning.
        weights: A tag, an alias, or `"network/tag"`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Returns:
        A new float32 array or tensor of the same shape.

    Raises:
        ValueError: for unknown weights, weights that several networks have with different normalisation, or
            a number of channels other than 1 and 3.
    """
    tag = _unambiguous(weights, lambda tag: (tag.mean, tag.std), "normalisation")
    axis = channel_axis(standardize_data_format(data_format))
    rank, axis = len(x.shape), axis if axis < 0 else -3
    if rank not in (3, 4) or x.shape[axis] not in (1, len(tag.mean)):
        raise ValueError(
            f"Expected pictures with 1 or {len(tag.mean)} channels and 3 or 4 dimensions; "
            f"received: shape {tuple(x.shape)}."
        )
    mean, std = (np.asarray(values, "float32") for values in (tag.mean, tag.std))
    if x.shape[axis] == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    if axis == -3:
        mean, std = mean[:, None, None], std[:, None, None]
    if ops.is_tensor(x):
        return (ops.cast(x, "float32") - ops.convert_to_tensor(mean)) / ops.convert_to_tensor(std)
    x = np.asarray(x)
    if x.dtype.kind == "f" and 0 < x.max(initial=0) <= 1:
        warnings.warn("Pictures are expected from 0 to 255; these go up to 1 at most.", stacklevel=2)
    return (x.astype("float32") - mean) / std


def decode_predictions(probabilities, top=5, weights="default"):
    """Names the most probable classes.

    Args:
        probabilities: Output of a classifier with those weights, `(n, classes)`.
        top: How many classes to return for each picture; all if there are fewer.
        weights: A tag, an alias, or `"network/tag"`.

    Returns:
        For each picture a list of `(class index, class name, probability)`, most probable first.

    Raises:
        ValueError: for unknown weights, another shape, or `top` below 1.
    """
    tag = _unambiguous(weights, lambda tag: tag.classes, "classes")
    values = keras.ops.convert_to_numpy(probabilities)
    if values.ndim != 2 or values.shape[1] != len(tag.classes):
        raise ValueError(
            f"Expected probabilities of shape (n, {len(tag.classes)}) for {tag.tag}; received: shape {values.shape}."
        )
    if not is_integer(top) or top < 1:
        raise ValueError(f"Expected top to be a positive integer; received: top={top!r}.")
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [[(int(i), tag.classes[i], float(row[i])) for i in best] for row, best in zip(values, order, strict=True)]


def _unambiguous(weights, trait, what):
    found = find(weights)
    if not found:
        known = ", ".join(sorted({name for tag in tags() for name in (tag.tag, *tag.aliases)}))
        raise ValueError(
            f"Expected weights to be a published tag ({known or 'there is none yet'}); received: weights={weights!r}."
        )
    if len({trait(tag) for tag in found}) > 1:
        choices = ", ".join(tag.id for tag in found)
        raise ValueError(f"Expected one of {choices}, which differ in {what}; received: weights={weights!r}.")
    return found[0]
