"""Images to be measured on by several devices, each of which takes its share of each batch."""

from collections.abc import Callable

import keras
import numpy as np

from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.typing import Size


class ShardedEvaluationBatches(keras.utils.PyDataset):
    """`EvaluationBatches` whose last batch is filled up so that devices can share it; what fills it weighs nothing.

    Batches are `(images, labels, weights)`. With these weights the mean that Keras takes over everything, and
    weighted metrics, are those of the images alone: all weigh `filled up / images`, just above 1, because Keras
    divides a loss by the size of a batch and not by its weight.

    Args:
        dataset: A `Dataset` or a `BatchStream`, the same one in all processes.
        batch_size: Images in a batch of all devices together; divisible by `devices`.
        normalize, size, shares: As in `EvaluationBatches`.
        devices: Number of devices, of all processes together.
        shard: `(rank, processes)`: this process' part of each batch.
    """

    def __init__(
        self,
        dataset: Dataset | BatchStream,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        shares: int | None = None,
        devices: int,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.batch_size, self.devices, (self.rank, self.processes) = batch_size, devices, shard
        self.is_stream = isinstance(dataset, BatchStream)
        if isinstance(dataset, BatchStream):
            passed = dataset.prepared(batch_size, size=size, train=False).epoch(0)
            self.count = sum(len(x) for x, _ in passed)
        else:
            self.count = len(dataset)
            rows = [self._own(first) for first in range(0, self.count, batch_size)]
            dataset, batch_size = dataset.part(np.concatenate(rows)), batch_size // self.processes
        self.batches = EvaluationBatches(dataset, batch_size, normalize, size=size, shares=shares)

    @property
    def num_batches(self) -> int:
        return -(-self.count // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = self.batches[index]
        own = self._own(index * self.batch_size)
        if self.is_stream:
            own_of_batch = own - index * self.batch_size
            x, y = x[own_of_batch], y[own_of_batch]
        return x, y, self._weights(index, len(own))

    def _own(self, first):
        """Which images of the batch that begins with `first` are this process', what fills it up included."""
        size = self._filled(first)
        rows = np.minimum(np.arange(first, first + size), self.count - 1)
        return rows.reshape(self.processes, -1)[self.rank]

    def _filled(self, first):
        size = min(self.batch_size, self.count - first)
        return size + -size % self.devices

    def _weights(self, index, share):
        first = index * self.batch_size
        last = (self.num_batches - 1) * self.batch_size
        weights = np.full(share, (last + self._filled(last)) / self.count, "float32")
        weights[first + self.rank * share + np.arange(share) >= self.count] = 0
        return weights
