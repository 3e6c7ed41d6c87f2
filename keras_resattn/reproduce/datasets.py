"""The images of a row: opened, checked, and for a rehearsal thinned out."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn.data import ImageFolder, cluttered_mnist, mnist_splits, open_dataset
from keras_resattn.data.dataset import ArrayDataset, Dataset
from keras_resattn.reproduce.rows import DATASETS, DISTRACTORS, MORE_DISTRACTORS
from keras_resattn.typing import PathLike

#: Test images of the shortest rehearsal, where there are as many.
LEAST_TESTED = 10


@dataclass(frozen=True)
class Sets:
    """Training images and test images.

    Attributes:
        train: A `Dataset`.
        tests: `{column of the results: Dataset}`; `"error"` is the one that the paper's figure is of.
    """

    train: Dataset
    tests: dict[str, Any]


def where_is(where: PathLike) -> str:
    """What a result calls the place that its data came from: a name as it is, of a path the last part."""
    return Path(where).name if os.path.exists(where) else str(where)


def open_sets(data: str, where: PathLike, scale: float, batch_size: int) -> Sets:
    """Opens a dataset.

    Args:
        data: Key of `DATASETS`.
        where: What `open_dataset` takes; for Cluttered MNIST what `mnist_splits` does.
        scale: Share of the images to keep, above 0, up to 1, but no fewer than `LEAST_TESTED` test images. The same
            ones are drawn each time.
        batch_size: Least number of training images.

    Returns:
        A `Sets`.

    Raises:
        ValueError: if it is not a dataset of as many classes, or cannot be read by index.
    """
    if data == "cluttered_mnist":
        return _composed(where, scale, batch_size)
    classes = DATASETS[data].classes
    train, test = (open_dataset(where, split=split) for split in ("train", "test"))
    if isinstance(train, ImageFolder) and isinstance(test, ImageFolder) and train.root == test.root:
        raise ValueError(
            f"Expected folders train and test in {where}, each with class folders; received: class folders alone, "
            "whose images would be trained and tested on."
        )
    if not isinstance(train, Dataset) or not isinstance(test, Dataset):
        raise ValueError(
            f"Expected data that can be read by index for {data}; received: {where}, which comes as a stream. "
            "Pass a folder of class folders, an .npz file, or a TFDS dataset prepared as array_record."
        )
    for dataset in (train, test):
        dataset.check_labels(classes)
    if len(np.unique(train.labels)) != classes:
        raise ValueError(
            f"Expected the {classes} classes of {data} in {where}; received: training labels of "
            f"{len(np.unique(train.labels))} classes."
        )
    return Sets(thinned(train, scale, batch_size), {"error": thinned(test, scale, LEAST_TESTED)})


def thinned(dataset: Dataset, scale: float, least: int) -> Dataset:
    """Returns a share of a dataset's images, at least `least` of them; all for a scale of 1."""
    if scale == 1:
        return dataset
    count = min(len(dataset), max(least, round(scale * len(dataset))))
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])
    return dataset.part(rows)


def _composed(where, scale, batch_size):
    """Cluttered MNIST: seeds 0 and 2, as the ablation's other runs have them."""
    splits, data = mnist_splits(where), DATASETS["cluttered_mnist"]
    images = max(batch_size, round(scale * data.images))
    test_images = max(LEAST_TESTED, round(scale * data.test_images))
    train = cluttered_mnist(*splits["train"], images, DISTRACTORS, seed=0)
    tests = {
        column: ArrayDataset(*cluttered_mnist(*splits["test"], test_images, distractors, seed=2), classes=10)
        for column, distractors in [("error", DISTRACTORS), *((f"error_{n}", n) for n in MORE_DISTRACTORS)]
    }
    return Sets(ArrayDataset(*train, classes=10), tests)
