"""Records of the released checkpoints (`weights/*/config.json`), their aliases and their hashes.

A tag never changes: its folder is the content of its Hub repository, file by file. What does change is stored beside
the folders. `aliases.json` maps aliases to tags. `repositories.json` holds each tag's repository and the commit that
published it; the folder itself cannot name the commit that contains it. `SHA256SUMS` lists the files that the package
contains, in the format of `sha256sum`; tensors it does not list are available on the Hub only.
"""

import contextlib
import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from keras_resattn.pretrained.shared_folders import shared_folders
from keras_resattn.utils.io import atomic_write, open_regular, read_json, sha256, user_path, write_json

TENSORS = "model.weights.h5"
RECORD = "config.json"
METADATA = "metadata.json"  # of Keras, which opens the folder as a saved model
CARD = "README.md"
ALIASES = "aliases.json"
REPOSITORIES = "repositories.json"
SUMS = "SHA256SUMS"
MAX_RECORD_BYTES = 2**20
COPY_AGAIN = "Copy the file again."
NAME = r"\w[\w.-]{0,95}"


@dataclass(frozen=True)
class Checkpoint:
    """A released checkpoint. Immutable: a better run gets a new tag, to which the aliases move.

    Attributes:
        network: Id of its network, such as `"CifarResidualAttention56"` or `"WARN-16-8"`.
        tag: Name of the checkpoint, unique for the network, such as `"cifar10_v1"`.
        sha256: SHA-256 of the weights file, in hexadecimal.
        classes: Class names in the order of the outputs.
        mean: Channel means for normalising inputs, on the scale 0 to 255.
        std: Channel standard deviations, on the same scale.
        input_shape: Shape of the training images, channels last.
        metrics: Test metrics by name.
        training: Recipe, seed, dataset, environment, wall time and command.
        folder: Folder of the record.
        dataset: Id of the dataset of the test metrics, such as `"cifar10"`; `None` in records of version 0.1.
        aliases: Other names of the checkpoint, such as `"cifar10"`; `"default"` marks the network's best one.
        repository: `owner/name` of the Hub repository that it was published in, or `None`.
        revision: Commit that published it, or `None`.
    """

    network: str
    tag: str
    sha256: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_shape: tuple[int, ...]
    metrics: dict[str, Any]
    training: dict[str, Any]
    folder: Path
    dataset: str | None = None
    aliases: tuple[str, ...] = ()
    repository: str | None = None
    revision: str | None = None

    @property
    def id(self) -> str:
        """`network/tag`, unique in the registry."""
        return f"{self.network}/{self.tag}"

    @property
    def tensors(self) -> Path:
        """Path of the weights file beside the record; a large one may exist on the Hub only."""
        return self.folder / TENSORS

    def has_name(self, name: str) -> bool:
        """Return whether `name` stands for this checkpoint.

        Its names are the tag and its aliases, with or without `network/` before them; the id of a network stands for
        its default checkpoint.
        """
        if name == self.network:
            return "default" in self.aliases
        return name.removeprefix(f"{self.network}/") in (self.tag, *self.aliases)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record (`config.json`) in a folder.

        Raises:
            ValueError: if the file cannot be read or is not JSON, or a field is missing or invalid.
        """
        folder = user_path(folder)
        try:
            with open_regular(folder / RECORD) as file:
                content = file.read(MAX_RECORD_BYTES + 1)
            if len(content) > MAX_RECORD_BYTES:
                raise ValueError(f"it is larger than {MAX_RECORD_BYTES:,} bytes")
            fields = _mapping("the content", json.loads(content.decode("utf-8")))
            preprocessing = _mapping("preprocessing", fields["preprocessing"])
            mean, std = _numbers("mean", preprocessing["mean"]), _numbers("std", preprocessing["std"])
            if len(mean) != len(std) or not all(value > 0 for value in std):
                raise ValueError(f"expected as many positive numbers in std as in mean; received: {list(std)}")
            return cls(
                network=_matching(NAME, "network", fields["network"]),
                tag=_matching(NAME, "tag", fields["tag"]),
                sha256=_matching("[0-9a-f]{64}", "sha256", fields["sha256"]),
                classes=tuple(_matching(".+", "classes", name) for name in _list("classes", fields["classes"])),
                mean=mean,
                std=std,
                input_shape=_shape(fields["input_shape"]),
                metrics=_mapping("metrics", fields["metrics"]),
                training=_mapping("training", fields["training"]),
                folder=folder,
                dataset=_optional(NAME, "dataset", fields),
            )
        except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"Expected {folder / RECORD} to be the record of a checkpoint; {reason}.") from error


def _list(name, value):
    if not isinstance(value, list):
        raise ValueError(f"expected a list for {name}; received: {value!r:.100}")
    return value


def _mapping(name, value):
    if not isinstance(value, dict):
        raise ValueError(f"expected a dictionary for {name}; received: {value!r:.100}")
    return value


def _matching(pattern, name, value):
    """Return printable text that matches a pattern: names become parts of paths and are printed."""
    if not isinstance(value, str) or not value.isprintable() or not re.fullmatch(pattern, value, re.ASCII):
        raise ValueError(f"expected text of the form {pattern} for {name}; received: {value!r:.100}")
    return value


def _optional(pattern, name, fields):
    return None if fields.get(name) is None else _matching(pattern, name, fields[name])


def _numbers(name, values):
    for value in _list(name, values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"expected finite numbers for {name}; received: {value!r:.100}")
    return tuple(values)


def _shape(values):
    if len(_list("input_shape", values)) != 3 or not all(type(value) is int and value > 0 for value in values):
        raise ValueError(f"expected three positive integers for input_shape; received: {values!r:.100}")
    return tuple(values)


def weights_folder() -> Path:
    """Return the folder of released checkpoints: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def tags() -> tuple[Checkpoint, ...]:
    """Return every released `Checkpoint`, ordered by network and tag.

    These are the checkpoints of the package and of the folders in `KERAS_RESATTN_WEIGHTS`. Where several have the same
    network and tag, or alias, the package comes first, and the folders follow in their order.

    Raises:
        ValueError: if a record is invalid, an alias of the package refers to a tag that does not exist, or
            `KERAS_RESATTN_WEIGHTS` is not a list of folders.
    """
    return _read_tags(tuple((folder, _modified(folder)) for folder in (weights_folder(), *shared_folders())))


