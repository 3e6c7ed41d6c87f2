"""Training recipes: every hyperparameter of a training run as an immutable, checked dataclass."""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from keras_resattn.recipes.recipe_fields import OWN_OPTIMIZERS, check_fields, check_rules, layers_as_data, plain
from keras_resattn.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import keras

TUPLES = ("milestones", "deviations", "crop_area")
#: Names that other libraries use for the same fields, which `did_you_mean` would not find.
ALIASES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "grad_clip": "clip_norm",
    "max_grad_norm": "clip_norm",
    "global_clipnorm": "clip_norm",
    "ema_momentum": "ema",
    "max_steps": "iterations",
}


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run. Immutable; derive another with `recipe.replace(epochs=20)`.

    Learning-rate schedules are counted in iterations. `"cosine"` decays the learning rate to zero along a cosine;
    `"steps"` keeps it constant and multiplies it by `lr_decay_factor` at each milestone. Both can start with a linear
    warm-up from zero; a cosine schedule with warm-up is one cycle.

    Attributes:
        name: Name of the recipe.
        source: Paper, section or code that the recipe follows.
        epochs: Number of epochs, or `None` if `iterations` is set.
        batch_size: Images in a batch. An epoch drops the remainder that does not fill a batch.
        learning_rate: Peak learning rate of the schedule.
        warmup_epochs: Length of the warm-up in epochs.
        momentum: Momentum of SGD, or the first beta of Adam and AdamW.
        l2: Coupled weight decay (an L2 penalty in the loss) of the kernels, for `"sgd"` and `"adam"`. Batch
            normalisation and biases do not decay; see `decay_norm_and_bias`.
        pad: Padding before the random crop, in pixels on each side; only with `crop="pad"`.
        flip: Whether to flip images horizontally with probability 0.5.
        seed: Seed of data order, augmentation and label noise. It does not affect the initial weights.
        iterations: Number of iterations (batches), instead of `epochs`. The last epoch may be a partial one.
        nesterov: Whether SGD uses Nesterov momentum.
        schedule: `"cosine"` or `"steps"`.
        milestones: Fractions of the run at which `"steps"` decays the learning rate, in increasing order.
        lr_decay_factor: Factor on the learning rate at each milestone.
        decay_norm_and_bias: Whether batch normalisation and biases decay too, as in PyTorch's SGD. Applies to `l2` and
            `weight_decay`.
        pad_mode: `"zeros"`, or `"reflect"` to mirror the image at its border.
        normalization: `"channel"`: mean and standard deviation of each channel of the training set. `"pixel_mean"`:
            subtract the mean image. `"unit"`: divide by 255. `"imagenet"`: mean and standard deviation of ImageNet.
            `"none"`: leave images as they are.
        cutout: Side of the square that is masked out in each image, in pixels; 0 for no cutout.
        mixup: Alpha of the beta distribution of mixup; 0 for no mixup.
        cutmix: Alpha of the beta distribution of CutMix; 0 for no CutMix. With both, each batch uses one of the two.
        label_smoothing: Probability mass of each label that is spread over all classes.
        ema: Momentum of an exponential moving average of the weights, which become the final weights; `None` for no
            averaging.
        lr_multipliers: Factors on the learning rate of groups of variables, `{pattern: factor}`; see `CoupledSGD`.
        optimizer: `"sgd"`, `"adam"`, `"adamw"`, or any other Keras optimizer: its name, an instance such as
            `keras.optimizers.Lion(1e-4)`, or the output of `keras.optimizers.serialize`. Stored as data. The recipe's
            schedule sets the learning rate; hyperparameters of other optimizers come from their configuration.
        crop: `"pad"`, or `"inception"`: a random crop of `crop_area` of the image's area and an aspect ratio of 3:4 to
            4:3, resized to the input size of the network.
        augment: `keras.layers` that augment images from 0 to 255, or the output of `keras.layers.serialize`:
            `augment=[keras.layers.RandAugment((0, 255))]`. Applied after cropping and flipping.
        label_noise: Fraction of noisy training labels, drawn from the confusion matrix of Wang et al., Eq. 7.
        clip_norm: Largest global norm of the gradient, coupled weight decay and `lr_multipliers` included; `None` for
            no gradient clipping.
        gradient_accumulation_steps: Batches whose gradients are averaged for one update. Schedules and `ema` still
            count batches. Gradients of an incomplete group at the end of the run are dropped.
        precision: Keras dtype policy that the network must have been built under; `None` accepts any.
        dropout: Dropout rate that the network must have been built with; `None` accepts any.
        deviations: Differences between the source's text, its code and this recipe.
        weight_decay: Decoupled weight decay, as in Keras, scaled by the schedule; `None` for the optimizer's default
            (0.004 for AdamW, none for most).
        crop_area: Smallest and largest area of an Inception-style crop, as fractions of the image.
        image_sizes: Progressive image sizes, `((start, size), ...)`: from the fraction `start` of the run on, training
            images have `size` pixels per side, resized with antialiasing (before padding, with `crop="pad"`). The
            first start is 0. Requires a network with `input_shape=(None, None, 3)`. Validation always uses the last
            size. Empty for the network's own size.

    Raises:
        ValueError: If a value is out of range, NaN or infinite, or fields contradict each other.
    """

    name: str
    source: str
    epochs: int | None
    batch_size: int
    learning_rate: float
    warmup_epochs: float = 0
    momentum: float = 0.9
    l2: float = 0.0
    pad: int = 4
    flip: bool = True
    seed: int = 0
    iterations: int | None = None
    nesterov: bool = True
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    lr_decay_factor: float = 0.1
    decay_norm_and_bias: bool = False
    pad_mode: str = "zeros"
    normalization: str = "channel"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    lr_multipliers: dict[str, float] = dataclasses.field(default_factory=dict)
    optimizer: Any = "sgd"
    crop: str = "pad"
    augment: tuple[Any, ...] = ()
    label_noise: float = 0.0
    clip_norm: float | None = None
    gradient_accumulation_steps: int = 1
    precision: str | None = None
    dropout: float | None = None
    deviations: tuple[str, ...] = ()
    weight_decay: float | None = None
    crop_area: tuple[float, ...] = (0.08, 1.0)
    image_sizes: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        for field in self.__dataclass_fields__:
            self._set(field, plain(getattr(self, field)))
        check_fields(self)
        # Stored in the form that JSON returns, so that a recipe equals its copy read back from JSON.
        self._set("augment", tuple(self._as_json("augment", layers_as_data(self.augment))))
        if self.optimizer not in OWN_OPTIMIZERS:
            from keras_resattn.recipes.optimizers import serialize_optimizer  # imports Keras, which presets do not need

            self._set("optimizer", self._as_json("optimizer", serialize_optimizer(self.optimizer, self.learning_rate)))
        for field in TUPLES:
            self._set(field, tuple(getattr(self, field)))
        self._set("image_sizes", tuple(map(tuple, self.image_sizes)))
        check_rules(self)

    def _set(self, field, value):
        object.__setattr__(self, field, value)  # the dataclass is frozen

    def _as_json(self, field, value):
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected {field} of a recipe to be serialisable as JSON; {error}.") from error

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed. New `epochs` replace `iterations`, and vice versa."""
        for new, old in (("epochs", "iterations"), ("iterations", "epochs")):
            if changes.get(new) is not None:
                changes.setdefault(old, None)
        unknown = sorted(changes.keys() - self.__dataclass_fields__.keys())
        if unknown:
            known = ", ".join(self.__dataclass_fields__)
            raise ValueError(
                f"Expected fields of a Recipe ({known}); received: {', '.join(unknown)}.{suggest_fields(unknown)}"
            )
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Return the recipe as a JSON object, which `Recipe.from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the recipe from a JSON object that `to_json` wrote.

        Raises:
            ValueError: If the text is not a JSON object, a field is unknown or missing, or a value is out of range.
        """
        try:
            fields = json.loads(text)
        except RecursionError as error:
            raise ValueError(
                "Expected a JSON object with the fields of a Recipe; received: endless nesting."
            ) from error
        if not isinstance(fields, dict):
            raise ValueError(f"Expected a JSON object with the fields of a Recipe; received: {text[:100]!r}.")
        required = {field.name for field in dataclasses.fields(cls) if not _has_default(field)}
        missing, unknown = sorted(required - fields.keys()), sorted(fields.keys() - cls.__dataclass_fields__.keys())
        if missing or unknown:
            raise ValueError(
                f"Expected the fields of a Recipe ({', '.join(cls.__dataclass_fields__)}); missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}.{suggest_fields(unknown)}"
            )
        return cls(**fields)

    @property
    def mixes_labels(self) -> bool:
        """Whether labels are soft (a probability for each class), because of mixup, CutMix or label smoothing."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of iterations of the run."""
        return self.iterations or (self.epochs or 0) * steps_per_epoch

    def length(self, steps_per_epoch: int) -> int:
        """Return the number of epochs of the run, counting a partial last epoch as one."""
        return math.ceil(self.steps(steps_per_epoch) / steps_per_epoch)

    def image_size(self, step: int, steps_per_epoch: int) -> int | None:
        """Return the side of the images of an iteration, in pixels, or `None` if `image_sizes` is empty."""
        progress = step / self.steps(steps_per_epoch)
        return next((size for start, size in reversed(self.image_sizes) if start <= progress), None)

    def learning_rate_schedule(self, steps_per_epoch: int) -> "keras.optimizers.schedules.LearningRateSchedule":
        """Return the learning rate as a `keras.optimizers.schedules.LearningRateSchedule` over iterations.

        With `gradient_accumulation_steps`, an update uses the learning rate of its last batch.

        Raises:
            ValueError: If the run is not longer than its warm-up, or shorter than `gradient_accumulation_steps`.
        """
        from keras_resattn.recipes.schedules import build_schedule

        return build_schedule(self, steps_per_epoch)

    def make_optimizer(self, steps_per_epoch: int) -> "keras.optimizers.Optimizer":
        """Return a new optimizer that follows this recipe's schedule.

        Raises:
            ValueError: If Keras cannot build an optimizer from the configuration, or the schedule does not fit the run.
        """
        from keras_resattn.recipes.optimizers import make_optimizer

        return make_optimizer(self, steps_per_epoch)


def suggest_fields(names: Iterable[str]) -> str:
    """Return `" Did you mean ...?"` for each unknown field name with a close match, or an empty string."""
    known = Recipe.__dataclass_fields__
    return "".join(
        f" Did you mean {ALIASES[name]!r}?" if name in ALIASES else did_you_mean(name, known) for name in names
    )


def _has_default(field):
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
