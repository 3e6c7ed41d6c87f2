"""Output of commands: tables for people, JSON and CSV for programs, one line per error."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def printable(text: str) -> str:
    """Return a text with control characters and undecodable bytes escaped, so that names cannot affect the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def complain(message: object) -> None:
    """Print a message as one line on standard error."""
    print(f"keras-resattn: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def print_table(title: str | None, columns: Mapping[str, dict[str, Any]], rows: Iterable[Sequence[str] | None]) -> None:
    """Print a table.

    Args:
        title: Title; `None` for a table without title and header.
        columns: `{header: options}`, with options of `rich.table.Table.add_column`.
        rows: Lists of strings, one per column; `None` draws a line between rows.
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
            table.add_row(*(Text(printable(cell)) for cell in row))  # not a string, whose "[bold]" would be markup
    console = Console()
    with console.capture() as capture:  # rich ends the process when a pipe is closed
        if title is not None:  # a title of the table would wrap at its width
            console.print(Text(printable(title)))
        console.print(table)
    print(capture.get(), end="")


def print_records(style: str, records: Any) -> None:
    """Print records for programs.

    Args:
        style: `"json"` for a list of objects or one object, `"csv"` for a header and one line per record.
        records: List of dictionaries with the same keys, or one dictionary. In CSV, lists are joined by semicolons.
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
    """Return short, distinct names of paths: their parts below the deepest folder that contains all of them."""
    shared = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return [os.path.relpath(os.path.abspath(path), shared) for path in paths]
