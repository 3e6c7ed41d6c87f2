"""A recipe is data: what to train with, and for how long."""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from keras_resattn.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    import keras


OWN = ("sgd", "adam", "adamw")  # optimizers that take the recipe's `momentum`; the first two also its `l2`
CHOICES = {
    "schedule": ("cosine", "steps"),
    "crop": ("pad", "inception"),
    "pad_mode": ("zeros", "reflect"),
    "normalization": ("channel", "pixel_mean", "unit", "imagenet", "none"),
    "precision": (None, "float32", "mixed_bfloat16", "mixed_float16"),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Immutable; derive another with `recipe.replace(epochs=20)`.

    Schedules are counted in steps. `"cosine"` falls to zero along a cosine; `"steps"` is constant, and multiplied by
    `lr_decay_factor` at each milestone. Either may begin with a linear rise from zero over `warmup_epochs`; a cosine with one is
    one cycle.

    Attributes:
        name: Name of the recipe.
        source: Where it comes from.
        epochs: Passes over the training data; or `None`, and `iterations` instead.
        batch_size: Images in a step; the remainder of a pass is left out of that pass.
        learning_rate: The schedule's largest.
        warmup_epochs: Length of the rise.
        momentum: Momentum of SGD, and the first of Adam's.
        l2: Coupled weight decay of the kernels (batch normalisation and biases do not decay); for `"sgd"` and `"adam"`.
        pad: Padding before the random crop back to size, in pixels on each side; only with `crop="pad"`.
        flip: Whether to mirror half of the images.
        seed: Seed of the order of the data, its augmentation and its label noise. Initial weights are the caller's.
        iterations: Steps, so that a recipe can be stated as its paper does. The last epoch may be a part of one.
        nesterov: Whether the momentum is Nesterov's.
        schedule: `"cosine"` or `"steps"`.
        milestones: Where `"steps"` falls, as shares of the whole length, in rising order.
        lr_decay_factor: What it is multiplied by there.
        decay_norm_and_bias: Whether batch normalisation and biases decay too, as with PyTorch's SGD; for both kinds of decay.
        pad_mode: `"zeros"`, or `"reflect"` for the image's own mirror image.
        normalization: `"channel"`: mean and standard deviation of each channel. `"pixel_mean"`: minus the mean image.
            `"unit"`: divided by 255. `"imagenet"`: ImageNet's mean and standard deviation. `"none"`: as it comes.
        cutout: Side of the square that is blanked in each image, in pixels; 0 for none.
        mixup: Alpha of mixup's beta distribution; 0 for none.
        cutmix: Alpha of CutMix' beta distribution; 0 for none. With both, each batch gets one of the two.
        label_smoothing: Share of each label that is spread over all classes.
        ema: Momentum of an exponential moving average of the weights, which the network ends with; `None` for none.
        lr_multipliers: Factors on the learning rate of groups of variables, `{pattern: factor}`, see `CoupledSGD`.
        optimizer: `"sgd"`, `"adam"`, `"adamw"`, or any other of Keras' optimizers: its name, an instance such as
            `keras.optimizers.Lion(1e-4)`, or what `keras.optimizers.serialize` returns. The recipe keeps it as data.
            The recipe's schedule drives its learning rate; `momentum` is the first beta of Adam and AdamW, and all
            other optimizers have theirs in their configuration.
        crop: `"pad"`, or `"inception"`: `crop_area` of the image's area, 3:4 to 4:3, resized to the network's size.
        crop_area: The smallest and the largest area of an Inception-style crop, relative to the image.
        image_sizes: Progressive image sizes, `((start, size), ...)`: from the fraction `start` of the run on, training
            images are `size` pixels high and wide, resized with antialiasing (before padding, with `crop="pad"`). The
            first start is 0. For networks of open size, `input_shape=(None, None, 3)`. Validation always uses the last
            size. Empty: one size, the network's own.
        augment: `keras.layers` that augment images 0 to 255, or what `keras.layers.serialize` makes of them:
            `augment=[keras.layers.RandAugment((0, 255))]`. They come after cropping and flipping.
        label_noise: Share of training labels that are wrong, by the confusion matrix of Wang et al., Eq. 7.
        clip_norm: Largest norm of the whole gradient, decay and lr_multipliers included; `None` for no limit.
        gradient_accumulation_steps: Batches whose gradients are averaged for one update; schedules still count batches, and so does
            `ema`. What is left over in the end makes no update.
        precision: Keras policy that the network must have been built under; `None` takes the network as it is.
        dropout: Rate that the network must have been built with; `None` takes the network as it is.
        deviations: Where the source's text and code differ from each other, or from this recipe.
        weight_decay: Decoupled weight decay, Keras' own, at the schedule's rate; `None` leaves the optimizer's default
            (0.004 for AdamW, none for most).

    Raises:
        ValueError: for a value out of range, NaN or infinity, and fields that contradict each other.
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
            object.__setattr__(self, field, _plain(getattr(self, field)))
        self._check_types()
        layers = [_serialized(layer) if _is_keras_layer(layer) else layer for layer in self.augment]
        # As JSON has it, so that a recipe equals the one read back.
        object.__setattr__(self, "augment", tuple(_without_names(self._as_json("augment", layers))))
        if self.optimizer not in OWN:
            from keras_resattn.recipes.optimizers import as_data  # which imports Keras; named recipes are made without

            optimizer = as_data(self.optimizer, self.learning_rate)
            object.__setattr__(self, "optimizer", self._as_json("optimizer", optimizer))
        for field in ("milestones", "deviations", "crop_area"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "image_sizes", tuple(map(tuple, self.image_sizes)))
        for field, values in CHOICES.items():
            self._require(field, getattr(self, field) in values, f"one of {', '.join(map(repr, values))}")
        self._check_length()
        least = {"batch_size": 1, "pad": 0, "seed": 0, "cutout": 0, "gradient_accumulation_steps": 1}
        for field, lowest in least.items():
            self._require(field, _is_count(getattr(self, field), lowest), f"an integer of at least {lowest}")
        for field in ("flip", "nesterov", "decay_norm_and_bias"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        self._check_ranges()

    def _check_types(self):
        numbers = (
            "learning_rate",
            "warmup_epochs",
            "momentum",
            "l2",
            "lr_decay_factor",
            "mixup",
            "cutmix",
            "label_smoothing",
        )
        for field in (*numbers, "label_noise"):
            self._require(field, _is_number(getattr(self, field)), "a finite number")
        for field in ("ema", "clip_norm", "dropout", "weight_decay"):
            self._require(field, getattr(self, field) is None or _is_number(getattr(self, field)), "None, or a number")
        for field in ("name", "source"):
            self._require(field, isinstance(getattr(self, field), str), "a string")
        is_list = isinstance(self.milestones, (list, tuple)) and all(map(_is_number, self.milestones))
        self._require("milestones", is_list, "a list of numbers")
        is_dict = isinstance(self.lr_multipliers, dict) and all(map(_is_number, self.lr_multipliers.values()))
        is_dict = is_dict and all(isinstance(pattern, str) for pattern in self.lr_multipliers)
        self._require("lr_multipliers", is_dict, "factors of at least 0 by pattern")
        is_list = isinstance(self.augment, (list, tuple)) and all(map(_is_layer, self.augment))
        self._require("augment", is_list, "a list of keras.layers, or of their serialised forms")
        is_pair = isinstance(self.crop_area, (list, tuple)) and len(self.crop_area) == 2
        is_pair = is_pair and all(map(_is_number, self.crop_area))
        self._require("crop_area", is_pair, "a pair of numbers")
        is_list = isinstance(self.image_sizes, (list, tuple)) and all(map(_is_start_and_size, self.image_sizes))
        self._require("image_sizes", is_list, "pairs (start, size) of a fraction of the run and a number of pixels")
        self._require("deviations", isinstance(self.deviations, (list, tuple)), "a list of sentences")

    def _check_ranges(self):
        self._require("learning_rate", self.learning_rate > 0, "a positive number")
        self._require("lr_decay_factor", 0 < self.lr_decay_factor <= 1, "a number above 0, up to 1")
        for field in ("l2", "mixup", "cutmix"):
            self._require(field, getattr(self, field) >= 0, "a number of at least 0")
        for field in ("momentum", "label_smoothing", "label_noise"):
            self._require(field, 0 <= getattr(self, field) < 1, "a number from 0 to below 1")
        for field in ("ema", "dropout"):
            value = getattr(self, field)
            self._require(field, value is None or 0 <= value < 1, "None, or a number from 0 to below 1")
        smallest, largest = self.crop_area
        self._require("crop_area", 0 < smallest <= largest <= 1, "two rising numbers above 0, up to 1")
        self._check_image_sizes()
        self._require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "None, or a positive number")
        factors = self.lr_multipliers.values()
        self._require("lr_multipliers", all(factor >= 0 for factor in factors), "factors of at least 0 by pattern")
        self._check_optimizer()

    def _check_optimizer(self):
        optimizer, name = self.optimizer, self.optimizer if isinstance(self.optimizer, str) else ""
        expected = f"empty with optimizer={optimizer!r}, whose steps they miss"
        self._require("lr_multipliers", name == "sgd" or not self.lr_multipliers, expected)
        expected = f"0 with optimizer={optimizer!r}, whose decay is weight_decay (decoupled)"
        self._require("l2", name in ("sgd", "adam") or self.l2 == 0, expected)
        config = {} if name else optimizer["config"]
        decays = [key for key in config if key.endswith("weight_decay") and config[key] is not None]
        is_muon = "muon" in (name, "" if name else optimizer["class_name"].lower())
        expected = "None, or a number of at least 0"
        self._require("weight_decay", self.weight_decay is None or self.weight_decay >= 0, expected)
        expected = f"None with optimizer={optimizer!r}, whose configuration has its own"
        self._require("weight_decay", self.weight_decay is None or not (decays or is_muon), expected)
        clips = [key for key in ("clipnorm", "clipvalue") if config.get(key) is not None]
        self._require(
            "clip_norm", self.clip_norm is None or not clips, f"None with optimizer={optimizer!r}, which clips itself"
        )

    def _check_image_sizes(self):
        starts = [start for start, _ in self.image_sizes]
        rising = starts == sorted(set(starts)) and starts[:1] in ([], [0]) and all(start < 1 for start in starts)
        self._require("image_sizes", rising, "pairs (start, size) with rising starts, from 0 to below 1")
        pixelwise = self.normalization == "pixel_mean" and self.image_sizes
        self._require("image_sizes", not pixelwise, "empty with normalization='pixel_mean', the mean of one size")

    def _check_length(self):
        given = [field for field in ("epochs", "iterations") if getattr(self, field) is not None]
        self._require("epochs", len(given) == 1, "an integer, or None with iterations in its place")
        self._require(given[0], _is_count(getattr(self, given[0]), 1), "an integer of at least 1")
        longest = math.inf if self.epochs is None else self.epochs
        below = f"a number from 0 to below its {self.epochs} epochs (change both together)"
        self._require("warmup_epochs", 0 <= self.warmup_epochs < longest, below)
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(0 < m < 1 for m in self.milestones)
        self._require("milestones", rising, "rising shares of the whole, between 0 and 1")
        cosine = self.schedule == "cosine"
        self._require("milestones", not (cosine and self.milestones), "empty with schedule='cosine'")

    def _require(self, field, holds, expected):
        if not holds:
            raise ValueError(
                f"Expected {field} of a recipe to be {expected}; received: {field}={getattr(self, field)!r}."
            )

    def _as_json(self, field, value):
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected {field} of a recipe to be data that JSON can hold; {error}.") from error

    def replace(self, **changes: Any) -> Self:
        """Returns this recipe with some fields changed. New `epochs` replace `iterations`, and the other way round."""
        for new, old in (("epochs", "iterations"), ("iterations", "epochs")):
            if changes.get(new) is not None:
                changes.setdefault(old, None)
        unknown = changes.keys() - self.__dataclass_fields__.keys()
        if unknown:
            known = ", ".join(self.__dataclass_fields__)
            hints = "".join(did_you_mean(name, self.__dataclass_fields__) for name in sorted(unknown))
            raise ValueError(f"Expected fields of a Recipe ({known}); received: {', '.join(sorted(unknown))}.{hints}")
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Returns the recipe as a JSON object; `Recipe.from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the recipe that `to_json` wrote.

        Raises:
            ValueError: if it is no JSON object, a field is unknown or missing, or a value is out of range.
        """
        try:
            fields = json.loads(text)
        except RecursionError as error:
            raise ValueError(
                "Expected a JSON object with the fields of a Recipe; received: endless nesting."
            ) from error
        if not isinstance(fields, dict):
            raise ValueError(f"Expected a JSON object with the fields of a Recipe; received: {text[:100]!r}.")
        known = cls.__dataclass_fields__
        missing = {"name", "source", "epochs", "batch_size", "learning_rate"} - fields.keys()
        unknown = fields.keys() - known.keys()
        if missing or unknown:
            hints = "".join(did_you_mean(name, known) for name in sorted(unknown))
            raise ValueError(
                f"Expected the fields of a Recipe ({', '.join(known)}); missing: "
                f"{', '.join(sorted(missing)) or 'none'}; unknown: {', '.join(sorted(unknown)) or 'none'}.{hints}"
            )
        return cls(**fields)

    @property
    def mixes_labels(self) -> bool:
        """Whether a image may belong to several classes, so that labels are shares and not integers."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    def steps(self, steps_per_epoch: int) -> int:
        """Returns the number of steps, for epochs of so many."""
        return self.iterations or (self.epochs or 0) * steps_per_epoch

    def length(self, steps_per_epoch: int) -> int:
        """Returns the number of epochs, the last one perhaps a part of one, for epochs of so many steps."""
        return math.ceil(self.steps(steps_per_epoch) / steps_per_epoch)

    def image_size(self, step: int, steps_per_epoch: int) -> int | None:
        """Returns the side in pixels of the images of a step, or `None` where `image_sizes` is empty."""
        progress = step / self.steps(steps_per_epoch)
        return next((size for start, size in reversed(self.image_sizes) if start <= progress), None)

    def learning_rate_schedule(self, steps_per_epoch: int) -> "keras.optimizers.schedules.LearningRateSchedule":
        """Returns the learning rate as a `keras.optimizers.schedules.LearningRateSchedule` over steps.

        With `accumulate`, an update is made at the rate of the last of its steps.
        """
        import keras

        from keras_resattn.recipes.optimizers import WarmUp

        steps = self.steps(steps_per_epoch)
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if warmup >= steps or self.gradient_accumulation_steps > steps:
            raise ValueError(
                f"Expected more than the {warmup} steps of the warm-up, and at least a batch for each of "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}; received: a recipe of {steps} steps."
            )
        if self.schedule == "cosine":
            return keras.optimizers.schedules.CosineDecay(
                initial_learning_rate=0.0 if warmup else self.learning_rate,
                decay_steps=steps - warmup,
                warmup_target=self.learning_rate if warmup else None,
                warmup_steps=warmup,
            )
        values = [self.learning_rate * self.lr_decay_factor**i for i in range(len(self.milestones) + 1)]
        # Keras changes the value after the boundary, not at it.
        boundaries = [round(milestone * steps) - 1 for milestone in self.milestones]
        if not boundaries:  # which Keras does not take
            boundaries, values = [steps], values * 2
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
        return WarmUp(schedule, warmup) if warmup else schedule

    def make_optimizer(self, steps_per_epoch: int) -> "keras.optimizers.Optimizer":
        """Returns a new optimizer with this recipe's schedule, for epochs of so many steps."""
        from keras_resattn.recipes.optimizers import CoupledAdam, CoupledSGD, make_optimizer

        shared = {
            "global_clipnorm": self.clip_norm,
            "gradient_accumulation_steps": None
            if self.gradient_accumulation_steps == 1
            else self.gradient_accumulation_steps,
            "use_ema": self.ema is not None,
            "ema_momentum": 0.99 if self.ema is None else self.ema,
        }
        if self.weight_decay is not None:
            shared["weight_decay"] = self.weight_decay
        coupled = {"l2": self.l2, "decay_norm_and_bias": self.decay_norm_and_bias}
        rate = self.learning_rate_schedule(steps_per_epoch)
        if self.optimizer == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            coupled = {**coupled, "nesterov": nesterov, "lr_multipliers": self.lr_multipliers}
            return CoupledSGD(rate, momentum=self.momentum, **coupled, **shared)
        if self.optimizer == "adam":
            return CoupledAdam(rate, beta_1=self.momentum, **coupled, **shared)
        if self.optimizer in OWN:
            shared["beta_1"] = self.momentum
        return make_optimizer(self.optimizer, rate, **shared)


def _without_names(value):
    """Serialised layers without their names: those that Keras makes up differ from session to session."""
    if isinstance(value, list):
        return [_without_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _without_names(item) for key, item in value.items()}
    if str(value.get("module", "")).startswith("keras.layers") and isinstance(value.get("config"), dict):
        value["config"] = {key: item for key, item in value["config"].items() if key != "name"}
    return value


def _plain(value):
    """The same value with Python's numbers and lists in place of NumPy's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _is_start_and_size(value):
    return isinstance(value, (list, tuple)) and len(value) == 2 and _is_number(value[0]) and _is_count(value[1], 1)


def _is_layer(value):
    return _is_keras_layer(value) or (isinstance(value, dict) and "class_name" in value)


def _is_keras_layer(value):
    """Whether a value is a layer. Without Keras there are none: recipes are read and checked before it is imported."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Layer)


def _serialized(layer):
    return sys.modules["keras"].layers.serialize(layer)
