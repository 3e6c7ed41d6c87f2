"""The parts that the graphs of all networks share."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras

from keras_resattn import pretrained
from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.layers.composite import BN_MOMENTUM, EPSILON
from keras_resattn.models._arguments import check_head, resolve_input
from keras_resattn.models.class_names import set_class_names
from keras_resattn.pretrained.records import Checkpoint
from keras_resattn.typing import PathLike, Pooling, Shape
from keras_resattn.utils.data_format import channel_axis, image_channels

PREPROCESSING = "preprocessing"


def batch_norm(name: str) -> BatchNormalization:
    """A batch normalisation over the channels of Keras' image data format."""
    return BatchNormalization(axis=channel_axis(), momentum=BN_MOMENTUM, epsilon=EPSILON, name=name)


def normalization(
    mean: Sequence[float], std: Sequence[float], axis: int | None = None, **options: Any
) -> keras.layers.Layer:
    """A layer that subtracts `mean` and divides by `std`, channel by channel; a standard deviation of 0 counts as 1.

    Keras' own, with constants: a saved model needs no code of this package for it, and it has no weights.
    """
    axis = channel_axis() if axis is None else axis
    variance = [float(value) ** 2 or 1.0 for value in std]
    return keras.layers.Normalization(axis=axis, mean=[float(value) for value in mean], variance=variance, **options)


def statistics_for(tag: Checkpoint, channels: int) -> tuple[list[float], list[float]]:
    """Returns `(mean, std)` of released weights for images of 3 channels, or of 1: the mean over the three."""
    if channels == 1:
        return [sum(tag.mean) / len(tag.mean)], [sum(tag.std) / len(tag.std)]
    return list(tag.mean), list(tag.std)


def relu(name: str) -> keras.layers.Activation:
    return keras.layers.Activation("relu", name=name)


def convolution(name: str, filters: int, kernel_size: int | tuple[int, int], **options: Any) -> keras.layers.Conv2D:
    """A bias-free convolution, initialised as He et al. (2015)."""
    options = {"use_bias": False, "kernel_initializer": "he_normal", **options}
    return keras.layers.Conv2D(filters, kernel_size, name=name, **options)


def head(
    x: keras.KerasTensor,
    include_top: bool,
    pooling: Pooling | None,
    classes: int,
    classifier_activation: str | Callable | None,
) -> keras.KerasTensor:
    """Global pooling and classifier, as `include_top` and `pooling` of `keras.applications` say."""
    if not include_top and pooling is None:
        return x
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return classifier(x, classes, classifier_activation) if include_top else x


def classifier(
    x: keras.KerasTensor, classes: int, activation: str | Callable | None, name: str = "predictions", **options: Any
) -> keras.KerasTensor:
    """A dense layer, in float32 under a mixed policy."""
    options = {"dtype": full_precision(), **options}
    return keras.layers.Dense(classes, activation=activation, name=name, **options)(x)


def full_precision() -> str | None:
    """`"float32"` where Keras' policy computes in half precision, and `None`, the policy itself, elsewhere."""
    return "float32" if keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16") else None


def build_model(
    network: str | None,
    body: Callable[[keras.KerasTensor], Any],
    size: int,
    *,
    include_top: bool,
    weights: PathLike | None,
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape | None,
    pooling: Pooling | None,
    classes: int,
    classifier_activation: str | Callable | None,
    name: str | None,
    include_preprocessing: bool = False,
    top: Callable[..., keras.KerasTensor] = head,
) -> keras.Model:
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
    if not isinstance(include_preprocessing, bool):
        raise ValueError(
            "Expected include_preprocessing to be True or False; "
            f"received: include_preprocessing={include_preprocessing!r}."
        )
    inputs = resolve_input(input_tensor, input_shape, size)
    source = pretrained.resolve(
        weights,
        network=network,
        include_top=include_top,
        classes=classes,
        classifier_activation=classifier_activation,
        channels=image_channels(inputs.shape),
    )
    x = _preprocessed(inputs, source, weights) if include_preprocessing else inputs
    outputs = top(body(x), include_top, pooling, classes, classifier_activation)
    model = keras.Model(source_inputs(inputs), outputs, name=name)
    if source is not None:
        pretrained.load(model, source, below=x)
        if include_top and source.class_names is not None:
            set_class_names(model, source.class_names)
        if x is inputs and input_tensor is None and source.record() is not None:
            _refuse_integers(model)
    return model


