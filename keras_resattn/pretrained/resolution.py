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

from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint, find, tags
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import hash_of, open_regular, user_path
from keras_resattn.utils.network_ids import python_call
from keras_resattn.utils.suggestions import did_you_mean


@dataclass(frozen=True)
class WeightsSource:
    """Location of weights: a released checkpoint, a local file or folder, or a Hub repository.

    Attributes:
        network: Id of the network that the weights are for, or `None` for a custom network.
        tag: The released checkpoint, or `None` for a file without a record and for a Hub repository.
        path: Path of the local `.weights.h5` file, or `None` for a Hub repository.
        repository: `owner/name` of the Hub repository, or `None`.
        revision: Branch, tag or commit of the repository, or `None` for its default branch.
    """

    network: str | None
    tag: Checkpoint | None = None
    path: Path | None = None
    repository: str | None = None
    revision: str | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Path, BufferedReader]]:
        """Open the weights file after downloading it, if necessary, and checking its SHA-256.

        Yields:
            `(path, file)`: the path, and the file object that was hashed, open for reading.

        Raises:
            ValueError: if the file cannot be read, its hash differs from the one in its record, or the Hub repository
                belongs to another network. A damaged download is deleted; a user's file never is.
            OSError: if the download fails.
        """
        tag = self.record()
        path: Any = self.path
        owner, remedy = "", "Reinstall keras_resattn, or copy the file again."
        if self.repository is not None:
            path = self._download()
            owner, remedy = f" from hf://{self.repository}", "The download was deleted; try again."
        elif tag is not None:
            owner = f" of {tag.id}"
        with open_regular(path) as file:
            found = None if tag is None else hash_of(file, path)
            if tag is None or found == tag.sha256:
                yield path, file
                return
        if self.repository is not None:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        raise ValueError(f"Expected the file{owner} to have SHA-256 {tag.sha256}; {path} has {found}. {remedy}")

    @property
    def class_names(self) -> list[str] | None:
        """Class names from the record, or `None` for a file without a record."""
        record = self.record()
        return None if record is None else list(record.classes)

    def record(self) -> Checkpoint | None:
        """Return the record of the weights, downloaded if necessary, or `None` for a file without a record.

        Raises:
            ValueError: if the record is invalid or belongs to another network.
            OSError: if the download fails.
        """
        if self.tag is not None or self.repository is None:
            return self.tag
        from huggingface_hub import hf_hub_download

        tag = Checkpoint.read(Path(hf_hub_download(self.repository, RECORD, revision=self.revision)).parent)
        _check_network(tag, self.network, f"hf://{self.repository}")
        return tag

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
            backbone = python_call(tag.network, f"include_top=False, pooling='avg', weights={tag.tag!r}")
            raise ValueError(
                f"Expected classes={len(tag.classes)} with the top of {tag.id}; received: classes={classes}. "
                "For other classes, build the network without its top and add a new classifier:\n"
                f"    backbone = {backbone}\n"
                f"    outputs = keras.layers.Dense({classes}, activation='softmax')(backbone.output)"
            )
        if channels not in (1, tag.input_shape[-1]):
            raise ValueError(
                f"Expected {tag.input_shape[-1]} input channels with the weights of {tag.id}, or 1 (the stem's kernel "
                f"is then summed over RGB); received: {channels}. "
                "Add a 1x1 convolution before the network, or pass weights=None."
            )

    def _download(self):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(str(self.repository), TENSORS, revision=self.revision))


def resolve(weights: PathLike | None, *, network: str | None) -> WeightsSource | None:
    """Resolve a builder's `weights` argument. Reads no tensors.

    Args:
        weights: The builder's `weights` argument.
        network: Id of the network, or `None` for a custom network.

    Returns:
        A `WeightsSource`, or `None` for random initialisation.

    Raises:
        ValueError: if the weights do not exist, or belong to another network.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            f"Expected weights to be None, a tag, a path or 'hf://owner/repo'; received: weights={weights!r}."
        )
    return _locate(weights, network)


def _locate(weights, network):
    hub = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(weights)) if isinstance(weights, str) else None
    if hub and ".." not in weights:  # ".." would leave the cache folder
        return WeightsSource(network, repository=hub.group(1), revision=hub.group(2))
    if isinstance(weights, str):
        found = find(weights, network) if network is not None else []
        if found:
            tag = found[0]
            if tag.tensors.exists():
                return WeightsSource(network, tag=tag, path=tag.tensors)
            return _on_hub(tag, network)
    path = user_path(weights)
    if (path / RECORD).is_file():
        tag = Checkpoint.read(path)
        _check_network(tag, network, str(path))
        return WeightsSource(network, tag=tag, path=tag.tensors)
    if path.exists() and not path.is_dir():
        with open_regular(path):  # an unreadable file raises before the network is built
            return WeightsSource(network, path=path)
    raise ValueError(_not_found_message(weights, network))


def _on_hub(tag, network):
    if tag.repository is None:
        raise ValueError(
            f"Expected the tensors of {tag.id} at {tag.tensors} or in a Hub repository; received: neither, as the "
            "file is too large to bundle and has not been uploaded. Pass another tag, a local file, or weights=None."
        )
    return WeightsSource(network, tag=tag, repository=tag.repository, revision=tag.revision)


def _check_network(tag, network, where):
    if tag.network != network:
        raise ValueError(
            f"Expected weights of {network or 'a custom network'}; {where} holds weights of {tag.network}."
        )


def _not_found_message(weights, network):
    if Path(weights).suffix == ".h5":
        return f"Expected weights to be an existing .weights.h5 file; received: weights={str(weights)!r}."
    own = [tag for tag in tags() if tag.network == network]
    lines = [
        f"Expected weights to be None, a tag, an existing file or 'hf://owner/repo'; received: weights={weights!r}."
    ]
    if network is None:
        lines.append("There are no released checkpoints for custom networks; pass weights=None or a file.")
    elif own:
        names = {name for tag in own for name in (tag.tag, *tag.aliases)}
        lines.append(f"Tags of {network}: {', '.join(tag.tag for tag in own)}.{did_you_mean(weights, names)}")
    else:
        lines.append(f"There is no released checkpoint for {network}; pass weights=None for random initialisation.")
        lines.append(f"Released checkpoints: {', '.join(tag.id for tag in tags()) or 'none'}.")
    imagenet = re.match(r"ResidualAttention|AttentionNeXt|AttentionInception", network or "")
    if "imagenet" in str(weights).lower() or imagenet:
        lines.append(
            "The authors of Residual Attention Networks never released ImageNet weights, and this package has none "
            "for any network."
        )
    return " ".join(lines)
