"""Learning-rate schedules: cosine or steps, with a linear warm-up."""

from typing import TYPE_CHECKING, Any, Self

import keras

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe


def build_schedule(recipe: "Recipe", steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Build the learning-rate schedule of a recipe, counted in iterations.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Iterations in an epoch.

    Raises:
        ValueError: If the run is not longer than its warm-up, or shorter than `gradient_accumulation_steps`.
    """
    steps = recipe.steps(steps_per_epoch)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if warmup >= steps or recipe.gradient_accumulation_steps > steps:
        raise ValueError(
            f"Expected more than the {warmup} steps of the warm-up, and at least a batch for each of "
            f"gradient_accumulation_steps={recipe.gradient_accumulation_steps}; received: a recipe of {steps} steps."
        )
    if recipe.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else recipe.learning_rate,
            decay_steps=steps - warmup,
            warmup_target=recipe.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    values = [recipe.learning_rate * recipe.lr_decay_factor**i for i in range(len(recipe.milestones) + 1)]
    # Keras changes the value after the boundary, not at it.
    boundaries = [round(milestone * steps) - 1 for milestone in recipe.milestones]
    if not boundaries:  # Keras requires one
        boundaries, values = [steps], values * 2
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)
    return WarmUp(schedule, warmup) if warmup else schedule


@keras.saving.register_keras_serializable(package="keras_resattn")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from zero, as a factor on another schedule.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        steps: Length of the warm-up in iterations. From this step on, the learning rate is that of `schedule`.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        """Return the learning rate at `step`."""
        fraction = keras.ops.cast(step, "float32") / self.steps
        return self.schedule(step) * keras.ops.minimum(fraction, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the schedule serialised."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build the schedule that `get_config` describes."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["steps"])
