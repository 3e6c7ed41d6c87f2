"""Transfer learning in two phases: a new classifier on the frozen network, then the last stage with it."""

import contextlib
import functools
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resattn.data import ArrayDataset, BatchStream, Dataset, open_dataset
from keras_resattn.data.class_matching import match_classes
from keras_resattn.data.open_dataset import open_validation
from keras_resattn.models._build import classifier, full_precision
from keras_resattn.models.class_names import set_class_names
from keras_resattn.models.normalization import normalization
from keras_resattn.recipes import Recipe, Report, compile_and_fit, distribution, get_recipe
from keras_resattn.recipes.backbones import Backbone, check_statistics
from keras_resattn.recipes.checks import EMPTY_CLASSES, check_callbacks, check_class_weight, warn_of_empty_classes
from keras_resattn.recipes.frozen_features import as_images, extract, fold, moments, resized
from keras_resattn.recipes.run_folder import RunFolder
from keras_resattn.recipes.run_identity import differing_fields, read_identity
from keras_resattn.typing import DataLike, PathLike, Pooling, Size, Statistics
from keras_resattn.utils.data_format import channel_axis, image_shape
from keras_resattn.utils.io import atomic_write, locked, user_path, write_json
from keras_resattn.utils.npz import read_npz
from keras_resattn.utils.validation import check_choice, check_count, check_number, some_names

IDENTITY = "transfer.json"
FEATURES = "features.npz"
HEAD, FINE_TUNE = "head", "fine_tune"  # folders of the phases


@dataclass(frozen=True)
class TransferReport:
    """What came out of `fine_tune`.

    Attributes:
        network: The published tag's id, or the name of the network that was given.
        classes: Number of classes.
        class_names: Their names in the order of the model's outputs, or `None` if the data have none.
        mean: What is subtracted from images of 0 to 255, for each channel.
        std: What they are then divided by.
        size: Height and width that images are resized to.
        unfrozen: Names of the network's layers that were trained in the second phase.
        head: Report of the first phase.
        fine_tune: Report of the second phase, or `None` where there was none.
        resize_mode: How images of another aspect ratio were resized, see `keras_resattn.data.open_dataset`.
    """

    network: str
    classes: int
    mean: list[Any]
    std: list[Any]
    size: tuple[int, ...]
    unfrozen: list[str]
    head: Report
    fine_tune: Report | None
    class_names: list[str] | None = None
    resize_mode: str = "crop"


