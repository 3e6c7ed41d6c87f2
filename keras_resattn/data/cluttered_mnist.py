"""Cluttered Translated MNIST: a digit at a random position on a larger canvas, over pieces of other digits."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from keras_resattn.data.images import to_numpy
from keras_resattn.data.labels import as_labels
from keras_resattn.data.npz_files import load_npz
from keras_resattn.typing import PathLike
from keras_resattn.utils.validation import check_count

CHUNK = 1024  # images composed at once; it does not affect the result
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def cluttered_mnist(
    digits: np.ndarray,
    labels: np.ndarray,
    count: int,
    distractors: int = 8,
    seed: int = 0,
    size: int = 40,
    distractor_size: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Compose images of one digit each, following the deepmind/mnist-cluttered generator.

    Each canvas starts black. First, `distractors` windows are added at uniformly random positions, each cut at a
    uniformly random position from a digit drawn with replacement from `digits`. Then the labelled digit is added at a
    uniformly random position. Sums are clipped to white. Labelled digits are drawn without replacement; once all have
    been used, they are shuffled again.

    For the same seed, digits and positions do not depend on the number of distractors, and a smaller set equals the
    first images of a larger one. WARN uses 8 distractors and 200,000 training, 100,000 validation and 100,000 test
    images, each from its own set of `mnist_splits`.

    Args:
        digits: uint8 array of shape `(n, h, h)` or `(n, h, h, 1)`. Its largest value is white.
        labels: Integer array of shape `(n,)`, 0 to 9.
        count: Number of images.
        distractors: Number of windows under each digit, at least 0.
        seed: Non-negative integer.
        size: Height and width of an image, in pixels.
        distractor_size: Height and width of a window, in pixels.

    Returns:
        `(x, y)`: uint8 images of shape `(count, size, size, 1)`, the floor of 255 times the value in `[0, 1]`, and
        int64 labels of shape `(count,)`.

    Raises:
        ValueError: If an array has an unsupported shape or type, or a number is out of range.

    Source: Mnih et al., "Recurrent Models of Visual Attention" (2014), and its authors' generator.
    """
    digits, labels = _check_digits(digits, labels)
    side = digits.shape[1]
    check_count("count", count)
    check_count("distractors", distractors, 0)
    check_count("seed", seed, 0)
    check_count("size", size, side)
    check_count("distractor_size", distractor_size)
    if distractor_size > side:
        raise ValueError(f"Expected distractor_size of at most {side}; received: distractor_size={distractor_size}.")

    order_rng, place_rng, clutter_rng = np.random.default_rng(seed).spawn(3)
    order = np.concatenate([order_rng.permutation(len(digits)) for _ in range(-(-count // len(digits)))])[:count]
    cut, paste = side - distractor_size + 1, size - distractor_size + 1
    windows, white = _windows(digits, distractor_size), max(int(digits.max()), 1)
    x = np.empty((count, size, size, 1), "uint8")
    for start in range(0, count, CHUNK):
        drawn = order[start : start + CHUNK]
        canvas = np.zeros((len(drawn), size, size), "uint16")
        places = clutter_rng.integers(0, (len(digits), cut, cut, paste, paste), (len(drawn), distractors, 5))
        for digit, top, left, *place in np.moveaxis(places, 0, -1):
            _add(canvas, windows[digit, top, left], place, white)
        _add(canvas, digits[drawn], place_rng.integers(0, size - side + 1, (len(drawn), 2)).T, white)
        x[start : start + CHUNK, ..., 0] = canvas * np.uint16(255) // np.uint16(white)
    return x, labels[order]


def mnist_splits(
    source: PathLike | Mapping[str, Any] = "keras", validation: int = 10_000
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the three splits of MNIST from which cluttered images are composed.

    Args:
        source: `"keras"` (`keras.datasets.mnist`), `"tfds"` (`tensorflow_datasets`, which stores the training digits in
            another order), the path of an `.npz` file, or a mapping. A file or mapping has `x_train`, `y_train`,
            `x_test` and `y_test`.
        validation: Number of training digits, the last ones, to set aside: 10,000 of the 60,000 in WARN.

    Returns:
        `{"train": (x, y), "validation": (x, y), "test": (x, y)}`: uint8 digits of shape `(n, 28, 28)` and int64 labels
        of shape `(n,)`.

    Raises:
        ImportError: If `source` is `"tfds"` and `tensorflow_datasets` is not installed.
        FileNotFoundError: If the file does not exist.
        ValueError: If `source` is none of these, or an array is missing or has an unsupported shape or type.
    """
    check_count("validation", validation)
    arrays = _read_mnist(source)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(f"Expected {', '.join(ARRAYS)}; received: {', '.join(arrays)}.")
    x, y = _check_digits(arrays["x_train"], arrays["y_train"])
    if validation >= len(x):
        raise ValueError(
            f"Expected validation to be less than the {len(x)} training digits; received: validation={validation}."
        )
    return {
        "train": (x[:-validation], y[:-validation]),
        "validation": (x[-validation:], y[-validation:]),
        "test": _check_digits(arrays["x_test"], arrays["y_test"]),
    }


def _read_mnist(source):
    if source == "keras":
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        return dict(zip(ARRAYS, (x_train, y_train, x_test, y_test), strict=True))
    if source == "tfds":
        return _read_tfds()
    if isinstance(source, (str, os.PathLike)):
        if not os.path.exists(source):
            raise FileNotFoundError(f"Expected 'keras', 'tfds' or the path of an .npz file; there is no file {source}.")
        return load_npz(source)
    if not hasattr(source, "keys"):
        raise ValueError(
            "Expected source to be 'keras', 'tfds', the path of an .npz file or a mapping of arrays; "
            f"received: an object of type {type(source).__name__}."
        )
    return source


def _read_tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "Expected tensorflow_datasets to be installed for source='tfds'; "
            "received: an ImportError. Install it with: pip install 'keras-resattn[data]'."
        ) from error
    arrays = {}
    for split in ("train", "test"):
        examples = tfds.data_source("mnist", split=split)  # needs no TensorFlow, unlike tfds.load
        examples = [examples[i] for i in range(len(examples))]
        arrays[f"x_{split}"] = np.stack([example["image"] for example in examples])
        arrays[f"y_{split}"] = np.array([example["label"] for example in examples])
    return arrays


def _check_digits(digits, labels):
    """Return digits as uint8 of shape `(n, h, h)`, and labels as int64 of shape `(n,)`, after checking them."""
    digits = to_numpy(digits)
    shape = digits.shape[:3] if digits.ndim == 4 and digits.shape[3] == 1 else digits.shape
    if digits.dtype != "uint8" or len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise ValueError(
            "Expected digits as a uint8 array of shape (n, h, h) or (n, h, h, 1); "
            f"received: shape {digits.shape}, {digits.dtype}."
        )
    digits = digits.reshape(shape)
    return digits, as_labels(labels, len(digits), classes=10)


def _windows(images, size):
    """Return a view of all square windows, `(n, h - size + 1, w - size + 1, size, size)`."""
    return sliding_window_view(images, (size, size), axis=(1, 2), writeable=True)


def _add(canvas, patches, place, white):
    """Add a patch to each image of `canvas` at rows and columns `place`, clipped to `white`.

    Values are never negative, so clipping after each addition equals clipping once at the end.
    """
    top, left = place
    windows, each = _windows(canvas, patches.shape[-1]), np.arange(len(canvas))
    windows[each, top, left] = np.minimum(windows[each, top, left] + patches, white)
