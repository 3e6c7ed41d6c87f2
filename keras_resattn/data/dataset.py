"""Labelled images that are read by index: the base class `Dataset`, and `Subset`."""

import copy
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_resattn.data.class_matching import class_indices
from keras_resattn.data.images import check_resize_mode, to_numpy
from keras_resattn.data.labels import check_label_range
from keras_resattn.data.normalization import streaming_statistics
from keras_resattn.data.threaded_reading import evenly_spaced, map_in_threads
from keras_resattn.typing import ArrayLike, ResizeMode, Size, Statistics
from keras_resattn.utils.validation import check_class_names


class Dataset:
    """Labelled images, read by index. `read` is thread-safe.

    Attributes:
        labels: Array of non-negative integers, `(n,)`.
        classes: Number of classes, or `None` if unknown.
        class_names: Names of the classes, or `None`.
        image_shape: `(h, w, c)` if all images have one shape, else `None`.
        channels: Number of channels of the images that `read` returns.
        weights: Weights of the images in the training loss, float32 of shape `(n,)`; `None` for equal weights.
        resize_mode: `"crop"`, `"squash"` or `"pad"`; see `with_resize_mode`. `None` for arrays, which must have the
            network's input size unless a mode is set.
    """

    image_shape: Any = None
    resize_mode: ResizeMode | None = None
    weights = None

    def __init__(
        self,
        labels: ArrayLike,
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        channels: int = 3,
    ) -> None:
        self.labels = np.asarray(labels, "int64")
        self.class_names = None if class_names is None else check_class_names(class_names, classes)
        self.classes = classes if self.class_names is None else len(self.class_names)
        if self.class_names is not None and len(self.labels) and self.labels.max() >= len(self.class_names):
            raise ValueError(
                f"Expected a class name for each label; received: {self.classes} class names, "
                f"and labels up to {self.labels.max()}."
            )
        self.channels = channels

    def __len__(self) -> int:
        return len(self.labels)

    def read(
        self, indices: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        """Return images as one array of shape `(len(indices), h, w, c)`, 0 to 255.

        Args:
            indices: Indices of the images.
            size: `(h, w)` to resize to (bilinear, antialiased); `None` for the stored size, which requires images of
                one shape.
            crops: Inception-style crops, `(area, ratio, y, x)` for each image; see `images.crop_box`. They are cut from
                the full-resolution image and resized to `size`. `None` for the central crop.
            central: Fraction of the sides that the central crop keeps; `resize_mode` decides its aspect ratio. Images
                that already have `size` are returned whole.

        Returns:
            uint8, or float32 if the dataset holds floats.

        Raises:
            ValueError: If arguments are inconsistent, or an image cannot be decoded.
        """
        indices = np.asarray(indices)
        self._check_read(indices, size, crops, central)
        if size is None and self.image_shape is None:
            raise ValueError("Expected size=(height, width), as the images differ in shape; received: size=None.")
        crop_of = [None] * len(indices) if crops is None else crops
        images = [self._image(int(index), size, crop, central) for index, crop in zip(indices, crop_of, strict=True)]
        shape = (*size, self.channels) if size is not None else self.image_shape
        return np.stack(images) if images else np.empty((0, *shape), "uint8")

    def check_labels(self, classes: int) -> None:
        """Raise a `ValueError` unless all labels are from 0 to `classes - 1`."""
        check_label_range(self.labels, classes)

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Return `(mean, std)` for normalising images, as (nested) lists of floats.

        Statistics of the data are computed from at most 10,000 evenly spaced images.

        Args:
            normalization: A recipe's `normalization`; see `normalization.array_statistics`.
            size: `(h, w)` of the central crop to use; `None` for whole images.
        """
        read = functools.partial(self.read, size=size)
        batches = functools.partial(map_in_threads, read, evenly_spaced(len(self)))
        return streaming_statistics(batches, normalization, self.channels)

    def fingerprint(self) -> str:
        """Return a hash of images, labels, weights and resize mode, by which a resumed run recognises its data."""
        mode = "" if self.resize_mode in (None, "crop") else f" {self.resize_mode}"
        weights = "" if self.weights is None else f" {hashlib.sha256(self.weights.data).hexdigest()}"
        return self._images_hash() + hashlib.sha256(self.labels.data).hexdigest() + mode + weights

    def relabelled(self, labels: ArrayLike) -> Self:
        """Return this dataset with other integer labels of shape `(n,)`. Images are shared, not copied."""
        labels = to_numpy(labels)
        if labels.shape != self.labels.shape or labels.dtype.kind not in "iu":
            raise ValueError(f"Expected {len(self)} integer labels; received: shape {labels.shape}, {labels.dtype}.")
        other = copy.copy(self)
        other.labels = labels.astype("int64")
        return other

    def renumbered(self, class_names: Sequence[str]) -> Self:
        """Return this dataset with labels that are indices into other class names.

        Args:
            class_names: Class names in the order of the new labels, including all names of this dataset.
        """
        other = self.relabelled(class_indices(self.class_names, class_names)[self.labels])
        other.class_names, other.classes = list(class_names), len(class_names)
        return other

    def subset(self, indices: ArrayLike) -> "Dataset":
        """Return a `Dataset` of the images at `indices`, in that order."""
        return Subset(self, indices)

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Return this dataset with another resize mode for images whose aspect ratio differs from the network's.

        Args:
            resize_mode: `"crop"` for the largest central crop of the network's aspect ratio; `"squash"` for the whole
                image, distorted; `"pad"` for the whole image with black bars. Random crops of a recipe
                (`crop="inception"`) are drawn in any mode.
        """
        check_resize_mode(resize_mode)
        other = copy.copy(self)
        other.resize_mode = resize_mode
        return other

    def _check_read(self, indices, size, crops, central):
        if indices.ndim != 1 or (len(indices) and indices.dtype.kind not in "iu"):
            raise ValueError(f"Expected a list of indices; received: shape {indices.shape}, {indices.dtype}.")
        if crops is not None and (size is None or np.shape(crops) != (len(indices), 4)):
            raise ValueError(
                f"Expected crops of shape ({len(indices)}, 4), and size; "
                f"received: crops of shape {np.shape(crops)}, size={size}."
            )
        if not 0 < central <= 1:
            raise ValueError(f"Expected central to be a fraction above 0, up to 1; received: central={central!r}.")

    def _image(self, index, size, crop, central):
        """Return one image of shape `(h, w, c)`."""
        raise NotImplementedError

    def _images_hash(self):
        raise NotImplementedError


class Subset(Dataset):
    """Some images of another dataset.

    Args:
        dataset: A `Dataset`.
        indices: Indices of its images; an index may occur several times.
    """

    def __init__(self, dataset: Dataset, indices: ArrayLike) -> None:
        self.dataset, self.indices = dataset, np.asarray(indices)
        super().__init__(
            dataset.labels[self.indices],
            classes=dataset.classes,
            class_names=dataset.class_names,
            channels=dataset.channels,
        )
        self.resize_mode = dataset.resize_mode
        self.weights = None if dataset.weights is None else dataset.weights[self.indices]

    @property
    def image_shape(self) -> Any:
        """`(h, w, c)` if all images of the underlying dataset have one shape, else `None`."""
        return self.dataset.image_shape

    def read(
        self, indices: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        """Return images as one array; see `Dataset.read`."""
        return self.dataset.read(self.indices[np.asarray(indices)], size, crops, central)

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Return this subset with another resize mode; see `Dataset.with_resize_mode`."""
        other = super().with_resize_mode(resize_mode)
        other.dataset = self.dataset.with_resize_mode(resize_mode)
        return other

    def _image(self, index, size, crop, central):
        return self.dataset._image(int(self.indices[index]), size, crop, central)

    def _images_hash(self):
        return hashlib.sha256(self.indices.tobytes()).hexdigest() + self.dataset.fingerprint()
