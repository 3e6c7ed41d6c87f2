"""Names of the classes of datasets: those of well-known ones, and what happens where two datasets meet."""

import logging
from collections.abc import Sequence
from typing import Any

from keras_resattn.utils.suggestions import did_you_mean
from keras_resattn.utils.validation import some_names

logger = logging.getLogger(__name__)

#: Of the datasets of `keras.datasets`, in the order of their labels.
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


#: What else may be done about data with other classes.
REMEDY = "Rename them, or leave them out; data without class names, (x, y), are numbered as they are."


def match_classes(dataset: Any, class_names: Sequence[str] | None, whose: str, remedy: str = REMEDY) -> Any:
    """Return a dataset with its labels numbered by the class names of a network or of other data.

    Names decide, not numbers: the same classes in another order, or some of them, are renumbered. Where either has no
    names, nothing can be compared, and the dataset is returned as it is.

    Args:
        dataset: A `Dataset` or `BatchStream`, or `None`, which is returned.
        class_names: The names in the order of the network's outputs, or `None`.
        whose: Whose names these are, for the message: `"the training data"`.
        remedy: What to do about it, for the message.

    Raises:
        ValueError: if the dataset has classes that are not among `class_names`; it lists the difference.
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
            f"{some_names(unknown)}.{hint} {_lacking(missing)}"
            f"{remedy}"
        )
    logger.info("Renumbering labels by class name, as in %s.", whose)
    return dataset.renumbered(class_names)


def detected_class_names(names: Any) -> list[str] | None:
    """Return names that another library's object gives its classes, if they can tell classes apart, or `None`.

    Those of ImageNet, for instance, cannot: two of its classes are called "crane".
    """
    is_list = isinstance(names, (list, tuple)) and len(names) > 0
    usable = is_list and all(isinstance(name, str) and name.strip() for name in names) and len(set(names)) == len(names)
    return list(names) if usable else None


def _lacking(missing):
    return f"It lacks {some_names(missing)}. " if missing else ""
