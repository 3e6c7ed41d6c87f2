"""Batches of other libraries: converting one batch, iterating over an epoch, and counting batches."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import as_images, to_numpy
from keras_resattn.data.labels import as_labels


def as_batch(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of a batch of any library as arrays, checked by `as_images` and `as_labels`."""
    if hasattr(batch, "keys") and "image" in batch and "label" in batch:
        batch = batch["image"], batch["label"]
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        received = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"Expected batches (images, labels), or with keys 'image' and 'label'; received: {received}.")
    x = to_numpy(batch[0])
    if x.ndim == 3:
        raise ValueError(
            f"Expected batches of images, (n, height, width, channels); received: one image, {x.shape}. "
            "Batch the data first: dataset.batch(recipe.batch_size)."
        )
    x = as_images(x)
    return x, as_labels(batch[1], len(x))


def iterate_epoch(batches: Any, epoch: int) -> Iterator[Any]:
    """Yield the batches of one epoch unchanged, after passing its number to samplers that have `set_epoch`."""
    if isinstance(batches, keras.utils.PyDataset):
        yield from (batches[index] for index in range(count_batches(batches)))
        return
    for sampler in (getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)):
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
    yield from batches.as_numpy_iterator() if hasattr(batches, "as_numpy_iterator") else batches


def count_batches(batches: Any) -> int:
    """Return the number of batches in an epoch, including a smaller last batch.

    Raises:
        ValueError: If batches are endless, or of unknown number.
    """
    if isinstance(batches, keras.utils.PyDataset):
        length = batches.num_batches
        endless = length is None
    elif hasattr(batches, "cardinality"):  # tf.data
        length = int(batches.cardinality())
        endless = length == -1  # tf.data.INFINITE_CARDINALITY
    else:
        try:
            length, endless = len(batches), False
        except (TypeError, NotImplementedError):  # a DataLoader of an iterable dataset has a `__len__` that raises
            length, endless = None, False
    if endless:
        raise ValueError(
            "Expected a finite number of batches; received: an endless dataset. Leave out .repeat(), or pass the "
            "number of batches in an epoch: BatchStream(batches, steps=...)."
        )
    if length is None or length < 0:
        raise ValueError(
            f"Expected a known number of batches in an epoch; received: a {type(batches).__name__} without a length. "
            "Pass it: BatchStream(batches, steps=...)."
        )
    return length


def count_full_batches(batches: Any, batch_size: int) -> int | None:
    """Return the number of batches in an epoch, without a smaller last batch; `None` if its size is unknown.

    Raises:
        ValueError: If batches are endless, or of unknown number.
    """
    length = count_batches(batches)
    if isinstance(batches, keras.utils.PyDataset):
        return length - (len(as_batch(batches[length - 1])[0]) < batch_size)
    if hasattr(batches, "element_spec"):  # tf.data; a static size applies to all batches
        return length if keras.tree.flatten(batches.element_spec)[0].shape[0] == batch_size else None
    if hasattr(batches, "drop_last") and getattr(batches, "batch_size", None) and hasattr(batches.sampler, "__len__"):
        return len(batches.sampler) // batches.batch_size  # PyTorch
    return None
