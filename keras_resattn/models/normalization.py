"""Normalisation of images: as a layer, for released checkpoints, and whether a model does it itself."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_resattn.pretrained.records import Checkpoint
from keras_resattn.utils.data_format import channel_axis
from keras_resattn.utils.keras_internals import symbolic_calls

#: Name of the layer that normalises images inside a network.
PREPROCESSING = "preprocessing"


def normalization(
    mean: Sequence[float], std: Sequence[float], axis: int | None = None, **options: Any
) -> keras.layers.Layer:
    """Return a layer that subtracts `mean` and divides by `std`, channel by channel.

    The layer is Keras' `Normalization` with constants: it has no weights, and loading a saved model with it needs no
    code of this package. A standard deviation of 0 is replaced by 1.
    """
    axis = channel_axis() if axis is None else axis
    variance = [float(value) ** 2 or 1.0 for value in std]
    return keras.layers.Normalization(axis=axis, mean=[float(value) for value in mean], variance=variance, **options)


def statistics_for(tag: Checkpoint, channels: int) -> tuple[list[float], list[float]]:
    """Return `(mean, std)` of a released checkpoint for images of 3 channels, or averaged over them for 1 channel."""
    if channels == 1:
        return [sum(tag.mean) / len(tag.mean)], [sum(tag.std) / len(tag.std)]
    return list(tag.mean), list(tag.std)


class _NormalizedImages(str):
    """Value for `InputSpec.dtype` that equals every float dtype; its text completes Keras' error message."""

    __slots__ = ()

    def __eq__(self, dtype):
        return "float" in dtype

    def __ne__(self, dtype):
        return "float" not in dtype

    __hash__ = str.__hash__


def reject_integers(model: keras.Model) -> None:
    """Make Keras raise an error for integer inputs, which are unnormalised images, in `predict`, `fit` and `model(x)`.

    Keras would cast them to float32. On JAX, `predict`, `evaluate` and `fit` do not check inputs. The check is lost in
    saved files and in models built on this one.
    """
    (spec,) = model.input_spec
    spec.dtype = _NormalizedImages(
        "float, for normalised images (call keras_resattn.preprocess_input(images, weights=...) first, or build the "
        "network with include_preprocessing=True)"
    )
    model.input_spec = spec


def rejects_integers(model: keras.Model) -> bool:
    """Return whether `reject_integers` was called on a model."""
    return isinstance(getattr(model.input_spec, "dtype", None), _NormalizedImages)


def convolution_on_raw_input(model: keras.Model) -> str | None:
    """Return the name of the convolution that the model's input reaches unnormalised, or `None` if there is none.

    Padding may precede the convolution. A network that starts with other layers, such as `Rescaling`, `Normalization`
    or `BatchNormalization`, normalises its input itself.

    Args:
        model: A functional or built sequential `keras.Model`.
    """
    raw = {id(tensor) for tensor in keras.tree.flatten(model.inputs)}
    for layer in model.layers:
        for received, returned in symbolic_calls(layer):
            if not raw.intersection(map(id, received)):
                continue
            if isinstance(layer, (keras.Sequential, keras.Function)):
                found = convolution_on_raw_input(layer)
            else:
                found = layer.name if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)) else None
            if found:
                return found
            if isinstance(layer, keras.layers.ZeroPadding2D):
                raw.update(map(id, returned))
    return None


def normalization_of_input(model: keras.Model) -> str | None:
    """Return the name of the `Normalization` or `Rescaling` layer that the model's input reaches first, or `None`.

    Layers without weights, such as augmentation, may precede it. Operations such as `inputs / 255` are not detected.

    Args:
        model: A functional or built sequential `keras.Model`.
    """
    raw = {id(tensor) for tensor in keras.tree.flatten(model.inputs)}
    for layer in model.layers:
        returned = [returned for received, returned in symbolic_calls(layer) if raw.intersection(map(id, received))]
        if not returned:
            continue
        if isinstance(layer, (keras.layers.Normalization, keras.layers.Rescaling)):
            return layer.name
        if isinstance(layer, (keras.Sequential, keras.Function)):
            found = normalization_of_input(layer)
            if found:
                return found
        if not layer.weights:
            raw.update(id(tensor) for tensors in returned for tensor in tensors)
    return None
