"""Fig. 4 of the Residual Attention Network paper: responses of trained networks, drawn and kept."""

import csv
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn.data import network_input, open_dataset
from keras_resattn.data.dataset import Dataset
from keras_resattn.models.registry import id_of_model_name
from keras_resattn.models.residual_attention import ResidualAttentionNet
from keras_resattn.models.variants import VARIANTS
from keras_resattn.pretrained.loading import fill
from keras_resattn.recipes.run_folder import read_report
from keras_resattn.reproduce.datasets import thinned
from keras_resattn.reproduce.published import get_table
from keras_resattn.reproduce.rows import Row, Table
from keras_resattn.reproduce.runner import RESULT, build, read_result
from keras_resattn.typing import DataLike, PathLike
from keras_resattn.utils.io import atomic_write, user_path
from keras_resattn.utils.provenance import revision_of
from keras_resattn.visualize.responses import plot_responses, stage_responses

#: Training images that responses are averaged over: the test images stay unseen.
IMAGES = 1000
COLUMNS = ("row", "network", "seed", "scale", "epochs", "block", "response", "images", "backend", "revision")


def open_run(row: Row, folder: PathLike) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """Reads what a finished run is, and checks that it may stand for a row.

    Args:
        row: The `Row` that says how attention learns.
        folder: The run's folder, as `compile_and_fit` leaves it.

    Returns:
        `(report, network, run)`: the run's report, the id of its network, and what `keras-resattn reproduce` kept of
        it, or `None` for a run of another command, which does not say how its attention learns.

    Raises:
        ValueError: if the folder holds no finished run, or one of another network, learning or dataset.
    """
    folder = user_path(folder)
    report = read_report(folder)
    network = id_of_model_name(report["network"])
    if VARIANTS.get(network) is None:
        raise ValueError(f"Expected a run of a Residual Attention Network; {folder} holds one of {network}.")
    result = folder / RESULT
    run = read_result(result)["run"] if result.exists() else None
    if run is not None:
        _check_row(row, folder, run["row"])
    return report, network, run


def _check_row(row, folder, recorded):
    """Checks a run by the row that it was run for, such as `"resattn/table3/attention56_naive"`; depths may differ."""
    table, _, name = recorded.rpartition("/")
    [of_run] = get_table(table).select([name])
    defaults = {key: argument.default for key, argument in inspect.signature(ResidualAttentionNet).parameters.items()}
    wanted, found = ({"data": of.data, **defaults, **of.arguments} for of in (row, of_run))
    differing = [key for key in wanted if wanted[key] != found[key]]
    if differing:
        words = [", ".join(f"{key}={of[key]!r}" for key in differing) for of in (wanted, found)]
        raise ValueError(
            f"Expected a run with {words[0]} for {row.name}; received: {folder}, a run of {recorded} with {words[1]}."
        )


def measure(row: Row, folder: PathLike, where: DataLike) -> list[dict[str, Any]]:
    """Measures the responses of a finished run.

    Args:
        row: The `Row` that says how attention learns; the network's depth is that of the run.
        folder: The run's folder, as `compile_and_fit` leaves it.
        where: Where the training images are.

    Returns:
        List of rows of `COLUMNS`, one for each block.

    Raises:
        ValueError: as `open_run`.
        FloatingPointError: if the network has diverged.
    """
    report, network, run = open_run(row, folder)
    dataset = open_dataset(where)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected data that can be read by index; received: {where}, which comes as a stream.")
    images = thinned(dataset, min(1.0, IMAGES / len(dataset)), 1)
    like = type(row)(network, network, row.recipe, row.data, None, arguments=row.arguments)
    model = build(like, dataset.image_shape)
    fill(model, user_path(folder) / "model.weights.h5")
    x = network_input(images.read(np.arange(len(images))), report["mean"], report["std"])
    fields = {
        "row": row.name,
        "network": network,
        "seed": report["recipe"]["seed"],
        "scale": "" if run is None else run["scale"],
        "epochs": report["history"][-1]["epoch"],
        "images": len(images),
        "backend": report["environment"]["backend"],
        "revision": revision_of(report["environment"]),
    }
    responses = stage_responses(model, x, blocks=True)
    if not np.isfinite(list(responses.values())).all():
        raise FloatingPointError(f"The responses of the network in {folder} are not finite numbers: it has diverged.")
    measured = [{**fields, "block": block, "response": f"{value:.6g}"} for block, value in responses.items()]
    return [{column: row_of_block[column] for column in COLUMNS} for row_of_block in measured]


def write(runs: Sequence[list[dict[Any, Any]]], figure: Path, table: Table) -> Path:
    """Draws the responses, one line for each row of the paper's figure, and writes them as CSV beside the figure.

    Args:
        runs: What `measure` returned for each run.
        figure: Path of the figure, in a format that matplotlib writes; the CSV file has the same name.
        table: The `Table`.

    Returns:
        Path of the CSV file.
    """
    lines = {}
    for rows in runs:
        lines.setdefault(_label(table, rows[0]), []).append({row["block"]: float(row["response"]) for row in rows})
    drawn = plot_responses(lines)
    figure.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(figure) as partial:
        drawn.savefig(partial, dpi=150)
    beside = figure.with_suffix(".csv")
    with atomic_write(beside) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([row for rows in runs for row in rows])
    return beside


def _label(table, row):
    """How a line is called: a rehearsal is called one."""
    [of_paper] = table.select([row["row"]])
    label = f"{row['row']} learning"
    if row["network"] != of_paper.network:
        label += ", " + re.sub("^(Cifar)?ResidualAttention", "Attention-", row["network"])
    if row["scale"] == "":  # not a run of this command
        return f"{label}, {row['epochs']} epochs"
    return label if row["scale"] == 1 else f"{label}, rehearsal at scale {row['scale']:g}"
