"""Gated attention on any Keras model (Rodriguez et al., ECCV 2018)."""

import logging
from collections.abc import Sequence
from typing import Literal

import keras

from keras_resattn.models.gated_attention import check_attention, rectified
from keras_resattn.models.inspection import last_layer, tensors_of_layers
from keras_resattn.typing import Aggregation, GatedMaskActivation, GlobalGating, HeadGating
from keras_resattn.utils.data_format import image_channels, image_size
from keras_resattn.utils.keras_internals import call_inputs, producer
from keras_resattn.utils.validation import check_count

logger = logging.getLogger(__name__)

#: Layers that each module adds to the graph, without their prefix, and layers that are added once.
MODULE_LAYERS = ("gradient", "mask", "outputs", "gates", "logits")
LAYERS = ("global_gate", "global_gate_features", "global_gate_gradient", "rectify", "rectified_predictions")


def attend_and_rectify(
    model: keras.Model,
    taps: Sequence[str] | Literal["auto"] = "auto",
    *,
    classes: int | None = None,
    attention_depth: int | None = None,
    attention_width: int = 4,
    mask_activation: GatedMaskActivation = "softmax",
    head_gate: HeadGating = "softmax",
    gate: GlobalGating = "softmax",
    aggregation: Aggregation = "log_prob",
    regularization: float = 1e-3,
    gradient_scale: float = 1.0,
    classifier_activation: Literal["softmax"] | None = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Add gated attention to an existing classifier: modules read its feature maps and rectify its output.

    The result shares the layers and weights of `model`, which is not changed. Its own nodes can be read by name:
    `attention{i}_mask`, `attention{i}_outputs`, `attention{i}_gates` and `attention{i}_logits` for each tap, numbered
    from 1 in the order of the taps; `global_gate`, `rectify` and `rectified_predictions`.

        base = keras.applications.EfficientNetB0(classes=120, weights=None)
        model = attend_and_rectify(base, ["block4a_expand_activation", "block6a_expand_activation", "top_activation"])

    With the default `classifier_activation="softmax"`, train with a cross-entropy of probabilities. With `None`, train
    with `keras_resattn.losses.NegativeLogLikelihood` as the authors do, and add a `keras.layers.Softmax()` to the
    trained model for probabilities. Each call creates new modules with their own weights.

    Args:
        model: A functional or built sequential model with one input and one output of shape `(n, classes)`: logits or
            a softmax, from a `Dense`, `Activation` or `Softmax` layer. `result.get_layer("rectify").base` and the log
            state which of the two was found.
        taps: Names of layers of the model with 4-D feature maps; or `"auto"` for the last feature map of each of the
            deepest `attention_depth` resolutions, among maps with the most channels of their resolution.
        classes: Number of classes; if given, it must equal that of the model.
        attention_depth: Number of taps with `taps="auto"`; defaults to 3.
        attention_width: Heads of each module, K.
        mask_activation: `"softmax"` over positions or `"sigmoid"`; see `AttentionHead`.
        head_gate: `"softmax"`, or `"mean"` for modules without gates; see `HeadGate`.
        gate: `"softmax"`, `"sigmoid"`, `"linear"`, `"mean"` or `"base"`; see `GlobalGate`. With `"base"` the result's
            probabilities are those of `model`.
        aggregation: `"log_prob"` or `"prob"`; see `Rectify`.
        regularization: Strength of the overlap regulariser, divided equally among the modules.
        gradient_scale: Factor on the gradient that flows from modules and global gate into the model. With 0, the model
            is still trained through its own output; to freeze it, set `model.trainable = False`.
        classifier_activation: `"softmax"` for probabilities, `None` for the output of `Rectify`.
        name: Name of the result; defaults to the name of the model followed by `_rectified`.

    Returns:
        A functional `keras.Model` with the input of the model and an output of shape `(n, classes)`.

    Raises:
        ValueError: before any layer is created, if the model, a tap or another argument is invalid.

    Source: Sec. 3 of the paper, whose WRN-50-4 experiments add modules to a pretrained network in the same way.
    """
    _check_base(model, classes)
    logits, base = _base_output(model)
    tensors = tensors_of_layers(model)
    if taps == "auto":
        taps = _last_of_each_resolution(model, tensors, 3 if attention_depth is None else attention_depth)
    elif attention_depth not in (None, len(_check_taps(taps))):
        raise ValueError(
            f"Expected attention_depth={len(taps)} with {len(taps)} taps, or None; "
            f"received: attention_depth={attention_depth!r}."
        )
    maps = [_feature_map(model, tensors, tap) for tap in taps]
    options = {
        "attention_width": attention_width,
        "mask_activation": mask_activation,
        "head_gate": head_gate,
        "gate": gate,
        "aggregation": aggregation,
        "regularization": regularization,
        "classifier_activation": classifier_activation,
        "gradient_scale": gradient_scale,
    }
    check_attention(**options)
    names = [f"attention{i}" for i in range(1, len(maps) + 1)]
    _check_names_are_free(tensors, names)
    logger.info("%s ends in %s; gated attention on %s", model.name, base, ", ".join(taps))
    x = rectified(
        logits,
        maps,
        _features(model, tensors),
        names=names,
        classes=model.output_shape[-1],
        base=base,
        predictions="rectified_predictions",
        **options,
    )
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.Model(inputs, x, name=name or f"{model.name}_rectified")


# --- Reading the base model ---------------------------------------------------------------------


def _check_base(model, classes):
    """Check that a model is a classifier that attention can be added to."""
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "outputs", None):
        if isinstance(model, keras.Sequential):
            remedy = "It has no input yet: add keras.Input(shape) first, or call it once"
        elif isinstance(model, keras.Model):
            remedy = "Build it as keras.Model(inputs, outputs), as a subclassed model has no graph"
        else:
            remedy = "Pass a model, such as the result of keras.applications.MobileNetV2()"
        raise ValueError(
            f"Expected a functional or built sequential keras.Model; received: {type(model).__name__}. {remedy}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"Expected a model with one input and one output; {model.name} has {len(model.inputs)} and "
            f"{len(model.outputs)}. Select one: keras.Model(model.input, model.get_layer(...).output)."
        )
    (output,) = model.outputs
    if len(output.shape) != 2 or output.shape[-1] in (None, 1):
        raise ValueError(
            "Expected a model whose output has shape (n, classes), for at least two classes; "
            f"{model.name} returns {tuple(output.shape)}. "
            "Add a classifier first: keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x))."
        )
    if classes not in (None, output.shape[-1]):
        raise ValueError(
            f"Expected classes={output.shape[-1]}, the number of {model.name}, or None; received: classes={classes!r}."
        )


def _base_output(model):
    """Return the output that the modules rectify, and whether it holds `"logits"` or a `"softmax"`."""
    (output,) = model.outputs
    layer, node, _ = producer(output)
    end = last_layer(model)
    if isinstance(end, keras.layers.Softmax) or getattr(end, "activation", None) is keras.activations.softmax:
        while isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear:
            layer, node, _ = producer(call_inputs(layer, node)[0])
    activation = getattr(layer, "activation", None)
    separate = isinstance(layer, (keras.layers.Activation, keras.layers.Softmax))
    if isinstance(layer, keras.layers.Softmax) or activation is keras.activations.softmax:
        return (call_inputs(layer, node)[0], "logits") if separate else (output, "softmax")
    if isinstance(layer, keras.layers.Dense | keras.layers.Activation) and activation is keras.activations.linear:
        return output, "logits"
    if isinstance(layer, keras.Model):
        remedy = "Build the classifier on the inner model itself: keras.Model(inner.input, classifier(inner.output))"
    elif not isinstance(layer, keras.Layer):
        remedy = "Use a layer, such as keras.layers.Softmax(), instead of the bare operation"
    else:
        remedy = "Let it end in keras.layers.Dense(classes) with no activation or a softmax"
    with_activation = f" with {activation.__name__}" if activation is not None else ""
    raise ValueError(
        f"Expected a model that ends in a Dense, Activation or Softmax layer with logits or a softmax; {model.name} "
        f"ends in {layer.name}, a {type(layer).__name__}{with_activation}. {remedy}."
    )


def _features(model, tensors):
    """Return the global gate's input: the classifier's input if it is a vector, else the mean of the last map."""
    for layer in reversed(_operations(model)):
        if isinstance(layer, keras.layers.Dense) and len(tensors[layer.name][0].shape) == 2:
            _, node, _ = producer(tensors[layer.name][0])
            (features,) = call_inputs(layer, node)
            return features
        if layer.name in tensors and _is_map(tensors[layer.name]):
            return keras.layers.GlobalAveragePooling2D(name="global_gate_features")(tensors[layer.name][0])
    raise ValueError(f"Expected a model with feature maps; {model.name} has none.")


def _operations(model):
    """Return layers and bare operations, inputs first; a sequential model has only layers."""
    return model.layers if isinstance(model, keras.Sequential) else model.operations


def _is_map(outputs):
    return _is_4d(outputs) and image_size(outputs[0].shape) != (1, 1)


def _is_4d(outputs):
    return len(outputs) == 1 and len(outputs[0].shape) == 4


def _last_of_each_resolution(model, tensors, depth):
    """Return the layer names of the last feature maps of the `depth` deepest resolutions, shallow to deep.

    Only maps with the most channels of their resolution count, because the very last map may be inside a bottleneck.
    """
    depth = check_count("attention_depth", depth)
    last, channels = {}, {}
    for layer in _operations(model):
        padding = isinstance(layer, (keras.layers.InputLayer, keras.layers.ZeroPadding2D, keras.layers.Cropping2D))
        if layer.name not in tensors or padding or not _is_map(tensors[layer.name]):
            continue
        shape = tensors[layer.name][0].shape
        size = image_size(shape)
        width = image_channels(shape)
        if width >= channels.get(size, 0):
            last.pop(size, None)
            last[size], channels[size] = layer.name, width
    if None in next(iter(last), ()):
        raise ValueError(
            f"Expected a model with a known input size for taps='auto'; that of {model.name} is unknown. Name the taps."
        )
    if len(last) < depth:
        raise ValueError(
            f"Expected feature maps of at least {depth} resolutions for taps='auto'; {model.name} has {len(last)}"
            f"{_nested(model) or '. Pass a smaller attention_depth, or name the taps'}."
        )
    return list(last.values())[-depth:]


def _check_taps(taps):
    is_list = isinstance(taps, (list, tuple)) and taps and all(isinstance(tap, str) for tap in taps)
    if not is_list or len(set(taps)) < len(taps):
        raise ValueError(f"Expected taps to be 'auto' or a list of different layer names; received: taps={taps!r}.")
    return taps


def _feature_map(model, tensors, tap):
    if tap not in tensors:
        raise ValueError(f"Expected taps to name layers of {model.name}; it has no layer {tap!r}{_nested(model)}.")
    if not _is_4d(tensors[tap]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[tap])
        raise ValueError(f"Expected taps to name layers with one 4-D feature map; {tap!r} returns {shapes}.")
    (tensor,) = tensors[tap]
    if image_channels(tensor.shape) is None:
        raise ValueError(f"Expected a known number of channels at {tap!r}; received: {tuple(tensor.shape)}.")
    return tensor


def _nested(model):
    inner = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    if not inner:
        return ""
    return (
        f" in its own graph. Layers inside {', '.join(inner)} cannot be tapped: build the classifier on "
        "the inner model's own output instead, keras.Model(inner.input, classifier(inner.output))"
    )


def _check_names_are_free(tensors, names):
    made = [f"{name}_{node}" for name in names for node in MODULE_LAYERS] + list(LAYERS)
    taken = [name for name in made if name in tensors]
    if taken:
        raise ValueError(f"Expected a model without gated attention; it has layers named {', '.join(taken)}.")
