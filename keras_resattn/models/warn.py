"""Attend and Rectify (Rodriguez et al., ECCV 2018): the graph of gated attention, and Wide ResNets that have it."""

from collections.abc import Sequence
from typing import Literal

import keras

from keras_resattn.layers.attention_heads import GATED_MASK_ACTIVATIONS, AttentionHead, OutputHead
from keras_resattn.layers.gates import (
    AGGREGATIONS,
    GATES,
    HEAD_GATES,
    GatedSum,
    GlobalGate,
    GradientScale,
    HeadGate,
    Rectify,
)
from keras_resattn.models._build import assemble, classifier, full_precision, head
from keras_resattn.models.wide_resnet import body as wide_body
from keras_resattn.models.wide_resnet import bottleneck_body, check_wide
from keras_resattn.typing import (
    Aggregation,
    BaseOutput,
    GatedMaskActivation,
    GlobalGating,
    HeadGating,
    PathLike,
    Pooling,
    Shape,
)
from keras_resattn.utils.validation import check_choice, check_count, check_number

#: Three modules of four heads, softmax masks and gates: what the published networks have, and weights belong to.
STANDARD = {
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
    classes: int = 10,
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
    """Instantiates a Wide Attentional Residual Network for CIFAR, WARN-`depth`-`width`.

    A `WideResNet` whose three groups are looked at by gated attention. As in the authors' code, the stem has a batch
    normalisation and a ReLU of its own, and modules look at what the next group's first unit sees after its
    batch normalisation and ReLU.

    With `classifier_activation="softmax"` the output is a distribution; with `None` it is the gate-weighted sum of
    log-softmaxes, whose `keras_resattn.losses.NegativeLogLikelihood` is the authors' loss. Both take the same weights.

    Reference:
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        include_top: Whether to end in attention and a classifier. Without it, the body alone.
        weights: `"default"` for the best published tag (a `ValueError` where there is none), `None` for random
            initialisation, a tag or alias, the path of a `.weights.h5` file, or `"hf://owner/repo[@revision]"`.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image, `(32, 32, 3)` by default under `channels_last`. Any size from 32
            up, or `None` for height and width, with and without top.
        pooling: What `include_top=False` ends in: `None` (the 4-D feature map), `"avg"` or `"max"`.
        classes: Number of classes.
        classifier_activation: `"softmax"` or `None`.
        name: Name of the model; `"warn_28_10"` by default, with its depth and width.
        include_preprocessing: Whether the network takes images from 0 to 255 and normalises them itself, in a layer
            `preprocessing`. For released weights, whose mean and standard deviation it uses.
        depth: Number of layers as the paper counts them, 6n + 4.
        width: The paper's k: how many times wider than a ResNet.
        dropout: Share of the channels dropped inside each unit in training.
        attention_depth: Number of modules, from the last group backwards: 1 to 3.
        attention_width: Heads of each module, K.
        mask_activation: `"softmax"` over positions or `"sigmoid"`, see `keras_resattn.layers.AttentionHead`.
        head_gate: `"softmax"`, or `"mean"` for modules without gates, see `keras_resattn.layers.HeadGate`.
        gate: `"softmax"`, `"sigmoid"`, `"linear"`, `"mean"` or `"base"`, see `keras_resattn.layers.GlobalGate`.
        aggregation: `"log_prob"` or `"prob"`, see `keras_resattn.layers.Rectify`.
        regularization: Strength of the overlap regulariser, shared among the modules (the authors' runs: 0.001 for
            CIFAR-10, 0 for CIFAR-100).

    Returns:
        A functional `keras.Model`. Masks and gates are nodes of its graph: `attention{g}_mask` and `attention{g}_gates`
        for group g, and `global_gate`, whose last entry is the classifier's.

    Raises:
        ValueError: for an argument that does not fit, and for weights that are missing or do not fit.
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
    return _assemble(
        f"WARN-{depth}-{width}",
        lambda inputs: (taps := wide_body(inputs, depth, width, dropout, attended=True), taps[-1]),
        size=32,
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
    classes: int = 1000,
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
    """Instantiates the fine-grained network of "Attend and Rectify": `WideResNet50x2` with gated attention.

    Modules look at the first three groups, after their ReLU (256, 512 and 1024 channels); the last group, of 2048
    channels, feeds the classifier and the global gate. `attention_depth` counts from the third group backwards. The
    authors used widths of 1 to 4 heads.

    Reference:
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320), Sec. 4.4.

    Args, returns and errors are those of `WARN`, at 224 x 224 images and 1000 classes by default.
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

    return _assemble(
        "WARN50x2",
        body,
        size=224,
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


def _assemble(network, body, size, options, *, include_top, classifier_activation, **arguments):
    """Checks the attention's arguments, and puts it on a body that returns three taps and its last map."""
    published = all(options[argument] == value for argument, value in STANDARD.items())
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
            classifier(features, classes, None, name="classifier", kernel_initializer="he_normal"),
            taps[-depth:],
            features,
            names=[f"attention{group}" for group in (1, 2, 3)][-depth:],
            classes=classes,
            classifier_activation=classifier_activation,
            **options,
        )

    return assemble(
        network if published else None,
        body,
        size,
        include_top=include_top,
        classifier_activation=classifier_activation,
        top=top,
        **arguments,
    )


