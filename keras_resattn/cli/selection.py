"""`--weights`, `--run-dir` and so on: which network a command uses, found without Keras."""

import argparse
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resattn import pretrained
from keras_resattn.cli.arguments import check_least, expanded, path
from keras_resattn.models import registry
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint
from keras_resattn.utils.suggestions import did_you_mean

DEFAULT = "CifarResidualAttention56/cifar10"
#: The file that `fine-tune` saves in the folder of its run.
CLASSIFIER = "classifier.keras"


def add_arguments(parser: argparse.ArgumentParser, default: str | None = DEFAULT, run_dir: bool = True) -> None:
    """Add `--weights`, `--run-dir` and what a file may not record.

    Args:
        parser: An `argparse` parser.
        default: Default of `--weights`.
        run_dir: Whether the command uses finished runs. Others have `--model` and `--size` of their own.
    """
    weights = "network, network/tag (see `list`), released folder, .keras or .weights.h5 file, or hf://owner/repo"
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--weights", default=default, help=f"{weights} (default: {default or 'random weights'})")
    if run_dir:
        either.add_argument(
            "--run-dir",
            dest="network_run",
            type=path,
            help="folder of a finished run, as `train` or `fine-tune` leaves it",
        )
        parser.add_argument("--model", help="network of a .weights.h5 file, such as CifarResidualAttention56")
        parser.add_argument("--size", type=int, help="height and width of images, for a network that takes any")
    numbers = {"nargs": "+", "type": float, "metavar": "N"}
    parser.add_argument("--mean", help="for a file: mean of images, 0 to 255, one number or one per channel", **numbers)
    parser.add_argument("--std", help="for a file: standard deviation, likewise", **numbers)


@dataclass(frozen=True)
class Choice:
    """What the arguments chose; found without Keras.

    Attributes:
        kind: `"tag"` (`where` is a `Checkpoint`), `"hub"` (an `hf://` address), `"run"` (a folder), `"model"` (a file of
            a whole model) or `"weights"` (a `.weights.h5` file).
        where: See `kind`.
        model: Id of the network of a `.weights.h5` file.
        mean: As given, for a file.
        std: As given, for a file.
        side: Height and width of images, for a network that takes any.
    """

    kind: str
    where: Any
    model: str | None = None
    mean: list[Any] | None = None
    std: list[Any] | None = None
    side: int | None = None


def choose(arguments: argparse.Namespace, any_model: bool = False) -> Choice:
    """Return the `Choice` of `--weights`, `--run-dir` and so on.

    Args:
        arguments: The parsed arguments.
        any_model: Whether `--model` may be given with what records its network, too.

    Raises:
        ValueError: for unknown weights, a file or folder that is missing or of another kind, and options that do not
            go together.
    """
    kind, where = _located(arguments)
    model = arguments.model
    if kind != "weights" and model is not None and not any_model:
        raise ValueError(f"Expected --model only with a .weights.h5 file; received: --model {model}.")
    if kind == "weights":
        if model is None:
            raise ValueError(f"Expected --model, the network of {where}, which the file does not record.")
        registry.check_id(model)
    statistics = {"--mean": arguments.mean, "--std": arguments.std}
    given = [option for option, values in statistics.items() if values is not None]
    if given and kind not in ("weights", "model"):
        raise ValueError(f"Expected {given[0]} only with a .keras or .weights.h5 file; {where_of(where)} records it.")
    if len(given) == 1 or (kind == "weights" and not given):
        raise ValueError(
            f"Expected --mean and --std, the normalisation of the images (0 to 255) that {where} was trained on, which "
            f"the file does not record; received: {given[0] if given else 'neither'}."
        )
    check_least("--size", arguments.size, 1)
    return Choice(kind, where, model, arguments.mean, arguments.std, arguments.size)


def _located(arguments):
    run = getattr(arguments, "network_run", None)
    return _of_weights(expanded(arguments.weights)) if run is None else _of_run(run)


def where_of(where: Any) -> str:
    """Return what `Choice.where` is called in messages."""
    return where.id if isinstance(where, Checkpoint) else str(where)


def find_tag(name: str, expected: str = "released weights", known: Iterable[str] = ()) -> Checkpoint:
    """Return the released `Checkpoint` of a name, or of a network its default one.

    Args:
        name: A network, a tag, an alias or `network/tag`.
        expected: What a message says was expected.
        known: Further names that a message may suggest.

    Raises:
        ValueError: if there is none, or several networks have a tag of that name.
    """
    found = pretrained.find("default", name) if name in registry.NETWORKS else pretrained.find(name)
    if len(found) == 1:
        return found[0]
    published = pretrained.tags()
    names = {each for tag in published for each in (tag.id, tag.tag, tag.network, *tag.aliases)}
    if found:
        hint = f" It is a tag of several networks: {', '.join(tag.id for tag in found)}."
    else:
        hint = " It has none." if registry.is_network(name) else did_you_mean(name, {*names, *known})
    ids = ", ".join(tag.id for tag in published) or "none yet"
    raise ValueError(f"Expected {expected} ({ids}); received: {name}.{hint}")


def _of_weights(weights):
    if weights.startswith("hf://"):
        if not re.fullmatch(r"hf://[\w.-]+/[\w.-]+(@[\w./-]+)?", weights) or ".." in weights:
            raise ValueError(f"Expected hf://owner/repo or hf://owner/repo@revision; received: {weights}.")
        return "hub", weights
    if pretrained.find(weights) or weights in registry.NETWORKS:
        return "tag", find_tag(weights)
    file = Path(weights)
    if os.path.isdir(file):
        if (file / "report.json").exists() or not (file / RECORD).exists():
            return _of_run(file, "--weights to be a folder of released weights (with config.json) or of a finished run")
        return "tag", Checkpoint.read(file)
    if os.path.exists(file):
        return _of_file(file)
    if file.suffix in (".keras", ".h5") or os.path.isabs(file) or weights.startswith((".", "~")):
        raise ValueError(f"Expected released weights, a file or a folder; there is nothing at {weights}.")
    return "tag", find_tag(weights, "released weights, a file or a folder")


def _of_file(file):
    name = file.name.lower()
    if name.endswith(".weights.h5"):
        # A run's weights, or released ones: the records beside them say what they are.
        if (file.parent / "report.json").exists() and (file.parent / "model.json").exists():
            return "run", file.parent
        if file.name == TENSORS and (file.parent / RECORD).exists():
            return "tag", Checkpoint.read(file.parent)
        return "weights", file
    if name.endswith((".keras", ".h5")):
        return "model", file
    raise ValueError(f"Expected --weights to be a .keras or .weights.h5 file; received: {file}.")


def _of_run(folder, expected="--run-dir to be the folder of a finished run"):
    if not os.path.isdir(folder):
        wrong = "is a file" if os.path.exists(folder) else "does not exist"
        raise ValueError(f"Expected {expected}; {folder} {wrong}.")
    for inside in (folder, folder / "fine_tune"):
        if (inside / "report.json").exists():
            return "run", inside
    if (folder / CLASSIFIER).exists():
        return "model", folder / CLASSIFIER
    if (folder / "recipe.json").exists() or (folder / "transfer.json").exists():
        raise ValueError(f"Expected {expected}; {folder} holds a run that is not finished. Let it end first.")
    raise ValueError(f"Expected {expected}; {folder} holds none (it has no report.json).")
