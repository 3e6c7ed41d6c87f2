"""Checkpoints on the Hugging Face Hub: addresses, and downloads that are verified before use.

`huggingface_hub` does all transfers, so its settings apply: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE`,
`HF_HUB_DOWNLOAD_TIMEOUT` and others. Its cache is not trusted: tensors are compared with the SHA-256 of their record,
and files with the Git hash that names them in the cache. What is damaged is downloaded again.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Self

from keras_resattn.pretrained.records import NAME, RECORD, TENSORS, Checkpoint
from keras_resattn.utils.io import hash_of, open_regular, sha256

PREFIX = "hf://"
#: Names the owner of the repositories of released checkpoints, in place of the one that published them.
OWNER = "KERAS_RESATTN_HUB_OWNER"
_UNWRITABLE = {"ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EEXIST"}
_DAMAGED = "The downloads were damaged on their way and deleted. Repeat the call later, or use another network."


class Address(NamedTuple):
    """A Hub repository.

    Attributes:
        repository: `owner/name`.
        revision: Branch, tag or commit, or `None` for the default branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return `hf://owner/name[@revision]`."""
        return f"{PREFIX}{self.repository}" + ("" if self.revision is None else f"@{self.revision}")

    @classmethod
    def parse(cls, address: str) -> Self:
        """Parse `hf://owner/name[@revision]`.

        Raises:
            ValueError: if the address is invalid. Revisions are parts of paths in the cache, so `..` is not allowed.
        """
        found = re.fullmatch(rf"{PREFIX}({NAME}/{NAME})(?:@([\w.-]+(?:/[\w.-]+)*))?", address, re.ASCII)
        if found is None or ".." in address or "--" in found[1]:  # the Hub does not allow "--"
            raise ValueError(f"Expected hf://owner/repo or hf://owner/repo@revision; received: {address!r}.")
        return cls(found[1], found[2])

    @classmethod
    def of(cls, tag: Checkpoint) -> Self | None:
        """Return the repository of a released checkpoint, or `None` if it is not on the Hub.

        `weights/repositories.json` states the repository and its commit. The variable `KERAS_RESATTN_HUB_OWNER`
        replaces the owner, for copies of the repositories; their names are those of the checkpoints' folders, and their
        commits are not known (the SHA-256 of the tensors is).
        """
        owner = os.environ.get(OWNER)
        if not owner or owner == (tag.repository or "").partition("/")[0]:
            return None if tag.repository is None else cls(tag.repository, tag.revision)
        name = (tag.repository or tag.folder.name).rpartition("/")[2]
        try:
            return cls.parse(f"{PREFIX}{owner}/{name}")
        except ValueError as error:
            raise ValueError(f"Expected {OWNER} to be the owner of Hub repositories; received: {owner!r}.") from error


def read_record(address: Address) -> tuple[Checkpoint, Address]:
    """Download the record of a checkpoint, if necessary.

    Args:
        address: The repository.

    Returns:
        `(record, address)`: the address has the commit of the record, so that its tensors are of the same commit.

    Raises:
        ValueError: if the record is invalid, or damaged twice in a row.
        OSError: if the download fails and the cache has no copy.
    """
    path = fetch_intact(address, RECORD)
    try:
        return Checkpoint.read(path.parent), Address(address.repository, path.parent.name)
    except ValueError as error:
        if not is_intact(path):
            _discard(path)  # it may be damaged, which cannot be told
        raise ValueError(f"{error} It is from {address}: tell the owner, or use another revision.") from error


@contextlib.contextmanager
def open_tensors(tag: Checkpoint, address: Address) -> Iterator[tuple[Path, BufferedReader]]:
    """Open the tensors of a checkpoint after downloading them, if necessary, and comparing their SHA-256.

    Args:
        tag: The record.
        address: The repository.

    Yields:
        `(path, file)`: the path, and the file object that was hashed, open for reading.

    Raises:
        ValueError: if the SHA-256 differs from the one in the record. Damaged tensors are downloaded again before, and
            deleted if they stay damaged.
        OSError: if the download fails and the cache has no copy.
    """
    for again in (False, True):
        path = fetch(address, TENSORS, again=again)
        with open_regular(path) as file:
            found = hash_of(file, path)
            if found == tag.sha256:
                yield path, file
                return
        intact = is_intact(path)
        if intact:
            break
    if intact:
        remedy = (
            "The file is as on the Hub, so the record and the file disagree: use another revision, or tell the owner."
        )
    else:
        remedy = _DAMAGED
        _discard(path)
    if tag.folder == path.parent and not is_intact(tag.folder / RECORD):
        _discard(tag.folder / RECORD)  # its hash may be the wrong one
    raise ValueError(f"Expected {TENSORS} from {address} to have SHA-256 {tag.sha256}; {path} has {found}. {remedy}")


def fetch(address: Address, name: str, again: bool = False) -> Path:
    """Return the path of a file of a repository in the cache, downloaded if necessary.

    If the Hub cannot be reached, the file in the cache is used.

    Args:
        address: The repository.
        name: Name of the file.
        again: Whether to download it although it is in the cache.

    Raises:
        OSError: if the download fails; the message says why, and what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    repository, revision = address
    try:
        if again:
            _forget_copy(address, name)
        return Path(hf_hub_download(repository, name, revision=revision, force_download=again))
    except Exception as error:  # the client raises errors of many types, among them those of its HTTP library
        if not again and not isinstance(error, (EntryNotFoundError, RevisionNotFoundError)):
            with contextlib.suppress(Exception):
                return Path(hf_hub_download(repository, name, revision=revision, local_files_only=True))
        problem = (
            "its copy in the cache is damaged, and downloading it again failed" if again else "the download failed"
        )
        reason, remedy = _explain(error, address, name)
        raise OSError(f"Expected {name} from {address}; {problem}: {reason}. {remedy}") from error


