"""Everything a run needs before its first step: network, recipe and data, and the batches made from them."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Self

import keras

from keras_resattn.data import BatchStream, Dataset
from keras_resattn.data.device_data import build_device_model
from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.label_noise import with_label_noise
from keras_resattn.data.normalization import normalize
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.models.class_names import keeps_class_names, set_class_names
from keras_resattn.recipes.checks import (
    check_class_weight,
    check_classes,
    check_fits,
    resolve_statistics,
    warn_of_empty_classes,
)
from keras_resattn.recipes.distribution import Strategy
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.typing import Statistics
from keras_resattn.utils.data_format import image_channels


@dataclass(frozen=True)
class RunSpec:
    """Inputs of a run, opened and checked.

    Attributes:
        model: The classifier as passed by the user.
        recipe: A `Recipe`.
        strategy: The distribution `Strategy`.
        dataset: The training data, with the recipe's label noise applied.
        validation: Data evaluated after every epoch, or `None`.
        size: Height and width of the network's input images.
        statistics: `[mean, std]` used to normalise images.
        computed_statistics: Whether they were computed from the training data.
        class_names: Class names in the order of the network's outputs, or `None`.
        class_weight: Weight of each class in the loss, or `None`.
    """

    model: keras.Model
    recipe: Recipe
    strategy: Strategy
    dataset: Dataset | BatchStream
    validation: Dataset | BatchStream | None
    size: tuple[int, ...]
    statistics: list[Any]
    computed_statistics: bool
    class_names: list[str] | None = None
    class_weight: list[Any] | None = None

    @classmethod
    def create(
        cls,
        model: keras.Model,
        recipe: Recipe,
        strategy: Strategy,
        dataset: Dataset | BatchStream,
        validation: Dataset | BatchStream | None,
        statistics: Statistics | None,
        checkpoint_statistics: Any = None,
        class_weight: Any = None,
    ) -> Self:
        """Check that the data fit the network, and determine the statistics that normalise images.

        Args:
            model: A classifier that `check_model` accepts.
            recipe: A `Recipe`.
            strategy: The distribution `Strategy`.
            dataset: Training data.
            validation: Data evaluated after every epoch, or `None`.
            statistics: `(mean, std)`, or `None` to compute them from the training data, unless the network normalises
                its input itself.
            checkpoint_statistics: `[mean, std]` of the checkpoint to resume, used instead of computing them again,
                because those of a stream might differ.
            class_weight: `{label: weight}`, or `None`.

        Raises:
            ValueError: if data, statistics or class weights do not fit the network.
        """
        class_weight = check_class_weight(class_weight, model.output_shape[-1])
        dataset, validation, class_names = check_classes(model, dataset, validation)
        size = check_fits(model, dataset, recipe)
        if validation is not None:
            check_fits(model, validation, recipe)
        if strategy.rank == 0:
            warn_of_empty_classes(dataset, model.output_shape[-1], class_names)
        dataset = with_label_noise(dataset, recipe.label_noise, model.output_shape[-1], recipe.seed)
        channels = image_channels(model.input_shape)
        found: Any = resolve_statistics(model, statistics, channels, size)
        computed = found is None
        mean, std = found or checkpoint_statistics or dataset.statistics(recipe.normalization, size)
        if isinstance(dataset, BatchStream):  # each process may have read another part
            mean, std = strategy.broadcast(mean, std)
        return cls(model, recipe, strategy, dataset, validation, size, [mean, std], computed, class_names, class_weight)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.output_shape[-1]

    def name_classes(self) -> None:
        """Store the class names in the network, if there are any and the network can keep them."""
        if self.class_names is not None and keeps_class_names(self.model):
            set_class_names(self.model, self.class_names)

    def identity(self, steps_per_epoch: int) -> dict[str, Any]:
        """Return the identity of the run; if any field changes, it is another run."""
        return {
            "network": self.model.name,
            "precision": self.model.dtype_policy.name,
            "recipe": dataclasses.asdict(self.recipe),
            "data": self.dataset.fingerprint(),
            "steps_per_epoch": steps_per_epoch,
            "statistics": None if self.computed_statistics else self.statistics,
            "class_names": self.class_names,
            "class_weight": self.class_weight,
        }


@dataclass(frozen=True)
class TrainingInputs:
    """Model and data for `fit`.

    Attributes:
        model: The model to train: the user's model, or a model that wraps it.
        batches: `TrainingBatches`.
        validation: Validation batches, or `None`.
        excluded_variables: Variables that are not saved in checkpoints.
    """

    model: keras.Model
    batches: TrainingBatches
    validation: object = None
    excluded_variables: list[Any] = dataclasses.field(default_factory=list)

    @classmethod
    def on_device(cls, spec: RunSpec) -> Self:
        """Keep all images on the device, and augment them there."""
        dataset: Any = spec.dataset  # `build_device_model` checks it, and the validation data
        validation: Any = spec.validation
        model, batches, batched = build_device_model(
            spec.model, dataset, spec.recipe, *spec.statistics, validation=validation
        )
        batches.class_weight = spec.class_weight
        return cls(model, batches, batched, model.get_layer("images").variables)

    @classmethod
    def on_host(cls, spec: RunSpec) -> Self:
        """Prepare batches on the host, for this process' part of the devices."""
        recipe, strategy, classes = spec.recipe, spec.strategy, spec.classes
        mean, std = spec.statistics
        prepare = functools.partial(normalize, mean=mean, std=std)
        batches = TrainingBatches(spec.dataset, recipe, prepare, size=spec.size, classes=classes, shard=strategy.shard)
        batches.class_weight = spec.class_weight
        if spec.validation is None:
            return cls(spec.model, batches)
        evaluation_batches = EvaluationBatches if strategy.devices == 1 else strategy.evaluation_batches
        one_hot_classes = classes if recipe.mixes_labels else None
        validation = evaluation_batches(
            spec.validation, recipe.batch_size, prepare, size=spec.size, one_hot_classes=one_hot_classes
        )
        return cls(spec.model, batches, validation)
