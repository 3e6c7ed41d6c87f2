"""Wrong labels, drawn as in the label-noise experiment of Wang et al. (CVPR 2017, section 4.1, Eq. 7)."""

from typing import Any

import numpy as np

from keras_resattn.data.dataset import Dataset, as_labels


def confusion_matrix(classes: int, rate: float) -> np.ndarray:
    """Returns Q of Eq. 7: a label stays with probability `r = 1 - rate`, or becomes each other one equally likely.

    The paper has ten classes: `r` on the diagonal and `(1 - r) / 9` elsewhere. It states the share `r` of clean
    labels; a `rate` here is the share of wrong ones.

    Args:
        classes: Number of classes, from 2 up.
        rate: Probability of a wrong label, from 0 to below 1.

    Returns:
        Array of shape `(classes, classes)` in float64: row is the true class, column the label.

    Raises:
        ValueError: for a value out of range.
    """
    _check(classes, rate)
    matrix = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def noisy_labels(y: np.ndarray, rate: float, classes: int, seed: int = 0) -> np.ndarray:
    """Returns labels drawn by `confusion_matrix(classes, rate)`, one for each true label, once and for all.

    A image's draw depends on its place and the seed: of two rates, the larger one leaves the labels wrong that the
    smaller one made wrong, and the same ones.

    Args:
        y: True labels, `(n,)`, integers from 0 to `classes - 1`. Never changed.
        rate: Probability of a wrong label, from 0 to below 1.
        classes: Number of classes, from 2 up.
        seed: Integer from 0 up.

    Returns:
        int64 array of shape `(n,)`.

    Raises:
        ValueError: for a value out of range.
    """
    _check(classes, rate)
    y = as_labels(y, len(y))
    if y.max() >= classes:
        raise ValueError(f"Expected labels from 0 to {classes - 1}; received: labels up to {y.max()}.")
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(y)) < rate
    other = (y + rng.integers(1, classes, len(y))) % classes  # never the label itself, and each other one alike
    return np.where(wrong, other, y)


def with_label_noise(dataset: Any, rate: float, classes: int, seed: int = 0) -> Any:
    """Returns a `Dataset` with noisy labels; the same one for a rate of 0. Images are shared, and not read.

    Args:
        dataset: A `Dataset`. A `BatchStream` has no indices that tie a noisy label to its image.
        rate: Probability of a wrong label, from 0 to below 1: a recipe's `label_noise`.
        classes: Number of classes.
        seed: Integer from 0 up.

    Raises:
        ValueError: for a `BatchStream`, and as in `noisy_labels`.
    """
    if rate == 0:
        return dataset
    if not isinstance(dataset, Dataset):
        raise ValueError(
            "Expected images that can be read by index (arrays, a folder, records) for label noise; "
            f"received: a {type(dataset).__name__}, in which a image cannot be told from pass to pass."
        )
    return dataset.relabelled(noisy_labels(dataset.labels, rate, classes, seed))


def _check(classes, rate):
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 2:
        raise ValueError(f"Expected classes to be an integer of at least 2; received: classes={classes!r}.")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"Expected the rate of wrong labels to be from 0 to below 1; received: rate={rate!r}.")