def fine_tune(
    network: str | keras.Model,
    data: DataLike,
    *,
    validation_data: DataLike | None = None,
    classes: int | None = None,
    statistics: Statistics | None = None,
    size: Size | None = None,
    head_recipe: str | Recipe = "transfer_head",
    fine_tune_recipe: str | Recipe = "transfer_fine_tune",
    unfreeze: str | Sequence[str] | None = "last_stage",
    pooling: Pooling = "avg",
    dropout: float = 0.0,
    run_dir: PathLike | None = None,
    resume: bool = True,
    data_dir: PathLike | None = None,
    verbose: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    class_weight: dict[int, float] | None = None,
) -> tuple[keras.Model, TransferReport]:
    """Trains a pretrained network to tell other classes apart, in two phases.

    1. The network is frozen, and a new dense classifier is trained on its pooled features. Where `head_recipe` does
       not augment images, as `"transfer_head"` does not, each image goes through the network once and the
       classifier trains on what came out: seconds instead of minutes on a CPU. A recipe that augments (`flip`, `pad`,
       `cutout` ...) trains it on the images instead, at the cost of a pass through the network for each.
    2. The layers that `unfreeze` names are trained with the classifier, on augmented images.

    Batch normalisation inside the network stays as it is in both: its means and variances, which batches of a few
    images would blur, and with them its scales and offsets (`trainable=False`, which in Keras is inference mode).

    A run that was killed goes on in the phase and at the step where it was; a finished one only returns what it
    left. The weights of the classifier are drawn anew: call `keras.utils.set_random_seed` for a repeatable run.

    Args:
        network: A published tag, `"CifarResidualAttention56/cifar10"`, or a `keras.Model` without its top that returns
            feature maps or vectors. A model is trained in place.
        data: Training images and labels: whatever `compile_and_fit` takes.
        validation_data: Measured after each epoch of both phases, or `None`.
        classes: Number of classes; by default the data's own, or the largest label and one.
        statistics: `(mean, std)` that the network's images are normalised with, each one number for each channel, 0
            to 255. Published tags bring their own; a `keras.Model` needs them: `([0, 0, 0], [1, 1, 1])` for a model
            that normalises inside.
        size: `(height, width)` that images are resized to; by default the tag's, or the model's.
        head_recipe: A `Recipe` or the name of one, for the first phase.
        fine_tune_recipe: The same for the second.
        unfreeze: `"last_stage"` for what comes after the last change of resolution; a list of patterns, of which one
            matches the beginning of each layer's name (`re.match`; `[""]` is the whole network); `None` for no second
            phase.
        pooling: `"avg"` or `"max"`, where the network returns feature maps.
        dropout: Rate of dropout before the classifier.
        run_dir: Folder for what each phase leaves (`head/`, `fine_tune/`, as `compile_and_fit` says) and for the
            features of the first; `None` writes nothing.
        resume: Whether to go on with the run that `run_dir` holds.
        data_dir: Folder of datasets that are given by name.
        verbose: Keras' verbosity: 1 is a progress bar, 2 a line for each epoch, 0 nothing.
        callbacks: More Keras callbacks, for both phases, as `compile_and_fit` takes them. In the first phase their
            model is the new classifier alone, where it trains on features.
        class_weight: `{label: weight}`, for both phases, as `compile_and_fit` takes it.

    Returns:
        `(model, report)`: a `keras.Model` that takes images normalised by the report's `mean` and `std` (for a tag:
        by `preprocess_input(x, weights=tag)`), and a `TransferReport`. `with_normalization(model, report.mean,
        report.std)` takes images as they are. The model is not compiled; compile it to `evaluate`, or to train on.

    Raises:
        ValueError: before any work, for unknown weights, recipes or layers, a model with its top, missing
            statistics, and a `run_dir` that holds another run or damaged files.
        BlockingIOError: if another process trains in `run_dir`.
    """
    head_recipe, fine_tune_recipe = get_recipe(head_recipe), get_recipe(fine_tune_recipe)
    for recipe in (head_recipe, fine_tune_recipe):
        callbacks = check_callbacks(callbacks, recipe)
    _check(unfreeze, pooling, dropout, classes)
    dataset = open_dataset(data, data_dir=data_dir)
    validation = open_validation(validation_data, data_dir, dataset)
    classes = _classes(dataset, classes)
    check_class_weight(class_weight, classes)
    validation = match_classes(validation, dataset.class_names, "the training data")
    recipes = (head_recipe,) if unfreeze is None else (head_recipe, fine_tune_recipe)
    _check_data(dataset, validation, classes, recipes)
    backbone = Backbone.find(network, dataset, statistics, size)
    run = _Run(
        backbone=backbone,
        unfrozen=backbone.layers(unfreeze),
        dataset=resized(dataset, backbone.size),
        validation=resized(validation, backbone.size),
        classes=classes,
        pooling=pooling,
        dropout=dropout,
        folder=None if run_dir is None else user_path(run_dir),
        resume=resume,
        verbose=verbose,
        callbacks=callbacks,
        class_weight=class_weight,
        strategy=distribution.current_strategy(),
    )
    with contextlib.ExitStack() as stack:
        with run.strategy.together():
            stack.enter_context(run.opened_folder())
        model = run.assemble()
        head = run.train_head(model, head_recipe)
        tuned = run.train_unfrozen(model, fine_tune_recipe)
    mean, std = backbone.statistics
    report = TransferReport(
        backbone.name,
        run.classes,
        mean,
        std,
        backbone.size,
        run.unfrozen,
        head,
        tuned,
        dataset.class_names,
        dataset.resize_mode or "crop",
    )
    return _uncompiled(model), report


def with_normalization(model: keras.Model, mean: Sequence[float], std: Sequence[float]) -> keras.Model:
    """Returns a model that takes images of 0 to 255, of its size, and normalises them itself.

    What `fine_tune` returns becomes one file that needs no other line of Python to be used:

        with_normalization(model, report.mean, report.std).save("classifier.keras")

    Args:
        model: A `keras.Model` over normalised images. It is shared, not copied.
        mean: Mean of each channel, 0 to 255.
        std: Standard deviation of each channel, 0 to 255; 0 counts as 1.

    Returns:
        A functional `keras.Model` over images of the same shape, in Keras' image data format.

    Raises:
        ValueError: if there is not one mean and one standard deviation for each channel.
    """
    axis = channel_axis(keras.config.image_data_format())
    mean, std = check_statistics((mean, std), model.input_shape[axis])
    inputs = keras.Input(model.input_shape[1:], name="images")
    normalize = normalization(mean, std, dtype=full_precision())
    return keras.Model(inputs, _uncompiled(model)(normalize(inputs)), name=f"{model.name}_on_images")


