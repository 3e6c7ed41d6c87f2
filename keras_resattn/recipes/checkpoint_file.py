"""Format of `checkpoint.npz`: variables of a training run as arrays, and its progress as sealed JSON text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.utils.npz import read_npz

FORMAT = 3
SEALED = ("progress", "seal")
DAMAGED = (
    "A checkpoint that is damaged, or from another version of keras_resattn, cannot be resumed: delete the folder to "
    "start over, or pass another run_dir."
)


def pack(variables: Mapping[str, Sequence[Any]], progress: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a checkpoint.

    Args:
        variables: `{group: list of keras.Variables}`.
        progress: Everything else that resuming needs, a JSON-serialisable dictionary.

    Raises:
        FloatingPointError: if a variable outside the group `"metrics"` is NaN or infinite.
    """
    arrays = _seal(progress)
    for group, members in variables.items():
        for i, variable in enumerate(members):
            value = keras.ops.convert_to_numpy(variable)
            # NumPy files do not support bfloat16; float32 holds it exactly.
            value = value.astype("float32") if value.dtype.name == "bfloat16" else value
            if value.dtype.kind == "f" and group != "metrics" and not np.isfinite(value).all():
                raise FloatingPointError(f"The variable {variable.path} is NaN or infinite")
            arrays[f"{group}/{i}"] = value
    return arrays


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return `(arrays, progress)` of a checkpoint.

    Raises:
        ValueError: if the file is damaged, was edited, or was written by another version.
    """
    arrays, _ = read_npz(path, remedy=DAMAGED)
    return arrays, _unseal(arrays, path)


def read_progress(path: Path) -> dict[str, Any]:
    """Return the progress alone, without reading the variables."""
    arrays, _ = read_npz(path, SEALED, DAMAGED)
    return _unseal(arrays, path)


def check_variables(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], group: str) -> None:
    """Raise a `ValueError` if a checkpoint's variables of a group differ in number or shape from `variables`."""
    found = [arrays.get(f"{group}/{i}") for i in range(len(variables))]
    count = sum(name.startswith(f"{group}/") for name in arrays)
    fits = all(
        a is not None and tuple(v.shape) == a.shape and a.dtype.kind in "fiub"
        for v, a in zip(variables, found, strict=True)
    )
    if count != len(variables) or not fits:
        raise ValueError(
            f"Expected a checkpoint of this network; its {group} has {count} variables, this one's {len(variables)}, "
            "or their shapes differ. Pass another run_dir."
        )


def assign_variables(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], group: str) -> None:
    """Assign a checkpoint's values to the variables of a group."""
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{group}/{i}"])


def _seal(progress):
    """Return the progress as arrays: its text, and a hash that reveals edits."""
    text = json.dumps({"format": FORMAT, **progress}).encode()
    return {"progress": np.frombuffer(text, "uint8"), "seal": np.frombuffer(hashlib.sha256(text).digest(), "uint8")}


def _unseal(arrays, path):
    """Remove the progress from a checkpoint's arrays and return it."""
    if not set(SEALED) <= arrays.keys():
        raise ValueError(f"Expected {path} to be a checkpoint of this version of keras_resattn. {DAMAGED}")
    text, seal = (arrays.pop(name).tobytes() for name in SEALED)
    if hashlib.sha256(text).digest() != seal:
        raise ValueError(f"Expected {path} to be as a run wrote it; it was edited. {DAMAGED}")
    progress = json.loads(text)
    if progress.get("format") != FORMAT:
        raise ValueError(f"Expected {path} to be of this version of keras_resattn; it is of another. {DAMAGED}")
    return progress
