"""Labels: conversion to integers, range checks and label smoothing."""

from typing import Any

import numpy as np

from keras_resattn.data.images import to_numpy


def as_labels(y: Any, count: int, classes: int | None = None) -> np.ndarray:
    """Return labels as an int64 array of shape `(count,)`.

    Args:
        y: Integer labels of shape `(count,)` or `(count, 1)`, or one-hot labels of shape `(count, classes)`.
        count: Number of images.
        classes: Number of classes, or `None` to accept any non-negative label.

    Raises:
        ValueError: If the shape differs, or labels are neither integers nor one-hot, or outside 0 to `classes - 1`.
    """
    y = to_numpy(y)
    if y.ndim == 2 and y.shape[1] > 1 and len(y) == count:
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"Expected integer or one-hot labels; received: soft labels of shape {y.shape}. "
                "Use the recipe's mixup, cutmix or label_smoothing, which create soft labels during training."
            )
        y = y.argmax(1)
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (count,) or y.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label for each of {count} images; received: shape {y.shape}, {y.dtype}."
        )
    if count and y.max() >= 2**63:
        raise ValueError(f"Expected labels that fit into int64; received: {y.max()}.")
    if classes is not None:
        check_label_range(y, classes)
    elif count and y.min() < 0:
        raise ValueError(
            f"Expected labels of at least 0; received: {y.min()}, which some datasets use for unlabelled images. "
            "Leave those images out."
        )
    return y.astype("int64")


def check_label_range(y: np.ndarray, classes: int) -> None:
    """Raise a `ValueError` unless all labels are from 0 to `classes - 1`."""
    if len(y) and not 0 <= y.min() <= y.max() < classes:
        raise ValueError(f"Expected labels from 0 to {classes - 1}; received: labels from {y.min()} to {y.max()}.")


def smooth_labels(y: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
    """Return integer labels as soft labels, `(n, classes)` float32.

    Args:
        y: Integer labels of shape `(n,)`.
        classes: Number of classes.
        smoothing: Weight of the uniform distribution over all classes; the label's class gets `1 - smoothing` in
            addition. With 0, labels are one-hot.
    """
    return (1 - smoothing) * np.eye(classes, dtype="float32")[y] + np.float32(smoothing / classes)
