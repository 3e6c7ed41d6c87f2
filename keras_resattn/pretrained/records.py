"""The registry: a record for each released tag (`weights/*/config.json`), and what aliases mean (`aliases.json` there).

A released folder never changes; an alias moves by a line of `aliases.json`. `SHA256SUMS` lists the files that the
package contains, in the format of `sha256sum`; tensors that it does not list live on the Hub alone.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from keras_resattn.utils.io import atomic_write, open_regular, sha256, user_path

TENSORS = "model.weights.h5"
RECORD = "config.json"
ALIASES = "aliases.json"
SUMS = "SHA256SUMS"
LARGEST_RECORD = 2**20  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """A released set of weights. Immutable: a better run is a new tag, and the alias moves.

    Attributes:
        network: Id of the network that it belongs to, `"CifarResidualAttention56"` or `"WARN-16-8"`.
        tag: Its name among that builder's, `"cifar10_v1"`.
        sha256: Of the tensors' file, in hexadecimal.
        classes: Class names in the order of the outputs.
        mean: Channel means that inputs are normalised with, 0 to 255.
        std: Standard deviations, likewise.
        input_shape: Shape of the training images, channels last.
        metrics: What was measured, by name.
        training: Recipe, seed, data, device, wall time and command.
        repository: `owner/name` of the Hub repository that holds the folder, or `None`.
        revision: Commit of that repository.
        folder: Where the record lies.
        aliases: Other names of it in this registry, `"cifar10"`; `"default"` marks the builder's best.
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
    repository: str | None
    revision: str | None
    folder: Path
    aliases: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`network/tag`, unique in the registry."""
        return f"{self.network}/{self.tag}"

    @property
    def tensors(self) -> Path:
        """Path of the tensors' file beside the record; heavy ones live on the Hub alone."""
        return self.folder / TENSORS

    def answers_to(self, name: str) -> bool:
        """Whether `name` is this tag or one of its aliases, alone or after `network/`."""
        return name.removeprefix(f"{self.network}/") in (self.tag, *self.aliases)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the record of a folder.

        Raises:
            ValueError: if it cannot be read, is not JSON, lacks a field, or a field has another type.
        """
        folder = user_path(folder)
        try:
            with open_regular(folder / RECORD) as file:
                content = file.read(LARGEST_RECORD + 1)
            if len(content) > LARGEST_RECORD:
                raise ValueError(f"it has more than {LARGEST_RECORD:,} bytes")
            fields = json.loads(content.decode("utf-8"))
            preprocessing = fields["preprocessing"]
            mean, std = _numbers("mean", preprocessing["mean"]), _numbers("std", preprocessing["std"])
            if len(mean) != len(std) or not all(value > 0 for value in std):
                raise ValueError(f"expected as many positive numbers in std as in mean; received: {list(std)}")
            return cls(
                network=_string("network", fields["network"]),
                tag=_string("tag", fields["tag"]),
                sha256=_string("sha256", fields["sha256"]),
                classes=tuple(_string("classes", name) for name in _list("classes", fields["classes"])),
                mean=mean,
                std=std,
                input_shape=_shape(fields["input_shape"]),
                metrics=fields["metrics"],
                training=fields["training"],
                repository=fields.get("repository"),
                revision=fields.get("revision"),
                folder=folder,
            )
        except KeyError as error:
            raise ValueError(f"Expected {folder / RECORD} to be the record of released weights; no {error}.") from error
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"Expected {folder / RECORD} to be the record of released weights; {error}.") from error


def _list(name, value):
    if not isinstance(value, list):
        raise ValueError(f"expected a list for {name}; received: {value!r:.100}")
    return value


def _string(name, value):
    if not isinstance(value, str):
        raise ValueError(f"expected text for {name}; received: {value!r:.100}")
    return value


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
    """The folder of released tags: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


@functools.cache
def tags() -> tuple[Checkpoint, ...]:
    """Returns every released `Checkpoint`, ordered by network and tag.

    Raises:
        ValueError: if a record is broken, or an alias has no tag.
    """
    records = sorted(weights_folder().glob(f"*/{RECORD}"))
    found = sorted((Checkpoint.read(record.parent) for record in records), key=lambda tag: tag.id)
    aliases = read_aliases(weights_folder())
    lost = {f"{network}/{tag}" for network, names in aliases.items() for tag in names.values()} - {t.id for t in found}
    if lost:
        raise ValueError(f"Expected {weights_folder() / ALIASES} to name released tags; {', '.join(lost)} is none.")

    def names(tag):
        return tuple(alias for alias, target in aliases.get(tag.network, {}).items() if target == tag.tag)

    return tuple(dataclasses.replace(tag, aliases=names(tag)) for tag in found)


def read_aliases(folder: Path) -> dict[str, dict[str, str]]:
    """Returns `{network: {alias: tag}}` of a folder of released tags."""
    path = Path(folder) / ALIASES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def move_aliases(folder: Path, network: str, tag: str, names: Iterable[str]) -> None:
    """Lets `names` mean `tag`, whatever they meant, in `aliases.json` of a folder of released tags."""
    aliases = read_aliases(folder)
    aliases[network] = aliases.get(network, {}) | dict.fromkeys(names, tag)
    with atomic_write(Path(folder) / ALIASES) as path:
        path.write_text(json.dumps(aliases, indent=2) + "\n", encoding="utf-8")
    write_sums(folder, {ALIASES: sha256(Path(folder) / ALIASES)})
    tags.cache_clear()


def read_sums(folder: Path) -> dict[str, str]:
    """Return `{path: SHA-256}` of the files that `SHA256SUMS` lists in a folder of released tags.

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
    """Update `SHA256SUMS` of a folder of released tags.

    Args:
        folder: The folder; the list is made if there is none.
        changes: `{path inside the folder: SHA-256}`; `None` in place of a hash removes the line.
    """
    path = Path(folder) / SUMS
    sums = {**(read_sums(folder) if path.exists() else {}), **changes}
    with atomic_write(path) as partial:
        lines = (f"{value}  {name}\n" for name, value in sorted(sums.items()) if value is not None)
        partial.write_text("".join(lines), encoding="utf-8")


def find(name: str, network: str | None = None) -> list[Checkpoint]:
    """Returns the tags that answer to `name` (tag, alias or `network/tag`), of one network or of all."""
    return [tag for tag in tags() if tag.answers_to(name) and network in (None, tag.network)]