def forget_tags() -> None:
    """Make the next call of `tags` read all records again."""
    _read_tags.cache_clear()


@functools.cache
def _read_tags(folders):
    """Return the checkpoints of `(folder, time of its last change)`; the first folder is the package's."""
    found, aliases = {}, {}
    for folder, _ in folders:
        for record in sorted(folder.glob(f"*/{RECORD}")):
            if not record.parent.name.startswith("."):  # an unfinished copy
                tag = Checkpoint.read(record.parent)
                found.setdefault(tag.id, tag)
        for network, targets in read_aliases(folder).items():
            aliases[network] = {**targets, **aliases.get(network, {})}
    package = folders[0][0]
    named = {f"{network}/{tag}" for network, targets in read_aliases(package).items() for tag in targets.values()}
    if missing := sorted(named - set(found)):
        raise ValueError(
            f"Expected {package / ALIASES} to name released tags; there is no {RECORD} of {', '.join(missing)}. "
            f"{COPY_AGAIN} `keras-resattn verify` lists what is missing."
        )

    repositories = _read_index(package / REPOSITORIES)

    def completed(tag):
        names = tuple(alias for alias, target in aliases.get(tag.network, {}).items() if target == tag.tag)
        fields = repositories.get(tag.network, {}).get(tag.tag, {})
        try:
            repository = _optional(f"{NAME}/{NAME}", "repository", fields)
            revision = _optional("[0-9a-f]{40}", "revision", fields)
        except ValueError as error:
            raise ValueError(f"Expected {package / REPOSITORIES} to be intact; {error}. {COPY_AGAIN}") from error
        return dataclasses.replace(tag, aliases=names, repository=repository, revision=revision)

    return tuple(completed(tag) for _, tag in sorted(found.items()))


