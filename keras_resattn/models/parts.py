"""The parts that the graphs of all networks share."""

import inspect
import re

import keras

from keras_resattn import checkpoints
from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.layers.class_names import set_class_names
from keras_resattn.layers.composite import BN_MOMENTUM, EPSILON, channel_axis
from keras_resattn.models.arguments import check_head, resolve_input


def batch_norm(name):
    """A batch normalisation over the channels of Keras' image data format."""
    axis = channel_axis(keras.config.image_data_format())
    return BatchNormalization(axis=axis, momentum=BN_MOMENTUM, epsilon=EPSILON, name=name)


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
    options = {"dtype": full_precision(), **options}
    return keras.layers.Dense(classes, activation=activation, name=name, **options)(x)


def full_precision():
    """`"float32"` where Keras' policy computes in half precision, and `None`, the policy itself, elsewhere."""
    return "float32" if keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16") else None


def assemble(
    network,
    body,
    size,
    *,
    include_top,
    weights,
    input_tensor,
    input_shape,
    pooling,
    classes,
    classifier_activation,
    name,
    top=head,
):
    """A whole network: checks what `keras.applications` and its builder share, builds, and loads the weights.

    Args:
        network: Its id, which published weights go by.
        body: Called on the input; returns what the top stands on.
        size: Height and width of the input where none is given, in pixels.
        include_top: As given to the builder, like all that follow, which has checked its other arguments.
        top: Called as `top(x, include_top, pooling, classes, classifier_activation)`; returns the output.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: before anything is built, for an argument that does not fit; after building, and
            without a model, where weights are missing or do not fit.
    """
    classes = check_head(include_top, pooling, classes, classifier_activation)
    inputs = resolve_input(input_tensor, input_shape, size)
    source = checkpoints.resolve(
        weights,
        network=network,
        include_top=include_top,
        classes=classes,
        classifier_activation=classifier_activation,
        channels=inputs.shape[channel_axis(keras.config.image_data_format())],
    )
    outputs = top(body(inputs), include_top, pooling, classes, classifier_activation)
    model = keras.Model(source_inputs(inputs), outputs, name=name)
    if source is not None:
        checkpoints.load(model, source, below=inputs)
        if include_top and source.class_names is not None:
            set_class_names(model, source.class_names)
    return model


def builder(network, body, size, classes, name, docstring):
    """The public function of a network that has no arguments beside those of `keras.applications`.

    Args:
        network: Its id, and the name of the function.
        body: Called on the input; returns the last feature map.
        size: Height and width of the input where none is given, in pixels.
        classes: Default number of classes.
        name: Default name of the model.
        docstring: What the function's docstring says before `Args`.
    """

    def build(
        include_top=True,
        weights="default",
        input_tensor=None,
        input_shape=None,
        pooling=None,
        classes=classes,
        classifier_activation="softmax",
        name=name,
    ):
        return assemble(
            network,
            body,
            size,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name,
        )

    build.__name__ = build.__qualname__ = network
    build.__doc__ = inspect.cleandoc(docstring) + ARGUMENTS.format(size=size)
    return build


ARGUMENTS = """

Args:
    include_top: Whether to end in global average pooling and a classifier.
    weights: `"default"` for the best published tag (a `ValueError` where there is none), `None` for random
        initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
    input_tensor: A KerasTensor to build on, or `None` for a new input.
    input_shape: Shape of one picture, `({size}, {size}, 3)` by default under `channels_last`. Any size from 32
        up, or `None` for height and width, with and without top.
    pooling: What `include_top=False` ends in: `None` (the 4-D feature map), `"avg"` or `"max"`.
    classes: Number of classes.
    classifier_activation: Activation of the classifier; `None` returns logits.
    name: Name of the model.

Returns:
    A functional `keras.Model`.

Raises:
    ValueError: for an argument that does not fit, and for weights that are missing or do not fit.
"""


def source_inputs(tensor):
    """The inputs that `tensor` is computed from: one, or a list of several."""
    inputs = keras.utils.get_source_inputs(tensor)
    return inputs[0] if len(inputs) == 1 else inputs


def snake_case(name):
    """`"CifarResidualAttention56"` -> `"cifar_residual_attention56"`, `"AttentionNeXt56"` -> `"attention_next56"`."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("NeXt", "Next")).lower()
