"""What came out of a run, and on what machine."""

import importlib.metadata
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_resattn.utils.provenance import PACKAGE, package_revision, package_version

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """What came out of a run. Its figures describe the weights that were kept: the last epoch's, never the best ones,
    unless a callback put others into the model.

    Attributes:
        network: Name of the model.
        recipe: The recipe's fields.
        metrics: The log's row of `kept_epoch`: loss and accuracy on training data and, if given, validation data. Where
            that is `None`, the kept weights' own figures on validation data, and nothing without any.
        mean: What was subtracted from images (0 to 255): of each channel, or the mean image.
        std: What they were then divided by, for each channel.
        training_images: Number of training images.
        seconds: Wall time of all epochs, resumed parts included; repeated parts, and the checkpoints between epochs,
            left out.
        environment: What `environment()` returned in the last session: backend, versions, device, git revision ...
        history: All rows of the log.
        best_on_validation: The row of the highest accuracy on validation data, or `None` without any. It is for looking
            at: the network's weights are those of `kept_epoch`.
        precision: Keras policy of the network.
        steps: Number of steps.
        processes: Number of processes that trained together.
        data_format: Keras' image data format, which the network was built for.
        class_names: Names of the classes in the order of the network's outputs, or `None` if none are known.
        resize_mode: How training images were resized, see `open_dataset`; `None` where they were not.
        kept_epoch: The epoch that ended with the weights that were kept: the last one, unless a callback such as
            `EarlyStopping(restore_best_weights=True)` put back those of another. `None` if a callback put in weights
            that no epoch ended with.
        stopped: Whether a callback ended the training before the recipe's last step.
    """

    network: str
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    mean: list[Any]
    std: list[Any]
    training_images: int
    seconds: float
    environment: dict[str, Any]
    history: list[dict[str, Any]]
    best_on_validation: dict[str, Any] | None = None
    precision: str = "float32"
    steps: int | None = None
    processes: int = 1
    data_format: str = "channels_last"
    class_names: list[str] | None = None
    resize_mode: str | None = None
    kept_epoch: int | None = None
    stopped: bool = False


def best_on_validation(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the first row of the highest `val_accuracy`, or `None` if no row has one."""
    measured = [row for row in rows if "val_accuracy" in row]
    return max(measured, key=lambda row: row["val_accuracy"], default=None)


def plot_history(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Draws loss, accuracy and learning rate of each epoch.

    Args:
        rows: Rows of a log, as `Report.history`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("loss", "accuracy", "learning_rate"), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in rows[-1]:
                axes.plot(
                    epochs,
                    [row.get(key, math.nan) for row in rows],
                    marker="." if len(rows) < 40 else None,
                    label=label,
                )
        axes.set(xlabel="epoch", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if f"val_{name}" in rows[-1]:
            axes.legend()
    return figure


def environment() -> dict[str, Any]:
    """Return what a number depends on besides recipe and data: the package, the backend and the machine.

    Returns:
        Dictionary of `backend`, `versions` (of this package, Keras, the backend and NumPy), `python`, `device`,
        `processor`, `processors` (their number) and `revision`: the git commit of the package, `-dirty` where its files
        have uncommitted changes, `None` where it is not imported from its own checkout.
    """
    backend = keras.backend.backend()
    packages = ("keras", backend, "numpy")
    return {
        "backend": backend,
        "versions": {PACKAGE: package_version(), **{name: _version(name) for name in packages}},
        "python": platform.python_version(),
        "device": _accelerator() or _processor(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "revision": package_revision(),
    }


def _version(package):
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _accelerator():
    """The name of the accelerator that Keras runs on, or `None` on a processor alone."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
