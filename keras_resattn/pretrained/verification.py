"""Verify released checkpoints: every file present, readable and unchanged (`keras-resattn verify`)."""

import contextlib
import dataclasses
import os
from typing import NamedTuple

from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import ALIASES, RECORD, SUMS, TENSORS, Checkpoint
from keras_resattn.pretrained.shared_folders import shared_folders
from keras_resattn.utils.io import sha256


class Verification(NamedTuple):
    """Result of verifying one released checkpoint, or a list beside the checkpoints.

    Attributes:
        name: `network/tag`, for a folder of `KERAS_RESATTN_WEIGHTS` followed by its path; or the name of the folder or
            file if there is no readable record.
        status: `"ok"`; `"not bundled"` for tensors that are released on the Hub only; or a failure: `"missing"`,
            `"damaged"`, `"unreadable"` or `"not listed"`.
        problem: Description of the failure, with the path of the file, or `None`.
    """

    name: str
    status: str
    problem: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the verification failed."""
        return self.problem is not None


def verify() -> list[Verification]:
    """Verify the SHA-256 of every released file in the package, and of the tensors in `KERAS_RESATTN_WEIGHTS`.

    `weights/SHA256SUMS` lists the package's files. A checkpoint whose tensors are not listed is `"not bundled"`; if its
    tensors exist nevertheless, they are compared with the SHA-256 in its record. In the folders of
    `KERAS_RESATTN_WEIGHTS`, tensors are compared with the SHA-256 of the release, or for checkpoints that the package
    does not know, with the SHA-256 in their own record.

    Returns:
        A `Verification` for each checkpoint, and for the lists of aliases and repositories. Failures are returned, not
        raised.

    Raises:
        ValueError: if `KERAS_RESATTN_WEIGHTS` is not a list of folders.
    """
    shared = [
        _verify_copy(record.parent)
        for folder in shared_folders()
        for record in sorted(folder.glob(f"*/{RECORD}"))
        if not record.parent.name.startswith(".")
    ]
    return _verify_package() + shared


def _verify_package():
    folder = records.weights_folder()
    try:
        sums = records.read_sums(folder)
    except ValueError as error:
        return [Verification(SUMS, "unreadable" if os.path.lexists(folder / SUMS) else "missing", str(error))]
    listed = {name.split("/")[0] for name in sums if "/" in name}
    present = {path.parent.name for name in (RECORD, TENSORS) for path in folder.glob(f"*/{name}")}
    results = [_verify_checkpoint(folder / name, sums) for name in sorted(listed | present)]
    lists = sorted({ALIASES, *(name for name in sums if "/" not in name)})
    return results + [Verification(name, *_verify_file(folder / name, sums.get(name, ""))) for name in lists]


def _verify_checkpoint(folder, sums):
    prefix = f"{folder.name}/"
    expected = {name.removeprefix(prefix): value for name, value in sums.items() if name.startswith(prefix)}
    expected.setdefault(RECORD, None)
    try:
        tag, unreadable = Checkpoint.read(folder), None
    except ValueError as error:
        tag, unreadable = None, str(error)
    if tag is not None and TENSORS not in expected and os.path.lexists(tag.tensors):
        expected[TENSORS] = tag.sha256
    name = folder.name if tag is None else tag.id
    for file, value in expected.items():
        status, problem = _verify_file(folder / file, value)
        if problem is not None:
            return Verification(name, status, problem)
    if tag is None:
        return Verification(name, "unreadable", unreadable)
    return Verification(name, "ok" if TENSORS in expected else "not bundled")


def _verify_copy(folder):
    """Verify a checkpoint of a folder in `KERAS_RESATTN_WEIGHTS`."""
    try:
        tag = Checkpoint.read(folder)
    except ValueError as error:
        return Verification(str(folder), "unreadable", str(error))
    released = records.weights_folder() / folder.name
    with contextlib.suppress(ValueError):  # another checkpoint, or one that the package does not know
        original = Checkpoint.read(released)
        tag = dataclasses.replace(tag, sha256=original.sha256) if original.id == tag.id else tag
    return Verification(f"{tag.id} in {folder.parent}", *_verify_file(tag.tensors, tag.sha256))


def _verify_file(path, expected):
    """Return a file's status and a description of the problem, or `None` if there is none."""
    if not os.path.lexists(path):
        return "missing", f"{path} is missing."
    if expected is None:
        return "not listed", f"{path} is not listed in {path.parents[1] / SUMS}."
    try:
        found = sha256(path)
    except ValueError as error:
        return "unreadable", str(error)
    if found != expected:
        return "damaged", f"{path} ({path.stat().st_size:,} bytes) has SHA-256 {found}; expected: {expected}."
    return "ok", None
