"""The pictures of a row: opened, checked, and for a rehearsal thinned out."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn.data import Folder, cluttered_mnist, mnist_splits, open_source
from keras_resattn.data.dataset import Arrays, Source
from keras_resattn.reproduce.rows import DATA_SETS, DISTRACTORS, MORE_DISTRACTORS
from keras_resattn.typing import PathLike

#: Test pictures of the shortest rehearsal, where there are as many.
LEAST_TESTED = 10


@dataclass(frozen=True)
class Sets:
    """Training pictures and test pictures.

    Attributes:
        train: A `Source`.
        tests: `{column of the results: Source}`; `"error"` is the one that the paper's figure is of.
    """

    train: Source
    tests: dict[str, Any]


def where_is(where: PathLike) -> str:
    """What a result calls the place that its data came from: a name as it is, of a path the last part."""
    return Path(where).name if os.path.exists(where) else str(where)


def open_sets(data: str, where: PathLike, scale: float, batch_size: int) -> Sets:
    """Opens a data set.

    Args:
        data: Key of `DATA_SETS`.
        where: What `open_source` takes; for Cluttered MNIST what `mnist_splits` does.
        scale: Share of the pictures to keep, above 0, up to 1, but no fewer than `LEAST_TESTED` test pictures. The same
            ones are drawn each time.
        batch_size: Least number of training pictures.

    Returns:
        A `Sets`.

    Raises:
        ValueError: if it is not a data set of as many classes, or cannot be read by index.
    """
    if data == "cluttered_mnist":
        return _composed(where, scale, batch_size)
    classes = DATA_SETS[data].classes
    train, test = (open_source(where, split=split) for split in ("train", "test"))
    if isinstance(train, Folder) and isinstance(test, Folder) and train.root == test.root:
        raise ValueError(
            f"Expected folders train and test in {where}, each with class folders; received: class folders alone, "
            "whose images would be trained and tested on."
        )
    if not isinstance(train, Source) or not isinstance(test, Source):
        raise ValueError(
            f"Expected data that can be read by index for {data}; received: {where}, which comes as a stream. "
            "Pass a folder of class folders, an .npz file, or a TFDS data set prepared as array_record."
        )
    for source in (train, test):
        source.check_labels(classes)
    if len(np.unique(train.labels)) != classes:
        raise ValueError(
            f"Expected the {classes} classes of {data} in {where}; received: training labels of "
            f"{len(np.unique(train.labels))} classes."
        )
    return Sets(thinned(train, scale, batch_size), {"error": thinned(test, scale, LEAST_TESTED)})


def thinned(source: Source, scale: float, least: int) -> Source:
    """Returns a share of a source's pictures, at least `least` of them; all for a scale of 1."""
    if scale == 1:
        return source
    count = min(len(source), max(least, round(scale * len(source))))
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    return source.part(rows)


def _composed(where, scale, batch_size):
    """Cluttered MNIST: seeds 0 and 2, as the ablation's other runs have them."""
    splits, data = mnist_splits(where), DATA_SETS["cluttered_mnist"]
    pictures = max(batch_size, round(scale * data.pictures))
    test_pictures = max(LEAST_TESTED, round(scale * data.test_pictures))
    train = cluttered_mnist(*splits["train"], pictures, DISTRACTORS, seed=0)
    tests = {
        column: Arrays(*cluttered_mnist(*splits["test"], test_pictures, distractors, seed=2), classes=10)
        for column, distractors in [("error", DISTRACTORS), *((f"error_{n}", n) for n in MORE_DISTRACTORS)]
    }
    return Sets(Arrays(*train, classes=10), tests)
