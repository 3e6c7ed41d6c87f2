"""From pictures to a network's input, and from its output to names."""

import os
import warnings

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_resattn.checkpoints import find, tags
from keras_resattn.data.pictures import hint_on_bool, hint_on_range, read_picture, to_numpy
from keras_resattn.files import user_path
from keras_resattn.layers.class_names import check_class_names, model_class_names
from keras_resattn.layers.composite import channel_axis, is_integer, standardize_data_format
from keras_resattn.recipes.run import run_class_names
from keras_resattn.suggestions import did_you_mean

_RAISE = object()


def preprocess_input(x, weights="default", data_format=None):
    """Normalises pictures as the weights expect them: `(x - mean) / std` for each channel.

    Args:
        x: Pictures from 0 to 255, uint8 or float: a NumPy array or a tensor of the running backend, of
            shape `(n, h, w, 3)` or `(h, w, 3)` (channels first likewise). A single channel takes the mean
            of the three channels' values. Never changed. A list of arrays is read as one array; Pillow images are
            decoded as files are (upright, transparency on white, 8 bits per channel).
            Arrays of floats that are not from 0 to 255, or that end at 1, get a warning.
        weights: A tag, an alias, or `"network/tag"`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Returns:
        A new float32 array or tensor of the same shape.

    Raises:
        ValueError: for unknown weights, weights that several networks have with different normalisation, or
            a number of channels other than 1 and 3, or what is no array of numbers; for integers beyond 0 to 255, NaN
            and infinite values, and masked arrays.
    """
    tag = _unambiguous(weights, lambda tag: (tag.mean, tag.std), "normalisation")
    axis = channel_axis(standardize_data_format(data_format))
    x, axis = x if ops.is_tensor(x) else _as_numbers(x), axis if axis < 0 else -3
    _check_shape(tuple(x.shape), axis, (1, len(tag.mean)))
    mean, std = (np.asarray(values, "float32") for values in (tag.mean, tag.std))
    if x.shape[axis] == 1:
        mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
    if axis == -3:
        mean, std = mean[:, None, None], std[:, None, None]
    if ops.is_tensor(x):
        return (ops.cast(x, "float32") - ops.convert_to_tensor(mean)) / ops.convert_to_tensor(std)
    _check_values(x)
    return (x.astype("float32") - mean) / std


def _as_numbers(x):
    array = to_numpy([_decoded(each) for each in x] if isinstance(x, (list, tuple)) else _decoded(x))
    if array.dtype.name == "bfloat16":  # to NumPy no number, as it is not NumPy's own
        return array.astype("float32")
    if array.dtype.kind not in "uif":
        raise ValueError(
            f"Expected pictures as arrays of numbers; received: {type(x).__name__} of {array.dtype}."
            + hint_on_bool(array)
        )
    return array


def _decoded(x):
    return read_picture(x, "a Pillow image") if isinstance(x, Image.Image) else x


def _check_shape(shape, axis, channels):
    if len(shape) in (3, 4) and shape[axis] in channels:
        return
    formats = {-1: "channels_last", -3: "channels_first"}
    other = -4 - axis
    hint = ""
    if len(shape) in (3, 4) and shape[other] in channels:
        hint = f" Pass data_format={formats[other]!r} if that is what they are."
    raise ValueError(
        f"Expected pictures with {' or '.join(map(str, channels))} channels, {formats[axis]}, and 3 or 4 dimensions; "
        f"received: shape {shape}.{hint}"
    )


def _check_values(x):
    if x.dtype == "uint8" or not x.size:
        return
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 255):  # or one is NaN
        hint = hint_on_range(x.dtype, low, high)
        if hint or x.dtype.kind in "ui":
            raise ValueError(f"Expected pictures from 0 to 255; received: {x.dtype} from {low} to {high}.{hint}")
        warnings.warn(
            f"Pictures are expected from 0 to 255; these go from {low:.4g} to {high:.4g}. Are they normalised already?",
            stacklevel=3,
        )
    elif x.dtype.kind == "f" and 0 < high <= 1:
        warnings.warn("Pictures are expected from 0 to 255; these go up to 1 at most. Multiply by 255.", stacklevel=3)


