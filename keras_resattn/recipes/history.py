"""The log of a run, one row per epoch: its best row, and a plot of it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def best_on_validation(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first row with the highest `val_accuracy`, or `None` if no row has one."""
    validated = [row for row in history if "val_accuracy" in row]
    return max(validated, key=lambda row: row["val_accuracy"], default=None)


def plot_history(history: Sequence[dict[str, Any]]) -> "Figure":
    """Plot loss, accuracy and learning rate over epochs.

    Args:
        history: Rows of a log, as in `Report.history`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("loss", "accuracy", "learning_rate"), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history[-1]:
                values = [row.get(key, math.nan) for row in history]
                axes.plot(epochs, values, marker="." if len(history) < 40 else None, label=label)
        axes.set(xlabel="epoch", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if f"val_{name}" in history[-1]:
            axes.legend()
    return figure
