"""The file of results: one row per suite and name, replaced when it is measured again."""

import csv

from _harness import machine

from keras_resattn.utils.io import atomic_write, read_rows

COLUMNS = (
    "date",
    "suite",
    "name",
    "mode",
    "network",
    "library",
    "engine",
    "dtype",
    "options",
    "size",
    "batch_size",
    "classes",
    "seconds",
    "images_per_s",
    "ratio",
    "peer",
    "peer_seconds",
    "pairs",
    "start_s",
    "first_step_s",
    "peak_mb",
    "load",
    "processor",
    "instructions",
    "threads",
    "versions",
    "error",
)
KEY = ("suite", "name")
CONDITIONS = ("size", "batch_size", "versions", "processor", "instructions", "threads")


class ResultsFile:
    """A CSV file of results.

    Args:
        path: The file, which need not exist.
        again: Whether rows of the file count as missing, except those added by this object.
    """

    def __init__(self, path, again=False):
        self.path, self.again = path, again
        self._added = set()

    def rows(self):
        """Return all rows, as dictionaries of strings."""
        return read_rows(self.path)

    def has(self, row):
        """Return whether the file has a row that was measured under the same conditions."""
        key = _values(row, KEY)
        if self.again and key not in self._added:
            return False
        wanted = _values({**machine(), **row}, CONDITIONS)
        return any(_values(old, KEY) == key and _values(old, CONDITIONS) == wanted for old in self.rows())

    def add(self, row):
        """Append a row, atomically, in place of the one with the same suite and name."""
        key = _values(row, KEY)
        rows = [old for old in self.rows() if _values(old, KEY) != key]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows([*rows, row])
        self._added.add(key)


def _values(row, columns):
    return tuple(str(row.get(column, "")) for column in columns)
