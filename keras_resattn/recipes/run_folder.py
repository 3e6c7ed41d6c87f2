"""The folder of a run: what it is, its log, and a checkpoint that is always whole."""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.typing import PathLike
from keras_resattn.utils.io import atomic_write, locked, read_json, user_path, write_json
from keras_resattn.utils.npz import read_npz

CHECKPOINT = "checkpoint.npz"
RECIPE = "recipe.json"
STATISTICS = "statistics.json"
ARCHITECTURE = "model.json"
WEIGHTS = "model.weights.h5"
REPORT = "report.json"
FORMAT = 2  # of checkpoints
SEALED = ("progress", "seal")
DAMAGED = (
    "A checkpoint that is damaged, or of another version of keras_resattn, cannot be resumed: delete the folder to "
    "begin again, or pass another run_dir."
)


class RunFolder:
    """Where a run keeps its checkpoint, its log and what comes out of it; every file is written whole or not at all.

    The checkpoint is the only file that a run is resumed from: it holds what the run is (network, recipe, data), the
    statistics that images are normalised with, and, once the run is finished, its report. `recipe.json` and
    `statistics.json` are copies for readers.

    Args:
        path: The folder; `None` keeps nothing.
        writes: Whether this process writes; one of several does.

    Attributes:
        progress: What the checkpoint says of the run, a dictionary, or `None` without a checkpoint. A finished run's
            has a `"report"`.

    Raises:
        ValueError: if the path is no folder, or the checkpoint is damaged.
    """

    def __init__(self, path: PathLike | None, writes: bool = True) -> None:
        self.path: Any = None if path is None else user_path(path)
        self.writes = writes and self.path is not None
        if self.path is not None and self.path.exists() and not self.path.is_dir():
            raise ValueError(f"Expected run_dir to be a folder; {self.path} is a file.")
        self.progress: Any = self._read_progress()
        self._identity, self._statistics = None, None

    @property
    def finished(self) -> bool:
        """Whether the folder holds a run that has ended, of which nothing is changed any more."""
        return self.progress is not None and self.progress["report"] is not None

    @contextlib.contextmanager
    def opened(self, identity: dict[str, Any], statistics: Any, resume: bool = True) -> Iterator[None]:
        """Keeps the folder for one run while the block runs: no other process can train in it.

        A finished run is only read: its folder is neither locked nor changed.

        Args:
            identity: What makes the run itself, a dictionary that JSON can hold.
            statistics: `[mean, std]` that its images are normalised with.
            resume: Whether the folder may hold this run already.

        Raises:
            ValueError: if the folder holds another run, or `resume` is false and it holds any, or files in it are
                damaged or were edited.
            BlockingIOError: if another process trains in the folder.
        """
        self._identity, self._statistics = identity, statistics
        if self.path is not None:
            self._check(resume)
        if self.path is None or not self.writes or self.finished:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path):
            self.progress = self._read_progress()  # another process may have been here
            self._check(resume)
            if self.progress is not None and self.progress["statistics"] != statistics:
                raise ValueError(
                    f"Expected {self.path} to be as it was; another process trained in it. Repeat the call."
                )
            if not self.finished:
                for left in self.path.glob(".partial-*"):  # by a kill in the middle of a write
                    left.unlink()
                self._describe()
            yield

    def _check(self, resume):
        described, held = self.path / RECIPE, self.progress
        if not resume and (held is not None or described.exists()):
            raise ValueError(
                f"Expected an empty run_dir with resume=False; {self.path} holds a run. Pass another folder."
            )
        if held is not None:
            _check_same(self.path, _flat(held["identity"]), _flat(self._identity))
            for name, content in (("identity", RECIPE), ("statistics", STATISTICS)):
                self._check_copy(self.path / content, held[name])
        elif (self.path / REPORT).exists():
            raise ValueError(
                f"Expected {self.path} to hold a run that can be resumed; it holds the report of a finished one "
                f"without its {CHECKPOINT}. Pass another run_dir; "
                "keras_resattn.evaluation.load_run reads the network of this one."
            )
        elif described.exists():  # a run that got no further than this has nothing to lose
            remedy = f"Pass another run_dir, or delete {described}."
            if "network" not in read_json(described, remedy):
                raise ValueError(f"Expected {described} to describe a run; it is something else. {remedy}")

    def _check_copy(self, path, content):
        """Raises a `ValueError` if a file that copies a part of the checkpoint does not say the same."""
        if not path.exists():
            return
        remedy = f"{CHECKPOINT} holds the same: delete {path}, and the call that trains writes it again."
        copied = read_json(path, remedy, kind=type(content))
        if copied != content:
            raise ValueError(f"Expected {path} to say what {CHECKPOINT} does; one of them was edited. {remedy}")

    def _describe(self):
        for name, content in ((RECIPE, self._identity), (STATISTICS, self._statistics)):
            if self.progress is None or not (self.path / name).exists():
                write_json(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Writes `content` as the file `name`."""
        if self.writes:
            write_json(self.path / name, content)

    def write_log(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes `rows`, dictionaries of the same keys, as `log.csv`."""
        if self.writes and rows:
            with atomic_write(self.path / "log.csv") as partial, open(partial, "w", newline="") as file:
                # A call that resumes may bring validation data, or leave them out.
                fields = list(dict.fromkeys(field for row in rows for field in row))
                writer = csv.DictWriter(file, fieldnames=fields)
                writer.writeheader()
                writer.writerows(rows)

    def save(self, variables: Mapping[str, Sequence[Any]], progress: dict[str, Any]) -> None:
        """Writes a checkpoint.

        Args:
            variables: Lists of `keras.Variable`s by name of the group.
            progress: What else a run needs to be resumed, a dictionary that JSON can hold; with a `"report"` the run
                is finished.

        Raises:
            FloatingPointError: if a variable is not finite; the old checkpoint stays.
            OSError: if it cannot be written; the old checkpoint stays.
        """
        arrays = _sealed({"report": None, **progress, "identity": self._identity, "statistics": self._statistics})
        for group, members in variables.items():
            for i, variable in enumerate(members):
                value = keras.ops.convert_to_numpy(variable)
                # NumPy's files know no bfloat16; float32 holds it exactly.
                value = value.astype("float32") if value.dtype.name == "bfloat16" else value
                if value.dtype.kind == "f" and group != "metrics" and not np.isfinite(value).all():
                    raise FloatingPointError(f"The variable {variable.path} is no longer finite")
                arrays[f"{group}/{i}"] = value
        if self.writes:
            with atomic_write(self.path / CHECKPOINT) as partial:
                np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType] (no group has its name)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Returns `(arrays, progress)` of the checkpoint, or `None` if there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        arrays, _ = read_npz(self.path / CHECKPOINT, remedy=DAMAGED)
        return arrays, _unsealed(arrays, self.path / CHECKPOINT)

    def _read_progress(self):
        if self.path is None or not (self.path / CHECKPOINT).exists():
            return None
        arrays, _ = read_npz(self.path / CHECKPOINT, SEALED, DAMAGED)
        return _unsealed(arrays, self.path / CHECKPOINT)


