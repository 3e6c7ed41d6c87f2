"""What commands print: tables for people, JSON and CSV for programs, one line for an error."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def printable(text: str) -> str:
    """Return a text with control characters and undecodable bytes escaped, so that names cannot change the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def complain(message: object) -> None:
    """Print a message as one line on standard error."""
    print(f"keras-resattn: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def print_table(title: str | None, columns: Mapping[str, dict[str, Any]], rows: Iterable[Sequence[str] | None]) -> None:
    """Print a table.

    Args:
        title: Text above it, or `None`; without one, there is no header either.
        columns: `{header: options}`, options as `rich.table.Table.add_column` takes them.
        rows: Lists of strings, one for each column; `None` is a line between rows.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=title is not None)
    for header, options in columns.items():
        table.add_column(header, **{"overflow": "fold", **options})
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*(Text(printable(cell)) for cell in row))  # a string would be read as markup: "[bold]x.png"
    console = Console()
    with console.capture() as capture:  # rich ends the process when a pipe is closed
        if title is not None:  # not the table's own title, which is folded to its width
            console.print(Text(printable(title)))
        console.print(table)
    print(capture.get(), end="")


def print_records(style: str, records: Any) -> None:
    """Print records for programs.

    Args:
        style: `"json"`: a list of objects, or one object; `"csv"`: a header and a line for each record.
        records: Dictionaries with the same keys, or one dictionary. For CSV, lists are joined by semicolons.
    """
    if style == "json":
        print(json.dumps(records, indent=2))
        return
    records = [records] if isinstance(records, dict) else records
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(records[0])
    for record in records:
        writer.writerow(";".join(map(str, cell)) if isinstance(cell, list) else cell for cell in record.values())


def labels(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each path that tells it from the others: its part below the folder that all share."""
    shared = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return [os.path.relpath(os.path.abspath(path), shared) for path in paths]