def _modified(folder):
    """Return the time of the last change of a folder, at which its tags are read again."""
    with contextlib.suppress(OSError):
        return folder.stat().st_mtime_ns
    return None


def read_aliases(folder: Path) -> dict[str, dict[str, str]]:
    """Return `{network: {alias: tag}}` for a folder of released checkpoints.

    Raises:
        ValueError: if the list of aliases is damaged.
    """
    return _read_index(Path(folder) / ALIASES)


def _read_index(path):
    """Read `aliases.json` or `repositories.json`, by network and name; empty if the file does not exist."""
    kind = str if path.name == ALIASES else dict
    index = read_json(path, COPY_AGAIN) if path.exists() else {}
    for entries in index.values():
        if not isinstance(entries, dict) or not all(isinstance(entry, kind) for entry in entries.values()):
            raise ValueError(
                f"Expected entries by network and name in {path}; received: {entries!r:.100}. {COPY_AGAIN}"
            )
    return index


def move_aliases(folder: Path, network: str, tag: str, names: Iterable[str]) -> None:
    """Make `names` aliases of `tag` in a folder of released checkpoints, and update its `SHA256SUMS`."""
    _update_index(Path(folder) / ALIASES, network, dict.fromkeys(names, tag))


def pin_repository(folder: Path, tag: Checkpoint, repository: str, revision: str) -> None:
    """Record the Hub repository of a checkpoint in a folder of released checkpoints, and update its `SHA256SUMS`.

    Args:
        folder: The folder of released checkpoints.
        tag: The checkpoint.
        repository: `owner/name` of the repository.
        revision: Commit whose content is the folder of the tag.
    """
    _update_index(Path(folder) / REPOSITORIES, tag.network, {tag.tag: {"repository": repository, "revision": revision}})


def _update_index(path, network, entries):
    """Add entries of a network to `aliases.json` or `repositories.json`."""
    index = _read_index(path)
    index[network] = index.get(network, {}) | entries
    write_json(path, index)
    write_sums(path.parent, {path.name: sha256(path)})
    forget_tags()


def read_sums(folder: Path) -> dict[str, str]:
    """Return `{path: SHA-256}` for the files that `SHA256SUMS` lists in a folder of released checkpoints.

    Raises:
        ValueError: if the list is missing, or a line is not `<SHA-256>  <path inside the folder>`.
    """
    path = Path(folder) / SUMS
    with open_regular(path) as file:
        lines = file.read().decode("utf-8", "replace").splitlines()
    sums = {}
    for line in lines:
        found = re.fullmatch(r"([0-9a-f]{64})  ((?:[\w-][\w.-]*/)?[\w-][\w.-]*)", line)
        if found is None:
            raise ValueError(f"Expected lines '<SHA-256>  <path>' in {path}; received: {line[:100]!r}.")
        sums[found[2]] = found[1]
    return sums


def write_sums(folder: Path, changes: Mapping[str, str | None]) -> None:
    """Update `SHA256SUMS` in a folder of released checkpoints.

    Args:
        folder: The folder. The file is created if it does not exist.
        changes: `{path inside the folder: SHA-256}`; `None` instead of a hash removes the line.
    """
    path = Path(folder) / SUMS
    sums = {**(read_sums(folder) if path.exists() else {}), **changes}
    with atomic_write(path) as partial:
        lines = (f"{value}  {name}\n" for name, value in sorted(sums.items()) if value is not None)
        partial.write_text("".join(lines), encoding="utf-8")


def find(name: str, network: str | None = None) -> list[Checkpoint]:
    """Return the released checkpoints with a given name.

    Args:
        name: A tag, an alias, `"network/tag"`, or the id of a network, which stands for its default.
        network: Id of a network, to search its checkpoints only.

    Returns:
        A list of `Checkpoint`, empty if there is none; several networks may share a name.
    """
    return [tag for tag in tags() if tag.has_name(name) and network in (None, tag.network)]
