"""Resolve a builder's `weights` argument to a file, and check the file's SHA-256 before it is read.

`resolve` checks the argument before the network is built. `WeightsSource.open` downloads the file if necessary and
verifies its hash.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from keras_resattn.pretrained import hub
from keras_resattn.pretrained.hub import Address
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint, find, tags
from keras_resattn.pretrained.shared_folders import VARIABLE, shared_folders
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import hash_of, open_regular, user_path
from keras_resattn.utils.network_ids import python_call
from keras_resattn.utils.suggestions import did_you_mean


@dataclass(frozen=True)
class WeightsSource:
    """Location of weights: a released checkpoint, a local file or folder, or a Hub repository.

    Attributes:
        network: Id of the network that the weights are for, or `None` for a custom network.
        weights: The `weights` argument that stands for them in messages.
        tag: The record of the checkpoint, or `None` for a file without a record.
        path: Path of the local `.weights.h5` file, or `None` for a Hub repository.
        address: The Hub repository, or `None` for a local file.
    """

    network: str | None
    weights: str
    tag: Checkpoint | None = None
    path: Path | None = None
    address: Address | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Path, BufferedReader]]:
        """Open the weights file after downloading it, if necessary, and checking its SHA-256.

        Yields:
            `(path, file)`: the path, and the file object that was hashed, open for reading.

        Raises:
            ValueError: if the file cannot be read, or its hash differs from the one in its record. A damaged download
                is deleted; a user's file never is.
            OSError: if the download fails.
        """
        tag = self.tag
        if self.address is not None and tag is not None:
            with hub.open_tensors(tag, self.address) as opened:
                yield opened
            return
        path: Any = self.path
        with open_regular(path) as file:
            found = None if tag is None else hash_of(file, path)
            if tag is not None and found != tag.sha256:
                raise ValueError(
                    f"Expected the file of {tag.id} to have SHA-256 {tag.sha256}; {path} has {found}. "
                    "Reinstall keras_resattn, or copy the file again."
                )
            yield path, file

    @property
    def class_names(self) -> list[str] | None:
        """Class names from the record, or `None` for a file without a record."""
        return None if self.tag is None else list(self.tag.classes)

    def check_arguments(self, *, include_top: bool, classes: int, classifier_activation: Any, channels: int) -> None:
        """Check the weights against the other arguments of a builder.

        Args:
            include_top: The builder's `include_top`.
            classes: Number of classes.
            classifier_activation: Activation of the classifier.
            channels: Number of input channels.

        Raises:
            ValueError: if the network would not have the top, or the input channels, of the weights.
        """
        if include_top and classifier_activation not in (None, "softmax"):
            raise ValueError(
                "Expected classifier_activation to be 'softmax' or None with pretrained weights and include_top=True; "
                f"received: classifier_activation={classifier_activation!r}."
            )
        tag = self.tag
        if tag is None:  # compared with the network when the weights are loaded
            return
        if include_top and classes != len(tag.classes):
            backbone = python_call(tag.network, f"include_top=False, pooling='avg', weights={self.weights!r}")
            attention = ""
            if tag.network.startswith("WARN"):
                attention = "\nIts gated attention is part of the top; attend_and_rectify(model) adds new modules."
            raise ValueError(
                f"Expected classes={len(tag.classes)} with the top of {tag.id}; received: classes={classes}. "
                "For other classes, build the network without its top and add a new classifier:\n"
                f"    backbone = {backbone}\n"
                f"    outputs = keras.layers.Dense({classes}, activation='softmax')(backbone.output)\n"
                f"    model = keras.Model(backbone.input, outputs){attention}"
            )
        if channels not in (1, tag.input_shape[-1]):
            raise ValueError(
                f"Expected {tag.input_shape[-1]} input channels with the weights of {tag.id}, or 1 (the stem's kernel "
                f"is then summed over RGB); received: {channels}. "
                "Add a 1x1 convolution before the network, or pass weights=None."
            )


def resolve(weights: PathLike | None, *, network: str | None) -> WeightsSource | None:
    """Resolve a builder's `weights` argument. Downloads the record of a Hub repository, but reads no tensors.

    Args:
        weights: The builder's `weights` argument.
        network: Id of the network, or `None` for a custom network.

    Returns:
        A `WeightsSource`, or `None` for random initialisation.

    Raises:
        ValueError: if the weights do not exist, or belong to another network; or if a record is invalid.
        OSError: if the record of a Hub repository cannot be downloaded.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            f"Expected weights to be None, a tag, a path or 'hf://owner/repo'; received: weights={weights!r}."
        )
    return _locate(weights, network)


