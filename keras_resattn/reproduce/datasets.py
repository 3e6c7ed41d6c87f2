"""Training and test images of a row: opened, checked, and subsampled for scaled-down runs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resattn.data import ArrayDataset, Dataset, ImageFolder, cluttered_mnist, mnist_splits, open_dataset
from keras_resattn.reproduce.rows import DATASETS, DISTRACTORS, MORE_DISTRACTORS
from keras_resattn.typing import PathLike

#: Minimum number of test images of a scaled-down run, if there are as many.
MIN_TEST_IMAGES = 10


@dataclass(frozen=True)
class Splits:
    """Training and test images.

    Attributes:
        train: Training images.
        tests: Test images by column of the results; `"error"` is the column of the published error.
    """

    train: Dataset
    tests: Mapping[str, Dataset]


def data_name(source: PathLike) -> str:
    """Return the name of a data source for a table of results: the last part of a path, or the name as given."""
    return Path(source).name if os.path.exists(source) else str(source)


def open_splits(data: str, source: PathLike, scale: float, batch_size: int) -> Splits:
    """Open the training and test images of a dataset.

    Args:
        data: Key of `DATASETS`.
        source: First argument of `open_dataset`; for Cluttered MNIST, of `mnist_splits`.
        scale: Fraction of the images to use, in (0, 1], but at least `MIN_TEST_IMAGES` test images. The selection is
            deterministic.
        batch_size: Minimum number of training images.

    Raises:
        ValueError: If the data have another number of classes, or do not support access by index.
    """
    if data == "cluttered_mnist":
        return _cluttered_mnist(source, scale, batch_size)
    classes = DATASETS[data].classes
    train, test = (open_dataset(source, split=split) for split in ("train", "test"))
    if isinstance(train, ImageFolder) and isinstance(test, ImageFolder) and train.root == test.root:
        raise ValueError(
            f"Expected folders train and test in {source}, each with class folders; received: class folders only, "
            "whose images would serve both training and testing."
        )
    if not isinstance(train, Dataset) or not isinstance(test, Dataset):
        raise ValueError(
            f"Expected data with access by index for {data}; received: {source}, a stream. Pass a folder of class "
            "folders, an .npz file, or a TFDS dataset prepared as array_record."
        )
    for dataset in (train, test):
        dataset.check_labels(classes)
    found = len(np.unique(train.labels))
    if found != classes:
        raise ValueError(
            f"Expected the {classes} classes of {data} in {source}; received: training labels of {found} classes."
        )
    return Splits(subsample(train, scale, batch_size), {"error": subsample(test, scale, MIN_TEST_IMAGES)})


def subsample(dataset: Dataset, fraction: float, min_images: int) -> Dataset:
    """Return a fixed random subset: a fraction of the images, but at least `min_images`."""
    if fraction == 1:
        return dataset
    count = min(len(dataset), max(min_images, round(fraction * len(dataset))))
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])
    return dataset.subset(rows)


def _cluttered_mnist(source, scale, batch_size):
    """Compose images with seed 0 for training and seed 2 for tests, as in the examples' ablation."""
    digits, data = mnist_splits(source), DATASETS["cluttered_mnist"]
    images = max(batch_size, round(scale * data.images))
    test_images = max(MIN_TEST_IMAGES, round(scale * data.test_images))

    def compose(split, count, distractors, seed):
        return ArrayDataset(*cluttered_mnist(*digits[split], count, distractors, seed=seed), classes=10)

    columns = {"error": DISTRACTORS, **{f"error_{n}": n for n in MORE_DISTRACTORS}}
    tests = {column: compose("test", test_images, distractors, 2) for column, distractors in columns.items()}
    return Splits(compose("train", images, DISTRACTORS, 0), tests)
