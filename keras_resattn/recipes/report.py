"""Report of a training run: its metrics, its settings, and the environment it ran in."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Any

import keras

from keras_resattn.utils.provenance import PACKAGE, package_revision, package_version, processor


@dataclass(frozen=True)
class Report:
    """Result of a run.

    All metrics describe the weights that are kept: those of the last epoch, never of the best epoch, unless a callback
    puts other weights into the model.

    Attributes:
        network: Name of the model.
        recipe: Fields of the recipe.
        metrics: The log's row of `kept_epoch`: loss and accuracy on training data and, if given, validation data. If
            `kept_epoch` is `None`, only the validation metrics of the kept weights; empty without validation data.
        mean: Value subtracted from images (0 to 255), per channel or per pixel.
        std: Value that images are then divided by, per channel.
        training_images: Number of training images.
        seconds: Wall time of all epochs, over all sessions. Excludes steps that were repeated after resuming, and the
            checkpoints between epochs.
        environment: Return value of `environment()` in the last session.
        history: All rows of the log.
        best_on_validation: The row with the highest validation accuracy, or `None` without validation data. For
            information only: the network keeps the weights of `kept_epoch`.
        precision: Keras dtype policy of the network.
        steps: Number of steps.
        processes: Number of processes that trained together.
        data_format: Keras image data format that the network was built for.
        class_names: Class names in the order of the network's outputs, or `None` if unknown.
        resize_mode: How training images were resized (see `open_dataset`); `None` if they were not.
        kept_epoch: Number of the epoch that ended with the kept weights: the last one, unless a callback such as
            `EarlyStopping(restore_best_weights=True)` restored those of another. `None` if a callback set weights that
            no epoch ended with.
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


def environment() -> dict[str, Any]:
    """Return everything besides recipe and data that results depend on: package versions, backend and machine.

    Returns:
        Dictionary of `backend`, `versions` (of this package, Keras, the backend and NumPy), `python`, `device`,
        `processor`, `processors` (number of processors) and `revision`: the package's git commit, with `-dirty`
        appended if its files have uncommitted changes; `None` if it is not imported from its own checkout.
    """
    backend = keras.backend.backend()
    packages = ("keras", backend, "numpy")
    return {
        "backend": backend,
        "versions": {PACKAGE: package_version(), **{name: _version(name) for name in packages}},
        "python": platform.python_version(),
        "device": _accelerator() or processor(),
        "processor": processor(),
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
    """Return the name of the accelerator that Keras runs on, or `None` without one."""
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
