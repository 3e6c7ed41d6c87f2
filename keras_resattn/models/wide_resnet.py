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
CLASSES = 10
STEM_WIDTH = 16
WIDTHS = (16, 32, 64)


def WideResNet(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = False,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
) -> keras.Model:
    """Build a Wide ResNet for CIFAR, WRN-`depth`-`width`.

    Three groups of n = (depth - 4) / 6 basic pre-activation units, with 16, 32 and 64 times `width` channels. Two
    details follow the code of "Attend and Rectify", which builds on this network: a unit that changes the number of
    channels projects its raw input (the original projects the pre-activated input), and dropout drops whole channels.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (https://arxiv.org/abs/1605.07146).
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        include_top: Whether to end in global average pooling and a classifier.
        weights: `"default"` for the best released checkpoint (a `ValueError` if there is none), `None` for random
            initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image. Defaults to that of the released weights or, without them, `(32, 32, 3)`
            (`channels_last`). Any size of at least 32, or `None` for height and width, with and without top.
        pooling: Output with `include_top=False`: `None` for the 4-D feature map, or `"avg"` or `"max"` for global
            pooling of it.
        classes: Number of classes. Defaults to that of the released weights or, without them, 10.
        classifier_activation: Activation of the classifier; `None` returns logits.
        name: Name of the model; by default, it contains depth and width: `"wide_resnet_28_10"`.
        include_preprocessing: Whether the network normalises images from 0 to 255 itself, in a layer `preprocessing`
            with the mean and standard deviation of the released checkpoint; requires `weights` to be one.
        depth: Number of layers as counted in the paper, 6n + 4.
        width: Widening factor k of the paper.
        dropout: Fraction of channels dropped inside each unit in training.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: if an argument is invalid, or the weights are missing or do not match the network.
    """
    depth, width = check_wide(depth, width, dropout)
    return build_model(
        f"WideResNet-{depth}-{width}",
        lambda inputs: body(inputs, depth, width, dropout)[-1],
        SIZE,
        CLASSES,
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
    """Check the arguments of a CIFAR body, and return `(depth, width)` as Python integers.

    Raises:
        ValueError: if `depth` is not 6n + 4, `width` is not a positive integer, or `dropout` is not in [0, 1).
    """
    depth, width = check_depth(depth, 6, 4), check_count("width", width)
    check_number("dropout", dropout, below=1)
    return depth, width


def body(
    inputs: keras.KerasTensor, depth: int, width: int, dropout: float = 0.0, attended: bool = False
) -> list[keras.KerasTensor]:
    """Build stem, three groups, and the final batch normalisation and ReLU.

    Args:
        inputs: Images, `(n, h, w, c)`.
        depth: Number of layers, 6n + 4.
        width: Widening factor of the 16, 32 and 64 channels.
        dropout: Fraction of channels dropped inside each unit in training.
        attended: Whether to build the variant of WARN's authors, for attention: with batch normalisation and ReLU
            after the stem's convolution, and with the first batch normalisation and ReLU of the second and third group
            as layers of the graph.

    Returns:
        A feature map of each group: the first two are raw sums, or with `attended` their batch normalisation and ReLU
        in the next group; the third is the output of `post_relu`.
    """
    *maps, x = groups(inputs, depth, width, dropout, attended)
    x = batch_norm("post_bn")(x)
    return [*maps, relu("post_relu")(x)]


def groups(
    inputs: keras.KerasTensor, depth: int, width: int, dropout: float = 0.0, attended: bool = False
) -> list[keras.KerasTensor]:
    """Build stem and groups only: like `body`, but the third map is the raw output of its group."""
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
    """Build WideResNet50x2 up to its pooling, and return the output of each of the four groups."""
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
    default_size=224,
    default_classes=1000,
    name="wide_resnet50x2",
    docstring="""Build WRN-50-2-bottleneck, a ResNet-50 whose 3x3 convolutions have twice the channels.

    68.88 M trainable parameters and 11.40 G multiply-adds at 224 x 224 and 1000 classes. The base network for
    fine-grained recognition that "Attend and Rectify" calls WRN-50-4 is this one, according to its code and the size
    in its Table 4. An actual WRN-50-4 has 223 M parameters.

    References:
        Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (https://arxiv.org/abs/1605.07146).
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).""",
)
