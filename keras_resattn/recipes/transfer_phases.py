"""The two phases of transfer learning: a classifier on the frozen network, then the unfrozen layers with it."""

import contextlib
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resattn.data import BatchStream, Dataset
from keras_resattn.models._build import classifier
from keras_resattn.models.class_names import set_class_names
from keras_resattn.recipes import Recipe, Report, compile_and_fit, distribution
from keras_resattn.recipes.backbone import Backbone
from keras_resattn.recipes.checks import EMPTY_CLASSES, check_class_weight
from keras_resattn.recipes.frozen_features import FrozenFeatures, fold_statistics
from keras_resattn.recipes.run_files import FINE_TUNE, HEAD, TRANSFER
from keras_resattn.recipes.run_folder import RunFolder
from keras_resattn.recipes.run_identity import differing_fields, read_identity
from keras_resattn.utils.data_format import image_shape
from keras_resattn.utils.io import write_json
from keras_resattn.utils.locking import locked
from keras_resattn.utils.validation import some_names


@dataclass(frozen=True)
class TransferRun:
    """Both phases of `fine_tune`, and the inputs that they share.

    Attributes:
        backbone: The pretrained network.
        unfrozen: Names of its layers that the second phase trains; empty for no second phase.
        dataset: Training data.
        validation: Validation data, or `None`.
        classes: Number of classes.
        pooling: `"avg"` or `"max"`.
        dropout: Dropout rate before the classifier.
        folder: Folder of the run, a `Path`, or `None`.
        fit_options: Arguments of `compile_and_fit` for both phases.
        strategy: The `Strategy` of the processes.
    """

    backbone: Backbone
    unfrozen: list[str]
    dataset: Dataset | BatchStream
    validation: Dataset | BatchStream | None
    classes: int
    pooling: str
    dropout: float
    folder: Any
    fit_options: dict[str, Any]
    strategy: distribution.Strategy

    @contextlib.contextmanager
    def opened_folder(self) -> Iterator[None]:
        """Lock the folder while the block runs, or raise a `ValueError` if it holds another run.

        The folder of a finished run is neither locked nor changed.
        """
        if self.folder is None:
            yield
            return
        self._check_folder()
        if self.strategy.rank > 0 or all(map(self._finished, [HEAD, FINE_TUNE] if self.unfrozen else [HEAD])):
            yield
            return
        with locked(self.folder):
            self._check_folder()  # again: another process may have written to it
            if not (self.folder / TRANSFER).exists():
                write_json(self.folder / TRANSFER, self.identity)
            yield

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the run, from its state before training; if any field changes, it is another run."""
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
            "class_weight": check_class_weight(self.fit_options["class_weight"], self.classes),
        }

    def _check_folder(self):
        held = read_identity(self.folder / TRANSFER, self.fit_options["resume"] or self.strategy.rank > 0)
        others = {} if held is None else differing_fields(held, self.identity)
        if others:
            raise ValueError(
                f"Expected {self.folder} to hold this run; it holds one of other {', '.join(others)}. "
                "Pass another run_dir, and a network that has not been trained on."
            )

    def _finished(self, phase):
        return self.folder is not None and RunFolder(self.folder / phase).finished

    def build_model(self) -> keras.Model:
        """Return the network with pooling, if it returns feature maps, and a new classifier."""
        base = self.backbone.model
        inputs = keras.Input(base.input_shape[1:])
        x = base(inputs)
        if len(x.shape) == 4:
            pool = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[self.pooling]
            x = pool(name=f"{self.pooling}_pool")(x)
        model = keras.Model(inputs, self._classify(x), name=f"{base.name}_fine_tuned")
        set_class_names(model, self.dataset.class_names)
        return model

    def train_head(self, model: keras.Model, recipe: Recipe) -> Report:
        """Train the classifier on the frozen network; return the report of this phase."""
        images = f"{len(self.dataset):,} images" if isinstance(self.dataset, Dataset) else "batches of images"
        names = "" if self.dataset.class_names is None else f" ({some_names(self.dataset.class_names)})"
        self._announce(HEAD, f"a new classifier of {self.classes} classes{names} on the frozen network, {images}")
        self.backbone.model.trainable = False
        by_index = isinstance(self.dataset, Dataset) and isinstance(self.validation, (Dataset, type(None)))
        if not by_index or _augments(recipe):
            return self._fit(HEAD, model, recipe, self.dataset, self.validation, self.backbone.statistics)
        train, validation = self._features(model, self.dataset, self.validation)
        inputs = keras.Input(image_shape(1, 1, train.channels))
        outputs = self._classify(keras.layers.Reshape((train.channels,))(inputs))
        head = keras.Model(inputs, outputs, name=f"{model.name}_head")
        report = self._fit(HEAD, head, recipe, train, validation, statistics=None)  # the features' own
        fold_statistics(head.layers[-1], model.layers[-1], report.mean, report.std)
        return report

    def train_unfrozen(self, model: keras.Model, recipe: Recipe) -> Report | None:
        """Train the unfrozen layers and the classifier; return the report, or `None` without unfrozen layers."""
        if not self.unfrozen:
            return None
        layers = f"{self.unfrozen[0]} to {self.unfrozen[-1]}"
        self._announce(FINE_TUNE, f"the classifier and layers {layers} of the network")
        self.backbone.unfreeze(self.unfrozen)
        return self._fit(FINE_TUNE, model, recipe, self.dataset, self.validation, self.backbone.statistics)

    def _announce(self, phase, trained):
        if self.fit_options["verbose"] and self.strategy.rank == 0 and not self._finished(phase):
            number, count = (1 if phase == HEAD else 2), (2 if self.unfrozen else 1)
            print(f"Phase {number} of {count}: {trained}.", flush=True)

    def _fit(self, phase, model, recipe, dataset, validation, statistics):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EMPTY_CLASSES)  # `_check_data` has warned, once for both phases
            return compile_and_fit(
                model,
                recipe,
                dataset,
                validation_data=validation,
                statistics=statistics,
                run_dir=None if self.folder is None else self.folder / phase,
                **self.fit_options,
            )

    def _classify(self, x):
        x = keras.layers.Dropout(self.dropout, name="dropout")(x) if self.dropout else x
        return classifier(x, self.classes, "softmax")

    def _features(self, model, dataset, validation):
        """Return features of both datasets. They are not computed if the phase is finished."""
        frozen = keras.Model(model.input, model.layers[-2 if self.dropout else -1].input)
        identity = json.dumps(self.identity)
        train = FrozenFeatures(dataset, frozen, f"train {identity}")
        features = [train]
        if validation is not None:
            features.append(FrozenFeatures(validation, frozen, f"validation {identity}"))
        if not self._finished(HEAD):
            for each in features:
                each.compute(self.backbone.size, self.backbone.statistics, self.fit_options["verbose"])
        return train, None if validation is None else features[1]


def _augments(recipe):
    """Return whether a recipe changes images during training, so that their features cannot be computed once."""
    crops = recipe.crop != "pad" or recipe.pad or recipe.image_sizes
    return bool(crops or recipe.flip or recipe.cutout or recipe.mixup or recipe.cutmix or recipe.augment)


def _hash(model):
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