def _sealed(progress):
    """What a checkpoint says of its run, as arrays: text, and a hash by which edited text is noticed."""
    text = json.dumps({"format": FORMAT, **progress}).encode()
    return {"progress": np.frombuffer(text, "uint8"), "seal": np.frombuffer(hashlib.sha256(text).digest(), "uint8")}


def _unsealed(arrays, path):
    """Takes out of a checkpoint's arrays what it says of its run."""
    if not set(SEALED) <= arrays.keys():
        raise ValueError(f"Expected {path} to be a checkpoint of this version of keras_resattn. {DAMAGED}")
    text, seal = (arrays.pop(name).tobytes() for name in SEALED)
    if hashlib.sha256(text).digest() != seal:
        raise ValueError(f"Expected {path} as a run wrote it; it was edited. {DAMAGED}")
    progress = json.loads(text)
    if progress.get("format") != FORMAT:
        raise ValueError(f"Expected {path} to be of this version of keras_resattn; it is of another. {DAMAGED}")
    return progress


def read_report(run_dir: PathLike) -> dict[str, Any]:
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
    report = read_json(path, f"Restore it from a copy; {run_dir} cannot be used without it.")
    missing = {"network", "recipe", "metrics", "mean", "std"} - report.keys()
    if missing:
        raise ValueError(f"Expected {path} to be the report of a run; it lacks {', '.join(sorted(missing))}.")
    _check_statistics(report, run_dir)
    return report


