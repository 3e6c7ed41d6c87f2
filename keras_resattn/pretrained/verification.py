"""Checking the released files of the package: present, readable, and as they were released."""

import os
from typing import NamedTuple

from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import ALIASES, RECORD, SUMS, TENSORS, Checkpoint
from keras_resattn.utils.io import sha256


class Verification(NamedTuple):
    """Result of checking one released tag, or one file of the registry.

    Attributes:
        name: `network/tag`; the folder's or file's name where there is no readable record.
        status: `"ok"`; `"not bundled"`, for tensors that are released outside the package; or a failure:
            `"missing"`, `"damaged"`, `"unreadable"` or `"not listed"`.
        problem: What is wrong with which file, or `None`.
    """

    name: str
    status: str
    problem: str | None = None

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return self.problem is not None


def verify() -> list[Verification]:
    """Check every file of released weights that the package contains, by its SHA-256.

    `weights/SHA256SUMS` lists the files. A tag whose tensors it does not list is `"not bundled"`; where its tensors
    are there nevertheless, the SHA-256 of its record counts.

    Returns:
        A `Verification` for each tag, and for the list of aliases; failures are among them, never raised.
    """
    folder = records.weights_folder()
    try:
        sums = records.read_sums(folder)
    except ValueError as error:
        return [Verification(SUMS, "unreadable" if os.path.lexists(folder / SUMS) else "missing", str(error))]
    listed = {name.split("/")[0] for name in sums if "/" in name}
    present = {path.parent.name for name in (RECORD, TENSORS) for path in folder.glob(f"*/{name}")}
    results = [_verify_tag(folder / name, sums) for name in sorted(listed | present)]
    status, problem = _verify_file(folder / ALIASES, sums.get(ALIASES, ""))
    return [*results, Verification(ALIASES, status, problem)]


def _verify_tag(folder, sums):
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


def _verify_file(path, expected):
    """The status of a file and what is wrong with it, or `None`."""
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
