"""Arguments that select the network of a command (`--weights`, `--run-dir`, ...), resolved without Keras."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resattn import pretrained
from keras_resattn.cli.arguments import check_least, expanded, path
from keras_resattn.models import registry
from keras_resattn.pretrained import hub
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint
from keras_resattn.recipes.run_files import ARCHITECTURE, CLASSIFIER, FINE_TUNE, RECIPE, REPORT, TRANSFER

DEFAULT = "CifarResidualAttention56/cifar10"
WEIGHTS = "network, network/tag (see `list`), released folder, .keras or .weights.h5 file, or hf://owner/repo"


def add_arguments(parser: argparse.ArgumentParser, default: str | None = DEFAULT, run_dir: bool = True) -> None:
    """Add `--weights`, `--run-dir`, and arguments for files that do not record architecture and normalisation.

    Args:
        parser: An `argparse` parser.
        default: Default of `--weights`.
        run_dir: Whether the command uses finished runs; other commands define their own `--model` and `--size`.
    """
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--weights", default=default, help=f"{WEIGHTS} (default: {default or 'random weights'})")
    if run_dir:
        _add_run_dir(either)
        _add_model_and_size(parser, "height and width of images, for a network of any input size")
    _add_statistics(parser)


def add_name(parser: argparse.ArgumentParser, size_help: str) -> None:
    """Add `NAME`, the network as a positional argument, or `--run-dir`, and arguments for files that do not record all.

    Args:
        parser: An `argparse` parser.
        size_help: Help of `--size`.
    """
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("weights", nargs="?", metavar="NAME", help=f"{WEIGHTS}, or folder of a finished run")
    _add_run_dir(either)
    _add_model_and_size(parser, size_help)
    _add_statistics(parser)


def _add_run_dir(either):
    either.add_argument(
        "--run-dir",
        dest="network_run",
        type=path,
        metavar="DIR",
        help="folder of a finished run of `train` or `fine-tune`",
    )


def _add_model_and_size(parser, size_help):
    parser.add_argument(
        "--model", metavar="NETWORK", help="network of a .weights.h5 file, such as CifarResidualAttention56"
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help=size_help)


def _add_statistics(parser):
    numbers = {"nargs": "+", "type": _number, "metavar": "N"}
    parser.add_argument(
        "--mean",
        help="for a file: mean that is subtracted from images (0 to 255), one number or one per channel",
        **numbers,
    )
    parser.add_argument(
        "--std",
        help="for a file: standard deviation that images are divided by, one number or one per channel",
        **numbers,
    )


def _number(value):
    try:
        return float(value)
    except ValueError:
        hint = "Name files before this option."
        raise argparse.ArgumentTypeError(f"expected a number; received: {value}. {hint}") from None


@dataclass(frozen=True)
class NetworkChoice:
    """The network that the arguments select.

    Attributes:
        kind: `"tag"` (`source` is a `Checkpoint`), `"hub"` (an `hf://` address), `"run"` (a folder), `"model"` (a file
            of a whole model) or `"weights"` (a `.weights.h5` file).
        source: The checkpoint, address, folder or file.
        model: Id of the network of a `.weights.h5` file.
        mean: `--mean`, for a file.
        std: `--std`, for a file.
        size: Height and width of images, for a network of variable input size.
    """

    kind: str
    source: Any
    model: str | None = None
    mean: list[Any] | None = None
    std: list[Any] | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """Name in messages; for a run of `fine-tune`, its folder, not that of the second phase inside."""
        if isinstance(self.source, Checkpoint):
            return self.source.id
        if self.kind == "run" and self.source.name == FINE_TUNE and (self.source.parent / TRANSFER).exists():
            return str(self.source.parent)
        return str(self.source)


def choose(arguments: argparse.Namespace, any_model: bool = False) -> NetworkChoice:
    """Return the `NetworkChoice` of `--weights`, `--run-dir` and related arguments.

    Args:
        arguments: The parsed arguments.
        any_model: Whether `--model` is also allowed with weights that record their network.

    Raises:
        ValueError: For unknown weights, a file or folder that is missing or of the wrong kind, and mutually exclusive
            options.
    """
    run = getattr(arguments, "network_run", None)
    kind, source = _find_run(run) if run is not None else _find_weights(expanded(arguments.weights))
    choice = NetworkChoice(kind, source, arguments.model, arguments.mean, arguments.std, arguments.size)
    if kind != "weights" and choice.model is not None and not any_model:
        raise ValueError(f"Expected --model only with a .weights.h5 file; received: --model {choice.model}.")
    if kind == "weights":
        if choice.model is None:
            raise ValueError(f"Expected --model, the network of {source}; the file does not record it.")
        registry.check_id(choice.model)
    given = [f"--{option}" for option in ("mean", "std") if getattr(choice, option) is not None]
    if given and kind not in ("weights", "model"):
        raise ValueError(f"Expected {given[0]} only with a .keras or .weights.h5 file; {choice.name} records it.")
    if len(given) == 1 or (kind == "weights" and not given):
        raise ValueError(
            f"Expected --mean and --std, the normalization of the images (0 to 255) that {source} was trained on; the "
            f"file does not record it. Received: {given[0] if given else 'neither'}."
        )
    check_least("--size", choice.size, 1)
    return choice


def _find_weights(weights):
    if weights.startswith(hub.PREFIX):
        return "hub", str(hub.Address.parse(weights))
    if not weights or pretrained.find(weights) or weights in registry.NETWORKS:
        return "tag", registry.find_checkpoint(weights)
    file = Path(weights)
    if os.path.isdir(file):
        if (file / REPORT).exists() or not (file / RECORD).exists():
            return _find_run(file, "--weights to be a folder of released weights (with config.json) or a finished run")
        return "tag", Checkpoint.read(file)
    if os.path.exists(file):
        return _find_file(file)
    if file.suffix in (".keras", ".h5") or os.path.isabs(file) or weights.startswith((".", "~")):
        raise ValueError(f"Expected released weights, a file or a folder; {weights} does not exist.")
    return "tag", registry.find_checkpoint(weights, "released weights, a file or a folder")


def _find_file(file):
    name = file.name.lower()
    if name.endswith(".weights.h5"):
        # Weights of a run or of a released checkpoint are described by the records beside them.
        if (file.parent / REPORT).exists() and (file.parent / ARCHITECTURE).exists():
            return "run", file.parent
        if file.name == TENSORS and (file.parent / RECORD).exists():
            return "tag", Checkpoint.read(file.parent)
        return "weights", file
    if name.endswith((".keras", ".h5")):
        return "model", file
    raise ValueError(f"Expected --weights to be a .keras or .weights.h5 file; received: {file}.")


def _find_run(folder, expected="--run-dir to be the folder of a finished run"):
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        raise ValueError(f"Expected {expected}; {folder} {problem}.")
    for inside in (folder, folder / FINE_TUNE):
        if (inside / REPORT).exists():
            return "run", inside
    if (folder / CLASSIFIER).exists():
        return "model", folder / CLASSIFIER
    if (folder / RECIPE).exists() or (folder / TRANSFER).exists():
        raise ValueError(f"Expected {expected}; the run in {folder} is not finished. Repeat its command to finish it.")
    raise ValueError(f"Expected {expected}; {folder} has no {REPORT}.")
