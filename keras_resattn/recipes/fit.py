"""Training a network by a recipe: compile, fit, log, checkpoint, resume, report."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_resattn.data import TrainingBatches, check_pictures, load_npz, network_input
from keras_resattn.data.arrays import normalize, smoothed, statistics
from keras_resattn.files import atomic_write
from keras_resattn.layers import Rectify
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes.recipe import get_recipe

CHECKPOINT = "checkpoint.weights.h5"
WEIGHTS = "model.weights.h5"


@dataclass(frozen=True)
class Report:
    """What came out of a run: figures of the last epoch, never of the best one.

    Attributes:
        network: Name of the model.
        recipe: The recipe's fields.
        metrics: The log's last row: loss and accuracy on training data and, if given, validation data.
        mean: What was subtracted from pictures (0 to 255): of each channel, or the mean picture.
        std: What they were then divided by, for each channel.
        training_pictures: Number of training pictures.
        seconds: Wall time of all epochs, resumed parts included.
        environment: Backend, versions, processor, processor count and git revision of the last session.
        history: All rows of the log.
    """

    network: str
    recipe: dict
    metrics: dict
    mean: list
    std: list
    training_pictures: int
    seconds: float
    environment: dict
    history: list


def compile_and_fit(model, recipe, data, *, validation_data=None, run_dir=None, resume=True, verbose=1):
    """Trains `model` by `recipe`.

    Pictures are normalised as the recipe says, by the training set's statistics, which the report holds. With
    `ema`, validation and the final weights are those of the moving average; batch normalisation's statistics are
    moving averages already. Each epoch's end writes a row of the log and a checkpoint; a run that was killed goes
    on after its last finished epoch, with the data in the order that it would have had.

    Args:
        model: A classifier over `(n, h, w, c)` pictures that returns softmax probabilities or logits. With gated
            attention, `classifier_activation=None` trains by the authors' loss.
        recipe: A `Recipe`, or the name of one of `RECIPES`.
        data: `(x, y)`, or the path of an `.npz` file with `x_train` and `y_train`. Pictures 0 to 255,
            integer labels.
        validation_data: `(x, y)` measured after every epoch, or `None`.
        run_dir: Folder for `log.csv`, `checkpoint.weights.h5`, `recipe.json` and, at the end,
            `model.weights.h5` and `report.json`; `None` writes nothing.
        resume: Whether to go on with the run that `run_dir` holds.
        verbose: Keras' verbosity: 1 is a progress bar, 2 a line for each epoch, 0 nothing.

    Returns:
        A `Report`. The model is trained in place and stays compiled.

    Raises:
        ValueError: before any work, for an unknown recipe, data that does not fit the model, fewer
            pictures than a batch, or a `run_dir` that holds another run.
        FloatingPointError: if the loss is no longer a finite number; the last checkpoint is a good one.
    """
    recipe = get_recipe(recipe)
    classes = model.output_shape[-1]
    x, y = _training_arrays(data, classes)
    _check_fits(model, x, recipe)
    mean, std = statistics(x, recipe.normalization)
    if validation_data is not None:
        x_val, y_val = validation_data
        y_val = check_pictures(x_val, y_val, classes)
        y_val = smoothed(y_val, classes) if recipe.mixes_labels else y_val
        validation_data = (network_input(x_val, mean, std), y_val)

    steps = len(x) // recipe.batch_size
    epochs = recipe.length(steps)
    model.compile(optimizer=recipe.optimizer(steps), loss=_loss(model, recipe.mixes_labels), metrics=["accuracy"])
    run = _Run(
        run_dir, {"network": model.name, "recipe": dataclasses.asdict(recipe), "data": _fingerprint(x, y)}, resume
    )
    first_epoch = run.restore(model, steps)
    if first_epoch < epochs:
        averages = [keras.callbacks.SwapEMAWeights()] if recipe.ema is not None else []
        model.fit(
            TrainingBatches(x, y, recipe, functools.partial(normalize, mean=mean, std=std), classes, first_epoch),
            steps_per_epoch=steps,
            epochs=epochs,
            initial_epoch=first_epoch,
            validation_data=validation_data,
            callbacks=[keras.callbacks.TerminateOnNaN(), *averages, run],
            shuffle=False,
            verbose=verbose,
        )
        run.raise_if_diverged()
    else:  # what `fit` ends with, where weights are averaged
        model.optimizer.finalize_variable_values(model.trainable_variables)
    report = Report(
        network=model.name,
        recipe=dataclasses.asdict(recipe),
        metrics=run.rows[-1],
        mean=mean,
        std=std,
        training_pictures=len(x),
        seconds=round(sum(row["seconds"] for row in run.rows), 1),
        environment=environment(),
        history=run.rows,
    )
    run.finish(model, report)
    return report


class _Run(keras.callbacks.Callback):
    """The folder of a run: log and checkpoint after each epoch, weights and report at the end."""

    def __init__(self, run_dir, identity, resume):
        super().__init__()
        self.folder = None if run_dir is None else Path(run_dir)
        self.rows = []
        self.diverged_in = None
        if self.folder is None:
            return
        described = self.folder / "recipe.json"
        if described.exists():
            if not resume:
                raise ValueError(
                    f"Expected an empty run_dir with resume=False; {self.folder} holds a run. Pass another folder."
                )
            if json.loads(described.read_text()) != json.loads(json.dumps(identity)):
                raise ValueError(
                    f"Expected {described} to hold this network, recipe and data; it holds another run. "
                    "Pass another run_dir."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_text(described, json.dumps(identity, indent=2) + "\n")

    def restore(self, model, steps_per_epoch):
        """Loads the last checkpoint, if there is one, and returns the epoch to go on with."""
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / CHECKPOINT)
        epoch = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps_per_epoch
        with open(self.folder / "log.csv", newline="") as file:
            rows = [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        self.rows = [row for row in rows if row["epoch"] <= epoch]
        return epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}}
        if not np.isfinite(row["loss"]):
            self.diverged_in = epoch + 1
            return
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(time.monotonic() - self.started, 1)
        self.rows.append(row)
        if self.folder is None:
            return
        # The log first: rows past the checkpoint are dropped on resuming, missing ones could not be remade.
        with atomic_write(self.folder / "log.csv") as path, open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        with atomic_write(self.folder / CHECKPOINT) as path:
            self.model.save_weights(path, overwrite=True)

    def raise_if_diverged(self):
        if self.diverged_in is not None:
            kept = (
                "Nothing was saved"
                if not self.rows or self.folder is None
                else f"{self.folder} holds epoch {len(self.rows)}"
            )
            raise FloatingPointError(
                f"The loss of epoch {self.diverged_in} is not a finite number. {kept}. "
                "Try a lower learning rate or a longer warm-up."
            )

    def finish(self, model, report):
        if self.folder is not None:
            with atomic_write(self.folder / WEIGHTS) as path:
                _without_optimizer(model).save_weights(path, overwrite=True)
            _write_text(self.folder / "report.json", json.dumps(dataclasses.asdict(report), indent=2) + "\n")


def environment():
    """Returns what a number depends on besides code and data: backend, versions, machine, git revision."""
    backend = keras.backend.backend()
    packages = ("keras", backend, "numpy")
    return {
        "backend": backend,
        "versions": {name: _version(name) for name in packages},
        "python": platform.python_version(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "revision": _git_revision(),
    }


def _training_arrays(data, classes):
    if isinstance(data, (str, os.PathLike)):
        arrays = load_npz(data)
        if "x_train" not in arrays or "y_train" not in arrays:
            raise ValueError(f"Expected x_train and y_train in {data}; received: {', '.join(arrays)}.")
        data = arrays["x_train"], arrays["y_train"]
    x, y = data
    return x, check_pictures(x, y, classes)


def _fingerprint(x, y):
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest() + hashlib.sha256(y.data).hexdigest()


def _check_fits(model, x, recipe):
    expected = tuple(model.input_shape[1:])
    if keras.config.image_data_format() == "channels_first":
        expected = (*expected[1:], expected[0])
    if any(want is not None and want != got for want, got in zip(expected, x.shape[1:], strict=True)):
        raise ValueError(f"Expected pictures of shape {expected} for {model.name}; received: {tuple(x.shape[1:])}.")
    if len(x) < recipe.batch_size:
        raise ValueError(f"Expected at least a batch of {recipe.batch_size} pictures; received: {len(x)}.")


def _loss(model, mixes_labels):
    """The cross-entropy of probabilities or logits; that of gated log-probabilities is their authors'."""
    returns_logits = getattr(model.layers[-1], "activation", None) is keras.activations.linear
    if returns_logits and any(isinstance(layer, Rectify) for layer in model.layers):
        return NegativeLogLikelihood()
    if mixes_labels:
        return keras.losses.CategoricalCrossentropy(from_logits=returns_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=returns_logits)


def _without_optimizer(model):
    return keras.Model(model.inputs, model.outputs)


def _number(text):
    value = float(text)
    return int(value) if value.is_integer() and "." not in text else value


def _write_text(path, text):
    with atomic_write(path) as partial:
        partial.write_text(text)


def _version(package):
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git_revision():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
