"""From a builder's `weights` argument to the file that it means; checked before anything is built."""

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
    """Where weights come from: a released tag, a file or folder of the user's, or a Hub repository."""

    network: str | None
    tag: Checkpoint | None = None
    path: Path | None = None
    repository: str | None = None
    revision: str | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Path, BufferedReader]]:
        """Open the tensors' file, downloaded if need be and its SHA-256 checked.

        Yields:
            `(path, file)`: its path, and the very file that was checked, open for reading.

        Raises:
            ValueError: if the file cannot be read, does not have the hash that its record states, or the Hub
                repository is another network's. A damaged download is removed, a user's file never.
            OSError: if the download fails.
        """
        tag = self.record()
        path: Any = self.path
        what, remedy = "", "Reinstall keras_resattn, or copy it again."
        if self.repository is not None:
            path = self._download()
            what, remedy = f" from hf://{self.repository}", "It was removed; try again."
        elif tag is not None:
            what = f" of {tag.id}"
        with open_regular(path) as file:
            found = None if tag is None else hash_of(file, path)
            if tag is None or found == tag.sha256:
                yield path, file
                return
        if self.repository is not None:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        raise ValueError(f"Expected the file{what} to have SHA-256 {tag.sha256}; {path} has {found}. {remedy}")

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, as the record has them; `None` for a file without a record."""
        record = self.record()
        return None if record is None else list(record.classes)

    def record(self) -> Checkpoint | None:
        """Returns the `Checkpoint` of the weights, read from the Hub if need be; `None` for a file, which has none.

        Raises:
            ValueError: if the record is broken, or another network's.
            OSError: if the download fails.
        """
        if self.tag is not None or self.repository is None:
            return self.tag
        from huggingface_hub import hf_hub_download

        tag = Checkpoint.read(Path(hf_hub_download(self.repository, RECORD, revision=self.revision)).parent)
        _check_network(tag, self.network, f"hf://{self.repository}")
        return tag

    def _download(self):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(str(self.repository), TENSORS, revision=self.revision))


def resolve(
    weights: PathLike | None,
    *,
    network: str | None,
    include_top: bool,
    classes: int,
    classifier_activation: Any,
    channels: int,
) -> WeightsSource | None:
    """Checks a builder's `weights` against its other arguments, without touching network or tensors.

    Args:
        weights: The builder's argument.
        network: Name of the builder, or `None` for a network that is no row of the table.
        include_top: As given to the builder, like all that follow.
        classes: Number of classes.
        classifier_activation: Activation of the classifier.
        channels: Channels of the input.

    Returns:
        A `WeightsSource`, or `None` for random initialisation.

    Raises:
        ValueError: if there are no such weights, or they do not go with the other arguments.
    """
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            f"Expected weights to be None, a tag, a path or 'hf://owner/repo'; received: weights={weights!r}."
        )
    if include_top and classifier_activation not in (None, "softmax"):
        raise ValueError(
            "Expected classifier_activation to be 'softmax' or None with pretrained weights and include_top=True; "
            f"received: classifier_activation={classifier_activation!r}."
        )
    source = _locate(weights, network)
    if source.tag is not None:
        _check_arguments(source.tag, include_top, classes, channels)
    return source


def _locate(weights, network):
    hub = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(weights)) if isinstance(weights, str) else None
    if hub and ".." not in weights:  # which would leave the folder of the cache
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
        with open_regular(path):  # what cannot be read is refused before the network is built
            return WeightsSource(network, path=path)
    raise ValueError(_nothing_found(weights, network))


def _on_hub(tag, network):
    if tag.repository is None:
        raise ValueError(
            f"Expected the tensors of {tag.id} at {tag.tensors} or in a Hub repository; they are in neither, as they "
            "are too large to be bundled and not uploaded yet. Pass another tag, a local file, or weights=None."
        )
    return WeightsSource(network, tag=tag, repository=tag.repository, revision=tag.revision)


def _check_network(tag, network, where):
    if tag.network != network:
        raise ValueError(
            f"Expected weights of {network or 'a custom network'}; {where} holds weights of {tag.network}."
        )


def _check_arguments(tag, include_top, classes, channels):
    if include_top and classes != len(tag.classes):
        backbone = python_call(tag.network, f"include_top=False, pooling='avg', weights={tag.tag!r}")
        raise ValueError(
            f"Expected classes={len(tag.classes)} with the top of {tag.id}; received: classes={classes}. "
            "To classify something else, take the network without its top and put a new one on it:\n"
            f"    backbone = {backbone}\n"
            f"    outputs = keras.layers.Dense({classes}, activation='softmax')(backbone.output)"
        )
    if channels not in (1, tag.input_shape[-1]):
        raise ValueError(
            f"Expected {tag.input_shape[-1]} channels (or 1, for which the stem's kernel is summed over them) with the "
            f"weights of {tag.id}; received: {channels}. "
            "Put a 1x1 convolution before the network, or pass weights=None."
        )


def _nothing_found(weights, network):
    if Path(weights).suffix == ".h5":
        return f"Expected weights to be an existing .weights.h5 file; received: weights={str(weights)!r}."
    own = [tag for tag in tags() if tag.network == network]
    lines = [
        f"Expected weights to be None, a tag, an existing file or 'hf://owner/repo'; received: weights={weights!r}."
    ]
    if network is None:
        lines.append(
            "A network that is no row of the variants table has no published weights; pass weights=None or a file."
        )
    elif own:
        names = {name for tag in own for name in (tag.tag, *tag.aliases)}
        lines.append(f"Tags of {network}: {', '.join(tag.tag for tag in own)}.{did_you_mean(weights, names)}")
    else:
        lines.append(f"Nothing is published for {network}; pass weights=None to start from random ones.")
        others = ", ".join(tag.id for tag in tags())
        lines.append(f"Published: {others or 'nothing yet'}.")
    imagenet = re.match(r"ResidualAttention|AttentionNeXt|AttentionInception", network or "")
    if "imagenet" in str(weights).lower() or imagenet:
        lines.append(
            "ImageNet weights of Residual Attention Networks were never released by anyone; this package has none, of "
            "these or of the other networks."
        )
    return " ".join(lines)
