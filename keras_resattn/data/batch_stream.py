"""Batches of labelled images from another library: tf.data, PyDataset, DataLoader, grain."""

import contextlib
import copy
import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Self

import keras
import numpy as np

from keras_resattn.data.class_matching import class_indices, detected_class_names
from keras_resattn.data.labels import check_label_range
from keras_resattn.data.loaders import as_batch, count_batches, count_full_batches, iterate_epoch
from keras_resattn.data.normalization import streaming_statistics
from keras_resattn.data.threaded_reading import STATISTICS_SAMPLE
from keras_resattn.typing import ResizeMode, Size, Statistics
from keras_resattn.utils.validation import check_class_names, is_integer

logger = logging.getLogger(__name__)


class BatchStream:
    """Batches from another library, in that library's order.

    `batches` is a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` of PyTorch or grain, or any
    iterable that can be iterated over repeatedly and yields batches. A batch is `(x, y)` or `{"image": x, "label": y}`:
    images `(n, h, w, c)` from 0 to 255, and integer labels `(n,)` or one-hot labels. The other library does the
    shuffling, so a run is only as reproducible as its order.

    Args:
        batches: The batches, in one of these forms.
        steps: Number of full batches in an epoch. Required if `batches` is endless or has no length. By default, it is
            derived from the length; if the size of the last batch is unknown, all batches are read once to count them.
        classes: Number of classes, if known.
        class_names: Names of the classes, if known; by default `batches.class_names`, if it exists.

    Attributes:
        classes: Number of classes, or `None` if unknown.
        class_names: Names of the classes, or `None`.
        image_shape: `(h, w, c)` of the images in the first batch, which is read on first access.
        batch_size: Number of images in the first batch.

    Raises:
        ValueError: If `batches` is not iterable, or can be iterated over only once.
    """

    resize_mode = None

    def __init__(
        self,
        batches: Any,
        *,
        steps: int | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        _check_iterable(batches)
        if steps is not None and (not is_integer(steps) or steps < 1):
            raise ValueError(f"Expected steps to be a positive integer, or None; received: steps={steps!r}.")
        steps = None if steps is None else int(steps)
        self.batches = batches
        if class_names is None:
            detected = detected_class_names(getattr(batches, "class_names", None))  # image_dataset_from_directory
            class_names = detected if classes is None or len(detected or ()) == classes else None
        self.class_names = None if class_names is None else check_class_names(class_names, classes)
        self.classes = classes if self.class_names is None else len(self.class_names)
        self.keeps_remainder = False
        self._label_map = None  # new label of each label in the batches, after `renumbered`
        self._limit, self._steps = steps, steps
        self._ended_epochs = [0]  # calls of a PyDataset's `on_epoch_end`; shared by all copies of this stream

    def prepared(self, batch_size: int, *, size: Size | None = None, train: bool = True) -> Self:
        """Return the stream for training or evaluation, after checking its first batch.

        Args:
            batch_size: Number of images in a training batch of this process.
            size: `(h, w)` of the network's input.
            train: Whether to leave out a smaller last batch. Evaluation keeps it.

        Raises:
            ValueError: If batches or images have another size.
        """
        self._check_size(size)
        if train:
            self._check_batch_size(batch_size)
        other = copy.copy(self)
        other.keeps_remainder = not train
        return other

    def epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of an epoch: `x` of shape `(n, h, w, c)`, uint8 or float32, and `y` of shape `(n,)`, int64.

        Args:
            epoch: Number of the epoch, from 0. It is passed to the `set_epoch` of a sampler (PyTorch's
                `DistributedSampler`), and equals the number of previous calls of a PyDataset's `on_epoch_end`.

        Raises:
            ValueError: During iteration, if a batch differs in form or shape from the first, a label is out of range,
                or the epoch has fewer batches than `steps`.
        """
        size, full = self.batch_size, 0
        self._end_epochs_before(epoch)
        for x, y in itertools.islice(self._checked(epoch), self._limit):
            if len(x) != size:
                if self.keeps_remainder and len(x) < size:
                    yield x, y
                break
            full += 1
            yield x, y
        if self._steps is not None and full < self._steps and not self.keeps_remainder:
            raise ValueError(
                f"Expected {self._steps} batches of {size} images in an epoch; epoch {epoch} ended after {full}."
            )

    def steps(self, batch_size: int) -> int:
        """Return the number of full batches in an epoch.

        Args:
            batch_size: Number of images in a batch of this process.

        Raises:
            ValueError: If batches have another size, are endless, or their number is unknown.
        """
        self._check_batch_size(batch_size)
        if self._steps is None:
            steps = count_full_batches(self.batches, batch_size)
            if steps is None:
                logger.info("Reading all batches to count them; BatchStream(batches, steps=...) avoids it.")
                steps = sum(len(x) == batch_size for x, _ in self._checked(0))
            self._steps = steps
        return self._steps

    def length(self) -> int:
        """Return the number of batches that `epoch` yields, including the smaller last batch with `train=False`.

        Raises:
            ValueError: If batches are endless, or their number is unknown.
        """
        if not self.keeps_remainder:
            return self.steps(self.batch_size)
        return self._limit or count_batches(self.batches)

    def check_labels(self, classes: int) -> None:
        """Check that labels are from 0 to `classes - 1`: in the first batch now, in every batch during iteration."""
        check_label_range(self._first_batch[1], classes)
        self.classes = classes

    def with_resize_mode(self, resize_mode: ResizeMode) -> NoReturn:
        """Raise a `ValueError`, because batches hold images of their final size."""
        raise ValueError(
            f"Expected no resize_mode for data in batches; received: resize_mode={resize_mode!r}. "
            "Resize the images before batching."
        )

    def renumbered(self, class_names: Sequence[str]) -> Self:
        """Return this stream with labels that are indices into other class names.

        Args:
            class_names: Class names in the order of the new labels, including all names of this stream.
        """
        other = copy.copy(self)
        other.__dict__.pop("_first_batch", None)
        indices = class_indices(self.class_names, class_names)
        other._label_map = indices if self._label_map is None else indices[self._label_map]
        other.class_names, other.classes = list(class_names), len(class_names)
        return other

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Return `(mean, std)` for normalising images, as (nested) lists of floats.

        Statistics of the data are computed from the first 10,000 images of epoch 0, rounded up to whole batches.

        Args:
            normalization: A recipe's `normalization`; see `normalization.array_statistics`.
            size: Required `(h, w)` of the images, or `None` for any.
        """
        self._check_size(size)

        def first_batches():
            return (x for x, _ in itertools.islice(self._checked(0), -(-STATISTICS_SAMPLE // self.batch_size)))

        return streaming_statistics(first_batches, normalization, self.image_shape[-1])

    def fingerprint(self) -> str:
        """Return a hash of the type, the first batch's shape and the numbers of classes and batches, not of images."""
        described = f"{type(self.batches).__name__} {self.batch_size} {self.image_shape} {self.classes} {self._steps}"
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def batch_size(self) -> int:
        """Number of images in the first batch."""
        return len(self._first_batch[0])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(h, w, c)` of the images in the first batch."""
        return tuple(self._first_batch[0].shape[1:])

    @functools.cached_property
    def _first_batch(self):
        with contextlib.closing(self._converted(0)) as batches:
            for batch in batches:
                return batch
        raise ValueError(f"Expected at least one batch; received: an empty {type(self.batches).__name__}.")

    def _end_epochs_before(self, epoch):
        """Call a PyDataset's `on_epoch_end` for all earlier epochs, including those before a run was resumed."""
        if isinstance(self.batches, keras.utils.PyDataset):
            while self._ended_epochs[0] < epoch:
                self._ended_epochs[0] += 1
                self.batches.on_epoch_end()

    def _converted(self, epoch):
        for batch in iterate_epoch(self.batches, epoch):
            x, y = as_batch(batch)
            if self._label_map is not None:
                check_label_range(y, len(self._label_map))
                y = self._label_map[y]
            yield x, y

    def _checked(self, epoch):
        shape = self.image_shape
        for x, y in self._converted(epoch):
            if x.shape[1:] != shape:
                raise ValueError(f"Expected images of shape {shape}, as the first; received: {x.shape[1:]}.")
            if self.classes is not None:
                check_label_range(y, self.classes)
            yield x, y

    def _check_batch_size(self, batch_size):
        if batch_size != self.batch_size:
            raise ValueError(
                f"Expected batches of {batch_size} images, the recipe's batch size; received: a first batch of "
                f"{self.batch_size}. Pass recipe.replace(batch_size={self.batch_size}), or batch the data again."
            )

    def _check_size(self, size):
        if size is not None and tuple(size) != self.image_shape[:2]:
            raise ValueError(
                f"Expected images of size {tuple(size)}; received: batches of images {self.image_shape}. "
                "Resize the images before batching."
            )


def _check_iterable(batches):
    if not hasattr(batches, "__iter__") and not isinstance(batches, keras.utils.PyDataset):
        raise ValueError(f"Expected an iterable of (images, labels); received: {type(batches).__name__}.")
    if hasattr(batches, "__next__"):
        raise ValueError(
            "Expected batches that can be iterated over in every epoch; received: an iterator "
            f"({type(batches).__name__}), which is used up after the first. Pass the object it was made from, for "
            "instance a tf.data.Dataset, a DataLoader, or an object with a method __iter__."
        )