@dataclass(frozen=True)
class _Run:
    """Both phases, with what they share."""

    backbone: Backbone
    unfrozen: list[str]
    dataset: Dataset | BatchStream
    validation: Dataset | BatchStream | None
    classes: int
    pooling: str
    dropout: float
    folder: Any  # a `Path`, or `None`
    resume: bool
    verbose: int
    callbacks: list[Any]
    class_weight: dict[int, float] | None
    strategy: distribution.Strategy

    @contextlib.contextmanager
    def opened_folder(self):
        """Keeps the folder for this run while the block runs, or raises a `ValueError` if it holds another one.

        The folder of a finished run is neither locked nor changed.
        """
        if self.folder is None:
            yield
            return
        self._check_folder()
        if self.strategy.rank > 0 or self._finished():
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._check_folder()  # again: another process may have been here
            for left in self.folder.glob(".partial-*"):  # by a kill in the middle of a write
                left.unlink()
            if not (self.folder / IDENTITY).exists():
                write_json(self.folder / IDENTITY, self.identity)
            yield

    @functools.cached_property
    def identity(self):
        """What makes the run itself, before anything is trained."""
        return {
            "network": self.backbone.name,
            "weights": _hash(self.backbone.model),
            "statistics": self.backbone.statistics,
            "unfrozen": self.unfrozen,
            "data": self.dataset.fingerprint(),
            "validation_data": None if self.validation is None else self.validation.fingerprint(),
            "classes": self.classes,
            "class_names": self.dataset.class_names,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "class_weight": check_class_weight(self.class_weight, self.classes),
        }

    def _check_folder(self):
        held = read_identity(self.folder / IDENTITY, self.resume or self.strategy.rank > 0)
        others = {} if held is None else differing_fields(held, self.identity)
        if others:
            raise ValueError(
                f"Expected {self.folder} to hold this run; it holds one of other {', '.join(others)}. "
                "Pass another run_dir, and a network that has not been trained on."
            )

    def _finished(self):
        phases = [HEAD, FINE_TUNE] if self.unfrozen else [HEAD]
        return all(RunFolder(self.folder / phase).finished for phase in phases)

    def assemble(self):
        """The network, pooling where it returns maps, and a new classifier."""
        base = self.backbone.model
        inputs = keras.Input(base.input_shape[1:])
        x = base(inputs)
        if len(x.shape) == 4:
            pool = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[self.pooling]
            x = pool(name=f"{self.pooling}_pool")(x)
        model = keras.Model(inputs, self._classify(x), name=f"{base.name}_fine_tuned")
        set_class_names(model, self.dataset.class_names)
        return model

    def train_head(self, model, recipe):
        """The first phase; returns its report."""
        self.backbone.model.trainable = False
        by_index = isinstance(self.dataset, Dataset) and isinstance(self.validation, (Dataset, type(None)))
        if not by_index or _augments(recipe):
            return self._fit(HEAD, model, self.dataset, self.validation, self.backbone.statistics, recipe)
        features = self._features(model)
        arrays, statistics = as_images(features)
        datasets = {"train": self.dataset, "validation": self.validation}
        for split, array in arrays.items():
            labels, weights = datasets[split].labels, datasets[split].weights
            datasets[split] = ArrayDataset(array, labels, class_names=self.dataset.class_names, weights=weights)
        head = self._head(features["train"].shape[1], f"{model.name}_head")
        report = self._fit(HEAD, head, datasets["train"], datasets["validation"], statistics, recipe)
        fold(head.layers[-1], model.layers[-1], *moments(features["train"]))
        return report

    def train_unfrozen(self, model, recipe):
        """The second phase; returns its report, or `None` where there is nothing to train."""
        if not self.unfrozen:
            return None
        self.backbone.unfreeze(self.unfrozen)
        return self._fit(FINE_TUNE, model, self.dataset, self.validation, self.backbone.statistics, recipe)

    def _fit(self, phase, model, dataset, validation, statistics, recipe):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EMPTY_CLASSES)  # it has been said once, for both phases
            return compile_and_fit(
                model,
                recipe,
                dataset,
                validation_data=validation,
                statistics=statistics,
                run_dir=None if self.folder is None else self.folder / phase,
                resume=self.resume,
                verbose=self.verbose,
                callbacks=self.callbacks,
                class_weight=self.class_weight,
            )

    def _head(self, width, name):
        inputs = keras.Input(image_shape(1, 1, width))
        return keras.Model(inputs, self._classify(keras.layers.Reshape((width,))(inputs)), name=name)

    def _classify(self, x):
        x = keras.layers.Dropout(self.dropout, name="dropout")(x) if self.dropout else x
        return classifier(x, self.classes, "softmax")

    def _features(self, model):
        """What the frozen network makes of each image, `(n, d)` by split; read again where it was written."""
        path = None if self.folder is None else self.folder / FEATURES
        if path is not None and path.exists():
            # Not computed again: the last bits might differ, and the run would be another one.
            return self._read_features(path)
        frozen = keras.Model(model.input, model.layers[-2 if self.dropout else -1].input)
        features = {
            split: extract(frozen, dataset, self.backbone.size, self.backbone.statistics, self.verbose)
            for split, dataset in self._splits().items()
        }
        if path is not None and self.strategy.rank == 0:
            with atomic_write(path) as partial:
                np.savez(partial, **features, seal=self._seal())  # pyright: ignore[reportArgumentType] (no split has its name)
        return features

    def _read_features(self, path):
        remedy = f"Delete {path}, and the same call computes it again."
        arrays, _ = read_npz(path, remedy=remedy)
        if not np.array_equal(arrays.pop("seal", ()), self._seal()):
            raise ValueError(f"Expected {path} to hold the features of this run; it holds others. {remedy}")
        lengths = {split: len(dataset) for split, dataset in self._splits().items()}
        fits = all(array.ndim == 2 and array.dtype == "float32" for array in arrays.values())
        if not fits or {split: len(array) for split, array in arrays.items()} != lengths:
            raise ValueError(f"Expected {path} to hold a vector for each image of this run; it does not. {remedy}")
        return arrays

    def _splits(self):
        datasets = {"train": self.dataset, "validation": self.validation}
        return {split: dataset for split, dataset in datasets.items() if dataset is not None}

    def _seal(self):
        """A hash of all that features depend on."""
        return np.frombuffer(hashlib.sha256(json.dumps(self.identity).encode()).digest(), "uint8")


