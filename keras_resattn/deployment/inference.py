"""Networks in a form that predicts faster: folded batch normalisation, no training-only layers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resattn.deployment.folding import NORMALIZATIONS, FoldingPlan, plan_folding
from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.layers.inference import InferenceBatchNormalization, InferenceConv2D, scale_and_offset
from keras_resattn.models.class_names import NamedClasses
from keras_resattn.models.inspection import iter_layers
from keras_resattn.models.normalization import reject_integers, rejects_integers
from keras_resattn.utils.keras_internals import producer

_L = keras.layers


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
    plan = plan_folding(model)
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


class _Copy:
    """The copy of a layer, and how it gets its weights once it is built.

    Attributes:
        layer: The copy, which is built when the new graph calls it.
    """

    def __init__(self, layer: keras.layers.Layer, plan: FoldingPlan):
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
