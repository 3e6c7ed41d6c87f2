"""What recipes need of optimizers and Keras does not have: coupled weight decay, rates by group, warm-up of steps."""

import re

import keras

PACKAGE = "keras_resattn"


class _Coupled:
    """An optimizer whose gradients are joined by the papers' L2 penalty: `g + l2 * w`."""

    def __init__(self, learning_rate, l2=0.0, decay_vectors=False, multipliers=None, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2
        self.decay_vectors = decay_vectors
        self.multipliers = dict(multipliers or {})

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
        return self.l2 > 0 and (self.decay_vectors or len(variable.shape) > 1)

    def _multiplier(self, variable):
        return next((factor for pattern, factor in self.multipliers.items() if re.match(pattern, variable.path)), 1.0)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "decay_vectors": self.decay_vectors}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoupledSGD(_Coupled, keras.optimizers.SGD):
    """SGD with the papers' L2 penalty: `l2 * w` joins each kernel's gradient before momentum.

    `weight_decay` of Keras' optimizers is decoupled (it shrinks weights beside the momentum step);
    Caffe, PyTorch's SGD and the papers mean this one. Only kernels decay, variables of rank 2 and more;
    batch normalisation and biases do with `decay_vectors`, as in PyTorch.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty; the loss that it stands for is `l2 / 2 * sum(w ** 2)`.
        decay_vectors: Whether variables of rank 1 decay too.
        multipliers: Factors on the learning rate of groups of variables: `{pattern: factor}`. The first pattern that
            matches the beginning of a variable's path counts (`re.match`), and 1 where none does:
            `{"attention|global_gate": 1.0, "": 0.1}` trains all else at a tenth of the rate. It is the gradient that
            is multiplied, which for SGD, with or without momentum but without clipping, is the same.
        **kwargs: The other arguments of `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.1, l2=0.0, decay_vectors=False, multipliers=None, **kwargs):
        super().__init__(learning_rate, l2, decay_vectors, multipliers, **kwargs)

    def get_config(self):
        return {**super().get_config(), "multipliers": self.multipliers}


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoupledAdam(_Coupled, keras.optimizers.Adam):
    """Adam with an L2 penalty in the loss, as `kernel_regularizer` has it: `l2 * w` joins each kernel's gradient.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty; the loss that it stands for is `l2 / 2 * sum(w ** 2)`.
        decay_vectors: Whether variables of rank 1 decay too.
        **kwargs: The other arguments of `keras.optimizers.Adam`.
    """

    def __init__(self, learning_rate=0.001, l2=0.0, decay_vectors=False, **kwargs):
        super().__init__(learning_rate, l2, decay_vectors, **kwargs)


@keras.saving.register_keras_serializable(package=PACKAGE)
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule whose beginning is replaced by a linear rise from zero.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        steps: Length of the rise; at this step the other schedule takes over.
    """

    def __init__(self, schedule, steps):
        super().__init__()
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step):
        share = keras.ops.cast(step, "float32") / self.steps
        return self.schedule(step) * keras.ops.minimum(share, 1.0)

    def get_config(self):
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["steps"])
