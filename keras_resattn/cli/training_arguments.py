"""What `train` and `fine-tune` share: recipes, training data and what is printed at the end."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resattn.cli.arguments import check_least, expanded, path
from keras_resattn.cli.output import printable
from keras_resattn.recipes import Recipe, get_recipe
from keras_resattn.recipes.recipe import suggest_fields
from keras_resattn.typing import PathLike

if TYPE_CHECKING:
    from keras_resattn.recipes import Report


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the training data, and what is validated on."""
    parser.add_argument(
        "--data", required=True, type=expanded, help=".npz file with x_train and y_train, class folders, or a name"
    )
    parser.add_argument("--data-dir", type=path, help="folder of TensorFlow Datasets, for data by name")
    parser.add_argument(
        "--validation",
        type=expanded,
        help="data to validate on, as --data: x_validation of a file, val/ of a folder",
    )
    parser.add_argument("--holdout", type=int, default=0, help="training images, drawn at random, to validate on")
    parser.add_argument("--size", type=int, help="height and width of the network's input (default: as the images)")
    parser.add_argument(
        "--resize-mode",
        choices=("crop", "squash", "pad"),
        help="resize images of another aspect ratio so (default: crop)",
    )


def check_data(arguments: argparse.Namespace) -> None:
    """Check what can be checked of the data without opening it."""
    check_least("--holdout", arguments.holdout, 0)
    check_least("--size", arguments.size, 1)
    if arguments.validation and arguments.holdout:
        raise ValueError("Expected --validation or --holdout; received: both.")


def open_data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return training data and validation data, `None` without any."""
    from keras_resattn.data import Dataset, open_dataset
    from keras_resattn.data.open_dataset import open_validation

    dataset = open_dataset(arguments.data, data_dir=arguments.data_dir, resize_mode=arguments.resize_mode)
    if arguments.size is not None and isinstance(dataset, Dataset) and dataset.resize_mode is None:
        dataset = dataset.with_resize_mode("crop")  # arrays, which are taken as they are where no size is given
    if not arguments.holdout:
        return dataset, open_validation(arguments.validation, arguments.data_dir, dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected --holdout 0 with data that comes as a stream; received: {arguments.holdout}.")
    if arguments.holdout >= len(dataset):
        raise ValueError(f"Expected --holdout from 0 to below {len(dataset)} images; received: {arguments.holdout}.")
    # Always the same ones, whatever the seed of the run; the last ones may all be of one class.
    rows = np.random.default_rng(0).permutation(len(dataset))
    return dataset.subset(np.sort(rows[arguments.holdout :])), dataset.subset(np.sort(rows[: arguments.holdout]))


def change_recipe(name: str, changes: Iterable[str], option: str = "--set") -> Recipe:
    """Return a recipe by name or from a file, with `field=value` changes whose values are JSON, or strings."""
    recipe = _read_recipe(path(name)) if name.endswith(".json") else get_recipe(name)
    fields = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals or field not in Recipe.__dataclass_fields__:
            known = ", ".join(Recipe.__dataclass_fields__)
            hint = suggest_fields([field])
            raise ValueError(
                f"Expected {option} FIELD=VALUE with a field of a recipe ({known}); received: {change}.{hint}"
            )
        try:
            fields[field] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            fields[field] = value
    return recipe.replace(**fields)


def print_metrics(report: "Report", what: str = "last epoch") -> None:
    """Print the figures of a `Report`."""
    print(f"{what}: {', '.join(f'{name} {value:.4g}' for name, value in report.metrics.items())}")


def print_written(file: PathLike) -> None:
    """Say that a file was written."""
    print(f"wrote {printable(str(file))}")


def _read_recipe(file):
    if not file.is_file():
        raise ValueError(f"Expected a recipe's name or a .json file; there is no file {file}.")
    try:
        return Recipe.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"Expected {file} to hold a recipe, as Recipe.to_json writes it: {error}") from error
