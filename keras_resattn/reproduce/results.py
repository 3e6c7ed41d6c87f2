"""Results of runs: rows of CSV files, and Markdown tables of published and measured errors."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_resattn.reproduce.published import original
from keras_resattn.reproduce.rows import DATASETS, Row, Table
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import append_row, read_rows

FOOTNOTE = (
    "Errors on test images in percent, mean and standard deviation over seeds. Test images are used once, after the "
    "last epoch."
)
SCALED_DOWN = (
    "A scale below 1 is a scaled-down run, with that fraction of the epochs and of the images: not comparable with the "
    "paper, nor with other scales."
)


def record(path: PathLike, row: Row, result: Mapping[str, Any]) -> bool:
    """Add the result of a run to a CSV file unless the file already has it; return whether it was added."""
    recorded = {"row": row.name, **result}
    if {key: str(value) for key, value in recorded.items()} in read_rows(path):
        return False
    append_row(path, recorded)
    return True


def markdown(table: Table, results: Sequence[Mapping[str, str]]) -> str:
    """Return published and measured errors side by side, one line per row, scale and number of images.

    Args:
        table: A `Table`.
        results: Rows of its file of results, as returned by `read_rows`.
    """
    has_logs = any(row.last_epoch is not None for row in table.rows)
    header = ["row", "network", "published", *(["authors' last epoch"] if has_logs else [])]
    header += ["measured", "scale", "seeds", "epochs", "images"]
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2)]
    for row in table.rows:
        published = [row.name, row.network, percent(row.published), *([percent(row.last_epoch)] if has_logs else [])]
        groups = defaultdict(list)
        for result in results:
            if result["row"] == row.name:
                protocol = [float(result[key]) for key in ("scale", "epochs", "images", "test_images")]
                groups[tuple(protocol)].append(result)
        lines += [[*published, *_measured(row, *group)] for group in sorted(groups.items(), reverse=True)]
        if not groups:
            lines.append([*published, *["-"] * 5])
    parts = [f"### {table.name}: {table.title}", f"{table.source}."]
    parts += ["\n".join(f"| {' | '.join(line)} |" for line in lines), FOOTNOTE]
    if any(float(result["scale"]) != 1 for result in results):
        parts.append(SCALED_DOWN)
    remarks = [f"- {remark}" for remark in notes(table)]
    return "\n\n".join(parts + ["\n".join(remarks)] * bool(remarks)) + "\n"


def _measured(row, protocol, results):
    import numpy as np

    scale, epochs, images, test_images = protocol
    errors = np.array([float(result["error"]) for result in results])
    deviation = f" ± {errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    seeds = ", ".join(sorted((result["seed"] for result in results), key=int))
    data = DATASETS[row.data]
    counts = f"{_count(images, data.images)}; test {_count(test_images, data.test_images)}"
    return [f"{errors.mean():.2f}{deviation} (n = {len(errors)})", f"{scale:g}", seeds, f"{epochs:g}", counts]


def _count(count, whole):
    """Format a number of images, with the size of the dataset if only part of it was used."""
    return f"{count:,.0f}" if whole in (None, count) else f"{count:,.0f} of {whole:,}"


def percent(error: float | None) -> str:
    """Return an error in percent with two decimals, or `"-"`."""
    return "-" if error is None else f"{error:.2f}"


def notes(table: Table) -> Iterator[str]:
    """Yield remarks on the rows of a table: shared runs, differences from the paper, and requirements."""
    remarks = {}
    for row in table.rows:
        shared_table, shared_row = original(table, row)
        if row.same_as is not None:
            name = row.name if shared_row.name == row.name else f"{row.name} ({shared_row.name})"
            remarks.setdefault(f"run shared with {shared_table.name}", []).append(name)
        if row.note:
            remarks.setdefault(row.note, []).append(row.name)
    for remark, rows in remarks.items():
        yield f"{'all rows' if len(rows) == len(table.rows) else ', '.join(rows)}: {remark}."
    requirements = dict.fromkeys(requirement for row in table.rows for requirement in row.requirements)
    if requirements:
        yield f"Required: {'; '.join(requirements)}."
