"""Compare the identities of two runs: does a folder hold the same run, and which fields differ?"""

import json
from pathlib import Path
from typing import Any

from keras_resattn.utils.io import read_json


def read_identity(path: Path, resume: bool = True) -> dict[str, Any] | None:
    """Return the identity of the run that a folder holds, or `None` if it holds none.

    Args:
        path: The folder's file that holds the identity.
        resume: Whether the folder may hold a run.

    Raises:
        ValueError: if it holds a run and `resume` is false, or the file cannot be read.
    """
    if not path.exists():
        return None
    if not resume:
        raise ValueError(
            f"Expected an empty run_dir with resume=False; {path.parent} holds a run. Pass another folder."
        )
    return read_json(path, f"Pass another run_dir, or delete {path.parent} to start over.")


def differing_fields(held: Any, identity: Any) -> dict[str, tuple[Any, Any]]:
    """Return `{name: (held value, new value)}` for the fields in which the identities of two runs differ.

    Args:
        held: Identity read from a file.
        identity: Identity of the new run, a JSON-serialisable dictionary.
    """
    identity = json.loads(json.dumps(identity))  # tuples become lists
    held = {"class_names": identity.get("class_names"), **held}  # older versions did not write them
    pairs = {key: (held.get(key), identity.get(key)) for key in {**held, **identity}}
    return {key: (there, here) for key, (there, here) in pairs.items() if there != here}


def check_same_run(folder: Path, held: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise a `ValueError` that lists the differences if a folder holds another run of `compile_and_fit`."""
    differences = [
        "other images, labels or sample weights" if key == "data" else f"{key} is {there!r} there, {here!r} here"
        for key, (there, here) in differing_fields(_flat(held), _flat(identity)).items()
    ]
    if differences:
        raise ValueError(
            f"Expected {folder} to hold a run of this network, recipe and data; it holds another run: "
            f"{', '.join(differences)}. Pass another run_dir."
        )


def _flat(identity):
    """Merge the recipe's fields into the identity, without those that only describe the recipe."""
    recipe = {field: value for field, value in identity["recipe"].items() if field not in ("source", "deviations")}
    return {**recipe, **identity, "recipe": None}
