"""Figure 4 of the Residual Attention Network paper: mean absolute responses of trained networks."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn.data import network_input, open_dataset
from keras_resattn.data.dataset import Dataset
from keras_resattn.evaluation import load_run
from keras_resattn.recipes.run_folder import read_report
from keras_resattn.reproduce.datasets import subsample
from keras_resattn.typing import DataLike
from keras_resattn.utils.io import atomic_write
from keras_resattn.visualize.responses import plot_responses, stage_responses

#: Training images to average over; the paper does not say which images it used.
IMAGES = 1000
COLUMNS: tuple[str, ...] = ("row", "seed", "scale", "epochs", "block", "response", "images", "backend", "revision")


def run_responses(name: str, result: Mapping[str, Any], folder: Path, source: DataLike) -> list[dict[str, Any]]:
    """Return the mean absolute responses of the network of a finished run.

    Args:
        name: Name of the run's row.
        result: Result of the run, as returned by `reproduce.run`.
        folder: Folder of the run.
        source: Training images, as passed to `open_dataset`.

    Returns:
        One dictionary with the keys `COLUMNS` per block of the network.

    Raises:
        ValueError: If the folder holds no finished run, or the data do not support access by index.
        FloatingPointError: If responses are NaN or infinite.
    """
    dataset = open_dataset(source)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected data with access by index; received: {source}, a stream.")
    images = subsample(dataset, min(1.0, IMAGES / len(dataset)), 1)
    report = read_report(folder)
    x = network_input(images.read(np.arange(len(images))), report["mean"], report["std"])
    responses = stage_responses(load_run(folder), x, blocks=True)
    if not np.isfinite(list(responses.values())).all():
        raise FloatingPointError(f"The responses of the network in {folder} are NaN or infinite: training diverged.")
    fields = {**result, "row": name, "images": len(images)}
    rows = [{**fields, "block": block, "response": f"{value:.6g}"} for block, value in responses.items()]
    return [{column: row[column] for column in COLUMNS} for row in rows]


def draw(runs: Sequence[list[dict[str, Any]]], figure: Path) -> Path:
    """Draw one line per row, the mean over its seeds, and write the numbers to a CSV file beside the figure.

    Args:
        runs: Results of `run_responses`, all at one scale.
        figure: Path of the figure, with the suffix of a format that matplotlib supports.

    Returns:
        Path of the CSV file: that of the figure, ending in `_responses.csv`.
    """
    lines = {}
    for rows in runs:
        scale = rows[0]["scale"]
        label = f"{rows[0]['row']} learning" + ("" if scale == 1 else f", scaled-down run (scale {scale:g})")
        lines.setdefault(label, []).append({row["block"]: float(row["response"]) for row in rows})
    figure.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(figure) as partial:
        plot_responses(lines).savefig(partial, dpi=150)
    table = figure.with_name(f"{figure.stem}_responses.csv")
    with atomic_write(table) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for rows in runs for row in rows)
    return table
