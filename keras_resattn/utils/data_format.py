"""Image data formats: where the axes of a tensor are."""

import keras

from keras_resattn.typing import DataFormat, Shape


def standardize_data_format(data_format: DataFormat | None) -> DataFormat:
    """Returns `data_format`, or Keras' default for `None`.

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


def channel_axis(data_format: DataFormat) -> int:
    return -1 if data_format == "channels_last" else 1


def spatial_axes(data_format: DataFormat) -> tuple[int, int]:
    return (1, 2) if data_format == "channels_last" else (2, 3)


def image_shape(height: int | None, width: int | None, channels: int | None) -> Shape:
    """Returns the shape of one image in Keras' image data format: what `input_shape` says."""
    last = keras.config.image_data_format() == "channels_last"
    return (height, width, channels) if last else (channels, height, width)
