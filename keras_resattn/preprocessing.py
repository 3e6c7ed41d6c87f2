"""Preprocess images into network inputs, and decode network outputs into class names."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar, overload

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_resattn.data.images import hint_on_bool, hint_on_range, load_image, to_numpy
from keras_resattn.models.class_names import model_class_names
from keras_resattn.models.normalization import normalization, statistics_for
from keras_resattn.pretrained import find, tags
from keras_resattn.pretrained.records import RECORD
from keras_resattn.pretrained.resolution import record_at
from keras_resattn.recipes.run_files import REPORT
from keras_resattn.recipes.run_folder import run_class_names
from keras_resattn.typing import ArrayLike, DataFormat, PathLike
from keras_resattn.utils.data_format import channel_axis, standardize_data_format
from keras_resattn.utils.io import user_path
from keras_resattn.utils.suggestions import did_you_mean
from keras_resattn.utils.validation import check_class_names, is_integer

_RAISE: Any = object()
T = TypeVar("T")


def preprocess_input(x: Any, weights: PathLike = "default", data_format: DataFormat | None = None) -> Any:
    """Normalise images for a released checkpoint: `(x - mean) / std` for each channel.

    Args:
        x: Images from 0 to 255, integers or floats, of shape `(n, h, w, 3)` or `(h, w, 3)`, or channels first. For one
            channel, mean and standard deviation are averaged over the three channels. `x` is one of

            - a NumPy array or a list of arrays. Float images outside 0 to 255, or within 0 to 1, raise a warning;
            - a Pillow image or a list of them, decoded like image files (upright, transparency on white, 8 bits per
              channel);
            - a tensor of the current backend, also inside a compiled function;
            - a `KerasTensor`: the normalisation becomes a layer of the model built on it, as
              `include_preprocessing=True` does for the networks of this package;
            - a tensor in `tf.data.Dataset.map`, on any backend, if its rank and channels are known.

            The input is not modified.
        weights: A tag, an alias, or `"network/tag"`, such as `"cifar10"` or `"ResidualAttention56/tiny_imagenet"`; the
            id of a network, which stands for its default tag; or the folder or Hub repository of a released checkpoint,
            as for a builder. `"default"` is an error as soon as the default tags of several networks differ in
            normalisation.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Returns:
        A new float32 array or tensor of the same shape; in `tf.data`, a TensorFlow tensor.

    Raises:
        ValueError: for unknown weights; for a name shared by checkpoints with different normalisation; for a number of
            channels other than 1 and 3; for values that are not numbers; for integers outside 0 to 255, NaN, infinite
            values, and masked arrays.
        OSError: if the record of a Hub repository cannot be downloaded.
    """
    tag = _find_checkpoint(weights, lambda tag: (tag.mean, tag.std), "normalisation")
    axis = channel_axis(standardize_data_format(data_format))
    symbolic = keras.utils.is_keras_tensor(x) or (not ops.is_tensor(x) and _is_tf_graph_tensor(x))
    x, axis = x if symbolic or ops.is_tensor(x) else _as_numbers(x), axis if axis < 0 else -3
    shape = _shape(x)
    _check_shape(shape, axis, (1, len(tag.mean)))
    mean, std = statistics_for(tag, shape[axis])
    if symbolic:
        layer = normalization(mean, std, axis=axis, dtype="float32")
        layer.build(shape)  # Keras does not build it in the graph of another backend
        return layer(x)
    mean, std = (np.asarray(values, "float32") for values in (mean, std))
    if axis == -3:
        mean, std = mean[:, None, None], std[:, None, None]
    if ops.is_tensor(x):
        return (ops.cast(x, "float32") - ops.convert_to_tensor(mean)) / ops.convert_to_tensor(std)
    _check_values(x)
    return (x.astype("float32") - mean) / std


def _is_tf_graph_tensor(x):
    """Return whether `x` is a symbolic tensor of a TensorFlow graph, for example in `tf.data.Dataset.map`."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and tensorflow.is_tensor(x) and tensorflow.is_symbolic_tensor(x)


def _shape(x):
    try:
        return tuple(x.shape)
    except ValueError as error:
        raise ValueError(
            "Expected images with 3 or 4 dimensions; received: a tensor of unknown rank. In tf.data, decode with "
            "expand_animations=False and channels=3, or set the shape with tf.ensure_shape."
        ) from error


