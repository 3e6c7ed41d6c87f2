"""Normalisation of images: channel statistics of datasets, and conversion of images to network input."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.typing import Statistics

# Mean and standard deviation of ImageNet's training images on the scale 0 to 255, as in torchvision and timm.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
DATA_DEPENDENT = ("channel", "pixel_mean")  # normalisations that need statistics of the images


def channel_statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all images, as lists of floats.

    Args:
        x: Images of shape `(n, h, w, c)`, 0 to 255.
    """
    x = to_numpy(x)
    pixels = x.reshape(-1, x.shape[-1])
    return pixels.mean(0, dtype="float64").tolist(), pixels.std(0, dtype="float64").tolist()


def array_statistics(x: np.ndarray, normalization: str) -> Statistics:
    """Return `(mean, std)` for normalising images, as (nested) lists of floats.

    Args:
        x: Training images of shape `(n, h, w, c)`, 0 to 255.
        normalization: `"channel"` for `channel_statistics`; `"pixel_mean"` for the mean image and 1; `"unit"` for 0
            and 255; `"imagenet"` for ImageNet's channel statistics; `"none"` for 0 and 1.

    Raises:
        ValueError: If `normalization` is `"imagenet"` and images do not have 3 channels.
    """
    x = to_numpy(x)
    channels = x.shape[-1]
    if normalization == "channel":
        return channel_statistics(x)
    if normalization == "pixel_mean":
        return x.mean(0, dtype="float64").tolist(), [1.0] * channels
    return fixed_statistics(normalization, channels)


def streaming_statistics(batches: Callable[[], Iterable[np.ndarray]], normalization: str, channels: int) -> Statistics:
    """Return `(mean, std)` like `array_statistics`, for batches of images of one shape.

    Args:
        batches: Function that returns an iterable of images `(n, h, w, c)`. Called only if `normalization` depends on
            the data.
        normalization: As in `array_statistics`.
        channels: Number of channels.
    """
    if normalization not in DATA_DEPENDENT:
        return fixed_statistics(normalization, channels)
    count = 0
    total: Any = 0.0
    squares: Any = 0.0
    for x in batches():
        count += len(x)
        total = total + x.sum(0, dtype="float64")
        if normalization == "channel":
            squares = squares + np.square(x, dtype="float64").sum((0, 1, 2))
    if normalization == "pixel_mean":
        return (total / count).tolist(), [1.0] * channels
    count *= total.shape[0] * total.shape[1]
    mean = total.sum((0, 1)) / count
    return mean.tolist(), np.sqrt(np.maximum(squares / count - mean**2, 0)).tolist()


def fixed_statistics(normalization: str, channels: int) -> tuple[list[float], list[float]]:
    """Return `(mean, std)` of a normalisation that does not depend on the images; see `array_statistics`."""
    if normalization == "imagenet":
        if channels != len(IMAGENET_MEAN):
            raise ValueError(
                f"Expected images of 3 channels for normalization='imagenet'; received: {channels} channels."
            )
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return [0.0] * channels, [{"unit": 255.0, "none": 1.0}[normalization]] * channels


def normalize(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Return `(x - mean) / std` as a new float32 array.

    Args:
        x: Images of shape `(n, h, w, c)`, 0 to 255.
        mean: Mean of each channel, `(c,)`, or of each pixel, `(h, w, c)`.
        std: Standard deviation of each channel, `(c,)`; 0, as for a constant channel, is replaced by 1.
    """
    # One row per image: NumPy takes ten times as long if its innermost loop runs over three channels.
    images = np.array(to_numpy(x), "float32")
    shape = images.shape[1:]
    normalized = images.reshape(-1, int(np.prod(shape)))
    normalized -= np.broadcast_to(np.asarray(mean, "float32"), shape).reshape(-1)
    normalized /= np.broadcast_to(nonzero_std(std), shape).reshape(-1)
    return images


def nonzero_std(std: Any) -> np.ndarray:
    """Return standard deviations as float32, with 0 (constant channels) replaced by 1."""
    return np.where(np.asarray(std) == 0, 1, std).astype("float32")


def network_input(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Return normalised images as float32 in Keras' image data format.

    Args:
        x: Images of shape `(n, h, w, c)`, 0 to 255.
        mean: As in `normalize`.
        std: As in `normalize`.
    """
    return in_data_format(normalize(x, mean, std))


def in_data_format(x: np.ndarray) -> np.ndarray:
    """Return images of shape `(n, h, w, c)` in Keras' image data format."""
    return np.moveaxis(x, -1, 1) if keras.config.image_data_format() == "channels_first" else x