def rectified(
    logits: keras.KerasTensor,
    taps: Sequence[keras.KerasTensor],
    features: keras.KerasTensor,
    *,
    names: Sequence[str],
    classes: int,
    attention_width: int,
    mask_activation: GatedMaskActivation,
    head_gate: HeadGating,
    gate: GlobalGating,
    aggregation: Aggregation,
    regularization: float,
    classifier_activation: Literal["softmax"] | None,
    gradient_scale: float = 1.0,
    base: BaseOutput = "logits",
    predictions: str = "predictions",
) -> keras.KerasTensor:
    """The graph of gated attention on top of a network's: one module for each tap, the global gate, and their sum.

    Args:
        logits: The network's own output, `(n, classes)`, logits or what `base` says.
        taps: Feature maps, 4-D tensors.
        features: What the global gate reads, `(n, features)`.
        names: Prefix of each module's layers.
        predictions: Name of the last layer.
        others: As in `attend_and_rectify`.

    Returns:
        A tensor of shape `(n, classes)`.
    """
    float32 = {"dtype": full_precision()}

    def scaled(x, name):
        return x if gradient_scale == 1 else GradientScale(gradient_scale, name=f"{name}_gradient")(x)

    modules = []
    for x, name in zip(taps, names, strict=True):
        x = scaled(x, name)
        masks = AttentionHead(attention_width, mask_activation, regularization / len(taps), name=f"{name}_mask")(x)
        scores = OutputHead(classes, scores=head_gate == "softmax", name=f"{name}_outputs")([x, masks])
        if head_gate == "softmax":
            outputs, gate_scores = scores
            scores = [outputs, HeadGate(name=f"{name}_gates", **float32)(gate_scores)]
        modules.append(GatedSum(head_gate, name=f"{name}_logits", **float32)(scores))
    gates = GlobalGate(len(taps) + 1, gate, name="global_gate", **float32)(scaled(features, "global_gate"))
    x = Rectify(aggregation, base, normalize=gate == "linear", name="rectify", **float32)([gates, *modules, logits])
    return keras.layers.Activation(classifier_activation or "linear", name=predictions, **float32)(x)


def check_attention(
    attention_width: int,
    mask_activation: GatedMaskActivation,
    head_gate: HeadGating,
    gate: GlobalGating,
    aggregation: Aggregation,
    regularization: float,
    classifier_activation: Literal["softmax"] | None,
    gradient_scale: float = 1.0,
) -> None:
    """Checks the arguments that say how attention is gated.

    Raises:
        ValueError: for one that does not fit.
    """
    check_count("attention_width", attention_width)
    check_choice("mask_activation", mask_activation, GATED_MASK_ACTIVATIONS)
    check_choice("head_gate", head_gate, HEAD_GATES)
    check_choice("gate", gate, GATES)
    check_choice("aggregation", aggregation, AGGREGATIONS)
    check_number("regularization", regularization)
    check_number("gradient_scale", gradient_scale)
    check_choice("classifier_activation", classifier_activation, ("softmax", None))
    if gate == "linear" and aggregation == "prob":
        raise ValueError(
            "Expected aggregation='log_prob' with gate='linear', whose weights need not sum to one; "
            "received: aggregation='prob'."
        )
