"""Pictures in their order, each once: what a network is measured on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_resattn.data.arrays import in_data_format, smoothed
from keras_resattn.data.batch_stream import Stream
from keras_resattn.data.dataset import Source
from keras_resattn.data.training_batches import Passes
from keras_resattn.typing import Size


class OrderedBatches(keras.utils.PyDataset):
    """All pictures of a source in order, centrally cropped to the network's size and normalised; the last batch is
    the remainder.

    Args:
        source: A `Source` or a `Stream` of `keras_resattn.data`.
        batch_size: Pictures in a batch; a `Stream` has its own.
        normalize: Called on pictures `(n, h, w, c)`, 0 to 255; returns float32 of the same shape.
        size: `(height, width)` of the pictures that the network takes.
        shares: Number of classes, for labels as shares, `(n, classes)` float32; `None` for integers, `(n,)`.
        central: The share of the short side that the central crop leaves, where pictures are larger.
    """

    def __init__(
        self,
        source: Source | Stream,
        batch_size: int,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        shares: int | None = None,
        central: float = 1.0,
    ) -> None:
        super().__init__()
        self.source: Any = source
        self.batch_size, self.normalize = batch_size, normalize
        self.size, self.shares, self.central = tuple(size), shares, central
        self._stream = None
        if isinstance(source, Stream):
            stream = source.prepared(batch_size, size=self.size, train=False, central=central)
            self._stream, self._count = Passes(stream), stream.length()

    @property
    def num_batches(self) -> int:
        return self._count if self._stream else -(-len(self.source) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._stream:
            x, y = self._stream.batch(0, index)
        else:
            rows = np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self.source)))
            x, y = self.source.read(rows, size=self.size, central=self.central), self.source.labels[rows]
        y = y.astype("int32") if self.shares is None else smoothed(y, self.shares)
        return in_data_format(self.normalize(x)), y
