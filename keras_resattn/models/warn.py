"""Wide Attentional Residual Networks, the Wide ResNets with gated attention of Rodriguez et al. (ECCV 2018)."""

from typing import Literal

import keras

from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.models._build import build_model, classifier, head
from keras_resattn.models.gated_attention import check_attention, rectified
from keras_resattn.models.wide_resnet import CLASSES, SIZE, bottleneck_body, check_wide
from keras_resattn.models.wide_resnet import body as wide_body
from keras_resattn.typing import Aggregation, GatedMaskActivation, GlobalGating, HeadGating, PathLike, Pooling, Shape
from keras_resattn.utils.validation import check_count

#: Arguments of the published networks: three modules of four heads, softmax masks and gates.
PUBLISHED_ARGUMENTS = {
    "attention_depth": 3,
    "attention_width": 4,
    "mask_activation": "softmax",
    "head_gate": "softmax",
    "gate": "softmax",
    "aggregation": "log_prob",
}


def WARN(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling | None = None,
    classes: int | None = None,
    classifier_activation: Literal["softmax"] | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = False,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
    attention_depth: int = 3,
    attention_width: int = 4,
    mask_activation: GatedMaskActivation = "softmax",
    head_gate: HeadGating = "softmax",
    gate: GlobalGating = "softmax",
    aggregation: Aggregation = "log_prob",
    regularization: float = 1e-3,
) -> keras.Model:
    """Build a Wide Attentional Residual Network for CIFAR, WARN-`depth`-`width`.

    A `WideResNet` with gated attention on its three groups. As in the authors' code, the stem has batch normalisation
    and ReLU, and each attention module reads the first batch normalisation and ReLU of the next group.

    With `classifier_activation="softmax"` the output is a distribution; with `None` it is the gate-weighted sum of
    log-softmaxes, for which `keras_resattn.losses.NegativeLogLikelihood` is the authors' loss. Both load the same
    weights.

    Reference:
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        include_top: Whether to include attention and classifier; otherwise the network is the body alone.
        weights: `"default"` for the best released checkpoint (a `ValueError` if there is none), `None` for random
            initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image. Defaults to that of the released weights or, without them, `(32, 32, 3)`
            (`channels_last`). Any size of at least 32, or `None` for height and width, with and without top.
        pooling: Output with `include_top=False`: `None` for the 4-D feature map, or `"avg"` or `"max"` for global
            pooling of it.
        classes: Number of classes. Defaults to that of the released weights or, without them, 10.
        classifier_activation: `"softmax"` or `None`.
        name: Name of the model; by default, it contains depth and width: `"warn_28_10"`.
        include_preprocessing: Whether the network normalises images from 0 to 255 itself, in a layer `preprocessing`
            with the mean and standard deviation of the released checkpoint; requires `weights` to be one.
        depth: Number of layers as counted in the paper, 6n + 4.
        width: Widening factor k of the paper.
        dropout: Fraction of channels dropped inside each unit in training.
        attention_depth: Number of modules, counted from the last group backwards: 1 to 3.
        attention_width: Heads of each module, K.
        mask_activation: `"softmax"` over positions or `"sigmoid"`; see `keras_resattn.layers.AttentionHead`.
        head_gate: `"softmax"`, or `"mean"` for modules without gates; see `keras_resattn.layers.HeadGate`.
        gate: `"softmax"`, `"sigmoid"`, `"linear"`, `"mean"` or `"base"`; see `keras_resattn.layers.GlobalGate`.
        aggregation: `"log_prob"` or `"prob"`; see `keras_resattn.layers.Rectify`.
        regularization: Strength of the overlap regulariser, divided equally among the modules (in the authors' runs
            0.001 for CIFAR-10, 0 for CIFAR-100).

    Returns:
        A functional `keras.Model`. Masks and gates are nodes of its graph: `attention{g}_mask` and `attention{g}_gates`
        for group g, and `global_gate`, whose last entry is the weight of the classifier.

    Raises:
        ValueError: if an argument is invalid, or the weights are missing or do not match the network.
    """
    depth, width = check_wide(depth, width, dropout)
    options = {
        "attention_depth": attention_depth,
        "attention_width": attention_width,
        "mask_activation": mask_activation,
        "head_gate": head_gate,
        "gate": gate,
        "aggregation": aggregation,
        "regularization": regularization,
    }
    return _build_warn(
        f"WARN-{depth}-{width}",
        lambda inputs: (taps := wide_body(inputs, depth, width, dropout, attended=True), taps[-1]),
        SIZE,
        CLASSES,
        options=options,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name or f"warn_{depth}_{width}",
        include_preprocessing=include_preprocessing,
    )


def WARN50x2(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling | None = None,
    classes: int | None = None,
    classifier_activation: Literal["softmax"] | None = "softmax",
    name: str | None = "warn50x2",
    *,
    include_preprocessing: bool = False,
    attention_depth: int = 3,
    attention_width: int = 4,
    mask_activation: GatedMaskActivation = "softmax",
    head_gate: HeadGating = "softmax",
    gate: GlobalGating = "softmax",
    aggregation: Aggregation = "log_prob",
    regularization: float = 1e-3,
) -> keras.Model:
    """Build the network of "Attend and Rectify" for fine-grained recognition: `WideResNet50x2` with gated attention.

    Modules read the first three groups after their ReLU (256, 512 and 1024 channels); the last group, with 2048
    channels, feeds the classifier and the global gate. `attention_depth` counts from the third group backwards. The
    authors used 1 to 4 heads.

    Reference:
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320), Sec. 4.4.

    Arguments, return value and errors are those of `WARN`, with 224 x 224 images and 1000 classes by default.
    """
    options = {
        "attention_depth": attention_depth,
        "attention_width": attention_width,
        "mask_activation": mask_activation,
        "head_gate": head_gate,
        "gate": gate,
        "aggregation": aggregation,
        "regularization": regularization,
    }

    def body(inputs):
        *taps, x = bottleneck_body(inputs)
        return taps, x

    return _build_warn(
        "WARN50x2",
        body,
        default_size=224,
        default_classes=1000,
        options=options,
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


def _build_warn(
    network, body, default_size, default_classes, *, options, include_top, classifier_activation, **arguments
):
    """Check the attention arguments, and build attention on a body that returns three taps and its last map."""
    published = all(options[argument] == value for argument, value in PUBLISHED_ARGUMENTS.items())
    options = dict(options)
    depth = check_count("attention_depth", options.pop("attention_depth"))
    if depth > 3:
        raise ValueError(
            f"Expected attention_depth of at most 3, one module for each group; received: attention_depth={depth}."
        )
    check_attention(**options, classifier_activation=classifier_activation if include_top else None)

    def top(maps, include_top, pooling, classes, classifier_activation):
        taps, x = maps
        if not include_top:
            return head(x, False, pooling, classes, classifier_activation)
        features = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        return rectified(
            classifier(features, classes, None, name="classifier", kernel_initializer=HeGaussian()),
            taps[-depth:],
            features,
            names=[f"attention{group}" for group in (1, 2, 3)][-depth:],
            classes=classes,
            classifier_activation=classifier_activation,
            **options,
        )

    return build_model(
        network if published else None,
        body,
        default_size,
        default_classes,
        include_top=include_top,
        classifier_activation=classifier_activation,
        top=top,
        **arguments,
    )
