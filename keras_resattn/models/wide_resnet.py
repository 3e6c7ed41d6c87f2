"""Wide ResNets (Zagoruyko and Komodakis, BMVC 2016): the CIFAR networks, and the ImageNet bottleneck of width 2."""

from collections.abc import Callable

import keras

from keras_resattn.layers.residual import PostActivationUnit
from keras_resattn.layers.wide_unit import WideUnit
from keras_resattn.models._arguments import check_depth
from keras_resattn.models._build import batch_norm, build_model, builder, convolution, relu
from keras_resattn.typing import PathLike, Pooling, Shape
from keras_resattn.utils.validation import check_count, check_number

SIZE = 32
STEM_WIDTH = 16
WIDTHS = (16, 32, 64)


def WideResNet(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = False,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
) -> keras.Model:
    """Instantiates a Wide ResNet for CIFAR, WRN-`depth`-`width`.

    Three groups of n = (depth - 4) / 6 basic pre-activation units, of 16, 32 and 64 times `width` channels. Two
    details are those of the code of "Attend and Rectify", whose base network this is: a unit that changes channels
    projects its raw input (the original projects the pre-activated one), and dropout drops whole channels.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (https://arxiv.org/abs/1605.07146).
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        include_top: Whether to end in global average pooling and a classifier.
        weights: `"default"` for the best published tag (a `ValueError` where there is none), `None` for random
            initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image, `(32, 32, 3)` by default under `channels_last`. Any size from 32
            up, or `None` for height and width, with and without top.
        pooling: What `include_top=False` ends in: `None` (the 4-D feature map), `"avg"` or `"max"`.
        classes: Number of classes.
        classifier_activation: Activation of the classifier; `None` returns logits.
        name: Name of the model; `"wide_resnet_28_10"` by default, with its depth and width.
        include_preprocessing: Whether the network takes images from 0 to 255 and normalises them itself, in a layer
            `preprocessing`. For released weights, whose mean and standard deviation it uses.
        depth: Number of layers as the paper counts them, 6n + 4.
        width: The paper's k: how many times wider than a ResNet.
        dropout: Share of the channels dropped inside each unit in training.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: for an argument that does not fit, and for weights that are missing or do not fit.
    """
    depth, width = check_wide(depth, width, dropout)
    return build_model(
        f"WideResNet-{depth}-{width}",
        lambda inputs: body(inputs, depth, width, dropout)[-1],
        SIZE,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name or f"wide_resnet_{depth}_{width}",
        include_preprocessing=include_preprocessing,
    )


def check_wide(depth: int, width: int, dropout: float) -> tuple[int, int]:
    """Checks what a CIFAR body is made of, and returns `(depth, width)` as Python's integers.

    Raises:
        ValueError: if `depth` is not 6n + 4, `width` not a positive integer, or `dropout` not from 0 up to 1.
    """
    depth, width = check_depth(depth, 6, 4), check_count("width", width)
    check_number("dropout", dropout, below=1)
    return depth, width


def body(
    inputs: keras.KerasTensor, depth: int, width: int, dropout: float = 0.0, attended: bool = False
) -> list[keras.KerasTensor]:
    """Stem, three groups, and the batch normalisation and ReLU after them.

    Args:
        inputs: Images, `(n, h, w, c)`.
        depth: Number of layers, 6n + 4.
        width: Channels as multiples of 16, 32 and 64.
        dropout: Share of the channels dropped inside each unit in training.
        attended: Whether to build it as WARN's authors do, ready for attention: a batch normalisation and a ReLU
            after the stem's convolution, and those of the second and the third group's first unit as layers
            of the graph.

    Returns:
        A list with a map of each group: the first two raw, or with `attended` as the next group's first unit sees
        it after its batch normalisation and ReLU; the third after `post_relu`.
    """
    *maps, x = groups(inputs, depth, width, dropout, attended)
    x = batch_norm("post_bn")(x)
    return [*maps, relu("post_relu")(x)]


def groups(
    inputs: keras.KerasTensor, depth: int, width: int, dropout: float = 0.0, attended: bool = False
) -> list[keras.KerasTensor]:
    """Stem and groups alone: what `body` returns, with the third group's output raw."""
    x = convolution("stem_conv", STEM_WIDTH, 3, padding="same")(inputs)
    if attended:
        x = batch_norm("stem_bn")(x)
        x = relu("stem_relu")(x)
    maps = []
    for group, filters in enumerate(WIDTHS, start=1):
        strides = 1 if group == 1 else 2
        options = {"filters": filters * width, "dropout": dropout}
        if attended and group > 1:
            a = batch_norm(f"group{group}_preact_bn")(x)
            a = relu(f"group{group}_preact_relu")(a)
            maps[-1] = a
            x = WideUnit(strides=strides, preactivated=True, name=f"group{group}_unit1", **options)([x, a])
        else:
            x = WideUnit(strides=strides, name=f"group{group}_unit1", **options)(x)
        for i in range(2, (depth - 4) // 6 + 1):
            x = WideUnit(name=f"group{group}_unit{i}", **options)(x)
        maps.append(x)
    return maps


def bottleneck_body(inputs: keras.KerasTensor) -> list[keras.KerasTensor]:
    """WideResNet50x2 up to its pooling. Returns a list with the output of each of the four groups."""
    x = keras.layers.ZeroPadding2D(3, name="stem_pad")(inputs)
    x = convolution("stem_conv", 64, 7, strides=2)(x)
    x = batch_norm("stem_bn")(x)
    x = relu("stem_relu")(x)
    x = keras.layers.ZeroPadding2D(1, name="pool_pad")(x)  # after a ReLU, zeros never win the maximum
    x = keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(x)
    maps = []
    for group, units in enumerate((3, 4, 6, 3), start=1):
        for i in range(1, units + 1):
            strides = 2 if i == 1 and group > 1 else 1
            x = PostActivationUnit(64 * 2**group, strides, groups=1, name=f"group{group}_unit{i}")(x)
        maps.append(x)
    return maps


WideResNet50x2 = builder(
    "WideResNet50x2",
    lambda inputs: bottleneck_body(inputs)[-1],
    size=224,
    classes=1000,
    name="wide_resnet50x2",
    docstring="""Instantiates WRN-50-2-bottleneck, ResNet-50 with 3x3 convolutions of twice the channels.

    68.88 M trainable parameters and 11.40 G multiply-adds at 224 x 224 and 1000 classes. "Attend and Rectify"
    calls its fine-grained base network WRN-50-4; its code loads this one, and its Table 4 has the size of this one.
    A real WRN-50-4 has 223 M parameters.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (https://arxiv.org/abs/1605.07146).
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).""",
)
