"""Evaluate released checkpoints, finished runs and any classifier on labelled images."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resattn.data import ArrayDataset, Dataset, open_dataset
from keras_resattn.data.class_matching import match_classes
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.labels import as_labels
from keras_resattn.data.normalization import normalize
from keras_resattn.models import registry
from keras_resattn.models.class_names import keeps_class_names, model_class_names, set_class_names
from keras_resattn.models.normalization import normalization_of_input
from keras_resattn.pretrained.loading import load_saved_weights
from keras_resattn.pretrained.records import Checkpoint
from keras_resattn.recipes import Recipe
from keras_resattn.recipes.checks import check_fits
from keras_resattn.recipes.loss_and_metrics import TOP5_FROM, returns_logits
from keras_resattn.recipes.run_files import ARCHITECTURE, WEIGHTS
from keras_resattn.recipes.run_folder import read_report
from keras_resattn.typing import ArrayLike, DataLike, PathLike, ResizeMode
from keras_resattn.utils.io import open_regular, read_json, user_path
from keras_resattn.utils.validation import check_count

PREDICTIONS = "predictions.npy"


@dataclass(frozen=True)
class Evaluation:
    """Result of evaluating a network.

    Attributes:
        predictions: The most probable class of each image, `(n,)` int64.
        correct: Number of images classified correctly.
        total: Number of images.
        loss: Mean cross-entropy in nats; for gated attention, of the softmax of the output, not the authors' loss.
        changed: Indices of the images whose predicted class differs from the released predictions; `None` if the images
            are not those of the release, or the network is not a released checkpoint.
        correct_top5: Number of images whose class is among the five most probable ones; `None` for networks with up to
            ten classes.
    """

    predictions: np.ndarray
    correct: int
    total: int
    loss: float
    changed: list[Any] | None
    correct_top5: int | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly."""
        return self.correct / self.total

    @property
    def top5_accuracy(self) -> float | None:
        """Fraction of images whose class is among the five most probable ones, or `None`."""
        return None if self.correct_top5 is None else self.correct_top5 / self.total


def load_checkpoint(tag: Checkpoint, **kwargs: Any) -> keras.Model:
    """Return the network of a released checkpoint with its weights; `kwargs` are passed to the builder."""
    weights = str(tag.folder) if tag.tensors.exists() else tag.tag  # tensors that are released on the Hub only
    return registry.create_model(tag.network, weights=weights, classes=len(tag.classes), **kwargs)


def evaluate(tag: Checkpoint, x: ArrayLike, y: ArrayLike, batch_size: int = 256, verbose: int = 0) -> Evaluation:
    """Evaluate a released checkpoint on arrays of labelled images.

    Args:
        tag: The `Checkpoint`.
        x: Images, `(n, h, w, 3)`, 0 to 255.
        y: Integer labels, `(n,)`.
        batch_size: Images per step.
        verbose: 1 shows a progress bar.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if the images or labels do not fit the checkpoint, or the images are not from 0 to 255.
    """
    return evaluate_checkpoint(tag, ArrayDataset(x, y), batch_size, verbose)


def evaluate_checkpoint(tag: Checkpoint, dataset: Dataset, batch_size: int = 256, verbose: int = 0) -> Evaluation:
    """Evaluate a released checkpoint on a dataset, which is read in batches.

    Args:
        tag: The `Checkpoint`.
        dataset: A `Dataset`. If it has class names, its labels are matched to the checkpoint's classes by name. Images
            from files and records are resized to the size of the checkpoint's test images; arrays must have that size,
            unless the dataset has a resize mode.
        batch_size: Images per step.
        verbose: 1 shows a progress bar.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if the images or labels do not fit the checkpoint.
    """
    dataset = match_classes(dataset, tag.classes, tag.id)
    labels = as_labels(dataset.labels, len(dataset), len(tag.classes))
    shape = dataset.image_shape if dataset.resize_mode is None else (*tag.input_shape[:2], dataset.channels)
    if shape != tag.input_shape:
        raise ValueError(f"Expected images of shape {tag.input_shape} for {tag.id}; received: {shape}.")
    model = load_checkpoint(tag, classifier_activation=None)
    prepare = functools.partial(normalize, mean=tag.mean, std=tag.std)
    batches = EvaluationBatches(dataset, batch_size, prepare, size=tag.input_shape[:2])
    logits, _ = _predict(model, batches, verbose)
    return _evaluation(logits, labels, functools.partial(_changed_predictions, tag, labels))


