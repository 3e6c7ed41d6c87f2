"""Optimizers as a recipe holds them (data), and what Keras' own lack: coupled weight decay, rates by group, warm-up."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import keras

PACKAGE = "keras_resattn"
# Arguments of Keras' optimizers that a recipe has fields of its own for, with the values that leave them to it.
FIELDS = {
    "use_ema": ("ema", (False, None)),
    "ema_overwrite_frequency": ("ema", (None,)),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", (None,)),
    "global_clipnorm": ("clip_norm", (None,)),
    "loss_scale_factor": ("precision", (None,)),
}
UNSUPPORTED = {
    "lossscaleoptimizer": "Keras adds it by itself under mixed_float16",
    "multioptimizer": "the recipe's schedule drives one optimizer",
    "schedulefreeadamw": "it goes without a schedule, and the recipe's schedule drives the learning rate",
}


def as_data(optimizer: Any, learning_rate: Any) -> Any:
    """Returns an optimizer as a recipe holds it: a name in lower case, or `{"class_name": ..., "config": {...}}`.

    Args:
        optimizer: The name of one of Keras' optimizers, a `keras.optimizers.Optimizer`, or a dictionary as
            `keras.optimizers.serialize` returns it.
        learning_rate: The recipe's, which a learning rate in the configuration has to equal.

    Raises:
        ValueError: for an unknown optimizer, one that recipes do not support, and a configuration that contradicts
            the recipe's fields or leaves them no say.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer = keras.optimizers.serialize(optimizer)
    if isinstance(optimizer, str):
        name, config = optimizer.lower(), {}
    elif isinstance(optimizer, dict) and isinstance(optimizer.get("class_name"), str):
        name, config = optimizer["class_name"].lower(), optimizer.get("config", {})
    else:
        raise _refusal("a name, a keras.optimizers.Optimizer, or what keras.optimizers.serialize returns", optimizer)
    _check_name(name, optimizer)
    if isinstance(optimizer, str):
        return name
    if not isinstance(config, dict):
        raise _refusal("a dictionary with a dictionary 'config'", optimizer)
    _check_config(config, learning_rate, optimizer)
    dropped = {"learning_rate", "name", "ema_momentum", *FIELDS}
    kept = {key: value for key, value in config.items() if key not in dropped}
    return {**optimizer, "config": kept}


def _check_name(name, optimizer):
    known = {
        key.lower()
        for key, value in vars(keras.optimizers).items()
        if inspect.isclass(value) and issubclass(value, keras.optimizers.Optimizer) and key != "Optimizer"
    }
    if name in UNSUPPORTED:
        raise _refusal(f"another one than {name} ({UNSUPPORTED[name]})", optimizer)
    registered = isinstance(optimizer, dict) and optimizer.get("registered_name")
    if name not in known and not registered:
        names = ", ".join(map(repr, sorted(known - UNSUPPORTED.keys())))
        raise _refusal(f"one of {names}, or the configuration of a registered class", optimizer)


def _check_config(config, learning_rate, optimizer):
    for key, (field, left) in FIELDS.items():
        if key in config and config[key] not in left:
            raise _refusal(f"one without {key}, for which recipes have the field {field}", optimizer)
    rate = config.get("learning_rate", learning_rate)
    # Keras returns it in float32.
    if not isinstance(rate, (int, float)) or not math.isclose(rate, learning_rate, rel_tol=1e-6):
        raise _refusal(
            f"one with the recipe's learning rate, {learning_rate}, which the recipe's schedule drives (pass the same "
            "learning_rate to both, or leave it out of the configuration)",
            optimizer,
        )


def _refusal(expected, optimizer):
    return ValueError(f"Expected optimizer of a recipe to be {expected}; received: optimizer={optimizer!r}.")


def make_optimizer(
    optimizer: Any, schedule: keras.optimizers.schedules.LearningRateSchedule, **arguments: Any
) -> keras.optimizers.Optimizer:
    """Returns a new optimizer of one that `as_data` returned.

    Args:
        optimizer: A name or a configuration.
        schedule: The `keras.optimizers.schedules.LearningRateSchedule` that drives it.
        **arguments: Arguments of `keras.optimizers.Optimizer`, in place of those in the configuration.

    Raises:
        ValueError: if the configuration makes no optimizer.
    """
    data = {"class_name": optimizer, "config": {}} if isinstance(optimizer, str) else dict(optimizer)
    rate = keras.optimizers.schedules.serialize(schedule)
    data["config"] = {**data["config"], **arguments, "learning_rate": rate}
    try:
        return keras.optimizers.deserialize(data)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected the recipe's optimizer to be one that Keras can make; received: optimizer={optimizer!r} "
            f"({error}). A class of your own has to be registered with keras.saving.register_keras_serializable."
        ) from error


def build_optimizer(optimizer: keras.optimizers.Optimizer, variables: Sequence[Any], decay_norm_and_bias: bool) -> None:
    """Builds an optimizer, whose own (decoupled) weight decay spares variables of rank 1 unless `decay_norm_and_bias`."""
    if not decay_norm_and_bias:
        vectors = [variable for variable in variables if len(variable.shape) < 2]
        getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(var_list=vectors)
    optimizer.build(variables)


if TYPE_CHECKING:
    _Mixed = keras.optimizers.Optimizer
else:
    _Mixed = object


class _Coupled(_Mixed):
    """An optimizer whose gradients are joined by the papers' L2 penalty: `g + l2 * w`."""

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
    """SGD with the papers' L2 penalty: `l2 * w` joins each kernel's gradient before momentum.

    `weight_decay` of Keras' optimizers is decoupled (it shrinks weights beside the momentum step);
    Caffe, PyTorch's SGD and the papers mean this one. Only kernels decay, variables of rank 2 and more;
    batch normalisation and biases do with `decay_norm_and_bias`, as in PyTorch.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty; the loss that it stands for is `l2 / 2 * sum(w ** 2)`.
        decay_norm_and_bias: Whether variables of rank 1 decay too.
        lr_multipliers: Factors on the learning rate of groups of variables: `{pattern: factor}`. The first pattern that
            matches the beginning of a variable's path counts (`re.match`), and 1 where none does:
            `{"attention|global_gate": 1.0, "": 0.1}` trains all else at a tenth of the rate. It is the gradient that
            is multiplied, which for SGD, with or without momentum but without clipping, is the same.
        **kwargs: The other arguments of `keras.optimizers.SGD`.
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
        return {**super().get_config(), "lr_multipliers": self.lr_multipliers}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoupledAdam(_Coupled, keras.optimizers.Adam):
    """Adam with an L2 penalty in the loss, as `kernel_regularizer` has it: `l2 * w` joins each kernel's gradient.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty; the loss that it stands for is `l2 / 2 * sum(w ** 2)`.
        decay_norm_and_bias: Whether variables of rank 1 decay too.
        **kwargs: The other arguments of `keras.optimizers.Adam`.
    """

    def __init__(
        self, learning_rate: Any = 0.001, l2: float = 0.0, decay_norm_and_bias: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, l2, decay_norm_and_bias, **kwargs)


@keras.saving.register_keras_serializable(package=PACKAGE)
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule whose beginning is replaced by a linear rise from zero.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        steps: Length of the rise; at this step the other schedule takes over.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        share = keras.ops.cast(step, "float32") / self.steps
        return self.schedule(step) * keras.ops.minimum(share, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["steps"])
