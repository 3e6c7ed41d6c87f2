"""Image data formats: the axes of a 4-D tensor, and shapes in Keras' image data format."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_resattn.typing import DataFormat, Shape


def standardize_data_format(data_format: DataFormat | None) -> DataFormat:
    """Return `data_format`, or Keras' image data format for `None`.

    Raises:
        ValueError: if it is neither `"channels_last"` nor `"channels_first"`.
    """
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "Expected data_format to be 'channels_last', 'channels_first' or None; "
            f"received: data_format={data_format!r}."
        )
    return data_format


def channel_axis(data_format: DataFormat | None = None) -> int:
    """Return the channel axis of a 4-D tensor; `None` means Keras' image data format."""
    return -1 if standardize_data_format(data_format) == "channels_last" else 1


def spatial_axes(data_format: DataFormat | None = None) -> tuple[int, int]:
    """Return the axes of height and width of a 4-D tensor; `None` means Keras' image data format."""
    return (1, 2) if standardize_data_format(data_format) == "channels_last" else (2, 3)


def image_shape(height: int | None, width: int | None, channels: int | None) -> Shape:
    """Return the shape of one image in Keras' image data format, as `input_shape` of a builder expects it."""
    return (height, width, channels) if channel_axis() == -1 else (channels, height, width)


def image_size(shape: Sequence[int | None]) -> tuple[Any, Any]:
    """Return height and width from the shape of a batch of images or maps in Keras' image data format."""
    height, width = spatial_axes()
    return shape[height], shape[width]


def image_channels(shape: Sequence[int | None]) -> Any:
    """Return the number of channels from the shape of a batch of images or maps in Keras' image data format."""
    return shape[channel_axis()]