def _check_statistics(report, run_dir):
    """Raises a `ValueError` if a report's mean and standard deviation are not what the rest of its folder says."""
    stated = [report["mean"], report["std"]]
    try:
        finite = all(np.isfinite(np.asarray(values, "float64")).all() for values in stated)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(
            f"Expected {run_dir / REPORT} to hold finite numbers as mean and std; received: {_short(stated)}. "
            f"Restore it from a copy; {run_dir} cannot be used without it."
        )
    copy = run_dir / STATISTICS
    remedy = f"Restore both from a copy, or delete {copy} if {REPORT} is right."
    if copy.exists() and read_json(copy, remedy, kind=list) != stated:
        raise ValueError(f"Expected {copy} to say what {REPORT} does; one of them was edited. {remedy}")


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def run_class_names(run_dir: PathLike) -> list[str] | None:
    """Returns the class names of a finished run of `compile_and_fit` or `fine_tune`, or `None` if it has none.

    Raises:
        ValueError: if the folder holds no such run.
    """
    path = user_path(run_dir)
    phases = [path / phase for phase in ("fine_tune", "head") if (path / phase / REPORT).exists()]
    if phases and not (path / REPORT).exists():
        path = phases[0]
    return read_report(path).get("class_names")


def held_run(described: Path, resume: bool = True) -> dict[str, Any] | None:
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
    return read_json(described, f"Pass another run_dir, or delete {described.parent} to begin again.")


def differing(held: Any, identity: Any) -> dict[str, tuple[Any, Any]]:
    """Returns `{name: (value of one, value of the other)}` of what differs between two runs' identities.

    Args:
        held: What a file held.
        identity: What would be written, a dictionary that JSON can hold.
    """
    identity = json.loads(json.dumps(identity))  # tuples come back as lists
    held = {"class_names": identity.get("class_names"), **held}  # older versions did not write them
    pairs = {key: (held.get(key), identity.get(key)) for key in {**held, **identity}}
    return {key: (there, here) for key, (there, here) in pairs.items() if there != here}


def _flat(identity):
    """A run's identity with its recipe's fields among the others, but for what is only said about the recipe."""
    recipe = {field: value for field, value in identity["recipe"].items() if field not in ("source", "deviations")}
    return {**recipe, **identity, "recipe": None}


def _check_same(folder, held, identity):
    words = [
        "other images, labels or sample weights" if key == "data" else f"{key} is {there!r} there, {here!r} here"
        for key, (there, here) in differing(held, identity).items()
    ]
    if words:
        raise ValueError(
            f"Expected {folder} to hold a run of this network, recipe and data; it holds another run: "
            f"{', '.join(words)}. Pass another run_dir."
        )


def check(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], group: str) -> None:
    """Raises a `ValueError` if a group of variables has another number or shapes than what `RunFolder.save` wrote."""
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


def assign(variables: Sequence[Any], arrays: Mapping[str, np.ndarray], group: str) -> None:
    """Gives a group of variables the values that `RunFolder.save` wrote of them."""
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{group}/{i}"])
