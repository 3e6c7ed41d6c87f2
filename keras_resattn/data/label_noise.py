"""Label noise, as in the experiment of Wang et al. (CVPR 2017, section 4.1, Eq. 7)."""

from typing import Any

import numpy as np

from keras_resattn.data.dataset import Dataset
from keras_resattn.data.labels import as_labels
from keras_resattn.utils.validation import check_count, check_number


def confusion_matrix(classes: int, rate: float) -> np.ndarray:
    """Return the confusion matrix Q of Eq. 7.

    A label is kept with probability `r = 1 - rate`, or replaced by each other label with equal probability: for the
    paper's ten classes, `r` on the diagonal and `(1 - r) / 9` elsewhere. The paper states the fraction `r` of clean
    labels; `rate` is the fraction of noisy labels.

    Args:
        classes: Number of classes, at least 2.
        rate: Probability of a noisy label, in [0, 1).

    Returns:
        Float64 array of shape `(classes, classes)`. Rows are true classes, columns are labels.

    Raises:
        ValueError: If a value is out of range.
    """
    check_count("classes", classes, 2)
    check_number("rate", rate, below=1)
    matrix = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def noisy_labels(y: np.ndarray, rate: float, classes: int, seed: int = 0) -> np.ndarray:
    """Return labels drawn from `confusion_matrix(classes, rate)`.

    The draw for an image depends only on its index and the seed. A larger rate makes the same changes as a smaller
    rate, and more.

    Args:
        y: True labels of shape `(n,)`, from 0 to `classes - 1`. Not modified.
        rate: Probability of a noisy label, in [0, 1).
        classes: Number of classes, at least 2.
        seed: Non-negative integer.

    Returns:
        int64 array of shape `(n,)`.

    Raises:
        ValueError: If a value is out of range.
    """
    check_count("classes", classes, 2)
    check_number("rate", rate, below=1)
    y = as_labels(y, len(y), classes)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(y)) < rate
    other = (y + rng.integers(1, classes, len(y))) % classes  # each other label with equal probability
    return np.where(wrong, other, y)


def with_label_noise(dataset: Any, rate: float, classes: int, seed: int = 0) -> Any:
    """Return a `Dataset` with noisy labels, or the dataset itself for a rate of 0. Images are shared and not read.

    Args:
        dataset: A `Dataset`. Label noise needs a fixed index for each image, which a `BatchStream` does not have.
        rate: Probability of a noisy label, in [0, 1): a recipe's `label_noise`.
        classes: Number of classes.
        seed: Non-negative integer.

    Raises:
        ValueError: If `dataset` is a `BatchStream`, or a value is out of range.
    """
    if rate == 0:
        return dataset
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "Expected data that are read by index (arrays, a folder, records) for label noise; "
            f"received: a {type(dataset).__name__}, whose images have no index."
        )
    return dataset.relabelled(noisy_labels(dataset.labels, rate, classes, seed))
