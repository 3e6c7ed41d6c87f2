"""Graph of gated attention, on any base network, and the checks of its arguments (Rodriguez et al., ECCV 2018)."""

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
from keras_resattn.models._build import full_precision
from keras_resattn.typing import Aggregation, BaseOutput, GatedMaskActivation, GlobalGating, HeadGating
from keras_resattn.utils.validation import check_choice, check_count, check_number


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
    """Add gated attention to the graph of a base network: a module for each tap, the global gate, and their sum.

    Args:
        logits: Output of the base network, `(n, classes)`.
        taps: Feature maps, 4-D tensors.
        features: Input of the global gate, `(n, features)`.
        names: Prefix of the layer names of each module.
        classes: Number of classes.
        attention_width: As in `attend_and_rectify`.
        mask_activation: As in `attend_and_rectify`.
        head_gate: As in `attend_and_rectify`.
        gate: As in `attend_and_rectify`.
        aggregation: As in `attend_and_rectify`.
        regularization: As in `attend_and_rectify`.
        classifier_activation: As in `attend_and_rectify`.
        gradient_scale: As in `attend_and_rectify`.
        base: Whether `logits` holds `"logits"` or probabilities after a `"softmax"`.
        predictions: Name of the last layer.

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
    """Check the arguments of gated attention, which are those of `attend_and_rectify`.

    Raises:
        ValueError: if one is invalid.
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
