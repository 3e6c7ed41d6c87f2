"""Features of a frozen network: each image goes through the network once, and a classifier trains on the output."""

import hashlib
from typing import Any, Self

import keras
import numpy as np

from keras_resattn.data import ArrayDataset, Dataset, network_input
from keras_resattn.typing import ResizeMode, Size, Statistics

BATCH_SIZE = 64


class FrozenFeatures(Dataset):
    """Features of a frozen network in place of the images of a dataset, as arrays of shape `(1, 1, d)`.

    `compute` must be called before features are read.

    Args:
        dataset: A `Dataset` of images.
        frozen: A `keras.Model` that returns vectors.
        identity: A string that identifies network, images and preprocessing. It serves as the fingerprint, because the
            last bits of the features may differ if they are computed again.
    """

    def __init__(self, dataset: Dataset, frozen: keras.Model, identity: str) -> None:
        width = frozen.output_shape[-1]
        super().__init__(dataset.labels, classes=dataset.classes, class_names=dataset.class_names, channels=width)
        self.images, self.frozen, self.identity = dataset, frozen, identity
        self.image_shape = (1, 1, width)
        self.weights = dataset.weights
        self.features = np.empty((0, width), "float32")

    def compute(self, size: Size, statistics: Statistics, verbose: int = 0) -> None:
        """Compute the features of all images.

        Args:
            size: Height and width that images are read at.
            statistics: `(mean, std)` that images are normalised with.
            verbose: Keras' verbosity; 1 shows a progress bar.
        """
        count = len(self)
        batch_size = min(BATCH_SIZE, count)
        progress = keras.utils.Progbar(count, verbose=verbose, unit_name="image")
        features = []
        for first in range(0, count, batch_size):
            rows = np.arange(first, min(first + batch_size, count))
            # The last batch is filled with copies, because another batch size would require another compilation.
            x = network_input(self.images.read(np.resize(rows, batch_size), size=size), *statistics)
            features.append(np.asarray(self.frozen.predict_on_batch(x), "float32")[: len(rows)])
            progress.add(len(rows))
        self.features = np.concatenate(features)

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        """Return mean and standard deviation of each feature, regardless of `normalization`.

        Standard deviations have a floor relative to the average variance, so that nearly constant features are not
        amplified.
        """
        mean, variance = self.features.mean(0, dtype="float64"), self.features.var(0, dtype="float64")
        std = np.sqrt(variance + 1e-5 * (variance.mean() or 1.0))
        return mean.tolist(), std.tolist()

    def _image(self, index, size, crop, central):
        return self.features[index][None, None]

    def _images_hash(self):
        return hashlib.sha256(self.identity.encode()).hexdigest()


def fold_statistics(source: keras.layers.Dense, target: keras.layers.Dense, mean: Any, std: Any) -> None:
    """Copy the weights of a dense layer on `(features - mean) / std` to a dense layer on `features`."""
    kernel, bias = (np.asarray(array, "float64") for array in source.get_weights())
    kernel = kernel / np.asarray(std)[:, None]
    target.set_weights([kernel, bias - np.asarray(mean) @ kernel])


class Resized(Dataset):
    """A dataset whose images are resized when they are read.

    Args:
        dataset: A `Dataset`.
        size: Height and width.
    """

    def __init__(self, dataset: Dataset, size: Size) -> None:
        super().__init__(
            dataset.labels, classes=dataset.classes, class_names=dataset.class_names, channels=dataset.channels
        )
        self.dataset, self.size = dataset, size
        self.image_shape = (*size, dataset.channels)
        self.resize_mode, self.weights = dataset.resize_mode, dataset.weights

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Return this dataset with another resize mode; see `Dataset.with_resize_mode`."""
        other = super().with_resize_mode(resize_mode)
        other.dataset = self.dataset.with_resize_mode(resize_mode)
        return other

    def _image(self, index, size, crop, central):
        return self.dataset._image(index, self.size if size is None else size, crop, central)

    def _images_hash(self):
        return f"{self.dataset._images_hash()} {self.size}"


def resized(dataset: Any, size: Size) -> Any:
    """Return a dataset with images of `size`. A `BatchStream` or `None` is returned unchanged."""
    fits = isinstance(dataset, ArrayDataset) and dataset.image_shape[:2] == size
    return dataset if fits or not isinstance(dataset, Dataset) else Resized(dataset, size)