def _as_numbers(x):
    array = to_numpy([_decoded(each) for each in x] if isinstance(x, (list, tuple)) else _decoded(x))
    if array.dtype.name == "bfloat16":  # NumPy does not treat it as a float
        return array.astype("float32")
    if array.dtype.kind not in "uif":
        raise ValueError(
            f"Expected images as arrays of numbers; received: {type(x).__name__} of {array.dtype}."
            + hint_on_bool(array)
        )
    return array


def _decoded(x):
    return load_image(x, "a Pillow image") if isinstance(x, Image.Image) else x


def _check_shape(shape, axis, channels):
    if len(shape) in (3, 4) and shape[axis] in channels:
        return
    formats = {-1: "channels_last", -3: "channels_first"}
    other = -4 - axis
    hint = ""
    if len(shape) in (3, 4) and shape[other] in channels:
        hint = f" Pass data_format={formats[other]!r} if the images have that format."
    raise ValueError(
        f"Expected images with {' or '.join(map(str, channels))} channels, {formats[axis]}, and 3 or 4 dimensions; "
        f"received: shape {shape}.{hint}"
    )


def _check_values(x):
    if x.dtype == "uint8" or not x.size:
        return
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 255):  # also true for NaN
        hint = hint_on_range(x.dtype, low, high)
        if hint or x.dtype.kind in "ui":
            raise ValueError(f"Expected images from 0 to 255; received: {x.dtype} from {low} to {high}.{hint}")
        warnings.warn(
            f"Expected images from 0 to 255; received: values from {low:.4g} to {high:.4g}, already normalised?",
            stacklevel=3,
        )
    elif x.dtype.kind == "f" and 0 < high <= 1:
        warnings.warn(
            f"Expected images from 0 to 255; received: values up to {high:.4g}. Multiply by 255.", stacklevel=3
        )


def warn_if_raw(images: np.ndarray, unnormalized_layer: str | None, stacklevel: int = 2) -> None:
    """Warn if images look raw (0 to 255) and the model's first convolution receives them without normalisation.

    Integers look raw, and so do non-negative floats with a value above 16, which normalised images do not reach.

    Args:
        images: A non-empty NumPy array.
        unnormalized_layer: Name of the convolution, from `convolution_on_raw_input(model)`, or `None` for no warning.
        stacklevel: As for `warnings.warn`.
    """
    if unnormalized_layer is None:
        return
    if images.dtype.kind not in "iub" and not (images.min() >= 0 and images.max() > 16):
        return
    warnings.warn(
        f"The images look raw ({images.dtype}, {images.min():.4g} to {images.max():.4g}), and the layer "
        f"{unnormalized_layer} receives them without normalisation. If the network was trained on normalised images, "
        "like the released checkpoints, call keras_resattn.preprocess_input(images, weights=...) first, or build it "
        "with include_preprocessing=True.",
        stacklevel=stacklevel + 1,
    )


@overload
def class_names_of(known: Any) -> list[str]: ...
@overload
def class_names_of(known: Any, default: T) -> list[str] | T: ...
def class_names_of(known: Any, default: Any = _RAISE) -> Any:
    """Return the class names of a model, a run or a released checkpoint.

    Args:
        known: A `keras.Model`; the report of `compile_and_fit` or `fine_tune`; the folder of a finished run of either;
            a tag, an alias, `"network/tag"`, the id of a network, or the folder or Hub repository of a released
            checkpoint.
        default: Returned if no names are known. Without it, a `ValueError` is raised.

    Returns:
        A list of strings in the order of the model's outputs.

    Raises:
        ValueError: for unknown weights or a folder without a finished run. Without `default`, also if no names are
            known, because the data had none or the run's version did not record them.
        OSError: if the record of a Hub repository cannot be downloaded.
    """
    described = ""
    if isinstance(known, keras.Model):
        names, described = model_class_names(known), f"the model {known.name}"
    elif _is_folder_of_run(known):
        names, described = run_class_names(known), f"the run in {known}"
    elif isinstance(known, (str, os.PathLike)):
        names = list(_find_checkpoint(known, lambda tag: tag.classes, "classes").classes)
    elif hasattr(known, "class_names"):
        names, described = known.class_names, f"a {type(known).__name__}"
    else:
        raise ValueError(
            f"Expected a keras.Model, a report, the folder of a run, or a released checkpoint; received: {known!r}."
        )
    if names is not None:
        return list(names)
    if default is not _RAISE:
        return default
    raise ValueError(
        f"Expected a model or run with class names; received: {described}, which has none. "
        "Name them: set_class_names(model, [...]) for a model, class_names=[...] for decode_predictions."
    )


