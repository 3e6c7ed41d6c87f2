"""Networks in a form that predicts faster: folded batch normalisation, no training-only layers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_resattn.layers import BatchNormalization, GradientScale
from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.layers.inference import InferenceBatchNormalization, InferenceConv2D, scale_and_offset
from keras_resattn.models.class_names import NamedClasses
from keras_resattn.models.inspection import iter_layers
from keras_resattn.models.normalization import reject_integers, rejects_integers
from keras_resattn.utils.keras_internals import call_arguments, call_inputs, producer, symbolic_calls

_L = keras.layers
NORMALIZATIONS = (_L.BatchNormalization, BatchNormalization)
#: Layers that can compute a batch normalisation after them.
LINEAR = (_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.DepthwiseConv1D, _L.DepthwiseConv2D, _L.SeparableConv1D)
LINEAR += (_L.SeparableConv2D, _L.Dense)
#: Layers that do nothing in inference.
TRAINING_ONLY = (_L.Dropout, _L.SpatialDropout1D, _L.SpatialDropout2D, _L.SpatialDropout3D, _L.AlphaDropout)
TRAINING_ONLY += (_L.GaussianDropout, _L.GaussianNoise, _L.ActivityRegularization, GradientScale)


def optimize_for_inference(model: keras.Model) -> keras.Model:
    """Return a copy of a model that gives the same outputs faster, and cannot be trained.

    - Batch normalisation is folded into the convolution or dense layer before it, or, where no activation stands
      between them, into the one after it. One that remains, such as the first of a pre-activation unit, applies its
      moving statistics and the ReLU after it.
    - Layers that only affect training (dropout, noise, `GradientScale`) and regularisers are removed.
    - Weights of convolutions have the compute dtype. On PyTorch they are stored channels-last, so that they are not
      transposed in every call, and a ReLU is applied in place.

    This is done inside residual units, soft masks and nested models, and for plain Keras layers, such as those of
    `keras.applications`. Outputs differ by rounding only. A layer of the result that has the name of a layer of the
    model returns the same values, so masks, taps and pyramids are found as before; the layers that were folded have
    no counterpart. Layers that are called more than once, with `training=True`, or under another dtype than their
    neighbours keep their form.

    The result is a functional model: it can be saved, loaded (after `import keras_resattn`), cloned, quantised by
    runtimes, and be part of another model. It always runs in inference mode, its weights are not trainable, and it
    shares no weights with `model`, which is not changed.

    Args:
        model: A functional or built sequential `keras.Model`, compiled or not.

    Returns:
        A functional `keras.Model` with the name of `model`, not compiled.

    Raises:
        ValueError: if the model is neither functional nor sequential, is not built, or contains a layer that cannot
            be rebuilt from its configuration.
    """
    _check(model)
    optimized = _optimized(model)
    if rejects_integers(model):
        reject_integers(optimized)
    return optimized


def _check(model):
    if not isinstance(model, (keras.Function, keras.Sequential)):
        raise ValueError(
            f"Expected a functional or sequential keras.Model; received: {type(model).__name__}. A subclassed model "
            "has no graph: build it as keras.Model(inputs, outputs)."
        )
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"Expected a built model; {model.name} has no input yet. Add keras.Input(shape) first, or call it once."
        )


def _optimized(model):
    plan = _plan(model)
    copies = []

    def clone(layer):
        if id(layer) in plan.skipped:
            return _Skip()
        if not isinstance(layer, keras.layers.Layer):
            return layer  # a bare operation has no state
        copy = _Copy(layer, plan)
        copies.append(copy)
        return copy.layer

    def call(layer, *args, **kwargs):
        return keras.tree.flatten([args, kwargs])[0] if isinstance(layer, _Skip) else layer(*args, **kwargs)

    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    outputs = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    plain = keras.Model(inputs, outputs, name=model.name)  # not compiled, nor of a class of its own
    optimized = keras.models.clone_model(
        plain, input_tensors=keras.tree.map_structure(_new_input, inputs), clone_function=clone, call_function=call
    )
    for copy in copies:
        copy.assign()
        if id(copy.source) not in plan.training:  # Keras computes frozen batch normalisation in inference mode
            copy.layer.trainable = False
    return optimized


def _new_input(tensor):
    layer, _, _ = producer(tensor)
    name = layer.name if isinstance(layer, _L.InputLayer) else None
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


class _Skip:
    """Stands for a layer that returns its input."""


# --- What becomes of each layer -----------------------------------------------------------------


class _Call(NamedTuple):
    """One call of a layer in a graph."""

    layer: Any
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    kwargs: dict[str, Any]


class _Plan:
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


def _plan(model):
    """Decide what becomes of each layer of a model's own graph."""
    calls = _calls(model)
    counts: dict[int, int] = {}
    users: dict[int, list[Any]] = {id(tensor): [None] for tensor in model.outputs}  # `None` stands for the caller
    for call in calls:
        counts[id(call.layer)] = counts.get(id(call.layer), 0) + 1
        for tensor in call.inputs:
            users.setdefault(id(tensor), []).append(call)
    plan = _Plan()
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


# --- Copies of layers ---------------------------------------------------------------------------


