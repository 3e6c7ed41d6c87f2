"""The folder of a run: what it is, its log, and a checkpoint that is always whole."""

import csv
import json
import zipfile

import keras
import numpy as np

from keras_resattn.files import atomic_write, user_path

CHECKPOINT = "checkpoint.npz"
STATISTICS = "statistics.json"
ARCHITECTURE = "model.json"
WEIGHTS = "model.weights.h5"
REPORT = "report.json"


class RunFolder:
    """Where a run leaves `recipe.json`, `log.csv` and `checkpoint.npz`; every file is written whole or not at all.

    Args:
        path: The folder, made if it does not exist; `None` keeps nothing.
        identity: What makes the run itself, a dictionary that JSON can hold; the folder of another is refused.
        resume: Whether the folder may hold this run already.
        writes: Whether this process writes; one of several does.

    Raises:
        ValueError: if the folder holds another run, or `resume` is false and it holds this one.
    """

    def __init__(self, path, identity, resume=True, writes=True):
        self.path = None if path is None else user_path(path)
        self.writes = writes and self.path is not None
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"Expected run_dir to be a folder; {self.path} is a file.")
        described = self.path / "recipe.json"
        held = held_run(described, resume)
        # A run that got no further than this has nothing to lose.
        if held is not None and (self.path / CHECKPOINT).exists():
            _check_same(described, _flat(held), _flat(identity))
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            for left in self.path.glob(".partial-*"):  # by a kill in the middle of a write
                left.unlink()
            self.write_json("recipe.json", identity)

    def write_json(self, name, content):
        """Writes `content` as the file `name`."""
        if self.writes:
            write_json(self.path / name, content)

    def write_log(self, rows):
        """Writes `rows`, dictionaries of the same keys, as `log.csv`."""
        if self.writes and rows:
            with atomic_write(self.path / "log.csv") as partial, open(partial, "w", newline="") as file:
                # A call that goes on may bring validation data, or leave them out.
                fields = list(dict.fromkeys(field for row in rows for field in row))
                writer = csv.DictWriter(file, fieldnames=fields)
                writer.writeheader()
                writer.writerows(rows)

    def save(self, variables, progress):
        """Writes a checkpoint.

        Args:
            variables: Lists of `keras.Variable`s by name of the group.
            progress: What else a run needs to go on, a dictionary that JSON can hold.

        Raises:
            FloatingPointError: if a variable is not finite; the old checkpoint stays.
            OSError: if it cannot be written; the old checkpoint stays.
        """
        arrays = {"progress": np.frombuffer(json.dumps(progress).encode(), "uint8")}
        for group, members in variables.items():
            for i, variable in enumerate(members):
                value = keras.ops.convert_to_numpy(variable)
                # NumPy's files know no bfloat16; float32 holds it exactly.
                value = value.astype("float32") if value.dtype.name == "bfloat16" else value
                if value.dtype.kind == "f" and group != "metrics" and not np.isfinite(value).all():
                    raise FloatingPointError(f"The variable {variable.path} is no longer finite")
                arrays[f"{group}/{i}"] = value
        if not self.writes:
            return
        path = self.path / CHECKPOINT
        try:
            with atomic_write(path) as partial:
                np.savez(partial, **arrays)
        except OSError as error:
            kept = "the one before it is whole" if path.exists() else "there is none yet"
            raise OSError(
                f"The checkpoint {path} could not be written ({error}); {kept}. "
                "Mend the cause, and the same call goes on from there."
            ) from error

    def load(self):
        """Returns `(arrays, progress)` of the checkpoint, or `None` if there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        path = self.path / CHECKPOINT
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return arrays, json.loads(arrays.pop("progress").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected {path} to be a checkpoint; it cannot be read as one ({error}). "
                "Delete the folder to begin anew."
            ) from error


def read_report(run_dir):
    """Returns the report of a finished run, as a dictionary.

    Raises:
        ValueError: if the folder holds none.
    """
    run_dir = user_path(run_dir)
    path = run_dir / REPORT
    if not run_dir.is_dir():
        raise ValueError(f"Expected the folder of a finished run; there is no folder {run_dir}.")
    if not path.exists():
        inside = sorted(found.parent.name for found in run_dir.glob(f"*/{REPORT}"))  # fine_tune's two phases
        remedy = f"It holds finished runs: {', '.join(inside)}." if inside else "Let the run end first."
        raise ValueError(f"Expected the folder of a finished run; {run_dir} has no {REPORT}. {remedy}")
    return json.loads(path.read_text())


def run_class_names(run_dir):
    """Returns the class names of a finished run of `compile_and_fit` or `fine_tune`, or `None` if it has none.

    Raises:
        ValueError: if the folder holds no such run.
    """
    path = user_path(run_dir)
    phases = [path / phase for phase in ("fine_tune", "head") if (path / phase / REPORT).exists()]
    if phases and not (path / REPORT).exists():
        path = phases[0]
    return read_report(path).get("class_names")


def held_run(described, resume=True):
    """Returns the identity of the run that a folder holds, or `None` where it holds none.

    Args:
        described: The file of the folder that says which run it holds.
        resume: Whether the folder may hold one.

    Raises:
        ValueError: if it holds one, without `resume`.
    """
    if not described.exists():
        return None
    if not resume:
        raise ValueError(
            f"Expected an empty run_dir with resume=False; {described.parent} holds a run. Pass another folder."
        )
    return json.loads(described.read_text())


def differing(held, identity):
    """Returns `{name: (value of one, value of the other)}` of what differs between two runs' identities.

    Args:
        held: What a file held.
        identity: What would be written, a dictionary that JSON can hold.
    """
    identity = json.loads(json.dumps(identity))  # tuples come back as lists
    held = {"class_names": identity.get("class_names"), **held}  # older versions did not write them
    pairs = {key: (held.get(key), identity.get(key)) for key in {**held, **identity}}
    return {key: (there, here) for key, (there, here) in pairs.items() if there != here}


def write_json(path, content):
    """Writes a file of JSON, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def _flat(identity):
    """A run's identity with its recipe's fields among the others, but for what is only said about the recipe."""
    recipe = {field: value for field, value in identity["recipe"].items() if field not in ("source", "differences")}
    return {**recipe, **identity, "recipe": None}


def _check_same(described, held, identity):
    words = [
        "other pictures or labels" if key == "data" else f"{key} is {there!r} there, {here!r} here"
        for key, (there, here) in differing(held, identity).items()
    ]
    if words:
        raise ValueError(
            f"Expected {described} to hold this network, recipe and data; it holds another run: {', '.join(words)}. "
            "Pass another run_dir."
        )


def check(variables, arrays, group):
    """Raises a `ValueError` if a group of variables has another number or shapes than what `RunFolder.save` wrote."""
    found = [arrays.get(f"{group}/{i}") for i in range(len(variables))]
    count = sum(name.startswith(f"{group}/") for name in arrays)
    if count != len(variables) or any(tuple(v.shape) != a.shape for v, a in zip(variables, found, strict=True)):
        raise ValueError(
            f"Expected a checkpoint of this network; its {group} has {count} variables, this one's {len(variables)}, "
            "or their shapes differ. Pass another run_dir."
        )


def assign(variables, arrays, group):
    """Gives a group of variables the values that `RunFolder.save` wrote of them."""
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{group}/{i}"])