def evaluate_run(
    run_dir: PathLike,
    data: DataLike,
    batch_size: int = 256,
    data_dir: PathLike | None = None,
    resize_mode: ResizeMode | None = None,
) -> Evaluation:
    """Evaluate the network of a finished `compile_and_fit` run on labelled images.

    Images are normalised with the statistics of the run's training images.

    Args:
        run_dir: Folder of a finished run. For `fine_tune`, pass its subfolder `fine_tune`.
        data: Any input of `keras_resattn.data.open_dataset`. An `.npz` file, a folder or a dataset name provides its
            test split. Images from files and records are resized to the network's size; arrays must have that size.
        batch_size: Images per step; a stream has its own batch size.
        data_dir: Folder of TensorFlow Datasets, for data by name.
        resize_mode: Resize mode; see `open_dataset`. By default, files and records are resized like the training
            images.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if the folder holds no finished run, the run has another image data format, the network has layers
            that cannot be read from a file, the images or labels do not fit it, or the data have classes that the run
            was not trained on. Classes in another order, or a subset of them, are matched by name.
    """
    batch_size = check_count("batch_size", batch_size)
    report = read_report(run_dir)
    check_data_format(report, run_dir)
    dataset = open_dataset(data, split="test", data_dir=data_dir, resize_mode=resize_mode)
    trained: Any = report.get("resize_mode")
    if None not in (trained, dataset.resize_mode) and resize_mode is None:
        dataset = dataset.with_resize_mode(trained)
    model = load_run(run_dir)
    names = report.get("class_names") or model_class_names(model)
    dataset = match_classes(dataset, names, f"the run in {run_dir}")
    size = check_fits(model, dataset, Recipe.from_json(json.dumps(report["recipe"])))
    prepare = functools.partial(normalize, mean=report["mean"], std=report["std"])
    return evaluate_batches(model, EvaluationBatches(dataset, batch_size, prepare, size=size))


def check_data_format(report: Mapping[str, Any], run_dir: PathLike) -> None:
    """Raise a `ValueError` if a run was trained with another image data format than Keras' current one."""
    expected, current = report.get("data_format", "channels_last"), keras.config.image_data_format()
    if expected != current:
        raise ValueError(
            f"Expected the image data format {expected}, as when {run_dir} was trained; received: {current}. Call "
            f"keras.config.set_image_data_format({expected!r}), or change image_data_format in ~/.keras/keras.json."
        )


def evaluate_model(
    model: keras.Model,
    data: DataLike,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    batch_size: int = 256,
    data_dir: PathLike | None = None,
    resize_mode: ResizeMode | None = None,
) -> Evaluation:
    """Evaluate any classifier on labelled images.

    Args:
        model: A `keras.Model` that takes images of a fixed size and returns logits or probabilities, `(n, classes)`.
        data: As in `evaluate_run`.
        mean: Mean of the training images, 0 to 255, as one number or one for each channel; 0 for a model that
            normalises images itself.
        std: Standard deviation of the training images, in the same form; 1 for a model that normalises images itself.
        batch_size: Images per step; a stream has its own batch size.
        data_dir: Folder of TensorFlow Datasets, for data by name.
        resize_mode: Resize mode; see `keras_resattn.data.open_dataset`.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: if images or labels do not fit the model, or would be normalised twice.
    """
    batch_size = check_count("batch_size", batch_size)
    dataset = open_dataset(data, split="test", data_dir=data_dir, resize_mode=resize_mode)
    size = check_fits(model, dataset)
    inside = normalization_of_input(model)
    if inside is not None and (np.any(np.asarray(mean) != 0) or np.any(np.asarray(std) != 1)):
        raise ValueError(
            f"Expected mean=0 and std=1 for {model.name}, which normalises its images itself (layer {inside}); "
            f"received: mean={mean}, std={std}."
        )
    prepare = functools.partial(normalize, mean=mean, std=std)
    return evaluate_batches(model, EvaluationBatches(dataset, batch_size, prepare, size=size))


