"""What recipes need of an optimizer and Keras does not have: coupled weight decay."""

import keras


@keras.saving.register_keras_serializable(package="keras_resattn")
class CoupledSGD(keras.optimizers.SGD):
    """SGD with the papers' L2 penalty: `l2 * w` joins each kernel's gradient before momentum.

    `weight_decay` of Keras' optimizers is decoupled (it shrinks weights beside the momentum step);
    Caffe, PyTorch's SGD and the papers mean this one. Only kernels decay: variables of rank 2 and
    more. Batch normalisation and biases do not.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
        l2: Strength of the penalty; the loss that it stands for is `l2 / 2 * sum(w ** 2)`.
        **kwargs: The other arguments of `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.1, l2=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.l2 = l2

    def apply(self, grads, trainable_variables=None):
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        scale = self.l2 * (self.loss_scale_factor or 1.0)
        grads = [
            gradient if gradient is None or len(variable.shape) < 2 else gradient + scale * variable
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        super().apply(grads, trainable_variables)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}
