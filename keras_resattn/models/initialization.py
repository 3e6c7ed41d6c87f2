"""Initial weights that make deep residual networks easier to train."""

import keras

from keras_resattn.layers.residual import ResidualUnit
from keras_resattn.models.inspection import iter_layers


def zero_init_residual(model: keras.Model) -> None:
    """Zero the end of every residual branch of an untrained network, so that each unit begins as its shortcut.

    The last convolution of a pre-activation unit, or the scale of the last batch normalization of a post-activation
    unit, becomes zero, in the trunk and in the soft masks. The first steps at a high learning rate are calmer then.

    Args:
        model: A network with residual units of this package. Its weights are changed in place: do not call this on
            trained weights, which it would destroy.

    Raises:
        ValueError: if the network has no residual unit of this package.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour" (2017), Sec. 5.1.
    """
    units = [layer for layer in iter_layers(model) if isinstance(layer, ResidualUnit)]
    if not units:
        raise ValueError(f"Expected a network with residual units of this package; received: {model.name}.")
    for unit in units:
        last = getattr(unit, unit.last)
        variable = last.gamma if isinstance(last, keras.layers.BatchNormalization) else last.kernel
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
