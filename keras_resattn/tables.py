"""Tables of results: CSV files that rows are added to."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_resattn.files import atomic_write
from keras_resattn.typing import PathLike


def read_rows(path: PathLike) -> list[dict[str, str]]:
    """Returns the rows of a CSV file as dictionaries of strings; none if there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_row(path: PathLike, row: Mapping[str, Any]) -> None:
    """Adds a row, `{column: value}`, to a CSV file, whole or not at all. Missing columns stay empty.

    The file's folder is made if there is none.

    Raises:
        ValueError: if the file has not the row's columns.
        OSError: if it cannot be written.
    """
    rows = read_rows(path)
    if rows and set(row) - set(rows[0]):
        raise ValueError(f"Expected columns {', '.join(rows[0])} in {path}; received: {', '.join(row)}.")
    columns = list(rows[0]) if rows else list(row)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path)) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
