"""Grow a trained Residual Attention Network: copy its weights into a deeper one that computes the same function."""

import keras

from keras_resattn.layers import SoftMask
from keras_resattn.layers.residual import ResidualUnit
from keras_resattn.models.inspection import iter_layers

MODULE = "_attention"
GAIN = (
    1.5  # of an added module: 1 + sigmoid(0), as its units are identities and the last convolution of its mask is zero
)


def grow(source: keras.Model, target: keras.Model) -> list[str]:
    """Copy a network's weights into one of the same widths with more attention modules, which then returns the same.

    The units of the added modules start as identities and their masks as 0.5, so each of them multiplies its input by
    1.5. The statistics of the batch normalisation that follows are scaled to match. All added weights get gradients.

    Args:
        source: A trained pre-activation network of the ImageNet topology, such as `ResidualAttention56`.
        target: A network of the same topology with at least as many modules in each stage, such as
            `ResidualAttention92`, changed in place.

    Returns:
        The names of the layers that were added.

    Raises:
        ValueError: if a layer of the source is missing in the target or differs in shape, or the target has other
            added layers than attention modules in stages that are followed by another stage.

    Source: function-preserving growth as in Chen et al., "Net2Net" (ICLR 2016).
    """
    own = {layer.name: layer for layer in source.layers if layer.weights}
    grown = {layer.name: layer for layer in target.layers if layer.weights}
    added = [name for name in grown if name not in own]
    _check(own, grown, added)
    for name, layer in own.items():
        grown[name].set_weights(layer.get_weights())
    for name in added:
        _become_identity(grown[name])
    for stage in sorted({name.split("_")[0] for name in added}):
        modules = {name.split("_")[1] for name in added if name.startswith(f"{stage}_")}
        _scale_statistics(grown[f"stage{int(stage.removeprefix('stage')) + 1}_unit1"].bn1, GAIN ** len(modules))
    return added


def _check(own, grown, added):
    for name, layer in own.items():
        shapes = [weight.shape for weight in layer.weights]
        if name not in grown or shapes != [weight.shape for weight in grown[name].weights]:
            raise ValueError(
                f"Expected the grown network to have the layer {name} of the source, with the same shapes."
            )
    for name in added:
        stage = name.split("_")[0].removeprefix("stage")
        following = grown.get(f"stage{int(stage) + 1}_unit1") if MODULE in name else None
        if following is None or following.projection is None:
            raise ValueError(f"Expected only attention modules before the last stage to be added; received: {name}.")


def _become_identity(layer):
    """Zero the last convolution of each unit; in a mask, also its last convolution."""
    units = [part for part in (layer, *iter_layers(layer)) if isinstance(part, ResidualUnit)]
    last = [getattr(unit, unit.last) for unit in units] + ([layer.linear2] if isinstance(layer, SoftMask) else [])
    for convolution in last:
        for variable in convolution.weights:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))


def _scale_statistics(norm, gain):
    norm.moving_mean.assign(norm.moving_mean * gain)
    norm.moving_variance.assign((norm.moving_variance + norm.epsilon) * gain**2 - norm.epsilon)
