"""Baselines of the papers: pre-activation ResNets for CIFAR, and a Wide ResNet with the attention of Jetley et al."""

import functools
from collections.abc import Callable

import keras

from keras_resattn.layers.global_attention import AttendedSum, GlobalAttentionMap
from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.layers.residual import PreActivationUnit
from keras_resattn.models._build import batch_norm, build_model, builder, classifier, convolution, relu
from keras_resattn.models.wide_resnet import CLASSES, SIZE, STEM_WIDTH, WIDTHS, check_wide, groups
from keras_resattn.typing import PathLike, Shape
from keras_resattn.utils.data_format import image_channels


def preactivation_body(inputs: keras.KerasTensor, depth: int) -> keras.KerasTensor:
    """Build stem, three stages of (depth - 2) / 9 bottleneck units each, batch normalisation and ReLU."""
    x = convolution("stem_conv", STEM_WIDTH, 3, padding="same")(inputs)
    for stage, width in enumerate(WIDTHS, start=1):
        for i in range(1, (depth - 2) // 9 + 1):
            strides = 2 if i == 1 and stage > 1 else 1
            x = PreActivationUnit(width, strides, name=f"stage{stage}_unit{i}")(x)
    x = batch_norm("post_bn")(x)
    return relu("post_relu")(x)


_RESNET = """Build ResNet-{depth} for CIFAR, with pre-activation bottleneck units.

    {parameters} M trainable parameters and {gmacs} G multiply-adds at 32 x 32 and 10 classes.

    Reference:
        He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016 (https://arxiv.org/abs/1603.05027)."""

ResNet164 = builder(
    "ResNet164",
    functools.partial(preactivation_body, depth=164),
    SIZE,
    CLASSES,
    name="resnet164",
    docstring=_RESNET.format(depth=164, parameters="1.70", gmacs="0.25"),
)
ResNet1001 = builder(
    "ResNet1001",
    functools.partial(preactivation_body, depth=1001),
    SIZE,
    CLASSES,
    name="resnet1001",
    docstring=_RESNET.format(depth=1001, parameters="10.33", gmacs="1.49"),
)


def WideResNetAtt2(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: None = None,
    classes: int | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = False,
    depth: int = 40,
    width: int = 10,
    dropout: float = 0.0,
) -> keras.Model:
    """Build WRN-att2, the Wide ResNet with two attention points that "Attend and Rectify" compares with.

    Two more 3x3 convolutions follow the third group, and a global vector is computed from their output. The maps of
    the second group and of these convolutions are each summed over positions, with weights computed from the map and
    the global vector (`attention2_map`, `attention3_map`). Both sums are concatenated and classified.

    **The global branch is dead.** The weights are a softmax over positions of a linear score, to which the global
    vector adds the same number everywhere. The softmax cancels it, so it has no effect on the output and gets no
    gradient. The branch is the same in the authors' code and counts towards the paper's 64 M parameters; it is kept
    here for comparison. Of the compatibility functions of Jetley et al., only the dot product depends on the global
    vector.

    References:
        Jetley et al., "Learn to Pay Attention", ICLR 2018 (https://arxiv.org/abs/1804.02391).
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        include_top: Whether to include the classifier; otherwise the output is the two sums after batch normalisation
            and ReLU, a vector of 96 * `width` features.
        weights: `"default"` for the best released checkpoint (a `ValueError` if there is none), `None` for random
            initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image. Defaults to that of the released weights or, without them, `(32, 32, 3)`
            (`channels_last`). Any size of at least 32, or `None` for height and width, with and without top.
        pooling: Must be `None`, as the weighted sums already pool the maps.
        classes: Number of classes. Defaults to that of the released weights or, without them, 10.
        classifier_activation: Activation of the classifier; `None` returns logits.
        name: Name of the model; by default, it contains depth and width: `"wide_resnet_att2_40_10"`.
        include_preprocessing: Whether the network normalises images from 0 to 255 itself, in a layer `preprocessing`
            with the mean and standard deviation of the released checkpoint; requires `weights` to be one.
        depth: Number of layers of the Wide ResNet, 6n + 4.
        width: Widening factor k of the Wide ResNet.
        dropout: Fraction of channels dropped inside each unit in training. The dropout rates of the attention branch
            are fixed.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: if an argument is invalid, or the weights are missing or do not match the network.
    """
    depth, width = check_wide(depth, width, dropout)
    if pooling is not None:
        raise ValueError(
            "Expected pooling=None, as the attention of this network already pools its maps; "
            f"received: pooling={pooling!r}. Pass include_top=False for the vector before the classifier."
        )
    return build_model(
        f"WideResNetAtt2-{depth}-{width}",
        lambda inputs: _attended(*groups(inputs, depth, width, dropout)[1:]),
        SIZE,
        CLASSES,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name or f"wide_resnet_att2_{depth}_{width}",
        include_preprocessing=include_preprocessing,
        top=_top,
    )


def _attended(second, third):
    """Compute the input of the classifier from the raw outputs of the second and third group."""
    channels = image_channels(third.shape)
    for i in (1, 2):
        third = convolution(f"group3_conv{i}", channels, 3, padding="same")(third)
    vector = _global_vector(third, channels)
    sums = []
    for group, x in ((2, second), (3, third)):
        x = batch_norm(f"attention{group}_bn")(x)
        x = relu(f"attention{group}_relu")(x)
        x = keras.layers.SpatialDropout2D(0.5, name=f"attention{group}_dropout")(x)
        weights = GlobalAttentionMap(name=f"attention{group}_map")([x, vector])
        sums.append(AttendedSum(name=f"attention{group}_sum")([x, weights]))
    x = keras.layers.Concatenate(name="context")(sums)
    x = batch_norm("context_bn")(x)
    return relu("context_relu")(x)


def _global_vector(x, channels):
    """Compute the global vector, which cancels in the attention weights."""
    x = batch_norm("global_bn1")(x)
    x = relu("global_relu1")(x)
    x = keras.layers.MaxPooling2D(2, name="global_pool1")(x)
    x = batch_norm("global_bn2")(x)
    x = relu("global_relu2")(x)
    x = keras.layers.SpatialDropout2D(0.4, name="global_dropout1")(x)
    x = keras.layers.GlobalMaxPooling2D(name="global_pool2")(x)
    x = keras.layers.Dropout(0.5, name="global_dropout2")(x)
    return keras.layers.Dense(channels, use_bias=False, kernel_initializer=HeGaussian(), name="global_dense")(x)


def _top(x, include_top, pooling, classes, classifier_activation):
    return classifier(x, classes, classifier_activation) if include_top else x
