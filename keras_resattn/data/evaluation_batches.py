"""Images in their order, each once: what a network is measured on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_resattn.data.arrays import in_data_format, smoothed
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.training_batches import ResumableIterator
from keras_resattn.typing import Size


class EvaluationBatches(keras.utils.PyDataset):
    """All images of a dataset in order, centrally cropped to the network's size and normalised; the last batch is
    the remainder.

    Args:
        dataset: A `Dataset` or a `BatchStream` of `keras_resattn.data`.
        batch_size: Images in a batch; a `BatchStream` has its own.
        normalize: Called on images `(n, h, w, c)`, 0 to 255; returns float32 of the same shape.
        size: `(height, width)` of the images that the network takes.
        shares: Number of classes, for labels as shares, `(n, classes)` float32; `None` for integers, `(n,)`.
        central: The share of the short side that the central crop leaves, where images are larger.
    """

    def __init__(
        self,
        dataset: Dataset | BatchStream,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        shares: int | None = None,
        central: float = 1.0,
    ) -> None:
        super().__init__()
        self.dataset: Any = dataset
        self.batch_size, self.normalize = batch_size, normalize
        self.size, self.shares, self.central = tuple(size), shares, central
        self._stream = None
        if isinstance(dataset, BatchStream):
            stream = dataset.prepared(batch_size, size=self.size, train=False, central=central)
            self._stream, self._count = ResumableIterator(stream), stream.length()

    @property
    def num_batches(self) -> int:
        return self._count if self._stream else -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._stream:
            x, y = self._stream.batch(0, index)
        else:
            rows = np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self.dataset)))
            x, y = self.dataset.read(rows, size=self.size, central=self.central), self.dataset.labels[rows]
        y = y.astype("int32") if self.shares is None else smoothed(y, self.shares)
        return in_data_format(self.normalize(x)), y
