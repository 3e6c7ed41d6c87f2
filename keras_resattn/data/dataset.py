"""Labelled images that can be read by index: the interface, arrays, and other libraries' datasets."""

import copy
import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from keras_resattn.data import arrays
from keras_resattn.data.class_matching import detected_class_names
from keras_resattn.data.images import (
    as_array,
    as_pixels,
    check_channels_last,
    check_resize_mode,
    hint_on_bool,
    is_grey,
    load_image,
    to_numpy,
)
from keras_resattn.data.statistics import accumulated_statistics, in_threads, one_shape, sample
from keras_resattn.typing import ArrayLike, ResizeMode, Size, Statistics
from keras_resattn.utils.validation import check_class_names

logger = logging.getLogger(__name__)


class Dataset:
    """Labelled images by index. Reading is safe from several threads at once.

    Attributes:
        labels: Integer array of shape `(n,)`, from 0 up.
        classes: Number of classes that it knows of, or `None`.
        class_names: Their names, or `None`.
        image_shape: `(h, w, c)` when all images have one shape, else `None`.
        channels: Number of channels of what is read.
        weights: Weights of the images in the training loss, float32, `(n,)`; `None` where all weigh the same.
        resize_mode: `"crop"`, `"squash"` or `"pad"`: how images are read at another size, see `with_resize_mode`;
            `None` for arrays, whose shape has to be the network's unless a mode is asked for.
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
        self, rows: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        """Returns images as one array of shape `(len(rows), h, w, c)`, 0 to 255.

        Args:
            rows: Indices.
            size: `(h, w)` to resize to, bilinear and antialiased; `None` for images as they are stored, which have
                to be of one shape.
            crops: For each row `(area, ratio, y, x)`, an Inception-style crop of the image's own pixels that is
                resized to `size`, see `images.crop_box`; or `None` for the central crop.
            central: The share of the sides that is left by the central crop, whose aspect ratio `resize_mode` decides;
                images that have that size already are returned whole.

        Returns:
            uint8; float32 where the dataset holds floats.

        Raises:
            ValueError: for arguments that do not go together, and for a image that cannot be decoded.
        """
        rows = np.asarray(rows)
        self._check_read(rows, size, crops, central)
        if size is None and self.image_shape is None:
            raise ValueError("Expected size=(height, width), as the images differ in shape; received: size=None.")
        each = [None] * len(rows) if crops is None else crops
        images = [self._image(int(row), size, crop, central) for row, crop in zip(rows, each, strict=True)]
        shape = (*size, self.channels) if size is not None else self.image_shape
        return np.stack(images) if images else np.empty((0, *shape), "uint8")

    def check_labels(self, classes: int) -> None:
        """Raises a `ValueError` if a label is not from 0 to `classes - 1`."""
        labels = self.labels
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"Expected labels from 0 to {classes - 1}; received: labels from {labels.min()} to {labels.max()}."
            )

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Returns what images are normalised with, `(mean, std)`, as `data.arrays.statistics` does.

        It is measured on at most 10,000 images, evenly spaced, whole or in the central crop of `size`.

        Args:
            normalization: A recipe's `normalization`.
            size: As in `read`.
        """
        read = functools.partial(self.read, size=size)
        return accumulated_statistics(lambda: in_threads(read, sample(len(self))), normalization, self.channels)

    def fingerprint(self) -> str:
        """Returns a string that identifies images and labels: another one means other data."""
        mode = "" if self.resize_mode in (None, "crop") else f" {self.resize_mode}"
        weights = "" if self.weights is None else f" {hashlib.sha256(self.weights.data).hexdigest()}"
        return self._images_hash() + hashlib.sha256(self.labels.data).hexdigest() + mode + weights

    def relabelled(self, labels: ArrayLike) -> Self:
        """Returns this dataset with other labels, `(n,)`; the images are shared."""
        labels = to_numpy(labels)
        if labels.shape != self.labels.shape or labels.dtype.kind not in "iu":
            raise ValueError(f"Expected {len(self)} integer labels; received: shape {labels.shape}, {labels.dtype}.")
        other = copy.copy(self)
        other.labels = labels.astype("int64")
        return other

    def renumbered(self, class_names: Sequence[str]) -> Self:
        """Return this dataset with its labels numbered by other class names, which hold all of its own.

        Args:
            class_names: Names in the order of the new labels.
        """
        other = self.relabelled(numbers_in(self.class_names, class_names)[self.labels])
        other.class_names, other.classes = list(class_names), len(class_names)
        return other

    def part(self, rows: ArrayLike) -> "Dataset":
        """Returns a `Dataset` of some of the images, by index, in that order."""
        return Subset(self, rows)

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Return this dataset with another way to read images of another aspect ratio than the network's.

        Args:
            resize_mode: `"crop"` for the largest central crop of the network's aspect ratio; `"squash"` for the whole
                image, distorted; `"pad"` for the whole image with black bars. Random crops of a recipe
                (`crop="inception"`) are drawn in any mode.
        """
        check_resize_mode(resize_mode)
        other = copy.copy(self)
        other.resize_mode = resize_mode
        inner = getattr(self, "dataset", None)
        if isinstance(inner, Dataset):
            vars(other)["dataset"] = inner.with_resize_mode(resize_mode)
        return other

    def _check_read(self, rows, size, crops, central):
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise ValueError(f"Expected rows as a list of indices; received: shape {rows.shape}, {rows.dtype}.")
        if crops is not None and (size is None or np.shape(crops) != (len(rows), 4)):
            raise ValueError(
                f"Expected crops of shape ({len(rows)}, 4), and size; "
                f"received: crops of shape {np.shape(crops)}, size={size}."
            )
        if not 0 < central <= 1:
            raise ValueError(f"Expected central to be a share above 0, up to 1; received: central={central!r}.")

    def _image(self, row, size, crop, central):
        """One image, `(h, w, c)`."""
        raise NotImplementedError

    def _images_hash(self):
        raise NotImplementedError


class Subset(Dataset):
    """Some images of another dataset.

    Args:
        dataset: A `Dataset`.
        rows: Indices of its images; one may occur several times.
    """

    def __init__(self, dataset: Dataset, rows: ArrayLike) -> None:
        self.dataset, self.rows = dataset, np.asarray(rows)
        super().__init__(
            dataset.labels[self.rows],
            classes=dataset.classes,
            class_names=dataset.class_names,
            channels=dataset.channels,
        )
        self.resize_mode = dataset.resize_mode
        self.weights = None if dataset.weights is None else dataset.weights[self.rows]

    @property
    def image_shape(self) -> Any:
        return self.dataset.image_shape

    def read(
        self, rows: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        return self.dataset.read(self.rows[np.asarray(rows)], size, crops, central)

    def _image(self, row, size, crop, central):
        return self.dataset._image(int(self.rows[row]), size, crop, central)

    def _images_hash(self):
        return hashlib.sha256(self.rows.tobytes()).hexdigest() + self.dataset.fingerprint()


class ArrayDataset(Dataset):
    """Images in memory, or mapped to it.

    Args:
        x: `(n, h, w, c)`, uint8, or floats from 0 to 255. Never changed.
        y: Integer labels, `(n,)` or `(n, 1)`.
        classes: Number of classes, if it is known.
        class_names: Their names, if they are known.
        weights: Weights of the images in the training loss, `(n,)`, at least 0; `None` where all weigh the same.

    Raises:
        ValueError: for another shape, values outside 0 to 255, floats that end at 1, labels that are not integers, or
            weights that are negative or not finite.
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
        self.weights = None if weights is None else as_weights(weights, len(x))

    def part(self, rows: ArrayLike) -> Self:
        other = copy.copy(self)
        other.x, other.labels = self.x[rows], self.labels[rows]
        other.weights = None if self.weights is None else self.weights[rows]
        return other

    def read(
        self, rows: ArrayLike, size: Size | None = None, crops: np.ndarray | None = None, central: float = 1.0
    ) -> np.ndarray:
        if crops is not None or (size is not None and tuple(size) != self.image_shape[:2]):
            return super().read(rows, size, crops, central)
        rows = np.asarray(rows)
        self._check_read(rows, size, crops, central)
        return self.x[rows.astype("int64", copy=False)]

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        if size is None or tuple(size) == self.image_shape[:2]:
            return arrays.statistics(self.x, normalization)  # of all images
        return super().statistics(normalization, size)

    def _image(self, row, size, crop, central):
        return load_image(self.x[row], f"image {row}", size, crop, central, self.channels, self.resize_mode or "crop")

    def _images_hash(self):
        return hashlib.sha256(np.ascontiguousarray(self.x).data).hexdigest()


