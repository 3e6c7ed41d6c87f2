"""Optimizers of recipes: serialisation of Keras optimizers, and SGD and Adam with coupled weight decay."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_resattn.recipes.recipe_fields import OWN_OPTIMIZERS

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe

PACKAGE = "keras_resattn"
#: Arguments of Keras optimizers that are fields of a recipe: `{argument: (field, values that leave it unset)}`.
RECIPE_FIELDS = {
    "use_ema": ("ema", (False, None)),
    "ema_overwrite_frequency": ("ema", (None,)),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", (None,)),
    "global_clipnorm": ("clip_norm", (None,)),
    "loss_scale_factor": ("precision", (None,)),
}
#: Optimizers that recipes do not support, and why.
UNSUPPORTED = {
    "lossscaleoptimizer": "Keras adds it itself under mixed_float16",
    "multioptimizer": "the recipe's schedule sets the learning rate of one optimizer",
    "schedulefreeadamw": "it works without a schedule, but the recipe's schedule sets the learning rate",
}


def serialize_optimizer(optimizer: Any, learning_rate: Any) -> Any:
    """Return an optimizer as data: a name in lower case, or `{"class_name": ..., "config": {...}}`.

    Args:
        optimizer: The name of a Keras optimizer, a `keras.optimizers.Optimizer`, or the output of
            `keras.optimizers.serialize`.
        learning_rate: Learning rate of the recipe; a learning rate in the configuration must equal it.

    Raises:
        ValueError: If the optimizer is unknown or not supported, or its configuration contradicts the recipe's fields.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = keras.optimizers.serialize(optimizer)
    if isinstance(optimizer, str):
        name, config = optimizer.lower(), {}
    elif isinstance(optimizer, dict) and isinstance(optimizer.get("class_name"), str):
        name, config = optimizer["class_name"].lower(), optimizer.get("config", {})
    else:
        raise _error("a name, a keras.optimizers.Optimizer, or the output of keras.optimizers.serialize", optimizer)
    _check_name(name, optimizer)
    if isinstance(optimizer, str):
        return name
    if not isinstance(config, dict):
        raise _error("a dictionary with a dictionary 'config'", optimizer)
    _check_config(config, learning_rate, optimizer)
    dropped = {"learning_rate", "name", "ema_momentum", *RECIPE_FIELDS}
    kept = {key: value for key, value in config.items() if key not in dropped}
    return {**optimizer, "config": kept}


def _check_name(name, optimizer):
    known = {
        key.lower()
        for key, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and issubclass(value, keras.optimizers.Optimizer) and key != "Optimizer"
    }
    if name in UNSUPPORTED:
        raise _error(f"an optimizer other than {name} ({UNSUPPORTED[name]})", optimizer)
    registered = isinstance(optimizer, dict) and optimizer.get("registered_name")
    if name not in known and not registered:
        names = ", ".join(map(repr, sorted(known - UNSUPPORTED.keys())))
        raise _error(f"one of {names}, or the configuration of a registered class", optimizer)


def _check_config(config, learning_rate, optimizer):
    for key, (field, unset) in RECIPE_FIELDS.items():
        if key in config and config[key] not in unset:
            raise _error(f"one without {key}; recipes have the field {field} for it", optimizer)
    rate = config.get("learning_rate", learning_rate)
    # Keras stores it in float32.
    if not isinstance(rate, (int, float)) or not math.isclose(rate, learning_rate, rel_tol=1e-6):
        raise _error(
            f"one with the recipe's learning rate, {learning_rate} (pass the same learning_rate to both, or omit it "
            "from the configuration)",
            optimizer,
        )


def _error(expected, optimizer):
    return ValueError(f"Expected optimizer of a recipe to be {expected}; received: optimizer={optimizer!r}.")


