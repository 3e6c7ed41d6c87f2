"""Arrays of images: reading, checking, statistics, and what a network takes."""

from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.typing import PathLike, Statistics
from keras_resattn.utils.io import user_path
from keras_resattn.utils.npz import read_npz
from keras_resattn.utils.validation import check_class_names

# ImageNet's, from 0 to 255, as all that is published with it uses them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

NAMES = ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test")
CLASS_NAMES = "class_names"


def load_npz(path: PathLike, split: str | None = None) -> dict[str, Any]:
    """Read `x_` and `y_` of `train`, `validation` and `test` from an `.npz` file, those that it holds.

    Args:
        path: The file.
        split: The one split to read, whose two arrays have to be there; by default all.

    Returns:
        `{name: array}`; and, where the file has such an entry, a list of strings, `"class_names"`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no `.npz` file, is damaged, or holds none of these arrays, or class names that are not
            different, non-empty strings.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected the path of an .npz file; there is nothing at {path}.")
    names = NAMES if split is None else (f"x_{split}", f"y_{split}")
    remedy = "Write it again with numpy.savez(path, x_train=..., y_train=...)."
    arrays: dict[str, Any]
    arrays: dict[str, Any]
    arrays, found = read_npz(path, (*names, CLASS_NAMES), remedy)
    class_names = arrays.pop(CLASS_NAMES, None)
    if not arrays or (split is not None and len(arrays) < 2):
        wanted = " and ".join(names) if split else f"some of {', '.join(names)}"
        raise ValueError(f"Expected {wanted} in {path}; received: {', '.join(found) or 'nothing'}.")
    if class_names is not None:
        try:
            arrays[CLASS_NAMES] = check_class_names(class_names)
        except ValueError as error:
            raise ValueError(f"{path}: {error} Write them as numpy.array([...]) of strings.") from None
    return arrays


def check_images(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Checks images and labels before any work, and returns the labels as a flat int array.

    Raises:
        ValueError: if `x` is not `(n, h, w, c)` uint8 or float, the lengths differ, or a label is not in
            `[0, classes)`.
    """
    x, y = to_numpy(x), to_numpy(y)
    if x.ndim != 4 or x.dtype.kind not in "uf":
        raise ValueError(
            f"Expected images of shape (n, height, width, channels), 0 to 255; received: shape {x.shape}, {x.dtype}."
        )
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label for each of {len(x)} images; received: shape {y.shape}, {y.dtype}."
        )
    if len(y) and not 0 <= y.min() <= y.max() < classes:
        raise ValueError(f"Expected labels from 0 to {classes - 1}; received: labels from {y.min()} to {y.max()}.")
    return y.astype("int64")


def channel_statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each channel over all images, as lists of floats.

    Args:
        x: Images, `(n, h, w, c)`, 0 to 255.
    """
    x = to_numpy(x)
    pixels = x.reshape(-1, x.shape[-1])
    return pixels.mean(0, dtype="float64").tolist(), pixels.std(0, dtype="float64").tolist()


def statistics(x: np.ndarray, normalization: str) -> Statistics:
    """Returns what images are normalised with, as (nested) lists of floats: `(mean, std)`.

    Args:
        x: Training images, `(n, h, w, c)`, 0 to 255.
        normalization: `"channel"`, as `channel_statistics`; `"pixel_mean"`, the mean image and 1; `"unit"`, 0 and
            255; `"imagenet"`, ImageNet's means and deviations; `"none"`, 0 and 1.

    Raises:
        ValueError: for `"imagenet"` and another number of channels than 3.
    """
    x = to_numpy(x)
    channels = x.shape[-1]
    if normalization == "channel":
        return channel_statistics(x)
    if normalization == "pixel_mean":
        return x.mean(0, dtype="float64").tolist(), [1.0] * channels
    return fixed_statistics(normalization, channels)


def fixed_statistics(normalization: str, channels: int) -> tuple[list[float], list[float]]:
    """Returns `(mean, std)` of a normalisation that asks nothing of the images; see `statistics`."""
    if normalization == "imagenet":
        if channels != len(IMAGENET_MEAN):
            raise ValueError(
                f"Expected images of 3 channels for normalization='imagenet'; received: {channels} channels."
            )
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    return [0.0] * channels, [{"unit": 255.0, "none": 1.0}[normalization]] * channels


def normalize(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Returns `(x - mean) / std` in float32.

    Args:
        x: Images, `(n, h, w, c)`, 0 to 255. Never changed.
        mean: Mean of each channel, or of each pixel, `(h, w, c)`.
        std: Standard deviation of each channel; a constant channel's 0 counts as 1.
    """
    # Image by image: NumPy takes ten times as long where its innermost loop is over three channels.
    images = np.array(to_numpy(x), "float32")
    shape = images.shape[1:]
    normalized = images.reshape(-1, int(np.prod(shape)))
    normalized -= np.broadcast_to(np.asarray(mean, "float32"), shape).reshape(-1)
    normalized /= np.broadcast_to(nonzero(std), shape).reshape(-1)
    return images


def nonzero(std: Any) -> np.ndarray:
    """Standard deviations to divide by, float32: 0, that of a constant channel, counts as 1."""
    return np.where(np.asarray(std) == 0, 1, std).astype("float32")


def network_input(x: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Returns images as a network takes them: normalised, float32, in Keras' image data format.

    Args and shapes as in `normalize`.
    """
    return in_data_format(normalize(x, mean, std))


def in_data_format(x: np.ndarray) -> np.ndarray:
    """Returns images `(n, h, w, c)` in Keras' image data format."""
    return np.moveaxis(x, -1, 1) if keras.config.image_data_format() == "channels_first" else x


def smoothed(y: np.ndarray, classes: int, share: float = 0.0) -> np.ndarray:
    """Integer labels as shares, `(n, classes)` float32: `1 - share` for the label, and `share` spread over all."""
    return (1 - share) * np.eye(classes, dtype="float32")[y] + np.float32(share / classes)
