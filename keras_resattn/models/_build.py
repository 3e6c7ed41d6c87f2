"""Parts that all networks share: layers, the head, and `build_model`, which assembles a network."""

import inspect
import re
from collections.abc import Callable
from typing import Any, Protocol

import keras

from keras_resattn import pretrained
from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.layers.composite import BN_MOMENTUM, EPSILON
from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.models._arguments import check_head, resolve_input
from keras_resattn.models.class_names import set_class_names
from keras_resattn.models.normalization import PREPROCESSING, normalization, reject_integers, statistics_for
from keras_resattn.typing import PathLike, Pooling, Shape
from keras_resattn.utils.data_format import channel_axis, image_channels


def batch_norm(name: str) -> BatchNormalization:
    """Return a batch normalisation over the channel axis of Keras' image data format."""
    return BatchNormalization(axis=channel_axis(), momentum=BN_MOMENTUM, epsilon=EPSILON, name=name)


def relu(name: str) -> keras.layers.Activation:
    """Return a ReLU layer."""
    return keras.layers.Activation("relu", name=name)


def convolution(name: str, filters: int, kernel_size: int | tuple[int, int], **options: Any) -> keras.layers.Conv2D:
    """Return a bias-free convolution with the initialisation of He et al. (2015)."""
    options = {"use_bias": False, "kernel_initializer": HeGaussian(), **options}
    return keras.layers.Conv2D(filters, kernel_size, name=name, **options)


def head(
    x: keras.KerasTensor,
    include_top: bool,
    pooling: Pooling | None,
    classes: int,
    classifier_activation: str | Callable | None,
) -> keras.KerasTensor:
    """Apply global pooling and a classifier, according to `include_top` and `pooling` as in `keras.applications`."""
    if not include_top and pooling is None:
        return x
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return classifier(x, classes, classifier_activation) if include_top else x


def classifier(
    x: keras.KerasTensor, classes: int, activation: str | Callable | None, name: str = "predictions", **options: Any
) -> keras.KerasTensor:
    """Apply a dense layer, in float32 under a mixed policy."""
    options = {"dtype": full_precision(), **options}
    return keras.layers.Dense(classes, activation=activation, name=name, **options)(x)


def full_precision() -> str | None:
    """Return `"float32"` if Keras' policy computes in half precision, else `None`, which keeps the policy."""
    return "float32" if keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16") else None


def build_model(
    network: str | None,
    body: Callable[[keras.KerasTensor], Any],
    default_size: int,
    default_classes: int,
    *,
    include_top: bool,
    weights: PathLike | None,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape | None,
    pooling: Pooling | None,
    classes: int | None,
    classifier_activation: str | Callable | None,
    name: str | None,
    include_preprocessing: bool = False,
    top: Callable[..., keras.KerasTensor] = head,
) -> keras.Model:
    """Build a network: check the arguments that all builders share, build the graph, and load the weights.

    Args:
        network: Id of the network, used to find its released checkpoints, or `None` for a network without an id.
        body: Called on the input; returns the input of the top.
        default_size: Height and width of the input, in pixels, if neither the arguments nor the weights state them.
        default_classes: Number of classes if neither `classes` nor the weights state it.
        include_top: As in the builder.
        weights: As in the builder.
        input_tensor: As in the builder.
        input_shape: As in the builder.
        pooling: As in the builder.
        classes: As in the builder.
        classifier_activation: As in the builder.
        name: As in the builder.
        include_preprocessing: As in the builder.
        top: Called as `top(x, include_top, pooling, classes, classifier_activation)`; returns the output.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: before anything is built, if an argument is invalid; after building, if the weights are missing or
            do not match the network.
    """
    check_head(include_top, pooling, default_classes if classes is None else classes, classifier_activation)
    if not isinstance(include_preprocessing, bool):
        raise ValueError(
            "Expected include_preprocessing to be True or False; "
            f"received: include_preprocessing={include_preprocessing!r}."
        )
    source = pretrained.resolve(weights, network=network)
    released = None if source is None else source.tag
    if released is not None:
        default_size, default_classes = released.input_shape[0], len(released.classes)
    classes = default_classes if classes is None else int(classes)
    inputs = resolve_input(input_tensor, input_shape, default_size)
    if source is not None:
        source.check_arguments(
            include_top=include_top,
            classes=classes,
            classifier_activation=classifier_activation,
            channels=image_channels(inputs.shape),
        )
    x = _preprocessed(inputs, source, weights) if include_preprocessing else inputs
    outputs = top(body(x), include_top, pooling, classes, classifier_activation)
    model = keras.Model(source_inputs(inputs), outputs, name=name)
    if source is not None:
        pretrained.load(model, source, input_tensor=x)
        if include_top and source.class_names is not None:
            set_class_names(model, source.class_names)
        if x is inputs and input_tensor is None and source.tag is not None:
            reject_integers(model)
    return model


