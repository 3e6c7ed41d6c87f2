"""A recipe is data: what to train with, and for how long."""

import dataclasses
import json
from dataclasses import dataclass

import keras

from keras_resattn.recipes.optimizer import CoupledSGD


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Immutable; derive another with `recipe.replace(epochs=20)`.

    The optimizer is SGD with Nesterov momentum; the schedule is one cycle, counted in steps: the
    learning rate rises linearly from zero over `warmup_epochs`, then falls to zero along a cosine.

    Attributes:
        name: Name of the recipe.
        source: Where it comes from.
        epochs: Passes over the training data.
        batch_size: Pictures in a step; the remainder of a pass is left out of that pass.
        learning_rate: Peak of the cycle.
        warmup_epochs: Length of the rise.
        momentum: Momentum of SGD.
        l2: Coupled weight decay of the kernels (batch normalisation and biases do not decay).
        pad: Zero padding before the random crop back to size, in pixels on each side.
        flip: Whether to mirror half of the pictures.
        seed: Seed of the order of the data and of its augmentation. Initial weights are the caller's.

    Raises:
        ValueError: for a value out of range.
    """

    name: str
    source: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    momentum: float = 0.9
    l2: float = 0.0
    pad: int = 4
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        for field, least in (("epochs", 1), ("batch_size", 1), ("pad", 0), ("seed", 0)):
            self._require(
                field,
                isinstance(getattr(self, field), int) and getattr(self, field) >= least,
                f"an integer of at least {least}",
            )
        self._require("learning_rate", self.learning_rate > 0, "a positive number")
        self._require("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, "a number from 0 to below epochs")
        self._require("l2", self.l2 >= 0, "a number of at least 0")
        self._require("momentum", 0 <= self.momentum < 1, "a number from 0 to below 1")

    def _require(self, field, holds, expected):
        if not holds:
            raise ValueError(
                f"Expected {field} of a recipe to be {expected}; received: {field}={getattr(self, field)!r}."
            )

    def replace(self, **changes):
        """Returns this recipe with some fields changed."""
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

    def optimizer(self, steps_per_epoch):
        """Returns a new optimizer with this recipe's schedule, for epochs of so many steps."""
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else self.learning_rate,
            decay_steps=self.epochs * steps_per_epoch - warmup_steps,
            warmup_target=self.learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
        return CoupledSGD(schedule, l2=self.l2, momentum=self.momentum, nesterov=self.momentum > 0)


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
