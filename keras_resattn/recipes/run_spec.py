"""What a run is made of, before its first step: network, recipe and data, and the batches that come of them."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Self

import keras

from keras_resattn.data.arrays import normalize
from keras_resattn.data.device_data import on_device
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.label_noise import with_label_noise
from keras_resattn.data.open_dataset import BatchStream, Dataset
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.models.class_names import keeps_class_names, set_class_names
from keras_resattn.recipes.checks import (
    check_class_weight,
    check_classes,
    check_fits,
    check_statistics,
    warn_of_empty_classes,
)
from keras_resattn.recipes.distribution import Strategy
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.typing import Statistics
from keras_resattn.utils.data_format import channel_axis


@dataclass(frozen=True)
class RunSpec:
    """What a run is made of, opened and checked.

    Attributes:
        model: The classifier, as it was given.
        recipe: A `Recipe`.
        strategy: The `Strategy` that carries it out.
        dataset: The training data, with the labels that the recipe's noise makes of theirs.
        validation: The data measured after every epoch, or `None`.
        size: Height and width of the images that the network takes.
        statistics: `[mean, std]` that images are normalised with.
        measured: Whether these are the training data's own.
        class_names: Names of the classes in the order of the network's outputs, or `None`.
        class_weight: Weight of each class' images in the loss, or `None`.
    """

    model: keras.Model
    recipe: Recipe
    strategy: Strategy
    dataset: Dataset | BatchStream
    validation: Dataset | BatchStream | None
    size: tuple[int, ...]
    statistics: list[Any]
    measured: bool
    class_names: list[str] | None = None
    class_weight: list[Any] | None = None

    @classmethod
    def of(
        cls,
        model: keras.Model,
        recipe: Recipe,
        strategy: Strategy,
        dataset: Dataset | BatchStream,
        validation: Dataset | BatchStream | None,
        statistics: Statistics | None,
        kept: Any = None,
        class_weight: Any = None,
    ) -> Self:
        """Checks that data fit the network, and normalises by `statistics`, or else those kept or measured.

        A run that is resumed keeps those of its checkpoint: measured again, those of a stream might be others.
        """
        class_weight = check_class_weight(class_weight, model.output_shape[-1])
        dataset, validation, class_names = check_classes(model, dataset, validation)
        size = check_fits(model, dataset, recipe)
        if validation is not None:
            check_fits(model, validation, recipe)
        if strategy.rank == 0:
            warn_of_empty_classes(dataset, model.output_shape[-1], class_names)
        dataset = with_label_noise(dataset, recipe.label_noise, model.output_shape[-1], recipe.seed)
        measured = statistics is None
        if not measured:
            channels = model.input_shape[channel_axis(keras.config.image_data_format())]
            mean, std = check_statistics(statistics, channels, size)
        else:
            mean, std = kept or dataset.statistics(recipe.normalization, size)
        if isinstance(dataset, BatchStream):  # each process may have measured its own part
            mean, std = strategy.broadcast(mean, std)
        return cls(model, recipe, strategy, dataset, validation, size, [mean, std], measured, class_names, class_weight)

    @property
    def classes(self) -> int:
        return self.model.output_shape[-1]

    def name_classes(self) -> None:
        """Gives the network the names of its classes, if there are any and it has a place for them."""
        if self.class_names is not None and keeps_class_names(self.model):
            set_class_names(self.model, self.class_names)

    def identity(self, steps_per_epoch: int) -> dict[str, Any]:
        """What makes the run itself: with another of these, it is another run."""
        return {
            "network": self.model.name,
            "precision": self.model.dtype_policy.name,
            "recipe": dataclasses.asdict(self.recipe),
            "data": self.dataset.fingerprint(),
            "steps_per_epoch": steps_per_epoch,
            "statistics": None if self.measured else self.statistics,
            "class_names": self.class_names,
            "class_weight": self.class_weight,
        }


@dataclass(frozen=True)
class TrainingInputs:
    """What `fit` is called on and with.

    Attributes:
        model: The model to train: the spec's own, or one around it.
        batches: A `PyDataset` of training batches, which knows its `steps_per_epoch` and `rows`.
        validation: Validation batches, or `None`.
        left_out: Variables that no checkpoint holds.
    """

    model: keras.Model
    batches: keras.utils.PyDataset
    validation: object = None
    left_out: list[Any] = dataclasses.field(default_factory=list)

    @classmethod
    def on_device(cls, spec: RunSpec) -> Self:
        """Images that lie on the device."""
        dataset: Any = spec.dataset  # which `on_device` checks, like validation data
        measured: Any = spec.validation
        model, batches, validation = on_device(spec.model, dataset, spec.recipe, *spec.statistics, validation=measured)
        batches.class_weight = spec.class_weight
        return cls(model, batches, validation, model.get_layer("images").variables)

    @classmethod
    def by_batches(cls, spec: RunSpec) -> Self:
        """Batches that the host prepares, for this process' part of the devices."""
        recipe, strategy, classes = spec.recipe, spec.strategy, spec.classes
        mean, std = spec.statistics
        prepare = functools.partial(normalize, mean=mean, std=std)
        batches = TrainingBatches(spec.dataset, recipe, prepare, size=spec.size, classes=classes, shard=strategy.shard)
        batches.class_weight = spec.class_weight
        if spec.validation is None:
            return cls(spec.model, batches)
        ordered = EvaluationBatches if strategy.devices == 1 else strategy.evaluation_batches
        shares = classes if recipe.mixes_labels else None
        validation = ordered(spec.validation, recipe.batch_size, prepare, size=spec.size, shares=shares)
        return cls(spec.model, batches, validation)