def fetch_intact(address: Address, name: str) -> Path:
    """Return the path of a file of a repository in the cache, downloaded (again) if it is missing or damaged.

    Raises:
        ValueError: if the new download is damaged too; it is then deleted.
        OSError: if the download fails.
    """
    for again in (False, True):
        path = fetch(address, name, again=again)
        if is_intact(path) is not False:
            return path
    _discard(path)
    raise ValueError(f"Expected {name} from {address} to have the hash that the server states; it differs. {_DAMAGED}")


def list_files(address: Address) -> list[str]:
    """Return the names of the files of a repository, without hidden files and folders.

    Raises:
        OSError: if the Hub cannot be reached, or does not have the repository.
    """
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(address.repository, revision=address.revision)
    except Exception as error:  # see `fetch`
        reason, remedy = _explain(error, address, "files")
        raise OSError(f"Expected {address} to list its files; the request failed: {reason}. {remedy}") from error
    return [name for name in names if re.fullmatch(NAME, name, re.ASCII)]


def is_intact(path: Path) -> bool | None:
    """Return whether a file of the cache has the hash that names it; `None` if its name is no hash.

    The cache names files by SHA-256 (of files in Git LFS) or by Git's blob id. Copies of the Hub may use other names,
    and file systems without symbolic links none.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch("[0-9a-f]{64}", name):
        return sha256(path) == name
    if re.fullmatch("[0-9a-f]{40}", name):
        with open_regular(path) as file:
            content = file.read()
        blob = b"blob %d\0" % len(content) + content
        return name in [hashlib.sha1(data, usedforsecurity=False).hexdigest() for data in (blob, content)]
    return None


def _forget_copy(address, name):
    """Delete a file of the cache that is no symbolic link: `huggingface_hub` would not replace it."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(address.repository, name, revision=address.revision)
    if isinstance(path, str) and not os.path.islink(path):
        os.unlink(path)


def _discard(path):
    with contextlib.suppress(OSError):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _explain(error, address, name):
    """Return `(reason, remedy)` of a failed download."""
    from huggingface_hub import constants, errors

    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    codes = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    status = next(filter(None, codes), None)

    def any_is(*kinds):
        return any(isinstance(cause, kinds) for cause in causes)

    if any_is(errors.RevisionNotFoundError):
        return f"the repository has no revision {address.revision or 'main'}", "Correct the part after @, or omit it."
    if any_is(errors.RepositoryNotFoundError) or status in (401, 403):
        return (
            f"the repository does not exist, or is not public (status {status})",
            "Correct its name; for a private or gated repository, log in with `hf auth login` or set HF_TOKEN.",
        )
    if status == 404:
        return f"the repository has no {name}", "Choose a repository with config.json and model.weights.h5."
    if status == 429:
        return "the server limits the number of requests (status 429)", "Repeat the call later, or set HF_TOKEN."
    if status is not None and status >= 500:
        return f"the server failed (status {status})", "Repeat the call later." + _others(address)
    if any_is(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        remedy = "Unset HF_HUB_OFFLINE, or run `keras-resattn download` elsewhere and copy its folder."
        return f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} has no intact copy", remedy
    if any_is(UnicodeDecodeError):
        return "its folder in the cache is damaged", f"Delete {_cache_folder(address)}; then repeat the call."
    for cause in causes:
        if errno.errorcode.get(getattr(cause, "errno", None) or 0) in _UNWRITABLE:
            remedy = "Free disk space or change permissions, or set HF_HOME to another folder."
            return f"the cache {constants.HF_HUB_CACHE} cannot be written ({cause})", remedy
    lines = [line for cause in reversed(causes) for line in str(cause).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[0].rstrip(".")
    return f"{reason:.200}", "Check the network, and HF_ENDPOINT if it is set; then repeat the call." + _others(address)


def _others(address):
    """Return a sentence about complete commits of a repository in the cache; empty if there are none."""
    folders = [path.parent for path in _cache_folder(address).glob(f"snapshots/*/{TENSORS}")]
    addresses = [str(Address(address.repository, path.name)) for path in folders if (path / RECORD).exists()]
    return f" The cache has other commits of it: {', '.join(addresses)}." if addresses else ""


def _cache_folder(address):
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=address.repository, repo_type="model"))
