"""Feature pyramids for detectors and segmenters."""

import re

import keras

from keras_resattn.layers.residual import PostActivationUnit
from keras_resattn.models.inspection import tensors_of_layers


def feature_pyramid(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return the feature maps that detectors and segmenters build on, finest first.

    Each map is the output of a stage, named by the logarithm of its stride: `"P2"` to `"P5"` (strides 4, 8, 16,
    32) for the ImageNet topology, `"P0"` to `"P2"` (1, 2, 4) for the CIFAR topology. The last map is taken after
    `post_relu`; the others are the raw sums of the stage's last unit. In networks of post-activation units, which end
    in a ReLU, each map is the output of the last unit.

        backbone = ResidualAttention56(include_top=False, weights=None)
        pyramid = keras.Model(backbone.input, feature_pyramid(backbone))

    Args:
        model: A network of this package, with or without top.

    Returns:
        `{level: KerasTensor}`, tensors of the model's own graph.

    Raises:
        ValueError: if the model's own graph has no stages of a network of this package.
    """
    last_of_stage = {}
    names = [layer.name for layer in model.layers]
    for name in names:
        stage = re.match(r"(?:stage(\d+)_|group(\d+)_unit)", name)
        if stage:
            last_of_stage[int(stage[1] or stage[2])] = name
    last = last_of_stage.get(max(last_of_stage, default=None))
    if last and "post_relu" in names:
        last_of_stage[max(last_of_stage)] = "post_relu"
    elif not last or not isinstance(model.get_layer(last), PostActivationUnit):
        raise ValueError(
            f"Expected a network of keras_resattn with its stages in its own graph; received: {model.name}. "
            "If the network is a layer of another model, pass that layer."
        )
    first_level = 2 if "stem_pool" in names else 0
    tensors = tensors_of_layers(model)  # `layer.output` may belong to another model with the same layers
    return {f"P{first_level + stage - 1}": tensors[name][0] for stage, name in sorted(last_of_stage.items())}
