"""What a row of a paper's table is, and how one is found."""

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
        title: Its name in print.
        classes: Number of classes.
        images: Training images; `None` where the paper does not say.
        test_images: Test images, likewise.
        where: What `open_dataset` takes to get it; `None` where the user has to bring it.
        size: Height and width that images are trained at, or `None` for that of the images.
        need: What the user has to bring, where that is so.
    """

    title: str
    classes: int
    images: int | None
    test_images: int | None
    where: str | None = None
    size: int | None = None
    need: str = ""


#: Cluttered MNIST: distractors to train on, and those of the further tests.
DISTRACTORS, MORE_DISTRACTORS = 8, (4, 16, 32, 64)

FOLDERS = (
    "pass --data with a folder that holds train/ and test/ with one folder of images for each class, or with the "
    "name of a TFDS dataset that is prepared as array_record"
)

DATASETS = {
    "cifar10": PaperDataset("CIFAR-10", 10, 50_000, 10_000, "cifar10"),
    "cifar100": PaperDataset("CIFAR-100", 100, 50_000, 10_000, "cifar100"),
    "cluttered_mnist": PaperDataset("Cluttered MNIST", 10, 200_000, 100_000, "keras"),
    "imagenet": PaperDataset("ImageNet", 1000, 1_281_167, 50_000, size=224, need=FOLDERS),
    "stanford_dogs": PaperDataset("Stanford Dogs", 120, 12_000, 8_580, "stanford_dogs", size=224),
    "uec_food100": PaperDataset("UEC Food-100", 100, None, None, size=224, need=FOLDERS),
    "cars196": PaperDataset("Stanford Cars", 196, 8_144, 8_041, "cars196", size=224),
    "adience_gender": PaperDataset("Adience, gender", 2, None, None, size=224, need=FOLDERS),
    "adience_age": PaperDataset("Adience, age", 8, None, None, size=224, need=FOLDERS),
    "cub200": PaperDataset("CUB-200-2011", 200, 5_994, 5_794, "caltech_birds2011", size=224),
}


@dataclass(frozen=True)
class Row:
    """One row of a table: what is trained, how, on what, and what the paper has.

    Attributes:
        name: As `--row` takes it.
        network: Id of the network, as `keras-resattn list` has it, or `"ClutteredMnistCNN"`.
        recipe: Name of the recipe.
        data: Key of `DATASETS`.
        published: Error on the test images that the paper prints, in per cent (top-1), or `None`.
        top5: The same for the five most probable classes.
        last_epoch: Error after the last epoch in the authors' logs, in per cent, where `published` is of the epoch
            that was best on test images.
        arguments: The network's further keyword arguments.
        changes: Fields of the recipe that differ.
        same_as: Row whose run this one shares, `"table1/mixed"`, in the same paper.
        parameters: Trainable parameters; those of `NETWORKS` by default.
        macs: Multiply-adds for one image, likewise.
        base: Id of the network whose ImageNet weights the row starts from, or `None`.
        test_size: Height and width of test images, where it is not that of the training.
        note: What to know when comparing.
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
    def needs(self) -> list[str]:
        """What the user has to bring, as a list of sentences' parts; empty where the row runs by itself."""
        needs = [DATASETS[self.data].need] if DATASETS[self.data].where is None else []
        if self.base is not None:
            needs.append(
                f"pass --base-weights with a .weights.h5 file of {self.base} trained on ImageNet; none is published"
            )
        return needs

    def get_recipe(self, seed: int) -> Recipe:
        """Returns the row's `Recipe`."""
        return get_recipe(self.recipe).replace(seed=seed, **self.changes)

    def epochs(self) -> int | None:
        """Returns the epochs of the whole protocol; `None` where the number of images is not known."""
        recipe, images = get_recipe(self.recipe), DATASETS[self.data].images
        if recipe.epochs is not None or images is None:
            return recipe.epochs
        return recipe.length(images // recipe.batch_size)

    def cost(self) -> int | None:
        """Returns the multiply-adds of the whole training: three times the forward pass; `None` if not known."""
        images, epochs = DATASETS[self.data].images, self.epochs()
        if images is None or epochs is None or self.macs is None:
            return None
        return 3 * self.macs * images * epochs


@dataclass(frozen=True)
class Table:
    """One table of a paper.

    Attributes:
        name: `"resattn/table1"`.
        title: What it compares.
        rows: Its `Row`s.
        figure: Whether the mean absolute responses of the trained networks are drawn, too.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    figure: bool = False

    @property
    def paper(self) -> str:
        return self.name.partition("/")[0]

    @property
    def source(self) -> str:
        label = self.name.partition("/")[2]
        kind, number = ("Fig.", label.removeprefix("fig")) if label.startswith("fig") else ("Table", label[5:])
        return f"{PAPERS[self.paper]}, {kind} {number}"

    def select(self, names: Collection[str]) -> list[Row]:
        """Returns the rows of these names, or all if there are none.

        Raises:
            ValueError: if a name is unknown; the message holds the closest ones.
        """
        rows = {row.name: row for row in self.rows}
        return [rows[check_name("row", name, rows, f" of {self.name}")] for name in names or rows]


def counts(network: str, data: str, at_100: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Returns the counts of a CIFAR row, as arguments of `Row`: at 10 classes they are those of `NETWORKS`."""
    parameters, macs = at_100[network] if data == "cifar100" else (None, None)
    return {"parameters": parameters, "macs": macs}


def check_name(kind: str, name: str, known: Iterable[str], of: str = "") -> str:
    """Returns `name` if it is one of `known`.

    Raises:
        ValueError: if it is not; the message holds the closest ones, and all.
    """
    if name in known:
        return name
    raise ValueError(f"Expected a {kind}{of}: {', '.join(known)}; received: {name}.{did_you_mean(name, known)}")
