"""Labelled images from another library's map-style dataset."""

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resattn.data.class_matching import detected_class_names
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.images import as_array, is_grey, load_image, to_numpy
from keras_resattn.data.labels import as_labels
from keras_resattn.data.threaded_reading import common_shape, evenly_spaced, map_in_threads
from keras_resattn.typing import ArrayLike

logger = logging.getLogger(__name__)

HASHED_IMAGES = 64  # images in a fingerprint: hashing all would take as long as an epoch


class RecordDataset(Dataset):
    """A dataset of another library with `len()` and `[index]`: `tfds.data_source`, grain, or PyTorch map-style.

    A record is `(image, label)` or `{"image": image, "label": label}`. An image is an array, a tensor, a Pillow image,
    or the path or bytes of a file. Labels are read from the attribute `targets` or `labels` of the dataset, or else
    from all records, one by one.

    Args:
        records: The dataset.
        labels: Integer labels of shape `(n,)`, if known.
        classes: Number of classes, if known.
        class_names: Names of the classes, if known; by default `records.classes`, if it exists.
        channels: Number of channels; by default, that of the first image, or 3 if it is a file. Colour images are
            converted to grey only if you pass 1.
        keys: Keys of image and label in records that are mappings.

    Raises:
        ValueError: If there are no records, or they have an unsupported form.
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
        self._infers_channels = channels is None
        channels = int(_count_channels(self._record(0)[0])) if channels is None else channels
        labels = self._find_labels() if labels is None else as_labels(labels, len(records))
        if class_names is None:
            class_names = _find_class_names(records, labels, classes)
        super().__init__(labels, classes=classes, class_names=class_names, channels=channels)

    @functools.cached_property
    def image_shape(self) -> Any:
        """`(h, w, c)` if all images have one shape, else `None`. The first access reads images to find out."""
        shapes = (self._image(index, None, None, 1.0).shape[:2] for index in range(len(self)))
        return common_shape(shapes, self.channels)

    def _record(self, index):
        record = self.records[index]
        if hasattr(record, "keys") and all(key in record for key in self.keys):
            return record[self.keys[0]], record[self.keys[1]]
        if isinstance(record, (tuple, list)) and len(record) == 2:
            return record
        received = f"keys {', '.join(record)}" if hasattr(record, "keys") else type(record).__name__
        raise ValueError(
            f"Expected record {index} to be (image, label) or to have keys {' and '.join(map(repr, self.keys))}; "
            f"received: {received}."
        )

    def _find_labels(self):
        known = getattr(self.records, "targets", getattr(self.records, "labels", None))
        if known is not None and np.ndim(known) == 1 and len(known) == len(self.records):
            probes = (0, len(known) // 2, len(known) - 1)  # their labels differ if the dataset transforms labels
            if all(int(known[index]) == int(self._record(index)[1]) for index in probes):
                return as_labels(known, len(known))
        logger.info("Reading all %d records for their labels.", len(self.records))
        chunks = evenly_spaced(len(self.records), len(self.records))
        labels = map_in_threads(lambda chunk: [to_numpy(self._record(int(index))[1]) for index in chunk], chunks)
        return as_labels(np.concatenate(list(labels)), len(self.records))

    def _image(self, index, size, crop, central):
        image = self._record(index)[0]
        if self._infers_channels and self.channels == 1 and hasattr(image, "getbands") and not is_grey(image):
            raise ValueError(
                f"Expected grey images like record 0; received: record {index} of mode {image.mode}. Pass "
                "RecordDataset(data, channels=3) to read all images in colour, or channels=1 for all in grey."
            )
        return load_image(image, f"record {index}", size, crop, central, self.channels, self.resize_mode)

    def _images_hash(self):
        digest = hashlib.sha256(str(len(self)).encode())
        for chunk in evenly_spaced(len(self), HASHED_IMAGES):
            for index in chunk:
                digest.update(np.ascontiguousarray(self._image(int(index), None, None, 1.0)).data)
        return digest.hexdigest()


def _count_channels(image):
    if hasattr(image, "getbands"):
        return 1 if is_grey(image) else 3
    if isinstance(image, (bytes, str, os.PathLike)):
        return 3
    if np.ndim(image) == 4:
        raise ValueError(
            f"Expected records of one image each; received: batches of shape {np.shape(image)}. "
            "Pass BatchStream(data), or the data before batching."
        )
    return as_array(image, "record 0").shape[-1]


def _find_class_names(records, labels, classes):
    names = detected_class_names(getattr(records, "classes", None))  # torchvision
    # If the number of classes differs, or labels exceed the names, the dataset transforms its labels.
    if names is None or classes not in (None, len(names)) or labels.max() >= len(names):
        return None
    return names