class RecordDataset(Dataset):
    """Another library's dataset with `len()` and `[index]`: `tfds.data_source`, grain's, PyTorch's map-style ones.

    A record is `(image, label)` or `{"image": image, "label": label}`; a image is an array, a tensor, a Pillow
    image, or the path or the bytes of a file. Labels are taken from its `targets` or `labels`, where it has them, and
    otherwise from a pass over all records.

    Args:
        records: The dataset.
        labels: Integer labels, `(n,)`, if they are known.
        classes: Number of classes, if it is known.
        class_names: Their names, if they are known; by default `records.classes`, if there.
        channels: Number of channels; by default the first image's, and 3 for files. Images in colour are not turned
            grey unless you pass 1.
        keys: Under which names image and label stand, in records that are mappings.

    Raises:
        ValueError: if there are no records, or they are of another form.
    """

    resize_mode = "crop"

    def __init__(
        self,
        records: Any,
        *,
        labels: ArrayLike | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        channels: int | None = None,
        keys: tuple[str, str] = ("image", "label"),
    ) -> None:
        if not len(records):
            raise ValueError(f"Expected at least one record; received: an empty {type(records).__name__}.")
        self.records, self.keys = records, keys
        self._grey_by_default = channels is None
        channels = int(_channels(self._record(0)[0])) if channels is None else channels
        labels = self._find_labels() if labels is None else as_labels(labels, len(records))
        if class_names is None:
            class_names = _class_names(records, labels, classes)
        super().__init__(labels, classes=classes, class_names=class_names, channels=channels)

    @functools.cached_property
    def image_shape(self) -> Any:
        """Found by reading images, up to the first that differs; on first use."""
        shapes = (self._image(row, None, None, 1.0).shape[:2] for row in range(len(self)))
        return one_shape(shapes, self.channels)

    def _record(self, row):
        record = self.records[row]
        if hasattr(record, "keys") and all(key in record for key in self.keys):
            return record[self.keys[0]], record[self.keys[1]]
        if isinstance(record, (tuple, list)) and len(record) == 2:
            return record
        received = f"keys {', '.join(record)}" if hasattr(record, "keys") else type(record).__name__
        raise ValueError(
            f"Expected record {row} to be (image, label) or to have keys {' and '.join(map(repr, self.keys))}; "
            f"received: {received}."
        )

    def _find_labels(self):
        known = getattr(self.records, "targets", getattr(self.records, "labels", None))
        if known is not None and np.ndim(known) == 1 and len(known) == len(self.records):
            rows = (0, len(known) // 2, len(known) - 1)  # a transformation of labels would show
            if all(int(known[row]) == int(self._record(row)[1]) for row in rows):
                return as_labels(known, len(known))
        logger.info("Reading the labels of %d records in a pass over all of them.", len(self.records))
        rows = sample(len(self.records), len(self.records))
        chunks = in_threads(lambda rows: [to_numpy(self._record(int(row))[1]) for row in rows], rows)
        return as_labels(np.concatenate(list(chunks)), len(self.records))

    def _image(self, row, size, crop, central):
        image = self._record(row)[0]
        if self._grey_by_default and self.channels == 1 and hasattr(image, "getbands") and not is_grey(image):
            raise ValueError(
                f"Expected grey images, as record 0 is; record {row} has mode {image.mode}. Pass "
                "RecordDataset(data, channels=3) to read all in colour, or channels=1 to read all in grey."
            )
        return load_image(image, f"record {row}", size, crop, central, self.channels, self.resize_mode)

    def _images_hash(self):
        """Of at most 64 images: all would take a pass."""
        digest = hashlib.sha256(str(len(self)).encode())
        for rows in sample(len(self), 64):
            for row in rows:
                digest.update(np.ascontiguousarray(self._image(int(row), None, None, 1.0)).data)
        return digest.hexdigest()


def as_images(x: Any) -> np.ndarray:
    """Checks a batch or set of images, and returns it as an array `(n, h, w, c)` of uint8 or float32.

    Raises:
        ValueError: for another rank, channels first, no images, or values as in `images.as_pixels`.
    """
    x = to_numpy(x)
    if x.ndim != 4 or x.dtype.kind not in "uif" or 0 in x.shape:
        raise ValueError(
            f"Expected images of shape (n, height, width, channels), 0 to 255; received: shape {x.shape}, {x.dtype}."
            + hint_on_bool(x)
        )
    check_channels_last(x.shape, "images")
    return as_pixels(x, "images")


def as_weights(weights: Any, count: int) -> np.ndarray:
    """Checks sample weights, and returns them as a float32 array `(count,)`.

    Raises:
        ValueError: for another shape, values that are no finite numbers of at least 0, or zeros alone.
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


def as_labels(y: Any, count: int) -> np.ndarray:
    """Checks labels, and returns them as an int64 array `(count,)`. One-hot rows, `(count, classes)`, are converted.

    Raises:
        ValueError: for another shape, labels that are not integers or one-hot, or negative ones.
    """
    y = to_numpy(y)
    if y.ndim == 2 and y.shape[1] > 1 and len(y) == count:
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"Expected integer or one-hot labels; received: shares of labels, shape {y.shape}. "
                "A recipe mixes and smooths labels itself."
            )
        return y.argmax(1).astype("int64")
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (count,) or y.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label for each of {count} images; received: shape {y.shape}, {y.dtype}."
        )
    if y.max() >= 2**63:
        raise ValueError(f"Expected labels as int64 can hold them; received: {y.max()}.")
    if y.min() < 0:
        raise ValueError(
            f"Expected labels from 0 up; received: {y.min()}, which some datasets give images without a label."
        )
    return y.astype("int64")


def _channels(image):
    if hasattr(image, "getbands"):
        return 1 if is_grey(image) else 3
    if isinstance(image, (bytes, str, os.PathLike)):
        return 3
    if np.ndim(image) == 4:
        raise ValueError(
            f"Expected records of one image each; received: batches, {np.shape(image)}. Pass BatchStream(data), "
            "or the data before it was batched."
        )
    return as_array(image, "record 0").shape[-1]


def _class_names(records, labels, classes):
    names = detected_class_names(getattr(records, "classes", None))  # torchvision's
    if names is None or classes not in (None, len(names)) or labels.max() >= len(names):  # a transformation of labels
        return None
    return names


def numbers_in(own: Sequence[str] | None, class_names: Sequence[str]) -> np.ndarray:
    """Returns for each of `own` class names its place among `class_names`, as an array."""
    if own is None:
        raise ValueError(
            "Expected data with class names, by which to number their labels; received: data without names."
        )
    places = {name: place for place, name in enumerate(class_names)}
    return np.array([places[name] for name in own], "int64")
