"""A recipe is data: what to train with, and for how long."""

import dataclasses
import json
import math
from dataclasses import dataclass

import keras

from keras_resattn.recipes.optimizer import CoupledSGD

SCHEDULES = ("cosine", "steps")
PADDINGS = ("zeros", "reflect")
NORMALIZATIONS = ("channel", "pixel_mean", "unit")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Immutable; derive another with `recipe.replace(epochs=20)`.

    The optimizer is SGD with momentum. Its schedule is counted in steps: `"cosine"` rises linearly from zero over
    `warmup_epochs`, if any, and falls to zero along a cosine (with both, one cycle); `"steps"` is constant, and
    multiplied by `decay` at each milestone.

    Attributes:
        name: Name of the recipe.
        source: Where it comes from, and where it differs from that.
        epochs: Passes over the training data; or `None`, and `iterations` instead.
        batch_size: Pictures in a step; the remainder of a pass is left out of that pass.
        learning_rate: The schedule's largest.
        warmup_epochs: Length of the rise; only for `"cosine"`.
        momentum: Momentum of SGD.
        l2: Coupled weight decay of the kernels (batch normalisation and biases do not decay).
        pad: Padding before the random crop back to size, in pixels on each side.
        flip: Whether to mirror half of the pictures.
        seed: Seed of the order of the data and of its augmentation. Initial weights are the caller's.
        iterations: Steps, rounded up to whole epochs, so that a recipe can be stated as its paper does.
        nesterov: Whether the momentum is Nesterov's.
        schedule: `"cosine"` or `"steps"`.
        milestones: Where `"steps"` falls, as shares of the whole length, in rising order.
        decay: What it is multiplied by there.
        decay_vectors: Whether batch normalisation and biases decay too, as with PyTorch's SGD.
        pad_mode: `"zeros"`, or `"reflect"` for the picture's own mirror image.
        normalization: `"channel"`: mean and standard deviation of each channel. `"pixel_mean"`: minus the mean picture.
            `"unit"`: divided by 255.
        cutout: Side of the square that is blanked in each picture, in pixels; 0 for none.
        mixup: Alpha of mixup's beta distribution; 0 for none.
        cutmix: Alpha of CutMix' beta distribution; 0 for none. With both, each batch gets one of the two.
        label_smoothing: Share of each label that is spread over all classes.
        ema: Momentum of an exponential moving average of the weights, which the network ends with; `None` for none.
        multipliers: Factors on the learning rate of groups of variables, `{pattern: factor}`, see `CoupledSGD`.

    Raises:
        ValueError: for a value out of range.
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
    milestones: tuple = ()
    decay: float = 0.1
    decay_vectors: bool = False
    pad_mode: str = "zeros"
    normalization: str = "channel"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema: float | None = None
    multipliers: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._check_types()
        object.__setattr__(self, "milestones", tuple(self.milestones))
        choices = {"schedule": SCHEDULES, "pad_mode": PADDINGS, "normalization": NORMALIZATIONS}
        for field, values in choices.items():
            self._require(field, getattr(self, field) in values, f"one of {', '.join(map(repr, values))}")
        self._check_length()
        for field, least in (("batch_size", 1), ("pad", 0), ("seed", 0), ("cutout", 0)):
            self._require(field, _is_count(getattr(self, field), least), f"an integer of at least {least}")
        for field in ("flip", "nesterov", "decay_vectors"):
            self._require(field, isinstance(getattr(self, field), bool), "True or False")
        self._require("learning_rate", self.learning_rate > 0, "a positive number")
        self._require("decay", 0 < self.decay <= 1, "a number above 0, up to 1")
        for field in ("l2", "mixup", "cutmix"):
            self._require(field, getattr(self, field) >= 0, "a number of at least 0")
        for field in ("momentum", "label_smoothing"):
            self._require(field, 0 <= getattr(self, field) < 1, "a number from 0 to below 1")
        self._require("ema", self.ema is None or 0 <= self.ema < 1, "None, or a number from 0 to below 1")
        factors = self.multipliers.values()
        self._require("multipliers", all(factor >= 0 for factor in factors), "factors of at least 0 by pattern")

    def _check_types(self):
        numbers = ("learning_rate", "warmup_epochs", "momentum", "l2", "decay", "mixup", "cutmix", "label_smoothing")
        for field in numbers:
            self._require(field, _is_number(getattr(self, field)), "a number")
        self._require("ema", self.ema is None or _is_number(self.ema), "None, or a number from 0 to below 1")
        is_list = isinstance(self.milestones, (list, tuple)) and all(map(_is_number, self.milestones))
        self._require("milestones", is_list, "a list of numbers")
        is_dict = isinstance(self.multipliers, dict) and all(map(_is_number, self.multipliers.values()))
        self._require("multipliers", is_dict, "factors of at least 0 by pattern")

    def _check_length(self):
        given = [field for field in ("epochs", "iterations") if getattr(self, field) is not None]
        self._require("epochs", len(given) == 1, "an integer, or None with iterations in its place")
        self._require(given[0], _is_count(getattr(self, given[0]), 1), "an integer of at least 1")
        longest = math.inf if self.epochs is None else self.epochs
        self._require("warmup_epochs", 0 <= self.warmup_epochs < longest, "a number from 0 to below epochs")
        cosine = self.schedule == "cosine"
        self._require("warmup_epochs", cosine or self.warmup_epochs == 0, "0 with schedule='steps'")
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(0 < m < 1 for m in self.milestones)
        self._require("milestones", rising, "rising shares of the whole, between 0 and 1")
        self._require("milestones", not (cosine and self.milestones), "empty with schedule='cosine'")

    def _require(self, field, holds, expected):
        if not holds:
            raise ValueError(
                f"Expected {field} of a recipe to be {expected}; received: {field}={getattr(self, field)!r}."
            )

    def replace(self, **changes):
        """Returns this recipe with some fields changed. New `epochs` replace `iterations`, and the other way round."""
        for new, old in (("epochs", "iterations"), ("iterations", "epochs")):
            if changes.get(new) is not None:
                changes.setdefault(old, None)
        return dataclasses.replace(self, **changes)

    def to_json(self):
        """Returns the recipe as a JSON object; `Recipe.from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text):
        """Returns the recipe that `to_json` wrote.

        Raises:
            ValueError: if a field is unknown or missing.
        """
        fields = json.loads(text)
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"Expected the fields of a Recipe; received: {sorted(fields)}.") from error

    @property
    def mixes_labels(self):
        """Whether a picture may belong to several classes, so that labels are shares and not integers."""
        return bool(self.mixup or self.cutmix or self.label_smoothing)

    def length(self, steps_per_epoch):
        """Returns the number of epochs, for epochs of so many steps."""
        return self.epochs or math.ceil(self.iterations / steps_per_epoch)

    def learning_rate_schedule(self, steps_per_epoch):
        """Returns the learning rate as a `keras.optimizers.schedules.LearningRateSchedule` over steps."""
        steps = self.length(steps_per_epoch) * steps_per_epoch
        if self.schedule == "steps":
            values = [self.learning_rate * self.decay**i for i in range(len(self.milestones) + 1)]
            # Keras changes the value after the boundary, not at it.
            boundaries = [round(milestone * steps) - 1 for milestone in self.milestones]
            return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else self.learning_rate,
            decay_steps=steps - warmup_steps,
            warmup_target=self.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )

    def optimizer(self, steps_per_epoch):
        """Returns a new optimizer with this recipe's schedule, for epochs of so many steps."""
        return CoupledSGD(
            self.learning_rate_schedule(steps_per_epoch),
            l2=self.l2,
            decay_vectors=self.decay_vectors,
            multipliers=self.multipliers,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
            use_ema=self.ema is not None,
            ema_momentum=0.99 if self.ema is None else self.ema,
        )


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="cifar_one_cycle",
            source=(
                "Data, augmentation and optimizer of Wang et al. (CVPR 2017, Sec. 4.1); one cycle after Smith & Topin, "
                "'Super-Convergence' (2018), in place of its 160k iterations, with a larger batch and decay to match"
            ),
            epochs=14,
            batch_size=128,
            learning_rate=0.2,
            warmup_epochs=3,
            l2=5e-4,
        ),
        Recipe(
            name="resattn_cifar",
            source=(
                "Wang et al. (CVPR 2017), Sec. 4.1: 160k iterations of 64, rate divided by 10 at 64k and 96k. "
                "The paper does not say whether batch normalisation decays; here it does not. Iterations are rounded "
                "up to epochs"
            ),
            epochs=None,
            iterations=160_000,
            batch_size=64,
            learning_rate=0.1,
            l2=1e-4,
            schedule="steps",
            milestones=(0.4, 0.6),
            normalization="pixel_mean",
        ),
        Recipe(
            name="resattn_cifar_modern",
            source=(
                "What took re-implementations past the paper (PistonY's, 97.14 % with a network six times the size): "
                "mixup, cutout, cosine with warm-up, no decay of batch normalisation, 220 epochs of batches of 256. "
                "Strengths are common ones, not tuned"
            ),
            epochs=220,
            batch_size=256,
            learning_rate=0.2,
            warmup_epochs=5,
            l2=1e-4,
            cutout=16,
            mixup=0.2,
        ),
        Recipe(
            name="warn_cifar",
            source=(
                "Rodriguez et al. (ECCV 2018), as their code and logs have it: rate times 0.2 after 60, 120 and 160 "
                "epochs, crops from the reflected picture, decay of all variables. Data statistics are measured, "
                "not their rounded constants. WARN with dropout trains by it, too"
            ),
            epochs=200,
            batch_size=128,
            learning_rate=0.1,
            l2=5e-4,
            decay_vectors=True,
            schedule="steps",
            milestones=(0.3, 0.6, 0.8),
            decay=0.2,
            pad_mode="reflect",
        ),
        Recipe(
            name="cluttered_mnist",
            source=(
                "Rodriguez et al. (ECCV 2018), as their script has it: 100 epochs (the paper says 200), rate divided "
                "by 10 after 60 %, no Nesterov, and a hundredth of the rate for the spatial transformer"
            ),
            epochs=100,
            batch_size=100,
            learning_rate=0.1,
            l2=1e-5,
            decay_vectors=True,
            nesterov=False,
            schedule="steps",
            milestones=(0.6,),
            pad=0,
            flip=False,
            normalization="unit",
            multipliers={"transformer_": 0.01},
        ),
    )
}


def get_recipe(recipe):
    """Returns `recipe` itself, or the named one.

    Raises:
        ValueError: if there is none of that name; the message lists those that there are.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"Expected a Recipe or one of {', '.join(map(repr, RECIPES))}; received: recipe={recipe!r}.")
    return RECIPES[recipe]
