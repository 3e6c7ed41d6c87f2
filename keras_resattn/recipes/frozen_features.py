"""Features of a frozen network: computed once, and a classifier trained on them alone."""

from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np

from keras_resattn.data import ArrayDataset, Dataset, network_input
from keras_resattn.typing import ResizeMode, Size, Statistics

BATCH = 64


def extract(frozen: keras.Model, dataset: Dataset, size: Size, statistics: Statistics, verbose: int = 0) -> np.ndarray:
    """Returns what a network makes of each image of a dataset, `(n, d)` float32.

    Args:
        frozen: A `keras.Model` that returns vectors.
        dataset: A `Dataset`.
        size: Height and width that images are read at.
        statistics: `(mean, std)` that they are normalised with.
        verbose: Keras' verbosity; 1 is a progress bar.
    """
    count = len(dataset)
    batch = min(BATCH, count)
    progress = keras.utils.Progbar(count, verbose=verbose, unit_name="image")
    found = []
    for first in range(0, count, batch):
        rows = np.arange(first, min(first + batch, count))
        # The last batch is filled up, as another size would be compiled anew.
        x = network_input(dataset.read(np.resize(rows, batch), size=size), *statistics)
        found.append(np.asarray(frozen.predict_on_batch(x), "float32")[: len(rows)])
        progress.add(len(rows))
    return np.concatenate(found)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each feature. Those that hardly vary are not blown up."""
    mean, variance = features.mean(0, dtype="float64"), features.var(0, dtype="float64")
    return mean, np.sqrt(variance + 1e-5 * (variance.mean() or 1.0))


def as_images(features: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[list[float], list[float]]]:
    """Returns features as recipes know data: images of one pixel, 0 to 255.

    Args:
        features: `{split: array (n, d)}`, with a split `"train"`.

    Returns:
        `{split: array (n, 1, 1, d)}`, and the `(mean, std)` by which these images become standardised features.
    """
    low = min(float(array.min()) for array in features.values())
    high = max(float(array.max()) for array in features.values())
    scale = 255.0 / ((high - low) or 1.0)
    images = {
        split: ((array.astype("float64") - low) * scale).clip(0, 255).astype("float32")[:, None, None]
        for split, array in features.items()
    }
    mean, std = moments(features["train"])
    return images, (((mean - low) * scale).tolist(), (std * scale).tolist())


def fold(classifier: keras.layers.Layer, into: keras.layers.Layer, mean: np.ndarray, std: np.ndarray) -> None:
    """Gives a dense layer the weights of another, which takes `(features - mean) / std`, so that it takes features."""
    kernel, bias = (np.asarray(array, "float64") for array in classifier.get_weights())
    kernel = kernel / std[:, None]
    into.set_weights([kernel, bias - mean @ kernel])


class Resized(Dataset):
    """The images of another dataset, each resized as it is read.

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
        other = super().with_resize_mode(resize_mode)
        other.dataset = self.dataset.with_resize_mode(resize_mode)
        return other

    def _image(self, index, size, crop, central):
        return self.dataset._image(index, self.size if size is None else size, crop, central)

    def _images_hash(self):
        return f"{self.dataset._images_hash()} {self.size}"


def resized(dataset: Any, size: Size) -> Any:
    """Returns `source` with images of `size`. Batches that are ready, and `None`, stay what they are."""
    fits = isinstance(dataset, ArrayDataset) and dataset.image_shape[:2] == size
    return dataset if fits or not isinstance(dataset, Dataset) else Resized(dataset, size)