def _uncompiled(model):
    """The same model without an optimizer, for whose state a loaded model, trainable as a whole, has no place."""
    return keras.Model(model.input, model.output, name=model.name) if isinstance(model, keras.Function) else model


def _check_data(dataset, validation, classes, recipes):
    for data in (dataset, validation):
        if data is not None:
            data.check_labels(classes)
    for argument, recipe in zip(("head_recipe", "fine_tune_recipe"), recipes, strict=False):  # the second, if used
        if isinstance(dataset, Dataset) and len(dataset) < recipe.batch_size:
            raise ValueError(
                f"Expected at least a batch of {recipe.batch_size} images for {argument}; received: {len(dataset)}. "
                f"Pass {argument}=get_recipe({recipe.name!r}).replace(batch_size={len(dataset)})."
            )
    warn_of_empty_classes(dataset, classes, dataset.class_names)


def _classes(dataset, classes):
    if classes is not None:
        if dataset.class_names is not None and len(dataset.class_names) != classes:
            raise ValueError(
                f"Expected classes={len(dataset.class_names)}, as the data have ({some_names(dataset.class_names)}), "
                f"or none; received: classes={classes}."
            )
        return int(classes)
    if dataset.classes is not None:
        return dataset.classes
    if not isinstance(dataset, Dataset):
        raise ValueError("Expected classes with batches, whose labels are not known beforehand; received: None.")
    return int(dataset.labels.max()) + 1


def _check(unfreeze, pooling, dropout, classes):
    is_list = isinstance(unfreeze, (list, tuple)) and unfreeze and all(isinstance(name, str) for name in unfreeze)
    if not is_list and unfreeze not in (None, "last_stage"):
        raise ValueError(
            "Expected unfreeze to be 'last_stage', a list of patterns of layer names, or None; "
            f"received: unfreeze={unfreeze!r}."
        )
    check_choice("pooling", pooling, ("avg", "max"))
    check_number("dropout", dropout, below=1)
    if classes is not None:
        check_count("classes", classes, least=2)


def _augments(recipe):
    """Whether a recipe changes images on their way, so that features differ from epoch to epoch."""
    crops = recipe.crop != "pad" or recipe.pad
    return bool(crops or recipe.flip or recipe.cutout or recipe.mixup or recipe.cutmix or recipe.augment)


def _hash(model):
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
