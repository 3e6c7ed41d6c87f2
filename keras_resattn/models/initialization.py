"""Weight initialisation that makes deep residual networks easier to train."""

import keras

from keras_resattn.layers.residual import ResidualUnit
from keras_resattn.models.inspection import iter_layers


def zero_init_residual(model: keras.Model) -> None:
    """Zero the end of every residual branch of an untrained network, so that each unit starts as its shortcut.

    Zeros the last convolution of each pre-activation unit and the scale of the last batch normalisation of each
    post-activation unit, in the trunk and in the soft masks. This stabilises the first steps at a high learning rate.

    Args:
        model: A network with residual units of this package, changed in place. Do not pass a trained network: its
            weights would be lost.

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