def _preprocessed(inputs, source, weights):
    """Normalise images from 0 to 255 for the weights of `source`, in a layer `preprocessing`."""
    tag = None if source is None else source.tag
    if tag is None:
        raise ValueError(
            "Expected released weights with include_preprocessing=True, which uses their mean and standard deviation; "
            f"received: weights={weights!r}. To use other statistics, pass "
            "input_tensor=keras.layers.Normalization(mean=mean, variance=variance)(keras.Input(shape))."
        )
    channels = image_channels(inputs.shape)
    return normalization(*statistics_for(tag, channels), name=PREPROCESSING, dtype=full_precision())(inputs)


class Builder(Protocol):
    """Type of a builder that has only the arguments that all networks share."""

    def __call__(
        self,
        include_top: bool = ...,
        weights: PathLike | None = ...,
        input_tensor: keras.KerasTensor | None = ...,
        input_shape: Shape | None = ...,
        pooling: Pooling | None = ...,
        classes: int | None = ...,
        classifier_activation: str | Callable | None = ...,
        name: str | None = ...,
        *,
        include_preprocessing: bool = ...,
    ) -> keras.Model: ...


def builder(
    network: str,
    body: Callable[[keras.KerasTensor], Any],
    default_size: int,
    default_classes: int,
    name: str,
    docstring: str,
) -> Builder:
    """Return the builder of a network that has only the arguments that all networks share.

    Args:
        network: Id of the network and name of the function.
        body: Called on the input; returns the last feature map.
        default_size: Default height and width of the input without released weights, in pixels.
        default_classes: Default number of classes without released weights.
        name: Default name of the model.
        docstring: Docstring of the function up to `Args`.
    """
    default_name = name

    def build(
        include_top: bool = True,
        weights: PathLike | None = "default",
        input_tensor: keras.KerasTensor | None = None,
        input_shape: Shape | None = None,
        pooling: Pooling | None = None,
        classes: int | None = None,
        classifier_activation: str | Callable | None = "softmax",
        name: str | None = name,
        *,
        include_preprocessing: bool = False,
    ) -> keras.Model:
        return build_model(
            network,
            body,
            default_size,
            default_classes,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            name=name or default_name,
            include_preprocessing=include_preprocessing,
        )

    build.__name__ = build.__qualname__ = network
    build.__doc__ = inspect.cleandoc(docstring) + ARGUMENTS.format(size=default_size, classes=default_classes)
    return build


ARGUMENTS = """

Args:
    include_top: Whether to end in global average pooling and a classifier.
    weights: `"default"` for the best released checkpoint (a `ValueError` if there is none), `None` for random
        initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
    input_tensor: A KerasTensor to build on, or `None` for a new input.
    input_shape: Shape of one image. Defaults to that of the released weights or, without them,
        `({size}, {size}, 3)` (`channels_last`). Any size of at least 32, or `None` for height and width, with and
        without top.
    pooling: Output with `include_top=False`: `None` for the 4-D feature map, or `"avg"` or `"max"` for global
        pooling of it.
    classes: Number of classes. Defaults to that of the released weights or, without them, {classes}.
    classifier_activation: Activation of the classifier; `None` returns logits.
    name: Name of the model.
    include_preprocessing: Whether the network normalises images from 0 to 255 itself, in a layer `preprocessing`
        with the mean and standard deviation of the released checkpoint; requires `weights` to be one.

Returns:
    A functional `keras.Model`.

Raises:
    ValueError: if an argument is invalid, or the weights are missing or do not match the network.
"""


def source_inputs(tensor: keras.KerasTensor) -> Any:
    """Return the input that a tensor is computed from, or a list if there are several."""
    inputs = keras.utils.get_source_inputs(tensor)
    return inputs[0] if len(inputs) == 1 else inputs


def snake_case(name: str) -> str:
    """Return a builder's name in snake case: `"attention_next56"` for `"AttentionNeXt56"`."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("NeXt", "Next")).lower()