def make_optimizer(recipe: "Recipe", steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return a new optimizer of a recipe, with its learning-rate schedule.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Iterations in an epoch.

    Raises:
        ValueError: If Keras cannot build an optimizer from the configuration, or the schedule does not fit the run.
    """
    steps = recipe.gradient_accumulation_steps
    shared: dict[str, Any] = {
        "global_clipnorm": recipe.clip_norm,
        "gradient_accumulation_steps": None if steps == 1 else steps,
        "use_ema": recipe.ema is not None,
        "ema_momentum": 0.99 if recipe.ema is None else recipe.ema,  # Keras checks it even where it is unused
    }
    if recipe.weight_decay is not None:
        shared["weight_decay"] = recipe.weight_decay
    coupled: dict[str, Any] = {"l2": recipe.l2, "decay_norm_and_bias": recipe.decay_norm_and_bias}
    schedule = recipe.learning_rate_schedule(steps_per_epoch)
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        coupled = {**coupled, "nesterov": nesterov, "lr_multipliers": recipe.lr_multipliers}
        return CoupledSGD(schedule, momentum=recipe.momentum, **coupled, **shared)
    if recipe.optimizer == "adam":
        return CoupledAdam(schedule, beta_1=recipe.momentum, **coupled, **shared)
    if recipe.optimizer in OWN_OPTIMIZERS:
        shared["beta_1"] = recipe.momentum
    return _deserialize(recipe.optimizer, schedule, shared)


def _deserialize(optimizer, schedule, arguments):
    data = {"class_name": optimizer, "config": {}} if isinstance(optimizer, str) else dict(optimizer)
    learning_rate = keras.optimizers.schedules.serialize(schedule)
    data["config"] = {**data["config"], **arguments, "learning_rate": learning_rate}
    try:
        return keras.optimizers.deserialize(data)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected the recipe's optimizer to be one that Keras can make; received: optimizer={optimizer!r} "
            f"({error}). Register your own class with keras.saving.register_keras_serializable."
        ) from error


def build_optimizer(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any], decay_norm_and_bias: bool) -> None:
    """Create the variables of an optimizer, and exclude vectors from its decoupled weight decay.

    Args:
        optimizer: A `keras.optimizers.Optimizer` that is not built yet.
        variables: Trainable variables of the model.
        decay_norm_and_bias: Whether variables of rank 1 decay too.
    """
    if not decay_norm_and_bias:
        vectors = [variable for variable in variables if len(variable.shape) < 2]
        getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(var_list=vectors)
    optimizer.build(variables)


if TYPE_CHECKING:
    _Mixed = keras.optimizers.Optimizer
else:
    _Mixed = object


class _Coupled(_Mixed):
    """An optimizer with the papers' L2 penalty: `l2 * w` is added to each gradient."""

    def __init__(self, learning_rate, l2=0.0, decay_norm_and_bias=False, lr_multipliers=None, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2
        self.decay_norm_and_bias = decay_norm_and_bias
        self.lr_multipliers = dict(lr_multipliers or {})

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        scale = self.l2 * (self.loss_scale_factor or 1.0)
        grads = [
            gradient + scale * variable if gradient is not None and self._decays(variable) else gradient
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        grads = [
            gradient if gradient is None or (factor := self._multiplier(variable)) == 1 else factor * gradient
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)

    def _decays(self, variable):
        return self.l2 > 0 and (self.decay_norm_and_bias or len(variable.shape) > 1)

    def _multiplier(self, variable):
        return next(
            (factor for pattern, factor in self.lr_multipliers.items() if re.match(pattern, variable.path)), 1.0
        )

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "decay_norm_and_bias": self.decay_norm_and_bias}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoupledSGD(_Coupled, keras.optimizers.SGD):
    """SGD with coupled weight decay: `l2 * w` is added to the gradient of each kernel before momentum.

    This is weight decay as in Caffe, PyTorch's SGD and the papers; `weight_decay` of Keras optimizers is decoupled and
    shrinks the weights separately. Only kernels (variables of rank 2 and more) decay, unless `decay_norm_and_bias`
    includes batch normalisation and biases, as PyTorch does.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty, which adds `l2 / 2 * sum(w ** 2)` to the loss.
        decay_norm_and_bias: Whether variables of rank 1 decay too.
        lr_multipliers: Factors on the learning rate of groups of variables: `{pattern: factor}`. The first pattern that
            matches the beginning of a variable's path applies (`re.match`); if none does, the factor is 1:
            `{"attention|global_gate": 1.0, "": 0.1}` trains all other variables at a tenth of the learning rate. The
            factor multiplies the gradient, which is equivalent for SGD with or without momentum, but not with gradient
            clipping.
        **kwargs: Other arguments of `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        l2: float = 0.0,
        decay_norm_and_bias: bool = False,
        lr_multipliers: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, l2, decay_norm_and_bias, lr_multipliers, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the optimizer."""
        return {**super().get_config(), "lr_multipliers": self.lr_multipliers}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoupledAdam(_Coupled, keras.optimizers.Adam):
    """Adam with an L2 penalty in the loss, like `kernel_regularizer`: `l2 * w` is added to each kernel's gradient.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty, which adds `l2 / 2 * sum(w ** 2)` to the loss.
        decay_norm_and_bias: Whether variables of rank 1 decay too.
        **kwargs: Other arguments of `keras.optimizers.Adam`.
    """

    def __init__(
        self, learning_rate: Any = 0.001, l2: float = 0.0, decay_norm_and_bias: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, l2, decay_norm_and_bias, **kwargs)
