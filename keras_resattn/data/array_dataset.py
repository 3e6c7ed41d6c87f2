"""Labelled images in memory."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_resattn.data.dataset import Dataset
from keras_resattn.data.images import as_images, load_image, to_numpy
from keras_resattn.data.labels import as_labels
from keras_resattn.data.normalization import array_statistics
from keras_resattn.typing import ArrayLike, Size, Statistics


class ArrayDataset(Dataset):
    """Images in an array, in memory or memory-mapped.

    Args:
        x: Images of shape `(n, h, w, c)`, uint8, or floats from 0 to 255. Not modified.
        y: Integer labels of shape `(n,)` or `(n, 1)`, or one-hot labels of shape `(n, classes)`.
        classes: Number of classes, if known.
        class_names: Names of the classes, if known.
        weights: Weights of the images in the training loss, `(n,)`, at least 0; `None` for equal weights.

    Raises:
        ValueError: If shapes do not match, values are outside 0 to 255, floats have a maximum of at most 1, labels are
            neither integers nor one-hot, or weights are negative, NaN or infinite.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        x = as_images(x)
        super().__init__(as_labels(y, len(x)), classes=classes, class_names=class_names, channels=x.shape[-1])
        self.x = x
        self.image_shape = tuple(x.shape[1:])
        self.weights = None if weights is None else as_sample_weights(weights, len(x))

    def subset(self, indices: ArrayLike) -> Self:
        """Return an `ArrayDataset` of the images at `indices`, in that order."""
        other = copy.copy(self)
        other.x, other.labels = self.x[indices], self.labels[indices]
        other.weights = None if self.weights is None else self.weights[indices]
        return other

    def read(
        self, indices: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        """Return images as one array; see `Dataset.read`."""
        if crops is not None or (size is not None and tuple(size) != self.image_shape[:2]):
            return super().read(indices, size, crops, central)
        indices = np.asarray(indices)
        self._check_read(indices, size, crops, central)
        return self.x[indices.astype("int64", copy=False)]

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Return `(mean, std)` of all images; if they have to be resized to `size`, as in `Dataset.statistics`."""
        if size is None or tuple(size) == self.image_shape[:2]:
            return array_statistics(self.x, normalization)
        return super().statistics(normalization, size)

    def _image(self, index, size, crop, central):
        mode = self.resize_mode or "crop"
        return load_image(self.x[index], f"image {index}", size, crop, central, self.channels, mode)

    def _images_hash(self):
        return hashlib.sha256(np.ascontiguousarray(self.x).data).hexdigest()


def as_sample_weights(weights: Any, count: int) -> np.ndarray:
    """Return sample weights as a float32 array of shape `(count,)`.

    Raises:
        ValueError: If the shape differs, or weights are negative, NaN, infinite, or all 0.
    """
    weights = to_numpy(weights)
    weights = weights.reshape(-1) if weights.ndim == 2 and weights.shape[1] == 1 else weights
    if weights.shape != (count,) or weights.dtype.kind not in "uifb":
        raise ValueError(
            f"Expected a sample weight for each of {count} images; received: shape {weights.shape}, {weights.dtype}."
        )
    weights = weights.astype("float32")
    if not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ValueError(
            "Expected finite sample weights of at least 0, not all of them 0; received: weights from "
            f"{weights.min()} to {weights.max()}."
        )
    return weights
