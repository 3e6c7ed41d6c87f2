"""Which layers of a graph compute the batch normalisation and the ReLU beside them in inference."""

from typing import Any, NamedTuple

import keras

from keras_resattn.layers import BatchNormalization, GradientScale
from keras_resattn.utils.keras_internals import call_arguments, call_inputs, producer, symbolic_calls

_L = keras.layers
NORMALIZATIONS = (_L.BatchNormalization, BatchNormalization)
#: Layers that can compute a batch normalisation after them.
LINEAR = (_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.DepthwiseConv1D, _L.DepthwiseConv2D, _L.SeparableConv1D)
LINEAR += (_L.SeparableConv2D, _L.Dense)
#: Layers that do nothing in inference.
TRAINING_ONLY = (_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D, _L.AlphaDropout)
TRAINING_ONLY += (_L.GaussianDropout, _L.GaussianNoise, _L.ActivityRegularization, GradientScale)


class _Call(NamedTuple):
    """One call of a layer in a graph."""

    layer: Any
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    kwargs: dict[str, Any]


class FoldingPlan:
    """Changes of the layers of a graph, by the `id` of the layer.

    Attributes:
        skipped: Layers whose work is done by another one, or by none in inference.
        norm_before: Batch normalisation that a layer applies to its input.
        norm_after: Batch normalisation that a layer applies to its output.
        relu: Layers that apply a ReLU last.
        names: New names of layers: that of the last layer that they replace.
        training: Layers that are called with `training=True`, which are left as they are.
    """

    def __init__(self):
        self.skipped: set[int] = set()
        self.norm_before: dict[int, keras.layers.BatchNormalization] = {}
        self.norm_after: dict[int, keras.layers.BatchNormalization] = {}
        self.relu: set[int] = set()
        self.names: dict[int, str] = {}
        self.training: set[int] = set()


def plan_folding(model: keras.Model) -> FoldingPlan:
    """Decide what becomes of each layer of a model's own graph."""
    calls = _calls(model)
    counts: dict[int, int] = {}
    users: dict[int, list[Any]] = {id(tensor): [None] for tensor in model.outputs}  # `None` stands for the caller
    for call in calls:
        counts[id(call.layer)] = counts.get(id(call.layer), 0) + 1
        for tensor in call.inputs:
            users.setdefault(id(tensor), []).append(call)
    plan = FoldingPlan()
    plan.training = {id(call.layer) for call in calls if call.kwargs.get("training")}
    plain = [call for call in calls if counts[id(call.layer)] == 1 and id(call.layer) not in plan.training]
    single = {id(call.layer) for call in plain}
    idle = {id(call.layer) for call in calls if id(call.layer) not in plan.training and _does_nothing(call)}
    plan.skipped |= idle

    def only_user(call):
        """Return the call that alone reads the output of `call`, computes in the same dtype, and may be changed."""
        found = users.get(id(call.outputs[0]), []) if len(call.outputs) == 1 else []
        if len(found) != 1 or found[0] is None or id(found[0].layer) not in single:
            return None
        if id(found[0].layer) in idle:
            return only_user(found[0])
        same = getattr(found[0].layer, "compute_dtype", None) == call.layer.compute_dtype
        return found[0] if same and len(found[0].inputs) == 1 else None

    for call in plain:
        if _is_linear(call.layer):
            _fold_after(plan, call, only_user)
    for call in plain:
        if type(call.layer) in NORMALIZATIONS and id(call.layer) not in plan.skipped:
            _fold_forward(plan, call, only_user)
    return plan


def _calls(model):
    """Return the calls of a model's own graph, outputs first."""
    calls, seen, waiting = [], set(), list(model.outputs)
    while waiting:
        layer, index, _ = producer(waiting.pop())
        if (id(layer), index) not in seen:
            seen.add((id(layer), index))
            received, returned = symbolic_calls(layer)[index]
            calls.append(_Call(layer, received, returned, call_arguments(layer, index)[1]))
            waiting.extend(call_inputs(layer, index))
    return calls


def _does_nothing(call):
    """Return whether a layer returns its input in inference."""
    same = len(call.inputs) == len(call.outputs) == 1 and call.inputs[0].dtype == call.outputs[0].dtype
    return same and type(call.layer) in TRAINING_ONLY


def _is_linear(layer):
    return type(layer) in LINEAR and _is_plain(layer) and layer.activation is keras.activations.linear


def _is_plain(layer):
    """Return whether a layer computes with its kernel alone: it is neither quantised nor adapted by LoRA."""
    return getattr(layer, "quantization_mode", None) is None and not getattr(layer, "lora_enabled", False)


def _fold_after(plan, call, only_user):
    """Plan that a linear layer computes the batch normalisation after it and, if a 2-D convolution, the ReLU."""
    key, last = id(call.layer), call
    norm = only_user(last)
    if norm and type(norm.layer) in NORMALIZATIONS and _normalizes_channels(norm.layer, call):
        plan.norm_after[key] = norm.layer
        plan.skipped.add(id(norm.layer))
        last = norm
    relu = only_user(last)
    if relu and type(call.layer) is _L.Conv2D and _is_relu(relu.layer):
        plan.relu.add(key)
        plan.skipped.add(id(relu.layer))
        last = relu
    plan.names[key] = last.layer.name


def _fold_forward(plan, call, only_user):
    """Plan that a batch normalisation is computed by the linear layer after it, or computes the ReLU after it."""
    after = only_user(call)
    if after and _is_linear_anywhere(after) and _normalizes_channels(call.layer, after, inputs=True):
        plan.norm_before[id(after.layer)] = call.layer
        plan.skipped.add(id(call.layer))
    elif after and _is_relu(after.layer):
        plan.relu.add(id(call.layer))
        plan.skipped.add(id(after.layer))
        plan.names[id(call.layer)] = after.layer.name


def _is_linear_anywhere(call):
    """Return whether each output of a layer is a full sum over channels, also at the border.

    Zero padding after a batch normalisation differs from padding before it.
    """
    layer = call.layer
    if type(layer) is _L.Dense:
        return _is_plain(layer)
    unpadded = type(layer) is _L.Conv2D and (layer.padding == "valid" or set(layer.kernel_size) == {1})
    return unpadded and layer.groups == 1 and _is_plain(layer)


def _normalizes_channels(norm, call, inputs=False):
    """Return whether a batch normalisation works on the channel axis of the output, or input, of a linear layer."""
    (tensor,) = call.inputs if inputs else call.outputs
    first = getattr(call.layer, "data_format", "channels_last") == "channels_first"
    axis = norm.axis if norm.axis >= 0 else norm.axis + len(tensor.shape)
    return axis == (1 if first else len(tensor.shape) - 1)


def _is_relu(layer):
    if type(layer) is _L.Activation:
        return layer.activation is keras.activations.relu
    return type(layer) is _L.ReLU and layer.max_value is None and not layer.negative_slope and not layer.threshold
