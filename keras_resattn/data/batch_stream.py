"""Labelled images that come in batches, in an order of their own: tf.data, PyDataset, DataLoader, grain."""

import contextlib
import copy
import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_resattn.data.class_matching import detected_class_names
from keras_resattn.data.dataset import numbers_in
from keras_resattn.data.loaders import as_batch, counted, known_length, passed
from keras_resattn.data.statistics import SAMPLE, accumulated_statistics
from keras_resattn.typing import ResizeMode, Size, Statistics
from keras_resattn.utils.validation import check_class_names, is_integer

logger = logging.getLogger(__name__)


class BatchStream:
    """Batches that someone else makes: a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, PyTorch's or grain's
    `DataLoader`, or any object that can be iterated over again and again and yields batches.

    A batch is `(x, y)` or `{"image": x, "label": y}`: images `(n, h, w, c)` from 0 to 255, integer labels `(n,)`
    or one-hot ones. Order and shuffling are the object's: a run on a stream is as repeatable as it is.

    Args:
        batches: The object.
        steps: Full batches in a pass. By default they are counted: from lengths that the object knows, and else in
            one pass over it. An endless one needs it.
        classes: Number of classes, if it is known.
        class_names: Their names, if they are known; by default `batches.class_names`, if there.

    Attributes:
        classes: Number of classes that it knows of, or `None`.
        class_names: Their names, or `None`.
        image_shape: `(h, w, c)` of the first batch's images. Like `batch_size`, it is found by reading that batch.
        batch_size: Images in the first batch.

    Raises:
        ValueError: for an object that can be iterated over only once, or not at all.
    """

    def __init__(
        self,
        batches: Any,
        *,
        steps: int | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        is_py_dataset = isinstance(batches, keras.utils.PyDataset)
        if not hasattr(batches, "__iter__") and not is_py_dataset:
            raise ValueError(f"Expected an iterable of (images, labels); received: {type(batches).__name__}.")
        if hasattr(batches, "__next__"):
            raise ValueError(
                "Expected batches that can be iterated over in every epoch; received: an iterator "
                f"({type(batches).__name__}), which is used up after the first. Pass what it was made from, for "
                "instance a tf.data.Dataset, a DataLoader, or an object with a method __iter__."
            )
        if steps is not None and (not is_integer(steps) or steps < 1):
            raise ValueError(f"Expected steps to be a positive integer, or None; received: steps={steps!r}.")
        steps = None if steps is None else int(steps)
        self.batches = batches
        if class_names is None:
            detected = detected_class_names(getattr(batches, "class_names", None))  # image_dataset_from_directory's
            class_names = detected if classes is None or len(detected or ()) == classes else None
        self.class_names = None if class_names is None else check_class_names(class_names, classes)
        self.classes = classes if self.class_names is None else len(self.class_names)
        self._numbers = None  # of the batches' labels, where the stream numbers classes otherwise
        self.keeps_remainder = False
        self._limit, self._steps = steps, steps
        self._told = [0]  # how many ends of epochs a PyDataset knows of; one list for all copies of this stream

    resize_mode = None

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Raise a `ValueError`: batches that are ready cannot be resized. A `RecordStream` returns a stream."""
        raise ValueError(
            f"Expected no resize_mode for batches that are ready; received: resize_mode={resize_mode!r}. "
            "Resize the images where the batches are made."
        )

    def prepared(
        self,
        batch_size: int,
        *,
        size: Size | None = None,
        train: bool = True,
        crop: str | None = None,
        central: float = 1.0,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Self:
        """Returns the stream as a run needs it, after checking its first batch.

        Args:
            batch_size: Images in a step, of all processes together.
            size: `(h, w)` of the images that the network takes.
            train: Whether the remainder of a pass is left out; for evaluation it is a last, smaller batch.
            crop: `"inception"` for random crops, which only a stream that reads images itself can draw.
            central: Share of the central crop otherwise, of images that do not have `size` yet.
            seed: Of order and crops, where the stream draws them; batches that are ready have an order of their own.
            shard: `(process, processes)`. Here each process passes its own part of the data, in batches of
                `batch_size / processes`.

        Raises:
            ValueError: if batches or images are of another size, or should be cropped.
        """
        self._check_size(size)
        if train:
            self._check_batch_size(share_of(batch_size, shard))
        if crop == "inception":
            raise ValueError(
                "Expected a recipe with crop='pad' for batches that are ready; received: crop='inception'. "
                "Crop where they are made, and train with recipe.replace(crop='pad', pad=0); "
                "or pass a folder or records in their place, not batches."
            )
        other = copy.copy(self)
        other.keeps_remainder = not train
        return other

    def epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Returns an iterator of `(x, y)`, one pass: `x` `(n, h, w, c)`, uint8 or float32, and `y` `(n,)` int64.

        Args:
            epoch: Number of the pass, from 0. Handed to a sampler's `set_epoch`, as PyTorch's distributed one needs;
                a PyDataset's `on_epoch_end` has been called that often.

        Raises:
            ValueError: while iterating, for batches of another form or shape than the first, for labels out of
                range, and where a pass ends before `steps`.
        """
        size, full = self.batch_size, 0
        self._tell_of_epochs(epoch)
        for x, y in itertools.islice(self._checked(epoch), self._limit):
            if len(x) != size:
                if self.keeps_remainder and len(x) < size:
                    yield x, y
                break
            full += 1
            yield x, y
        if self._steps is not None and full < self._steps and not self.keeps_remainder:
            raise ValueError(
                f"Expected {self._steps} batches of {size} images in a pass; pass {epoch} ended after {full}."
            )

    def steps(self, batch_size: int) -> int:
        """Returns the number of full batches in a pass.

        Args:
            batch_size: Images in a batch of this process.

        Raises:
            ValueError: if batches are of another size, there is no full one, or there is no end of them.
        """
        self._check_batch_size(batch_size)
        if self._steps is None:
            steps = counted(self.batches, batch_size)
            if steps is None:
                logger.info("Counting batches in a pass over the data; BatchStream(batches, steps=...) saves it.")
                steps = sum(len(x) == batch_size for x, _ in self._checked(0))
            self._steps = steps
        return self._steps

    def length(self) -> int:
        """Returns the number of batches that `epoch` yields: with `train=False` the remainder is one of them.

        It is the length that the object knows, or counted in a pass. Raises a `ValueError` for endless batches.
        """
        if not self.keeps_remainder:
            return self.steps(self.batch_size)
        known = self._limit or known_length(self.batches)
        return sum(1 for _ in self.epoch(0)) if known is None else known

    def check_labels(self, classes: int) -> None:
        """Raises a `ValueError` if a label is not from 0 to `classes - 1`: now in the first batch, then in each."""
        check_range(self._first[1], classes)
        self.classes = classes

    def renumbered(self, class_names: Sequence[str]) -> Self:
        """Return this stream with its labels numbered by other class names, which hold all of its own.

        Args:
            class_names: Names in the order of the new labels.
        """
        other = copy.copy(self)
        other.__dict__.pop("_first", None)
        numbers = numbers_in(self.class_names, class_names)
        other._numbers = numbers if self._numbers is None else numbers[self._numbers]
        other.class_names, other.classes = list(class_names), len(class_names)
        return other

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Returns what images are normalised with, `(mean, std)`, as `data.arrays.statistics` does.

        It is measured on the first 10,000 images of pass 0, as they come, in whole batches.

        Args:
            normalization: A recipe's `normalization`.
            size: `(h, w)` that images have to have, or `None`.
        """
        self._check_size(size)

        def first_batches():
            return (x for x, _ in itertools.islice(self._checked(0), -(-SAMPLE // self.batch_size)))

        return accumulated_statistics(first_batches, normalization, self.image_shape[-1])

    def fingerprint(self) -> str:
        """Returns a string that identifies the data as far as the first batch's form and the number of batches do."""
        described = f"{type(self.batches).__name__} {self.batch_size} {self.image_shape} {self.classes} {self._steps}"
        return hashlib.sha256(described.encode()).hexdigest()

    @property
    def batch_size(self) -> int:
        return len(self._first[0])

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self._first[0].shape[1:])

    @functools.cached_property
    def _first(self):
        with contextlib.closing(self._converted(0)) as batches:
            for batch in batches:
                return batch
        raise ValueError(f"Expected at least one batch; received: an empty {type(self.batches).__name__}.")

    def _tell_of_epochs(self, epoch):
        """Calls a PyDataset's `on_epoch_end` for all epochs before this one, those of a run that is resumed, too."""
        if isinstance(self.batches, keras.utils.PyDataset):
            while self._told[0] < epoch:
                self._told[0] += 1
                self.batches.on_epoch_end()

    def _converted(self, epoch):
        for batch in passed(self.batches, epoch):
            x, y = as_batch(batch)
            yield x, self._own_numbers(y)

    def _own_numbers(self, y):
        """The labels of a batch, numbered as the stream has its classes."""
        if self._numbers is None:
            return y
        check_range(y, len(self._numbers))
        return self._numbers[y]

    def _checked(self, epoch):
        shape = self.image_shape
        for x, y in self._converted(epoch):
            if x.shape[1:] != shape:
                raise ValueError(f"Expected images of shape {shape}, as the first; received: {x.shape[1:]}.")
            if self.classes is not None:
                check_range(y, self.classes)
            yield x, y

    def _check_batch_size(self, batch_size):
        if batch_size != self.batch_size:
            raise ValueError(
                f"Expected batches of {batch_size} images, as the recipe has them; received: a first batch of "
                f"{self.batch_size}. Train by recipe.replace(batch_size={self.batch_size}), or batch the data anew."
            )

    def _check_size(self, size):
        if size is not None and tuple(size) != self.image_shape[:2]:
            raise ValueError(
                f"Expected images of size {tuple(size)}; received: batches of images {self.image_shape}. "
                "Resize them where the batches are made."
            )


def share_of(batch_size: int, shard: tuple[int, int]) -> int:
    """Returns the images of a batch that are one process' share, and checks `shard`, `(process, processes)`."""
    process, processes = shard
    if not 0 <= process < processes or batch_size % processes:
        raise ValueError(
            "Expected shard=(process, processes) and a batch size that the processes can share; "
            f"received: shard={tuple(shard)}, batch_size={batch_size}."
        )
    return batch_size // processes


def check_range(y: np.ndarray, classes: int | None) -> None:
    """Raise a `ValueError` for labels that are not from 0 to `classes - 1`, or below 0 if `classes` is `None`."""
    if y.min() < 0 or (classes is not None and y.max() >= classes):
        expected = "of at least 0" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(f"Expected labels {expected}; received: labels from {y.min()} to {y.max()}.")
