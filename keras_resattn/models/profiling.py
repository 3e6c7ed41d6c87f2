"""Multiply-adds and parameters of a network, layer by layer."""

import functools
import math
import re
from typing import Any, Literal, NamedTuple, overload

import keras

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.models.inspection import iter_layers
from keras_resattn.utils.keras_internals import run_graph

_L = keras.layers
CONVOLUTIONS = (_L.Conv1D, _L.Conv2D, _L.Conv3D, _L.DepthwiseConv1D, _L.DepthwiseConv2D)
TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)
#: Layers whose multiply-adds are counted.
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, _L.Dense, _L.EinsumDense)


class LayerCost(NamedTuple):
    """Cost of one layer of a network; composite layers are listed by their sub-layers.

    Attributes:
        path: Names of the layers down to this one, such as `stage1_attention1_mask/down1_unit1/conv1`.
        kind: Class name of the layer.
        input_shape: Input shape, or list of shapes; the batch size is `None`.
        output_shape: Output shape.
        parameters: Trainable parameters; 0 if counted before, for a layer that is called more than once.
        macs: Multiply-adds for one image, if the layer is a convolution or dense layer, else 0.
    """

    path: str
    kind: str
    input_shape: Any
    output_shape: Any
    parameters: int
    macs: int


@overload
def count_macs(model: keras.Model, input_shape: Any = None, per_layer: Literal[False] = False) -> int: ...
@overload
def count_macs(model: keras.Model, input_shape: Any = None, *, per_layer: Literal[True]) -> list[LayerCost]: ...
def count_macs(model: keras.Model, input_shape: Any = None, per_layer: bool = False) -> int | list[LayerCost]:
    """Count the multiply-adds of convolutions and dense layers for one image.

    The papers call this number FLOPs. Convolutions and dense layers inside other layers, including third-party ones,
    count once per call. Resizing, pooling, normalisation, products of two tensors and bare `keras.ops` are not
    counted. The model is not changed.

    Args:
        model: A functional or sequential model, with any number of inputs and outputs.
        input_shape: Shape of one image, such as `(224, 224, 3)`; for a model with several inputs a list of shapes in
            the order of `model.inputs`, or a dictionary by input name. Defaults to the model's own.
        per_layer: Whether to return a table of all layers instead of the sum.

    Returns:
        An integer, or with `per_layer=True` a list of `LayerCost`, in the order of the graph.

    Raises:
        ValueError: if the model is neither functional nor sequential, `input_shape` does not fit its inputs, or
            its input size is unknown and no `input_shape` is given.
    """
    if not isinstance(model, (keras.Sequential, keras.Function)):
        raise ValueError(f"Expected a functional or sequential keras.Model; received: {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        if input_shape is None:
            raise ValueError(f"Expected input_shape for {model.name}, which is not built; received: None.")
        model = keras.models.clone_model(model)  # building the caller's model would fix its input size
        model.build((None, *input_shape))
    costs, seen = [], set()

    def visit(layer, args, kwargs, outputs):
        if isinstance(layer, keras.Layer):
            costs.extend(_costs(layer, args, kwargs, outputs, layer.name, seen))

    # With a batch of one, the number of positions is known even if a layer folds positions into the batch.
    inputs = [
        keras.KerasTensor((1, *shape), own.dtype)
        for shape, own in zip(_input_shapes(model, input_shape), model.inputs, strict=True)
    ]
    _trace(model, inputs, visit)
    return costs if per_layer else sum(cost.macs for cost in costs)


def _input_shapes(model, input_shape):
    """Return the shape of each input, without the batch size."""
    own = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    shapes = own if input_shape is None else _listed(input_shape, [tensor.name for tensor in model.inputs])
    if [len(shape) for shape in shapes] != [len(shape) for shape in own]:
        raise ValueError(
            f"Expected input_shape for inputs of shapes {own} of {model.name}; received: input_shape={input_shape}."
        )
    if any(None in shape for shape in shapes):
        shown = shapes[0] if len(shapes) == 1 else shapes
        example = "(224, 224, 3)" if len(shapes) == 1 else "[(224, 224, 3), ...]"
        raise ValueError(
            f"Expected input_shape for {model.name}, whose input size is unknown: {shown}. "
            f"Pass for example count_macs(model, input_shape={example})."
        )
    return shapes


def _listed(input_shape, names):
    if isinstance(input_shape, dict):
        if sorted(input_shape) != sorted(names):
            raise ValueError(
                f"Expected input_shape to have a shape for each of {names}; received: input_shape={input_shape}."
            )
        return [tuple(input_shape[name]) for name in names]
    if any(isinstance(entry, (list, tuple)) for entry in input_shape):
        return [tuple(shape) for shape in input_shape]
    return [tuple(input_shape)]


def _trace(model, inputs, visit):
    """Run shapes through a model and nested models, and call `visit(layer, args, kwargs, outputs)` after each layer.

    Unlike a call on a KerasTensor, this adds no nodes to the layers.
    """

    def call(layer, *args, **kwargs):
        if isinstance(layer, (keras.Sequential, keras.Function)):
            return _trace(layer, args[0], visit)
        outputs = layer.compute_output_spec(*args, **kwargs)
        visit(layer, args, kwargs, outputs)
        return outputs

    if isinstance(model, keras.Sequential):
        (inputs,) = keras.tree.flatten(inputs)
        for layer in model.layers:
            inputs = call(layer, inputs)
        return inputs
    # The public `compute_output_spec` does the same, but offers no hook for each call.
    return run_graph(model, inputs, lambda operation: functools.partial(call, operation))


def _costs(layer, args, kwargs, outputs, path, seen):
    """Yield the `LayerCost` of a layer, or of its sub-layers. `seen` holds ids of variables already counted."""
    received = [_shapes(values) for values in (*args, *kwargs.values()) if _shapes(values) is not None]
    received = received[0] if len(received) == 1 else received
    if isinstance(layer, CompositeLayer) and layer.sublayers:
        yield from _composite(layer, received, path, seen)
    elif isinstance(layer, _L.TimeDistributed) and isinstance(received, tuple):
        part, (batch, steps, *shape) = layer.layer, received
        tensor = keras.KerasTensor((batch, *shape), layer.compute_dtype)
        of_step = _costs(part, (tensor,), {}, part.compute_output_spec(tensor), f"{path}/{part.name}", seen)
        yield from (cost._replace(macs=steps * cost.macs) for cost in of_step)
    else:
        if not isinstance(layer, COUNTED):
            for part, part_received, part_returned in _calls_inside(layer, args, kwargs):
                yield _cost(part, part_received, part_returned, f"{path}/{part.name}", seen)
        yield _cost(layer, received, _shapes(outputs), path, seen)


def _composite(layer, input_shape, path, seen):
    for part, shape in layer.sublayer_calls(input_shape):
        part_path = f"{path}/{part.name}"
        if isinstance(part, CompositeLayer) and part.sublayers:
            yield from _composite(part, shape, part_path, seen)
        else:
            yield _cost(part, shape, part.compute_output_shape(shape), part_path, seen)


def _cost(layer, received, returned, path, seen):
    new = {id(variable): math.prod(variable.shape) for variable in layer.trainable_variables}
    parameters = sum(size for variable, size in new.items() if variable not in seen)
    seen.update(new)
    shapes = _open_batch(received), _open_batch(returned)
    return LayerCost(path, type(layer).__name__, *shapes, parameters, _macs(layer, received, returned))


def _calls_inside(layer, args, kwargs):
    """Trace one call of any layer; return `[(counted layer, input shape, output shape), ...]` of the calls inside."""
    parts = [part for part in iter_layers(layer) if isinstance(part, COUNTED)]
    calls = []
    if not parts:
        return calls

    def recording(part, call, inputs, *args, **kwargs):
        outputs = call(inputs, *args, **kwargs)
        calls.append((part, tuple(map(int, inputs.shape)), tuple(map(int, outputs.shape))))
        return outputs

    def again(call, *args, **kwargs):
        calls.clear()  # a backend may trace more than once
        return call(*args, **kwargs)

    hooks = {layer: functools.partial(again, layer.call)}
    hooks |= {part: functools.partial(recording, part, part.call) for part in parts}
    try:
        for hooked, call in hooks.items():
            hooked.call = call
        keras.Operation.compute_output_spec(layer, *args, **kwargs)
    finally:
        for hooked in hooks:
            vars(hooked).pop("call", None)
    return calls


def _shapes(tensors):
    """Return the shapes of a structure of tensors, or `None` for values without a shape."""
    if isinstance(tensors, (list, tuple)):
        return [_shapes(tensor) for tensor in tensors]
    if isinstance(tensors, dict):
        return [_shapes(tensor) for tensor in tensors.values()]
    return tuple(tensors.shape) if hasattr(tensors, "shape") else None


def _open_batch(shape):
    if isinstance(shape, list):
        return [_open_batch(each) for each in shape]
    return (None, *shape[1:]) if shape else shape


def _macs(layer, received, returned):
    if isinstance(layer, _L.Dense):
        return math.prod(layer.kernel.shape) * math.prod(returned[:-1])
    if isinstance(layer, _L.EinsumDense):
        inputs, kernel, _ = re.split(",|->", layer.equation.replace(" ", ""))
        new = [size for letter, size in zip(kernel, layer.kernel.shape, strict=True) if letter not in inputs]
        return math.prod(received) * math.prod(new)
    if isinstance(layer, TRANSPOSED):
        return math.prod(layer.kernel.shape) * _positions(received, layer.data_format)
    if isinstance(layer, SEPARABLE):
        kernels = layer.depthwise_kernel, layer.pointwise_kernel
        return sum(math.prod(kernel.shape) for kernel in kernels) * _positions(returned, layer.data_format)
    if isinstance(layer, CONVOLUTIONS):
        return math.prod(layer.kernel.shape) * _positions(returned, layer.data_format)
    return 0


def _positions(shape, data_format):
    return math.prod(shape[:-1] if data_format == "channels_last" else (shape[0], *shape[2:]))