def decode_predictions(
    probabilities: ArrayLike, top: int = 5, weights: Any = "default", class_names: Sequence[str] | None = None
) -> list[list[tuple[int, str, float]]]:
    """Return the most probable classes of each image by name.

    Args:
        probabilities: Output of a classifier, `(n, classes)`.
        top: Number of classes to return for each image; all if there are fewer.
        weights: Source of the class names: a released checkpoint, a model, a report or the folder of a run, as in
            `class_names_of`. Defaults to the released checkpoints with this number of classes.
        class_names: Class names in the order of the columns, instead of those of `weights`.

    Returns:
        For each image, a list of `(class index, class name, probability)`, most probable first.

    Raises:
        ValueError: for unknown weights or weights without class names, a shape that does not match the number of
            names, negative, NaN or infinite values (logits are not probabilities), or `top` below 1.
    """
    values = keras.ops.convert_to_numpy(probabilities)
    if class_names is None and weights == "default":
        class_names = _default_class_names(values.shape)
    names = class_names_of(weights) if class_names is None else check_class_names(class_names)
    if values.ndim != 2 or values.shape[1] != len(names):
        described = f"weights={str(weights)!r}" if isinstance(weights, (str, os.PathLike)) else type(weights).__name__
        owner = f"{len(names)} class_names" if class_names is not None else f"the {len(names)} classes of {described}"
        hint = "" if class_names is not None else " For another network, pass weights=model or class_names=[...]."
        raise ValueError(
            f"Expected probabilities of shape (n, {len(names)}) for {owner}; received: shape {values.shape}.{hint}"
        )
    if not (values >= 0).all() or not np.isfinite(values).all():
        raise ValueError(
            f"Expected probabilities, finite and at least 0; received: values from {values.min():.4g} to "
            f"{values.max():.4g}. Turn logits into probabilities first: keras.ops.softmax(logits)."
        )
    if not is_integer(top) or top < 1:
        raise ValueError(f"Expected top to be a positive integer; received: top={top!r}.")
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [[(int(i), names[i], float(row[i])) for i in best] for row, best in zip(values, order, strict=True)]


def _default_class_names(shape):
    """Return the class names of the default checkpoints with this number of classes."""
    names = {tuple(tag.classes) for tag in find("default")}
    fitting = [each for each in names if shape[1:] == (len(each),)]
    if len(fitting) != 1:
        counts = " or ".join(str(count) for count in sorted({len(each) for each in names}))
        raise ValueError(
            f"Expected probabilities of shape (n, {counts}) for the classes of the released checkpoints; received: "
            f"shape {shape}. For another network, pass weights=model or class_names=[...]."
        )
    return fitting[0]


def _is_folder_of_run(known):
    if not known or not isinstance(known, (str, os.PathLike)) or (isinstance(known, str) and find(known)):
        return False
    folder = user_path(known)
    return folder.is_dir() and ((folder / REPORT).exists() or not (folder / RECORD).exists())


def _find_checkpoint(weights, trait, description):
    """Return a checkpoint by name or location; raise if checkpoints of that name have different values of `trait`."""
    found = find(weights) if isinstance(weights, str) else []
    if not found and weights and isinstance(weights, (str, os.PathLike)) and (tag := record_at(weights)):
        return tag
    if not found:
        names = sorted({name for tag in tags() for name in (tag.tag, *tag.aliases)})
        raise ValueError(
            f"Expected weights to be a released tag ({', '.join(names) or 'none exists'}), network/tag, the folder of "
            f"a released checkpoint, or 'hf://owner/repo'; received: weights={weights!r}."
            f"{did_you_mean(weights, {*names, *(tag.id for tag in tags())})}"
        )
    if len({trait(tag) for tag in found}) > 1:
        choices = ", ".join(tag.id for tag in found)
        raise ValueError(f"Expected one of {choices}, which differ in {description}; received: weights={weights!r}.")
    return found[0]
