"""The folder of a run: identity, log, checkpoint and results."""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resattn.recipes.checkpoint_file import pack, read_checkpoint, read_progress
from keras_resattn.recipes.run_files import CHECKPOINT, LOG, RECIPE, REPORT, STATISTICS, TRANSFER
from keras_resattn.recipes.run_identity import check_same_run
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import atomic_write, read_json, user_path, write_json
from keras_resattn.utils.locking import locked


class RunFolder:
    """Folder of a run: checkpoint, log and results. Every file is written completely or not at all.

    A run is resumed from the checkpoint alone: it holds the run's identity (network, recipe, data), the statistics used
    to normalise images and, once the run is finished, its report. `recipe.json` and `statistics.json` are
    human-readable copies.

    Args:
        path: The folder; `None` writes nothing.
        writes: Whether this process writes files; only one of several does.

    Attributes:
        progress: The checkpoint's progress, a dictionary, or `None` without a checkpoint. In a finished run it has a
            `"report"`.

    Raises:
        ValueError: if the path is not a folder, or the checkpoint is damaged.
    """

    def __init__(self, path: PathLike | None, writes: bool = True) -> None:
        self.path: Any = None if path is None else user_path(path)
        self.writes = writes and self.path is not None
        if self.path is not None and self.path.exists() and not self.path.is_dir():
            raise ValueError(f"Expected run_dir to be a folder; {self.path} is a file.")
        self.progress: Any = self._read_progress()
        self._identity: Any = None
        self._statistics: Any = None

    @property
    def finished(self) -> bool:
        """Whether the folder holds a finished run, which no longer changes."""
        return self.progress is not None and self.progress["report"] is not None

    @contextlib.contextmanager
    def opened(self, identity: dict[str, Any], statistics: Any, resume: bool = True) -> Iterator[None]:
        """Reserve the folder for one run inside the block: no other process can train in it.

        A finished run is only read: its folder is neither locked nor changed.

        Args:
            identity: Identity of the run, a JSON-serialisable dictionary.
            statistics: `[mean, std]` used to normalise images.
            resume: Whether the folder may already hold this run.

        Raises:
            ValueError: if the folder holds another run, or any run with `resume=False`, or if its files are damaged or
                were edited.
            BlockingIOError: if another process trains in the folder.
        """
        self._identity, self._statistics = identity, statistics
        if self.path is not None:
            self._check(resume)
        if self.path is None or not self.writes or self.finished:
            yield
            return
        with locked(self.path):
            self.progress = self._read_progress()  # another process may have trained meanwhile
            self._check(resume)
            if self.progress is not None and self.progress["statistics"] != statistics:
                raise ValueError(f"Another process has trained in {self.path} meanwhile. Repeat the call.")
            if not self.finished:
                self._describe()
            yield

    def _check(self, resume):
        described, held = self.path / RECIPE, self.progress
        if not resume and (held is not None or described.exists()):
            raise ValueError(
                f"Expected an empty run_dir with resume=False; {self.path} holds a run. Pass another folder."
            )
        if held is not None:
            check_same_run(self.path, held["identity"], self._identity)
            for name, copy in (("identity", RECIPE), ("statistics", STATISTICS)):
                self._check_copy(self.path / copy, held[name])
        elif (self.path / REPORT).exists():
            raise ValueError(
                f"Expected {self.path} to hold a run that can be resumed; it holds the report of a finished one "
                f"without its {CHECKPOINT}. Pass another run_dir; keras_resattn.evaluation.load_run loads the "
                "network of this one."
            )
        elif described.exists():  # a run without a checkpoint has nothing to lose
            remedy = f"Pass another run_dir, or delete {described}."
            if "network" not in read_json(described, remedy):
                raise ValueError(f"Expected {described} to describe a run; it holds something else. {remedy}")

    def _check_copy(self, path, content):
        """Raise a `ValueError` if a file that copies part of the checkpoint differs from it."""
        if not path.exists():
            return
        remedy = f"{CHECKPOINT} holds the same: delete {path}, and the next training call writes it again."
        if read_json(path, remedy, kind=type(content)) != content:
            raise ValueError(f"Expected {path} to match {CHECKPOINT}; one of them was edited. {remedy}")

    def _describe(self):
        for name, content in ((RECIPE, self._identity), (STATISTICS, self._statistics)):
            if self.progress is None or not (self.path / name).exists():
                write_json(self.path / name, content)

    def write_json(self, name: str, content: Any) -> None:
        """Write `content` to the file `name`."""
        if self.writes:
            write_json(self.path / name, content)

    def write_log(self, history: Sequence[dict[str, Any]]) -> None:
        """Write one row per epoch to `log.csv`."""
        if self.writes and history:
            with atomic_write(self.path / LOG) as partial, open(partial, "w", newline="") as file:
                # A resumed run may add validation data, or drop them.
                fields = list(dict.fromkeys(field for row in history for field in row))
                writer = csv.DictWriter(file, fieldnames=fields)
                writer.writeheader()
                writer.writerows(history)

    def save(self, variables: Mapping[str, Sequence[Any]], progress: dict[str, Any]) -> None:
        """Write a checkpoint.

        Args:
            variables: `{group: list of keras.Variables}`.
            progress: Everything else that resuming needs, a JSON-serialisable dictionary. A `"report"` in it marks the
                run as finished.

        Raises:
            FloatingPointError: if a variable is NaN or infinite; the previous checkpoint is kept.
            OSError: if the file cannot be written; the previous checkpoint is kept.
        """
        identity = {"identity": self._identity, "statistics": self._statistics}
        arrays = pack(variables, {"report": None, **progress, **identity})
        if self.writes:
            with atomic_write(self.path / CHECKPOINT) as partial:
                np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType] (no group has its name)

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return `(arrays, progress)` of the checkpoint, or `None` if there is none.

        Raises:
            ValueError: if the file is damaged.
        """
        return read_checkpoint(self.path / CHECKPOINT) if self._has_checkpoint() else None

    def _read_progress(self):
        return read_progress(self.path / CHECKPOINT) if self._has_checkpoint() else None

    def _has_checkpoint(self):
        return self.path is not None and (self.path / CHECKPOINT).exists()


def read_report(run_dir: PathLike) -> dict[str, Any]:
    """Return the report of a finished run as a dictionary.

    Raises:
        ValueError: if the folder holds no finished run, or its report is damaged or was edited.
    """
    run_dir = user_path(run_dir)
    path = run_dir / REPORT
    if not run_dir.is_dir():
        raise ValueError(f"Expected the folder of a finished run; there is no folder {run_dir}.")
    if not path.exists():
        inside = sorted(found.parent.name for found in run_dir.glob(f"*/{REPORT}"))  # the two phases of fine_tune
        if inside:
            remedy = f"Its subfolders hold finished runs: {', '.join(inside)}."
        elif (run_dir / RECIPE).exists() or (run_dir / TRANSFER).exists():
            remedy = "Let the run finish first."
        else:
            remedy = f"It has no {RECIPE} either: no run was started in it."
        raise ValueError(f"Expected the folder of a finished run; {run_dir} has no {REPORT}. {remedy}")
    report = read_json(path, f"Restore it from a copy; {run_dir} cannot be used without it.")
    missing = {"network", "recipe", "metrics", "mean", "std"} - report.keys()
    if missing:
        raise ValueError(f"Expected {path} to be the report of a run; it lacks {', '.join(sorted(missing))}.")
    _check_statistics(report, run_dir)
    return report


def _check_statistics(report, run_dir):
    """Raise a `ValueError` if a report's mean and standard deviation contradict the other files of its folder."""
    stated = [report["mean"], report["std"]]
    try:
        finite = all(np.isfinite(np.asarray(values, "float64")).all() for values in stated)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise ValueError(
            f"Expected {run_dir / REPORT} to hold finite numbers as mean and std; received: {_shortened(stated)}. "
            f"Restore it from a copy; {run_dir} cannot be used without it."
        )
    copy = run_dir / STATISTICS
    remedy = f"Restore both from a copy, or delete {copy} if {REPORT} is right."
    if copy.exists() and read_json(copy, remedy, kind=list) != stated:
        raise ValueError(f"Expected {copy} to match {REPORT}; one of them was edited. {remedy}")


def _shortened(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def run_class_names(run_dir: PathLike) -> list[str] | None:
    """Return the class names of a finished run of `compile_and_fit` or `fine_tune`, or `None` if it has none.

    Raises:
        ValueError: if the folder holds no such run.
    """
    path = user_path(run_dir)
    phases = [path / phase for phase in ("fine_tune", "head") if (path / phase / REPORT).exists()]
    if phases and not (path / REPORT).exists():
        path = phases[0]
    return read_report(path).get("class_names")