def record_at(weights: PathLike) -> Checkpoint | None:
    """Return the record in a Hub repository (`hf://owner/repo`) or a released folder, or `None` for any other name.

    Raises:
        ValueError: if the record is invalid.
        OSError: if the record of a Hub repository cannot be downloaded.
    """
    if isinstance(weights, str) and weights.startswith(hub.PREFIX):
        return hub.read_record(Address.parse(weights))[0]
    path = user_path(weights)
    return Checkpoint.read(path) if (path / RECORD).is_file() else None


def find_tensors(tag: Checkpoint) -> Path | Address:
    """Return the location of a released checkpoint's tensors.

    The first of: the file beside the record, which is bundled with the package; a folder of the same name in a folder
    of `KERAS_RESATTN_WEIGHTS`; the Hub repository (see `hub.Address.of`).

    Raises:
        ValueError: if there is none of them.
    """
    if tag.tensors.exists():
        return tag.tensors
    for folder in shared_folders():
        if (copy := folder / tag.folder.name / TENSORS).exists():
            return copy
    if (address := Address.of(tag)) is not None:
        return address
    raise ValueError(
        f"Expected the tensors of {tag.id} at {tag.tensors}, in {VARIABLE}, or on the Hub; received: none of them. "
        "Wheels do not contain large files. Either install the package from a clone of its repository "
        f"(pip install -e .), or set {VARIABLE} to the folder that contains {tag.folder.name}/{TENSORS}, such as the "
        f"folder weights/ of a clone. Once the tag is on the Hub, weights='hf://owner/{tag.folder.name}' works too."
    )


def source_of(tag: Checkpoint, weights: str | None = None) -> WeightsSource:
    """Return the `WeightsSource` of a released checkpoint; see `find_tensors`.

    Args:
        tag: The checkpoint.
        weights: The argument that stands for it in messages (default: the tag).

    Raises:
        ValueError: if its tensors are nowhere.
    """
    tensors = find_tensors(tag)
    path, address = (None, tensors) if isinstance(tensors, Address) else (tensors, None)
    return WeightsSource(tag.network, weights or tag.tag, tag=tag, path=path, address=address)


def _locate(weights, network):
    if isinstance(weights, str) and weights.startswith(hub.PREFIX):
        tag, address = hub.read_record(Address.parse(weights))
        _check_network(tag, network, weights)
        return WeightsSource(network, weights, tag=tag, address=address)
    if isinstance(weights, str):
        found = find(weights, network) if network is not None else []
        if found:
            return source_of(found[0])
    path = user_path(weights)
    if weights != "" and (path / RECORD).is_file():
        tag = Checkpoint.read(path)
        _check_network(tag, network, str(path))
        released = next((each for each in tags() if each.id == tag.id), None)
        if released is None or tag.tensors.exists():
            with open_regular(tag.tensors):  # an unreadable file raises before the network is built
                return WeightsSource(network, str(weights), tag=tag, path=tag.tensors)
        return source_of(released, str(weights))
    if path.exists() and not path.is_dir():
        with open_regular(path):
            return WeightsSource(network, str(weights), path=path)
    raise ValueError(_not_found_message(weights, network))


def _check_network(tag, network, where):
    if tag.network != network:
        raise ValueError(
            f"Expected weights of {network or 'a custom network'}; {where} holds weights of {tag.network}. "
            "Build that network, or pass other weights."
        )


def _not_found_message(weights, network):
    if Path(weights).suffix == ".h5":
        return f"Expected weights to be an existing .weights.h5 file; received: weights={str(weights)!r}."
    own = [tag for tag in tags() if tag.network == network]
    lines = [
        "Expected weights to be None, a tag, an existing file, the folder of a released checkpoint, or "
        f"'hf://owner/repo'; received: weights={weights!r}."
    ]
    if network is None:
        lines.append(
            "There are no released checkpoints for custom networks, with other arguments than the published ones; "
            "pass weights=None or a file."
        )
    elif own:
        names = {name for tag in own for name in (tag.tag, *tag.aliases)}
        lines.append(f"Tags of {network}: {', '.join(tag.tag for tag in own)}.{did_you_mean(weights, names)}")
    else:
        lines.append(f"There is no released checkpoint for {network}; pass weights=None for random initialisation.")
        lines.append(f"Released checkpoints: {', '.join(tag.id for tag in tags()) or 'none'}.")
    imagenet = re.match(r"ResidualAttention|AttentionNeXt|AttentionInception", network or "")
    if "imagenet" in str(weights).lower() or imagenet:
        lines.append(
            "The authors of Residual Attention Networks never released ImageNet-1k weights, and this package has none "
            "for any network."
        )
    return " ".join(lines)
