"""Rows and tables of the papers as data, and the datasets that they were evaluated on."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_resattn.models.registry import NETWORKS
from keras_resattn.recipes import get_recipe
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.utils.suggestions import did_you_mean

PAPERS = {
    "resattn": "Wang et al., 'Residual Attention Network for Image Classification', CVPR 2017 (arXiv:1704.06904)",
    "warn": "Rodriguez et al., 'Attend and Rectify', ECCV 2018 (arXiv:1807.07320)",
}


@dataclass(frozen=True)
class PaperDataset:
    """A dataset as the papers split it.

    Attributes:
        classes: Number of classes.
        images: Number of training images; `None` if the paper does not state it.
        test_images: Number of test images; `None` if the paper does not state it.
        source: First argument of `open_dataset`; `None` if users have to provide the images.
        size: Height and width of training crops; `None` to train on whole images.
        requirement: What users have to provide, as part of a sentence; empty if nothing.
    """

    classes: int
    images: int | None
    test_images: int | None
    source: str | None = None
    size: int | None = None
    requirement: str = ""


#: Numbers of distractors on Cluttered MNIST: for training and the main test, and for the additional tests.
DISTRACTORS, MORE_DISTRACTORS = 8, (4, 16, 32, 64)

FOLDERS = (
    "pass --data with a folder that contains train/ and test/ with one folder of images per class, or with the name "
    "of a TFDS dataset prepared as array_record"
)

DATASETS = {
    "cifar10": PaperDataset(10, 50_000, 10_000, "cifar10"),
    "cifar100": PaperDataset(100, 50_000, 10_000, "cifar100"),
    "cluttered_mnist": PaperDataset(10, 200_000, 100_000, "keras"),
    "imagenet": PaperDataset(1000, 1_281_167, 50_000, size=224, requirement=FOLDERS),
    "stanford_dogs": PaperDataset(120, 12_000, 8_580, "stanford_dogs", size=224),
    "uec_food100": PaperDataset(100, None, None, size=224, requirement=FOLDERS),
    "cars196": PaperDataset(196, 8_144, 8_041, "cars196", size=224),
    "adience_gender": PaperDataset(2, None, None, size=224, requirement=FOLDERS),
    "adience_age": PaperDataset(8, None, None, size=224, requirement=FOLDERS),
    "cub200": PaperDataset(200, 5_994, 5_794, "caltech_birds2011", size=224),
}


@dataclass(frozen=True)
class Row:
    """One row of a table: the network, its recipe, the data, and the published error.

    Attributes:
        name: Name for `--row`.
        network: Id of the network, as listed by `keras-resattn list`, or `"ClutteredMnistCNN"`.
        recipe: Name of the recipe.
        data: Key of `DATASETS`.
        published: Published top-1 error on the test images in percent, or `None`.
        top5: Published top-5 error in percent, or `None`.
        last_epoch: Error after the last epoch in the authors' logs, in percent, if `published` belongs to the epoch
            that was best on the test images.
        arguments: Additional keyword arguments of the network.
        changes: Recipe fields that differ from the named recipe.
        same_as: Row of the same paper whose run this row shares, such as `"table1/mixed"`.
        parameters: Number of trainable parameters (default: that of `NETWORKS`).
        macs: Multiply-adds per image (default: that of `NETWORKS`).
        base: Id of the network whose ImageNet weights the row starts from, or `None`.
        test_size: Height and width of test images, if not those of training images.
        note: Remark on the comparison with the published error.
    """

    name: str
    network: str
    recipe: str
    data: str
    published: float | None
    top5: float | None = None
    last_epoch: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    same_as: str | None = None
    parameters: int | None = None
    macs: int | None = None
    base: str | None = None
    test_size: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.network in NETWORKS:
            for count in ("parameters", "macs"):
                if getattr(self, count) is None:
                    object.__setattr__(self, count, getattr(NETWORKS[self.network], count))

    @property
    def requirements(self) -> list[str]:
        """What users have to provide, as parts of a sentence; empty if the row runs by itself."""
        requirements = [DATASETS[self.data].requirement] if DATASETS[self.data].source is None else []
        if self.base is not None:
            requirements.append(
                f"pass --base-weights with a .weights.h5 file of {self.base} trained on ImageNet; none is published"
            )
        return requirements

    def get_recipe(self, seed: int) -> Recipe:
        """Return the row's `Recipe`."""
        return get_recipe(self.recipe).replace(seed=seed, **self.changes)

    def training_macs(self) -> int | None:
        """Return the multiply-adds of the whole training, three forward passes per image and epoch, if known."""
        recipe, images = get_recipe(self.recipe), DATASETS[self.data].images
        if images is None or self.macs is None:
            return None
        epochs = recipe.epochs if recipe.epochs is not None else recipe.length(images // recipe.batch_size)
        return 3 * self.macs * images * epochs

    def shared(self, home: str, name: str | None = None) -> "Row":
        """Return this row for another table, where it shares this row's run.

        Args:
            home: Label of this row's table, such as `"table1"`.
            name: Name in the other table (default: the same).
        """
        return dataclasses.replace(self, name=name or self.name, same_as=f"{home}/{self.name}")


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        name: Paper and label, such as `"resattn/table1"`.
        title: Subject of the comparison.
        rows: The `Row`s.
        draws_responses: Whether the table is a figure of mean absolute responses of the trained networks.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    draws_responses: bool = False

    @property
    def paper(self) -> str:
        """Key of `PAPERS`."""
        return self.name.partition("/")[0]

    @property
    def source(self) -> str:
        """Citation, with the number of the table or figure."""
        label = self.name.partition("/")[2].replace("table", "Table ").replace("fig", "Fig. ")
        return f"{PAPERS[self.paper]}, {label}"

    @property
    def file_name(self) -> str:
        """Name of files about this table, without suffix: `"resattn_table1"`."""
        return self.name.replace("/", "_")

    def select(self, names: Collection[str]) -> list[Row]:
        """Return the rows with these names, or all rows if there are no names.

        Raises:
            ValueError: if a name is unknown; the message suggests the closest ones.
        """
        rows = {row.name: row for row in self.rows}
        return [rows[check_name("row", name, rows, f" of {self.name}")] for name in names or rows]


def counts(network: str, data: str, at_100: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return `parameters` and `macs` of a CIFAR row as arguments of `Row`; `NETWORKS` has those for 10 classes."""
    parameters, macs = at_100[network] if data == "cifar100" else (None, None)
    return {"parameters": parameters, "macs": macs}


def check_name(kind: str, name: str, known: Iterable[str], of: str = "") -> str:
    """Return `name` if it is one of `known`.

    Raises:
        ValueError: if it is not; the message lists all known names and suggests the closest ones.
    """
    if name in known:
        return name
    raise ValueError(f"Expected a {kind}{of}: {', '.join(known)}; received: {name}.{did_you_mean(name, known)}")
