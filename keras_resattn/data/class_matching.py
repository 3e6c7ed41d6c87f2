"""Class names of datasets: matching between two datasets, detection, and the names of Keras' datasets."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resattn.utils.suggestions import did_you_mean
from keras_resattn.utils.validation import some_names

logger = logging.getLogger(__name__)

#: Class names of the datasets in `keras.datasets`, in the order of their labels.
KERAS_CLASS_NAMES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": [
        *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl"),
        *("boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair"),
        *("chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin"),
        *("elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp"),
        *("lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
        *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck"),
        *("pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road"),
        *("rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider"),
        *("squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television"),
        *("tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf"),
        *("woman", "worm"),
    ],
    "mnist": list("0123456789"),
    "fashion_mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}

REMEDY = "Rename them or leave them out. Labels of data without class names, (x, y), are used as they are."


def match_classes(dataset: Any, class_names: Sequence[str] | None, whose: str, remedy: str = REMEDY) -> Any:
    """Return a dataset whose labels are indices into the class names of a network or of other data.

    Labels are matched by name, so the dataset may have its classes in another order, or only some of them. If either
    side has no names, the dataset is returned unchanged.

    Args:
        dataset: A `Dataset` or `BatchStream`, or `None`, which is returned as is.
        class_names: Class names in the order of the network's outputs, or `None`.
        whose: Owner of these names in the message, such as `"the training data"`.
        remedy: Advice at the end of the message.

    Raises:
        ValueError: If the dataset has classes that are not among `class_names`; the message lists them.
    """
    own = None if dataset is None else dataset.class_names
    if dataset is None or own is None or class_names is None or list(own) == list(class_names):
        return dataset
    unknown = [name for name in own if name not in class_names]
    if unknown:
        missing = [name for name in class_names if name not in own]
        hint = did_you_mean(unknown[0], missing)
        raise ValueError(
            f"Expected the classes of {whose}, {some_names(class_names)}; received data with other classes: "
            f"{some_names(unknown)}.{hint} {_lacking(missing)}{remedy}"
        )
    logger.info("Renumbering labels by class name, as in %s.", whose)
    return dataset.renumbered(class_names)


def class_indices(own: Sequence[str] | None, class_names: Sequence[str]) -> np.ndarray:
    """Return the index of each of `own` class names in `class_names`, which contains them all."""
    if own is None:
        raise ValueError("Expected data with class names, to renumber its labels by; received: data without names.")
    index_of = {name: index for index, name in enumerate(class_names)}
    return np.array([index_of[name] for name in own], "int64")


def detected_class_names(names: Any) -> list[str] | None:
    """Return the class names of another library's object, or `None` unless they are distinct, non-empty strings.

    The names of ImageNet are not distinct: two classes are called "crane".
    """
    is_list = isinstance(names, (list, tuple)) and len(names) > 0
    usable = is_list and all(isinstance(name, str) and name.strip() for name in names) and len(set(names)) == len(names)
    return list(names) if usable else None


def _lacking(missing):
    return f"It lacks {some_names(missing)}. " if missing else ""