def evaluate_batches(model: keras.Model, batches: EvaluationBatches) -> Evaluation:
    """Evaluate a classifier on batches of preprocessed images.

    Args:
        model: A `keras.Model` that returns logits or probabilities, `(n, classes)`.
        batches: Preprocessed images and integer labels.

    Returns:
        An `Evaluation`.
    """
    scores, labels = _predict(model, batches)
    if not returns_logits(model):
        scores = np.log(np.maximum(scores, np.finfo("float32").tiny))
    return _evaluation(scores, labels)


def _predict(model, batches, verbose=0):
    """Return outputs and labels of all batches."""
    progress = keras.utils.Progbar(batches.num_batches, verbose=verbose, unit_name="batch")
    outputs, labels = [], []
    for i in range(batches.num_batches):
        x, y = batches[i]
        outputs.append(model.predict_on_batch(x))
        labels.append(y)
        progress.update(i + 1)
    return np.concatenate(outputs), np.concatenate(labels)


def load_run(run_dir: PathLike) -> keras.Model:
    """Return the network of a finished run with its final weights and class names, not compiled.

    Args:
        run_dir: Folder of a finished `compile_and_fit` run.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: if there is no finished run, the network has layers that cannot be read from a file, or the weights
            cannot be read, belong to another network, or hold NaN or infinite values.
    """
    class_names = read_report(run_dir).get("class_names")
    path, weights = user_path(run_dir) / ARCHITECTURE, user_path(run_dir) / WEIGHTS
    remedy = f"Build the network yourself and call its load_weights with {weights}."
    if not path.exists():
        raise ValueError(
            f"Expected the network's layers in {path}; there is no such file, because a layer cannot be written or the "
            f"run is from an older version. {remedy}"
        )
    architecture = json.dumps(read_json(path, remedy))
    try:
        model = keras.models.model_from_json(architecture)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"Expected {path} to hold layers that Keras can read; one cannot be read ({_first_line(error)}). First "
            f"import the module that registers it with keras.saving.register_keras_serializable. {remedy}"
        ) from error
    load_saved_weights(model, weights)
    if class_names is not None and keeps_class_names(model):
        set_class_names(model, class_names)
    return model


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _evaluation(logits, y, changed=lambda predictions: None):
    logits = logits.astype("float64")
    predictions = logits.argmax(1)
    num_higher = (logits > logits[np.arange(len(y)), y][:, None]).sum(1)
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]
    return Evaluation(
        predictions=predictions,
        correct=int((predictions == y).sum()),
        total=len(y),
        loss=float(losses.mean()),
        changed=changed(predictions),
        correct_top5=int((num_higher < 5).sum()) if logits.shape[1] > TOP5_FROM else None,
    )


def _changed_predictions(tag, y, predictions):
    """Return the indices at which predictions differ from the released ones, or `None` if the labels differ."""
    path = tag.folder / PREDICTIONS
    if not path.exists():
        return None
    with open_regular(path):
        pass
    try:
        released = np.lib.format.open_memmap(path, mode="r")  # allocates nothing for a header's claims
    except Exception as error:
        raise ValueError(f"Expected {path} to be an .npy file of labels and predictions; {error}.") from error
    if released.shape != (2, len(y)) or not np.array_equal(released[0], y):
        return None
    return np.flatnonzero(released[1] != predictions).tolist()
