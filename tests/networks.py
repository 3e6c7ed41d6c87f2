"""Small networks shared by the tests, and helpers that inspect their graphs."""

import keras
from keras import layers

from keras_resattn import (
    WARN,
    ResidualAttentionNet,
    ResNet164,
    ResNet1001,
    WideResNet,
    WideResNet50x2,
    WideResNetAtt2,
)
from keras_resattn.layers import AttentionHead, AttentionResidual
from keras_resattn.models import wide_resnet
from keras_resattn.utils.data_format import image_shape
from keras_resattn.utils.keras_internals import producer


def narrow_residual(topology="cifar", **arguments):
    """The smallest network with every kind of layer: one module, mask depth 3, width 4, five classes.

    Its keyword arguments are `ResidualAttentionNet`'s.
    """
    stages = {"cifar": 3, "imagenet": 4}[topology]
    rows = {"modules": (1,) + (0,) * (stages - 1), "widths": (4,) * stages, "bottom_units": 1}
    defaults = {"topology": topology, "weights": None, "classes": 5, **rows}
    if "input_tensor" not in arguments:
        defaults["input_shape"] = image_shape(32, 32, 3)
    return ResidualAttentionNet(**{**defaults, **arguments})


def narrow_warn(**arguments):
    """Build WARN-10-1 with two heads and five classes."""
    defaults = {"weights": None, "depth": 10, "width": 1, "classes": 5, "attention_width": 2}
    return WARN(**{**defaults, **arguments})


BODY = [
    *["stem_conv", "stem_bn", "stem_relu", "group1_unit1"],
    *["group2_preact_bn", "group2_preact_relu", "group2_unit1"],
    *["group3_preact_bn", "group3_preact_relu", "group3_unit1", "post_bn", "post_relu"],
]


def module_names(*groups):
    return [f"attention{group}_{node}" for group in groups for node in ("mask", "outputs", "gates", "logits")]


def names_of(model):
    return sorted(layer.name for layer in model.layers[1:])  # after the input


def received(model, name):
    """Return the names of the layers whose outputs a layer receives."""
    return [producer(tensor)[0].name for tensor in keras.tree.flatten(model.get_layer(name).input)]


# Function that adds the last layers of a network, and the kind of output.
ENDS = {
    "dense_softmax": (lambda x: layers.Dense(5, "softmax", name="classifier")(x), "softmax"),
    "dense_logits": (lambda x: layers.Dense(5, name="classifier")(x), "logits"),
    "activation_softmax": (lambda x: layers.Activation("softmax")(layers.Dense(5, name="classifier")(x)), "logits"),
    "activation_linear": (
        lambda x: layers.Activation("linear", name="end")(layers.Dense(5, name="classifier")(x)),
        "logits",
    ),
    "softmax_in_float32": (  # as under mixed precision
        lambda x: layers.Activation("linear")(layers.Dense(5, "softmax", name="classifier")(x)),
        "softmax",
    ),
    "softmax_layer_in_float32": (
        lambda x: layers.Activation("linear")(layers.Softmax()(layers.Dense(5, name="classifier")(x))),
        "logits",
    ),
    "softmax_layer": (lambda x: layers.Softmax()(layers.Dense(5, name="classifier")(x)), "logits"),
}


def small_cnn(size=16, name="cnn"):
    """Return input and features of a network of three resolutions, with padding and squeeze-and-excitation."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv3")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv4")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    s = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    x = layers.Multiply(name="scale")([x, s])
    return inputs, layers.GlobalAveragePooling2D(name="features")(x)


def base_of(graph, end="dense_logits", name="cnn"):
    inputs, features = graph
    return keras.Model(inputs, ENDS[end][0](features), name=name)


def taps_of(model):
    names = [layer.name for layer in model.layers if isinstance(layer, AttentionHead)]
    return [received(model, name)[0] for name in sorted(names)]


BASELINES = [WideResNet, WideResNet50x2, WideResNetAtt2, ResNet164, ResNet1001]
WIDE_FAMILIES = [WideResNet, WideResNetAtt2]


def narrow_wide(build, **arguments):
    """Build the smallest network of a family, of depth 10 and width 1, with five classes."""
    return build(**{"weights": None, "depth": 10, "width": 1, "classes": 5, **arguments})


GROUPS = [f"group{group}_unit{i}" for group in (1, 2, 3) for i in (1, 2)]
POST = ["post_bn", "post_relu"]


def wide_body(depth=10, width=1, attended=True):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, wide_resnet.body(inputs, depth, width, attended=attended))


def small_network(row, shape, base_weights=None):
    """Build a tiny substitute for the network of a row, to keep tests fast."""
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=f"small_{row.name}")


def staged_network(include_top=True, classes=10, pooling=None, input_shape=None, include_preprocessing=False, **_):
    """Stand in for a released network: three stages with a mask each, under the names of their layers."""
    inputs = x = keras.Input(input_shape or (32, 32, 3))
    if include_preprocessing:
        x = keras.layers.Rescaling(1 / 255)(x)
    for stage, stride in ((1, 2), (2, 4), (3, 2)):
        x = keras.layers.Conv2D(4, stride, stride, name=f"stage{stage}_unit1")(x)
        mask = keras.layers.Conv2D(4, 1, activation="sigmoid", name=f"stage{stage}_attention1_mask")(x)
        x = AttentionResidual(name=f"stage{stage}_attention1_merge")([x, mask])
    if include_top or pooling:
        x = keras.layers.GlobalAveragePooling2D()(x)
    if include_top:
        x = keras.layers.Dense(classes, activation="softmax", name="predictions")(x)
    return keras.Model(inputs, x, name="small")
