"""Convert a model to a file, through `keras.Model.export`."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from keras_resattn.deployment.formats import INPUT_NAME
from keras_resattn.models.inspection import iter_layers
from keras_resattn.utils.data_format import spatial_axes


def convert(model: keras.Model, path: Path, format: str, input_shape: tuple[int | None, ...]) -> None:
    """Write a model to a file or folder.

    Args:
        model: A functional model with one input.
        path: Path to write, which must not exist. OpenVINO also writes a `.bin` file beside it.
        format: Format of the file.
        input_shape: Shape of the input, with `None` for open sizes.

    Raises:
        ValueError: If the converter fails.
        OSError: If the file cannot be written.
    """
    dtype = keras.backend.standardize_dtype(model.inputs[0].dtype)
    signature = [keras.InputSpec(shape=input_shape, dtype=dtype, name=INPUT_NAME)]
    options = _OPTIONS.get(format, _no_options)(input_shape)
    if format == "openvino" and keras.backend.backend() == "torch" and len(model.outputs) > 1:
        # PyTorch's tracer accepts several outputs only as a tuple.
        model = keras.Model(model.input, tuple(keras.tree.flatten(model.output)), name=model.name)
    try:
        with _quiet(), _torch_training_flags_kept(model), _normalization_by_constants(model):
            model.export(str(path), format=format, verbose=False, input_signature=signature, **options)
    except OSError:
        raise
    except Exception as error:  # converters raise errors of many types
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"Expected {model.name} to be convertible to {format} on {keras.backend.backend()} with input shape "
            f"{input_shape}; the converter failed ({reason}). Nothing was written. Try a fixed batch_size and "
            "image_size, or another format."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what converters print, log and warn about their own implementation."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _torch_training_flags_kept(model: keras.Model) -> Iterator[None]:
    """Restore the training flag of every PyTorch module of a model, which exporters clear."""
    module: Any = model
    flags = {each: each.training for each in module.modules()} if keras.backend.backend() == "torch" else {}
    try:
        yield
    finally:
        for each, training in flags.items():
            each.training = training


@contextlib.contextmanager
def _normalization_by_constants(model: keras.Model) -> Iterator[None]:
    """Make `Normalization` layers hold their statistics as NumPy arrays inside a block.

    TensorFlow's functions capture tensors as inputs. The converters to ONNX and OpenVINO would make the statistics,
    which are tensors and no variables, inputs of the file.
    """
    layers = [layer for layer in iter_layers(model) if isinstance(layer, keras.layers.Normalization)]
    kept = [(layer, layer.mean, layer.variance) for layer in layers if layer.mean is not None]
    try:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = map(keras.ops.convert_to_numpy, (mean, variance))
        yield
    finally:
        for layer, mean, variance in kept:
            layer.mean, layer.variance = mean, variance


def _no_options(input_shape):
    return {}


def _litert_options(input_shape):
    """Return options that keep TensorFlow's own operations out of the file, which only TensorFlow could run."""
    import tensorflow as tf

    return {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}


def _torch_options(input_shape):
    import torch

    height, width = spatial_axes()
    names = {0: "batch", height: "height", width: "width"}
    free = {axis: torch.export.Dim(name) for axis, name in names.items() if input_shape[axis] is None}
    return {"dynamic_shapes": free} if free else {}


_OPTIONS = {"litert": _litert_options, "torch": _torch_options}
