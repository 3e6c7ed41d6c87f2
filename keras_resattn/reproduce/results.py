"""Results: rows of CSV files, tables in Markdown, and the list of all that can be run."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import table as rich_table

from keras_resattn.reproduce.published import TABLES, home
from keras_resattn.reproduce.rows import DATASETS, MORE_DISTRACTORS, Row, Table
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import append_row, read_rows


def columns(table: Table) -> list[str]:
    """Returns the columns of a table's results."""
    more = ["top5_error"] if any(row.top5 is not None for row in table.rows) else []
    if any(row.data == "cluttered_mnist" for row in table.rows):
        more += [f"error_{n}" for n in MORE_DISTRACTORS]
    first = ["date", "row", "seed", "scale", "epochs", "images", "test_images", "data", "error"]
    return [*first, *more, "seconds", "backend", "device", "revision"]


def results_file(table: Table, results: PathLike) -> Path:
    """Returns the path of a table's results: `results/resattn_table1.csv`."""
    return Path(results) / f"{table.name.replace('/', '_')}.csv"


def check_file(path: Path, expected: Sequence[str]) -> None:
    """Checks, before hours of training, that a file of results can take more rows.

    Raises:
        ValueError: if it has other columns.
    """
    if path.exists() and path.stat().st_size:
        with open(path, newline="", encoding="utf-8") as file:
            found = next(csv.reader(file))
        if found != expected:
            raise ValueError(
                f"Expected columns {', '.join(expected)} in {path}; received: {', '.join(found)}. "
                "Move the file away, or pass another --results."
            )


def record(path: PathLike, row: Mapping[str, Any]) -> bool:
    """Adds a row to a file of results, unless it is there. Returns whether it was added."""
    if {key: str(value) for key, value in row.items()} in read_rows(path):
        return False
    append_row(path, row)
    return True


def result_row(table: Table, row: Row, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's result as a row of its table's file."""
    return {column: {"row": row.name, **result}.get(column, "") for column in columns(table)}


def markdown(table: Table, measured: Sequence[Mapping[str, str]]) -> str:
    """Returns published and measured errors side by side: the whole protocol first, then each scale by itself.

    Args:
        table: A `Table`.
        measured: Rows of its file of results, as `read_rows` returns them.
    """
    scales = sorted({float(row["scale"]) for row in measured} | {1.0}, reverse=True)
    parts = [f"### {table.name}: {table.title}", table.source + "."]
    for scale in scales:
        if scale != 1:
            parts.append(
                f"**Rehearsal at scale {scale:g}**: that share of the passes and of the images. "
                "Not comparable with the paper, nor with other scales."
            )
        parts.append(_section(table, [row for row in measured if float(row["scale"]) == scale], scale))
    parts.append(
        "Errors on test images in per cent, mean and standard deviation over runs; test images are used once, "
        "after the last epoch."
    )
    notes = [f"- {remark}" for remark in _remarks(table)]
    return "\n\n".join(parts + ["\n".join(notes)] * bool(notes)) + "\n"


def _section(table, measured, scale):
    logged = any(row.last_epoch is not None for row in table.rows)
    head = ["row", "network", "published", *(["authors' last epoch"] if logged else [])]
    head += ["measured" if scale == 1 else f"measured, scale {scale:g}", "seeds", "epochs", "images"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for row in table.rows:
        groups = defaultdict(list)
        for result in measured:
            if result["row"] == row.name:
                groups[float(result["epochs"]), int(result["images"]), int(result["test_images"])].append(result)
        fixed = [row.name, row.network, _percent(row.published), *([_percent(row.last_epoch)] if logged else [])]
        if not groups and scale == 1:
            lines.append([*fixed, "-", "-", "-", "-"])
        for (epochs, images, test_images), results in sorted(groups.items()):
            seeds = ", ".join(sorted((result["seed"] for result in results), key=int))
            lines.append([*fixed, _mean(results), seeds, f"{epochs:g}", _share(row, images, test_images)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(results):
    errors = np.array([float(result["error"]) for result in results])
    deviation = f" ± {errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    return f"{errors.mean():.2f}{deviation} (n = {len(errors)})"


def _share(row, images, test_images):
    """How many images, and of how many, so that a part of a dataset is never taken for the whole."""
    data = DATASETS[row.data]

    def of(count, whole):
        return f"{count:,}" if whole in (None, count) else f"{count:,} of {whole:,}"

    return f"{of(images, data.images)}; test {of(test_images, data.test_images)}"


def _percent(error):
    return "-" if error is None else f"{error:.2f}"


def listing(names: Iterable[str] = TABLES) -> Iterator[Any]:
    """Yields what `--list` prints: for each table its rows, published errors and costs.

    Args:
        names: Names of tables.
    """
    for name in names:
        table = TABLES[name]
        yield f"[bold]{name}: {table.title}[/]\n{table.source}"
        grid = rich_table.Table(box=None, pad_edge=False)
        for column in ("row", "network", "paper %", "M", "GMACs", "PMACs"):
            grid.add_column(column, justify="left" if column in ("row", "network") else "right", no_wrap=True)
        for row in table.rows:
            counts = ((row.parameters, 1e6, ".2f"), (row.macs, 1e9, ".3f"), (row.cost(), 1e15, ",.1f"))
            costs = ["-" if count is None else format(count / unit, style) for count, unit, style in counts]
            grid.add_row(row.name, row.network, _percent(row.published), *costs)
        yield grid
        yield "\n".join([*_remarks(table), ""])
    yield (
        "paper %: error that the paper prints. M: trainable parameters, in millions. GMACs: multiply-adds for one "
        "image, in 10^9. PMACs: those of the whole training, forwards and backwards, in 10^15."
    )


def _remarks(table):
    notes = {}
    for row in table.rows:
        of_table, of_row = home(table, row)
        if row.same_as is not None:
            shared = f"the run of {of_table.name}"
            notes.setdefault(shared, []).append(row.name if of_row.name == row.name else f"{row.name} ({of_row.name})")
        if row.note:
            notes.setdefault(row.note, []).append(row.name)
    for note, rows in notes.items():
        yield f"{'All rows' if len(rows) == len(table.rows) else ', '.join(rows)}: {note}."
    needs = {need: None for row in table.rows for need in row.needs}
    if needs:
        yield f"Needed: {'; '.join(needs)}."
