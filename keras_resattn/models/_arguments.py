"""Checks of builder arguments. All run before anything is built."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_resattn.typing import Pooling, Shape
from keras_resattn.utils.data_format import channel_axis, image_channels, image_shape, image_size
from keras_resattn.utils.validation import check_choice, check_count, is_integer

MIN_SIZE = 32
POOLINGS = (None, "avg", "max")


def check_counts(argument: str, values: Sequence[int], length: int, least: int = 1) -> tuple[int, ...]:
    """Return a sequence of integers, one for each stage, as a tuple of Python integers.

    Raises:
        ValueError: if `values` is not a list or tuple of `length` integers of at least `least`.
    """
    if not isinstance(values, (list, tuple)) or len(values) != length:
        raise ValueError(
            f"Expected {argument} to hold one integer for each of the {length} stages; received: {argument}={values!r}."
        )
    return tuple(check_count(f"each entry of {argument}", value, least) for value in values)


def check_depth(depth: int, step: int, rest: int) -> int:
    """Return `depth` as a Python integer.

    Raises:
        ValueError: if it is not `step * n + rest` for a positive integer n.
    """
    if not is_integer(depth) or depth <= rest or (depth - rest) % step:
        first = ", ".join(str(step * n + rest) for n in range(1, 5))
        raise ValueError(f"Expected depth to be {step}n + {rest} ({first}, ...); received: depth={depth!r}.")
    return int(depth)


def check_head(include_top: bool, pooling: Pooling | None, classes: int, classifier_activation: Any) -> int:
    """Check the arguments of a network's head, and return `classes` as a Python integer.

    Raises:
        ValueError: if `pooling` is unknown or given with a top, `classes` is below 1, or Keras does not know the
            activation.
    """
    if not isinstance(include_top, bool):
        raise ValueError(f"Expected include_top to be True or False; received: include_top={include_top!r}.")
    check_choice("pooling", pooling, POOLINGS)
    if include_top and pooling is not None:
        raise ValueError(
            "Expected pooling=None with include_top=True, as the head always averages over positions; "
            f"received: pooling={pooling!r}. Pass include_top=False to choose the pooling."
        )
    classes = check_count("classes", classes)
    if include_top:
        try:
            keras.activations.get(classifier_activation)
        except (ValueError, TypeError) as error:
            raise ValueError(
                "Expected classifier_activation to be None, 'softmax', or another Keras activation; "
                f"received: classifier_activation={classifier_activation!r}."
            ) from error
    return classes


def resolve_input(
    input_tensor: keras.KerasTensor | None, input_shape: Shape | None, default_size: int
) -> keras.KerasTensor:
    """Return the input of a network: `input_tensor`, or a new `keras.Input`.

    Args:
        input_tensor: A KerasTensor of shape `(n, h, w, c)` (or channels first), or `None`.
        input_shape: `(h, w, c)` (or `(c, h, w)`), where sizes may be `None`; or `None` for the default size
            and three channels.
        default_size: Height and width in pixels if neither of the others is given.

    Raises:
        ValueError: if the type or rank is wrong, the number of channels is unknown, a size is below 32, or
            `input_shape` contradicts `input_tensor`.
    """
    if input_shape is not None:
        input_shape = _check_input_shape(input_shape)
    if input_tensor is None:
        if input_shape is None:
            input_shape = image_shape(default_size, default_size, 3)
        _check_sizes(input_shape, f"input_shape={input_shape}")
        return keras.Input(input_shape)
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "Expected input_tensor to be a KerasTensor, such as keras.Input(...) or the output of a layer; "
            f"received: an object of type {type(input_tensor).__name__}. To run the network on an array, "
            "build it without input_tensor and call model.predict(array)."
        )
    shape = tuple(input_tensor.shape[1:])
    if len(shape) != 3:
        raise ValueError(f"Expected input_tensor to have 4 dimensions; received: shape {tuple(input_tensor.shape)}.")
    if input_shape is not None and input_shape != shape:
        raise ValueError(
            "Expected input_shape to agree with input_tensor, or to be None; "
            f"received: input_shape={input_shape} and an input_tensor of shape {tuple(input_tensor.shape)}."
        )
    _check_sizes(shape, f"an input_tensor of shape {tuple(input_tensor.shape)}")
    return input_tensor


def _check_input_shape(input_shape):
    order = "height, width, channels" if channel_axis() == -1 else "channels, height, width"
    is_shape = isinstance(input_shape, (list, tuple)) and len(input_shape) == 3
    if not is_shape or not all(size is None or (is_integer(size) and size > 0) for size in input_shape):
        raise ValueError(
            f"Expected input_shape to be ({order}), three positive integers (height and width may be None); "
            f"received: input_shape={input_shape!r}."
        )
    return tuple(size if size is None else int(size) for size in input_shape)


def _check_sizes(shape, received):
    data_format, batched = keras.config.image_data_format(), (None, *shape)
    if image_channels(batched) is None:
        raise ValueError(f"Expected a known number of channels ({data_format}); received: {received}.")
    if any(size is not None and size < MIN_SIZE for size in image_size(batched)):
        raise ValueError(
            f"Expected height and width of at least {MIN_SIZE} pixels ({data_format}); received: {received}."
        )
