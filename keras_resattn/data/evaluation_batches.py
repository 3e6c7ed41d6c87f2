"""Evaluation batches: every image once and in order, on one device or shared by several."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.labels import smooth_labels
from keras_resattn.data.normalization import in_data_format
from keras_resattn.data.prefetching import ResumableIterator
from keras_resattn.typing import Size


class EvaluationBatches(keras.utils.PyDataset):
    """All images of a dataset in order, centrally cropped to the network's size and normalised.

    The last batch may be smaller.

    Args:
        dataset: A `Dataset` or a `BatchStream`.
        batch_size: Number of images in a batch; a `BatchStream` has its own batch size.
        normalize: Function that maps images `(n, h, w, c)`, 0 to 255, to a float32 array of the same shape.
        size: `(height, width)` of the network's input.
        one_hot_classes: Number of classes for one-hot labels, `(n, classes)` float32; `None` for integers, `(n,)`.
        central: Fraction of the short side that the central crop keeps, for images of another size.
    """

    def __init__(
        self,
        dataset: Dataset | BatchStream,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        one_hot_classes: int | None = None,
        central: float = 1.0,
    ) -> None:
        super().__init__()
        self.dataset: Any = dataset
        self.batch_size, self.normalize = batch_size, normalize
        self.size, self.one_hot_classes, self.central = tuple(size), one_hot_classes, central
        self._stream = None
        if isinstance(dataset, BatchStream):
            stream = dataset.prepared(batch_size, size=self.size, train=False)
            self._stream, self._count = ResumableIterator(stream), stream.length()

    @property
    def num_batches(self) -> int:
        """Number of batches, including a smaller last batch."""
        return self._count if self._stream else -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._stream:
            x, y = self._stream.batch(0, index)
        else:
            indices = np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self.dataset)))
            x, y = self.dataset.read(indices, size=self.size, central=self.central), self.dataset.labels[indices]
        y = y.astype("int32") if self.one_hot_classes is None else smooth_labels(y, self.one_hot_classes)
        return in_data_format(self.normalize(x)), y


class ShardedEvaluationBatches(keras.utils.PyDataset):
    """`EvaluationBatches` for several devices, with a last batch that is padded so that they can share it.

    Batches are `(images, labels, weights)`; padding has weight 0. All real images have the weight
    `padded count / image count`, slightly above 1, because Keras divides a loss by the batch size instead of the sum of
    weights. Losses and weighted metrics are therefore means over the real images.

    Args:
        dataset: A `Dataset` or a `BatchStream`, the same in all processes.
        batch_size: Number of images in a batch of all devices together; divisible by `devices`.
        normalize: As in `EvaluationBatches`.
        size: As in `EvaluationBatches`.
        one_hot_classes: As in `EvaluationBatches`.
        devices: Number of devices of all processes together.
        shard: `(rank, processes)`, which selects this process' part of each batch.
    """

    def __init__(
        self,
        dataset: Dataset | BatchStream,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        one_hot_classes: int | None = None,
        devices: int,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.batch_size, self.devices, (self.rank, self.processes) = batch_size, devices, shard
        self.is_stream = isinstance(dataset, BatchStream)
        if isinstance(dataset, BatchStream):
            batches = dataset.prepared(batch_size, size=size, train=False).epoch(0)
            self.count = sum(len(x) for x, _ in batches)
        else:
            self.count = len(dataset)
            own = [self._own_indices(first) for first in range(0, self.count, batch_size)]
            dataset, batch_size = dataset.subset(np.concatenate(own)), batch_size // self.processes
        self.batches = EvaluationBatches(dataset, batch_size, normalize, size=size, one_hot_classes=one_hot_classes)

    @property
    def num_batches(self) -> int:
        """Number of batches, including the padded last batch."""
        return -(-self.count // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = self.batches[index]
        own = self._own_indices(index * self.batch_size)
        if self.is_stream:
            positions = own - index * self.batch_size
            x, y = x[positions], y[positions]
        return x, y, self._weights(index, len(own))

    def _own_indices(self, first):
        """Return this process' indices, including padding, in the batch that starts with image `first`."""
        size = self._padded_size(first)
        indices = np.minimum(np.arange(first, first + size), self.count - 1)
        return indices.reshape(self.processes, -1)[self.rank]

    def _padded_size(self, first):
        size = min(self.batch_size, self.count - first)
        return size + -size % self.devices

    def _weights(self, index, own_count):
        first = index * self.batch_size
        last = (self.num_batches - 1) * self.batch_size
        weights = np.full(own_count, (last + self._padded_size(last)) / self.count, "float32")
        weights[first + self.rank * own_count + np.arange(own_count) >= self.count] = 0
        return weights
