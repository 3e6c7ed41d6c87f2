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
    tensors = tensors_of_layers(model)  # `layer.output` may belong to another model with the same layers
    return {level: tensors[name][0] for level, name in _pyramid_layers(model).items()}


@keras.saving.register_keras_serializable(package="keras_resattn")
class PyramidBackbone(keras.Model):
    """Network without top that gives detectors its feature maps; built by `pyramid_backbone`.

    Both attributes are computed from the layers, so saved models, `clone_model` and `from_config` keep them.
    """

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """Feature maps as `{level: KerasTensor}`, which keras-hub reads."""
        return feature_pyramid(self)

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """Names of the layers that return the feature maps as `{level: name}`, which keras-cv reads."""
        return _pyramid_layers(self)


def pyramid_backbone(model: keras.Model) -> PyramidBackbone:
    """Return a network in the form that the detectors of keras-hub and keras-cv expect.

    The result shares the layers and weights of the network, without the layers after its last feature map. Detectors
    that contain it can be saved and loaded (`import keras_resattn` first).

        network = ResidualAttention56(include_top=False, input_shape=(64, 64, 3), include_preprocessing=True)
        backbone = pyramid_backbone(network)
        keras_hub.models.RetinaNetBackbone(backbone, min_level=3, max_level=5, use_p5=False, image_shape=(64, 64, 3))
        keras_cv.models.RetinaNet(backbone=backbone, num_classes=3, bounding_box_format="xyxy")

    Args:
        model: A network of this package, with or without top. The RetinaNet of keras-cv needs the levels `"P3"` to
            `"P5"`, that is, a network of the ImageNet topology.

    Returns:
        A functional `keras.Model` whose output is the last feature map, with two attributes: `pyramid_outputs`
        (`feature_pyramid` of the result) and `pyramid_level_inputs` (`{level: layer name}`).

    Raises:
        ValueError: if the model's own graph has no stages of a network of this package.
    """
    *_, last = feature_pyramid(model).values()
    return PyramidBackbone(model.input, last, name=model.name)


def _pyramid_layers(model: keras.Model) -> dict[str, str]:
    """Return `{level: name of the layer that returns its feature map}`, finest level first."""
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
    return {f"P{first_level + stage - 1}": name for stage, name in sorted(last_of_stage.items())}
