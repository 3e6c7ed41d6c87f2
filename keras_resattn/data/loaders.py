"""Other libraries' batches: what one holds, how to pass over them, and what they know of their number."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_resattn.data.dataset import as_images, as_labels
from keras_resattn.data.images import to_numpy


def as_batch(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(x, y)` of one batch of any library, as arrays; `as_images` and `as_labels` say what is refused."""
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


def passed(batches: Any, epoch: int) -> Iterator[Any]:
    """Yields one pass over batches of any library."""
    if isinstance(batches, keras.utils.PyDataset):
        yield from (batches[index] for index in range(_length(batches)))
        return
    for sampler in (getattr(batches, "sampler", None), getattr(batches, "batch_sampler", None)):
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
    yield from batches.as_numpy_iterator() if hasattr(batches, "as_numpy_iterator") else batches


def known_length(batches: Any) -> int | None:
    """Returns the number of batches, the remainder included, where the object tells it, or `None`.

    Raises:
        ValueError: for batches without end.
    """
    if isinstance(batches, keras.utils.PyDataset):
        return _length(batches)
    if hasattr(batches, "cardinality"):  # tf.data's
        number = int(batches.cardinality())
        if number == -1:  # tf.data.INFINITE_CARDINALITY
            raise _endless()
        return number if number >= 0 else None
    try:
        return len(batches)
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable dataset has __len__, which raises
        return None


def counted(batches: Any, batch_size: int) -> int | None:
    """Returns the number of full batches where the object tells it, or `None`.

    Raises:
        ValueError: for batches without end.
    """
    length = known_length(batches)
    if length is None:
        return None
    if isinstance(batches, keras.utils.PyDataset):
        return length - (len(as_batch(batches[length - 1])[0]) < batch_size)
    if hasattr(batches, "element_spec"):  # tf.data's
        files = getattr(batches, "file_paths", None)  # image_dataset_from_directory's
        if files is not None and -(-len(files) // batch_size) == length:
            return len(files) // batch_size
        fixed = keras.tree.flatten(batches.element_spec)[0].shape[0] == batch_size  # then there is no remainder
        return length if fixed else None
    if hasattr(batches, "drop_last") and getattr(batches, "batch_size", None) and hasattr(batches.sampler, "__len__"):
        return len(batches.sampler) // batches.batch_size  # PyTorch's
    return None


def _length(batches):
    if batches.num_batches is None:
        raise _endless()
    return batches.num_batches


def _endless():
    return ValueError(
        "Expected batches with an end; received: an endless dataset. Leave out .repeat(), or say how many batches "
        "are an epoch: BatchStream(batches, steps=...)."
    )