class _Copy:
    """The copy of a layer, and how it gets its weights once it is built.

    Attributes:
        layer: The copy, which is built when the new graph calls it.
    """

    def __init__(self, layer: keras.layers.Layer, plan: _Plan):
        key = id(layer)
        self.source = layer
        self.before, self.after = plan.norm_before.get(key), plan.norm_after.get(key)
        name, relu = plan.names.get(key, layer.name), key in plan.relu
        if key in plan.training:
            self.layer, self.assign = _rebuilt(layer), self._copy_weights
        elif isinstance(layer, (keras.Sequential, keras.Function)):
            self.layer, self.assign = _optimized(layer), lambda: None
        elif isinstance(layer, CompositeLayer) and _can_fold(layer):
            changes = {"regularization": 0.0} if "regularization" in layer.get_config() else {}
            self.layer = _rebuilt(layer, folded=True, sublayer_settings=None, **changes)
            self.assign = self._fold_composite
        elif type(layer) in NORMALIZATIONS:
            options = _without_regularizers(layer.get_config())
            self.layer = InferenceBatchNormalization(**{**options, "name": name, "relu": relu})
            self.assign = self._copy_weights
        elif (type(layer) is _L.Conv2D and layer.quantization_mode is None) or self.before or self.after:
            self.layer, self.assign = self._linear(name, relu), self._assign_linear
        else:
            self.layer, self.assign = _rebuilt(layer), self._copy_weights

    def _linear(self, name, relu):
        options = {"name": name}
        if self.before or self.after:
            options["use_bias"] = True
        if type(self.source) is not _L.Conv2D:
            return _rebuilt(self.source, **options)
        options |= {"activation": "relu"} if relu else {}
        initializer = self.source.kernel_initializer
        config = {**_without_regularizers(self.source.get_config()), **options}
        config["kernel_initializer"] = initializer if isinstance(initializer, NamedClasses) else "zeros"
        for key in ("lora_rank", "lora_alpha"):
            config.pop(key, None)
        return InferenceConv2D.from_config(config)

    def _copy_weights(self):
        _copy_weights(self.source, self.layer)

    def _assign_linear(self):
        _assign_folded(self.source, self.layer, self.before, self.after)

    def _fold_composite(self):
        _fold_composite(self.source, self.layer)


def _rebuilt(layer, **changes):
    """Return a layer with the configuration of another one, except regularisers and `changes`."""
    if hasattr(layer, "save_assets"):
        raise ValueError(
            f"Expected layers whose state is their weights; {layer.name}, a {type(layer).__name__}, has assets. "
            "Move it out of the model."
        )
    try:
        return type(layer).from_config({**_without_regularizers(layer.get_config()), **changes})
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Expected layers that can be rebuilt from their configuration; {layer.name}, a {type(layer).__name__}, "
            f"cannot: {str(error).splitlines()[0]} Give it get_config and from_config."
        ) from error


def _without_regularizers(config):
    return {key: None if key.endswith("_regularizer") else value for key, value in config.items()}


def _can_fold(layer):
    """Return whether a composite has an inference form.

    A subclass of a user may compute something else, and sub-layers may be quantised or have another dtype policy.
    """
    is_own = type(layer).__module__.startswith("keras_resattn.layers.")
    settings = layer.get_config().get("sublayer_settings", {})
    return is_own and not layer.folded and not _changes_numbers(settings)


def _changes_numbers(settings):
    return any(
        set(own) - {"trainable", "sublayer_settings"} or _changes_numbers(own.get("sublayer_settings", {}))
        for own in settings.values()
    )


def _copy_weights(source, target):
    target.set_weights([np.array(value) for value in source.get_weights()])  # JAX frees shared arrays in `predict`
    for layer in (target, *iter_layers(target)):
        if isinstance(layer, _L.Normalization):
            layer.finalize_state()  # it computes with constants that it derives from its weights


def _fold_composite(source, target):
    """Give a folded composite the weights of a plain one."""
    folded = {layer.name: layer for layer in target.sublayers}
    for i, layer in enumerate(source.sublayers):
        if layer.name not in folded or not layer.weights:
            continue
        after: Any = source.sublayers[i + 1] if i + 1 < len(source.sublayers) else None
        is_folded = isinstance(after, _L.BatchNormalization) and after.name not in folded
        if isinstance(layer, CompositeLayer):
            _fold_composite(layer, folded[layer.name])
        elif is_folded:
            _assign_folded(layer, folded[layer.name], None, after)
        else:
            _copy_weights(layer, folded[layer.name])
    inner = {id(variable) for layer in source.sublayers for variable in layer.weights}
    for variable in source.weights:
        if id(variable) not in inner:  # the weights of a linear `GlobalGate`
            getattr(target, variable.name).assign(_array(variable))


def _assign_folded(source, target, before, after):
    """Give a linear layer the weights of another one, combined with batch normalisation before and after it."""
    kernels = _kernels(source)
    bias = _array(source.bias) if source.use_bias else 0.0
    if before is not None:  # W (s x + o) + b
        scale, offset = scale_and_offset(before)
        kernel = kernels[-1]
        bias = bias + np.tensordot(offset, kernel, ([0], [kernel.ndim - 2])).reshape(-1, kernel.shape[-1]).sum(axis=0)
        kernels[-1] = kernel * scale[:, None]
    if after is not None:
        scale, offset = scale_and_offset(after)
        bias = bias * scale + offset
        kernels[-1] = kernels[-1] * scale.reshape(_output_channels(source, kernels[-1]))
    target.set_weights(kernels + ([bias] if target.use_bias else []))


def _kernels(layer):
    """Return the kernels of a linear layer, float64; the last one computes the output channels."""
    if isinstance(layer, (_L.SeparableConv1D, _L.SeparableConv2D)):
        return [_array(layer.depthwise_kernel), _array(layer.pointwise_kernel)]
    return [_array(layer.kernel)]


def _output_channels(layer, kernel) -> Sequence[int]:
    """Return a shape in which a number for each output channel can be multiplied with a kernel."""
    depthwise = isinstance(layer, (_L.DepthwiseConv1D, _L.DepthwiseConv2D))
    return kernel.shape[-2:] if depthwise else kernel.shape[-1:]


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")