def class_names_of(known, default=_RAISE):
    """Return the names of the classes that a model, a run or released weights tell apart.

    Args:
        known: A `keras.Model`; the report of `compile_and_fit` or `fine_tune`; the folder of a finished run of one of
            them; a tag, an alias or `"network/tag"`.
        default: Returned where no names are known, such as `None`; without it, that is a `ValueError`.

    Returns:
        A list of strings, in the order of the model's outputs.

    Raises:
        ValueError: for unknown weights or a folder without a finished run, and, without `default`, where no names are
            known: those of data that have none, or of a run of a version that did not keep them.
    """
    if isinstance(known, keras.Model):
        names, described = model_class_names(known), f"the model {known.name}"
    elif isinstance(known, (str, os.PathLike)) and user_path(known).is_dir() and not _is_tag(known):
        names, described = run_class_names(known), f"the run in {known}"
    elif isinstance(known, (str, os.PathLike)):
        names = list(_unambiguous(str(known), lambda tag: tag.classes, "classes").classes)
    elif hasattr(known, "class_names"):
        names, described = known.class_names, f"a {type(known).__name__}"
    else:
        raise ValueError(
            f"Expected a keras.Model, a report, the folder of a run, or released weights; received: {known!r}."
        )
    if names is not None:
        return list(names)
    if default is not _RAISE:
        return default
    raise ValueError(
        f"Expected a model or run whose data had names for their classes; received: {described}, which has none. "
        "Name them: set_class_names(model, [...]) for a model, class_names=[...] for decode_predictions."
    )


def decode_predictions(probabilities, top=5, weights="default", class_names=None):
    """Name the most probable classes.

    Args:
        probabilities: Output of a classifier with those weights, `(n, classes)`.
        top: How many classes to return for each image; all if there are fewer.
        weights: Whose classes they are: a tag, an alias or `"network/tag"`, or, as in `class_names_of`, a model, a
            report or the folder of a run.
        class_names: Names of the classes in the order of the columns, in place of those of `weights`.

    Returns:
        For each image a list of `(class index, class name, probability)`, most probable first.

    Raises:
        ValueError: for unknown weights, weights without class names, another shape, another number of names than
            columns, or `top` below 1.
    """
    names = class_names_of(weights) if class_names is None else check_class_names(class_names)
    values = keras.ops.convert_to_numpy(probabilities)
    if values.ndim != 2 or values.shape[1] != len(names):
        described = weights if isinstance(weights, (str, os.PathLike)) else type(weights).__name__
        whose = f"{len(names)} class_names" if class_names is not None else f"the classes of {described}"
        raise ValueError(
            f"Expected probabilities of shape (n, {len(names)}) for {whose}; received: shape {values.shape}."
        )
    if not is_integer(top) or top < 1:
        raise ValueError(f"Expected top to be a positive integer; received: top={top!r}.")
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [[(int(i), names[i], float(row[i])) for i in best] for row, best in zip(values, order, strict=True)]


def _is_tag(name):
    return isinstance(name, str) and bool(find(name))


def _unambiguous(weights, trait, what):
    found = find(weights) if isinstance(weights, str) else []
    if not found:
        names = sorted({name for tag in tags() for name in (tag.tag, *tag.aliases)})
        raise ValueError(
            f"Expected weights to be a published tag ({', '.join(names) or 'there is none yet'}), or network/tag; "
            f"received: weights={weights!r}.{did_you_mean(weights, {*names, *(tag.id for tag in tags())})}"
        )
    if len({trait(tag) for tag in found}) > 1:
        choices = ", ".join(tag.id for tag in found)
        raise ValueError(f"Expected one of {choices}, which differ in {what}; received: weights={weights!r}.")
    return found[0]