def _preprocessed(inputs, source, weights):
    """Normalises images of 0 to 255 as the weights of `source` expect them, in a layer `preprocessing`."""
    tag = None if source is None else source.record()
    if tag is None:
        raise ValueError(
            "Expected released weights with include_preprocessing=True, which takes their mean and standard deviation; "
            f"received: weights={weights!r}. For statistics of your own, pass "
            "input_tensor=keras.layers.Normalization(mean=mean, variance=variance)(keras.Input(shape))."
        )
    channels = image_channels(inputs.shape)
    return normalization(*statistics_for(tag, channels), name=PREPROCESSING, dtype=full_precision())(inputs)


class _NormalizedImages(str):
    """What `InputSpec.dtype` is compared with: equal to every float type. Its text is the rest of Keras' message."""

    __slots__ = ()

    def __eq__(self, dtype):
        return "float" in dtype

    def __ne__(self, dtype):
        return "float" not in dtype

    __hash__ = str.__hash__


def _refuse_integers(model):
    """Lets Keras refuse integers, as raw images are, wherever the model itself is called: `predict`, `fit`, `model(x)`.

    Keras casts them to float32 otherwise. On JAX, `predict`, `evaluate` and `fit` check no input. Kept neither in files
    nor in models that are built on this one.
    """
    (spec,) = model.input_spec
    spec.dtype = _NormalizedImages(
        "float, for normalised images (call keras_resattn.preprocess_input(images) first, or build the network with "
        "include_preprocessing=True)"
    )
    model.input_spec = spec


class Builder(Protocol):
    """The public function of a network that has no arguments beside those that all networks share."""

    def __call__(
        self,
        include_top: bool = ...,
        weights: PathLike | None = ...,
        input_tensor: keras.KerasTensor | None = ...,
        input_shape: Shape | None = ...,
        pooling: Pooling | None = ...,
        classes: int = ...,
        classifier_activation: str | Callable | None = ...,
        name: str = ...,
        *,
        include_preprocessing: bool = ...,
    ) -> keras.Model: ...


def builder(
    network: str, body: Callable[[keras.KerasTensor], Any], size: int, classes: int, name: str, docstring: str
) -> Builder:
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
        include_top: bool = True,
        weights: PathLike | None = "default",
        input_tensor: keras.KerasTensor | None = None,
        input_shape: Shape | None = None,
        pooling: Pooling | None = None,
        classes: int = classes,
        classifier_activation: str | Callable | None = "softmax",
        name: str = name,
        *,
        include_preprocessing: bool = False,
    ) -> keras.Model:
        return build_model(
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
            include_preprocessing=include_preprocessing,
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
    input_shape: Shape of one image, `({size}, {size}, 3)` by default under `channels_last`. Any size from 32
        up, or `None` for height and width, with and without top.
    pooling: What `include_top=False` ends in: `None` (the 4-D feature map), `"avg"` or `"max"`.
    classes: Number of classes.
    classifier_activation: Activation of the classifier; `None` returns logits.
    name: Name of the model.
    include_preprocessing: Whether the network takes images from 0 to 255 and normalises them itself, in a layer
        `preprocessing`. For released weights, whose mean and standard deviation it uses.

Returns:
    A functional `keras.Model`.

Raises:
    ValueError: for an argument that does not fit, and for weights that are missing or do not fit.
"""


def source_inputs(tensor: keras.KerasTensor) -> Any:
    """The inputs that `tensor` is computed from: one, or a list of several."""
    inputs = keras.utils.get_source_inputs(tensor)
    return inputs[0] if len(inputs) == 1 else inputs


def snake_case(name: str) -> str:
    """`"CifarResidualAttention56"` -> `"cifar_residual_attention56"`, `"AttentionNeXt56"` -> `"attention_next56"`."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("NeXt", "Next")).lower()
