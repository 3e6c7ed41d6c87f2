"""The parts that the graphs of all networks share."""

import re

import keras

from keras_resattn.layers.composite import BN_MOMENTUM, EPSILON, channel_axis


def batch_norm(name):
    """A batch normalisation over the channels of Keras' image data format."""
    axis = channel_axis(keras.config.image_data_format())
    return keras.layers.BatchNormalization(axis=axis, momentum=BN_MOMENTUM, epsilon=EPSILON, name=name)


def relu(name):
    return keras.layers.Activation("relu", name=name)


def convolution(name, filters, kernel_size, **options):
    """A bias-free convolution, initialised as He et al. (2015)."""
    options = {"use_bias": False, "kernel_initializer": "he_normal", **options}
    return keras.layers.Conv2D(filters, kernel_size, name=name, **options)


def head(x, include_top, pooling, classes, classifier_activation):
    """Global pooling and classifier, as `include_top` and `pooling` of `keras.applications` say."""
    if not include_top and pooling is None:
        return x
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return classifier(x, classes, classifier_activation) if include_top else x


def classifier(x, classes, activation, name="predictions", **options):
    """A dense layer, in float32 under a mixed policy."""
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    options = {"dtype": "float32" if half else None, **options}
    return keras.layers.Dense(classes, activation=activation, name=name, **options)(x)


def source_inputs(tensor):
    """The inputs that `tensor` is computed from: one, or a list of several."""
    inputs = keras.utils.get_source_inputs(tensor)
    return inputs[0] if len(inputs) == 1 else inputs


def snake_case(name):
    """`"CifarResidualAttention56"` -> `"cifar_residual_attention56"`."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
