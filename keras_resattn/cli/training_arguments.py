"""Arguments and output that `train` and `fine-tune` share: recipes, training data, metrics."""

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_resattn.cli.arguments import add_data, add_resize_mode, check_least, expanded, path
from keras_resattn.cli.output import printable
from keras_resattn.recipes import Recipe, get_recipe
from keras_resattn.recipes.recipe import suggest_fields
from keras_resattn.typing import PathLike

if TYPE_CHECKING:
    from keras_resattn.recipes import Report


def add_training_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for training and validation data."""
    add_data(parser, "x_train and y_train")
    parser.add_argument(
        "--validation",
        type=expanded,
        metavar="DATA",
        help="validation data, in the same forms as --data; uses x_validation of a file or val/ of a folder",
    )
    parser.add_argument(
        "--holdout", type=int, default=0, metavar="N", help="hold out N random training images for validation instead"
    )
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width of the network's input (default: of the images)"
    )
    add_resize_mode(parser, "crop")


def check_data(arguments: argparse.Namespace) -> None:
    """Check the data arguments, as far as possible without opening the data."""
    check_least("--holdout", arguments.holdout, 0)
    check_least("--size", arguments.size, 1)
    if arguments.validation and arguments.holdout:
        raise ValueError("Expected --validation or --holdout; received: both.")


def open_data(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return training data and validation data (`None` if there are none)."""
    from keras_resattn.data import Dataset, open_dataset
    from keras_resattn.data.open_dataset import open_validation

    dataset = open_dataset(arguments.data, data_dir=arguments.data_dir, resize_mode=arguments.resize_mode)
    if arguments.size is not None and isinstance(dataset, Dataset) and dataset.resize_mode is None:
        dataset = dataset.with_resize_mode("crop")  # arrays are not resized by default
    if not arguments.holdout:
        return dataset, open_validation(arguments.validation, arguments.data_dir, dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"Expected no --holdout with data without access by index; received: --holdout {arguments.holdout}."
        )
    if arguments.holdout >= len(dataset):
        raise ValueError(
            f"Expected --holdout below the number of images, {len(dataset)}; received: {arguments.holdout}."
        )
    import numpy as np

    # The same random images for every seed; the last images, for example, might all be of one class.
    rows = np.random.default_rng(0).permutation(len(dataset))
    return dataset.subset(np.sort(rows[arguments.holdout :])), dataset.subset(np.sort(rows[: arguments.holdout]))


def change_recipe(name: str, changes: Iterable[str], option: str = "--set") -> Recipe:
    """Return a recipe, by name or from a `.json` file, with `FIELD=VALUE` changes; values are JSON, or else strings."""
    recipe = _read_recipe(path(name)) if name.endswith(".json") else get_recipe(name)
    fields = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals or field not in Recipe.__dataclass_fields__:
            hint = suggest_fields([field]) or f" The fields are {', '.join(Recipe.__dataclass_fields__)}."
            raise ValueError(f"Expected {option} FIELD=VALUE with a field of a recipe; received: {change}.{hint}")
        try:
            fields[field] = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            fields[field] = value
    return recipe.replace(**fields)


def print_metrics(report: "Report", label: str = "last epoch") -> None:
    """Print the metrics of a `Report`."""
    print(f"{label}: {', '.join(f'{_spelled_out(name)} {value:.4g}' for name, value in report.metrics.items())}")


def print_written(file: PathLike) -> None:
    """Print that a file was written."""
    print(f"wrote {printable(str(file))}")


def _spelled_out(metric):
    """Return the name of a metric with its data: `accuracy` is that of training images."""
    if metric.startswith("val_"):
        return f"validation {metric.removeprefix('val_')}"
    return f"training {metric}" if metric in ("loss", "accuracy") else metric


def _read_recipe(file):
    if not file.is_file():
        raise ValueError(f"Expected the name of a recipe or a .json file; {file} does not exist.")
    try:
        return Recipe.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"Expected {file} to hold a recipe, as written by Recipe.to_json: {error}") from error
