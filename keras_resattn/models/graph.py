"""Reading a built network: its layers again on other inputs, multiply-adds, the feature pyramid."""

import math
import re
from typing import NamedTuple

import keras

from keras_resattn.layers.composite import CompositeLayer, spatial_axes
from keras_resattn.layers.residual import PostActivationUnit


def replay(model, inputs, visit):
    """Calls the layers of `model` once more, on `inputs`, nested models included.

    Nothing is copied: the layers are shared, so what they return here can be the output of a new
    model with the same weights.

    Args:
        model: A functional or sequential `keras.Model`.
        inputs: KerasTensor to call it on, or the structure of them that the model takes.
        visit: Called as `visit(layer, args, outputs)` after each layer.

    Returns:
        What the model returns for `inputs`.

    Raises:
        ValueError: if the model is neither functional nor sequential.
    """

    produced = {}

    def call(layer, *args, **kwargs):
        nested = isinstance(layer, (keras.Sequential, keras.Function))
        outputs = replay(layer, args[0], visit) if nested else layer(*args, **kwargs)
        produced[id(layer)] = keras.tree.flatten(outputs)
        visit(layer, args, outputs)
        return outputs

    def again(tensor):
        # Not `clone_model(...).output`: on the output of another layer, Keras copies the graph once more.
        layer, _, index = tensor._keras_history
        return produced[id(layer)][index]

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = call(layer, inputs)
        return inputs
    if not isinstance(model, keras.Function):
        raise ValueError(f"Expected a functional or sequential keras.Model; received: {type(model).__name__}.")
    uncompiled = keras.Model(model.input, model.output)
    inputs = keras.tree.pack_sequence_as(model.input, keras.tree.flatten(inputs))  # x and [x] are the same to Keras
    keras.models.clone_model(uncompiled, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call)
    return keras.tree.map_structure(again, model.output)


def tensors_of_layers(model):
    """Returns `{layer name: [KerasTensor, ...]}` of a model's own graph: what each layer returns there.

    `layer.output` is the layer's first use, which may belong to another model; this is its use in this one. Layers of
    nested models are not in it. A layer that is used twice has the tensors of both uses.

    Args:
        model: A functional or built sequential `keras.Model`.
    """
    found, waiting = {}, list(model.outputs)
    visited = set()
    while waiting:
        layer, index, _ = waiting.pop()._keras_history
        if (id(layer), index) not in visited:
            visited.add((id(layer), index))
            node = layer._inbound_nodes[index]
            found.setdefault(layer.name, []).extend(node.output_tensors)
            waiting.extend(node.input_tensors)
    return found


class LayerCost(NamedTuple):
    """One layer inside a network, composites taken apart.

    Attributes:
        path: Names from the network down, `stage1_attention1_mask/down1_unit1/conv1`.
        kind: Class name.
        input_shape: Shape, or list of shapes, that it is called on; the batch size is `None`.
        output_shape: Shape that it returns.
        parameters: Trainable parameters.
        macs: Multiply-adds for one picture, of convolutions and dense layers; 0 for all others.
    """

    path: str
    kind: str
    input_shape: tuple
    output_shape: tuple
    parameters: int
    macs: int


def count_macs(model, input_shape=None, per_layer=False):
    """Counts the multiply-adds of convolutions and dense layers for one picture.

    The papers call this number FLOPs. Resizing, pooling, normalisation and products are not counted.

    Args:
        model: A functional or sequential model.
        input_shape: Shape of one picture, such as `(224, 224, 3)`. Defaults to the model's own.
        per_layer: Whether to return the table behind the number instead.

    Returns:
        An integer, or with `per_layer=True` a list of `LayerCost`, in the order of the graph.

    Raises:
        ValueError: if the model's input size is open and no `input_shape` is given.
    """
    shape = tuple(model.input_shape[1:] if input_shape is None else input_shape)
    if None in shape:
        raise ValueError(
            f"Expected input_shape for {model.name}, whose own is open: {shape}. "
            "Pass for example count_macs(model, input_shape=(224, 224, 3))."
        )
    costs = []

    def visit(layer, args, outputs):
        if not isinstance(layer, (keras.Sequential, keras.Function)):
            received = [tensor.shape for tensor in args[0]] if isinstance(args[0], (list, tuple)) else args[0].shape
            costs.extend(_costs(layer, received, layer.name))

    replay(model, keras.Input(shape), visit)
    return costs if per_layer else sum(cost.macs for cost in costs)


def _costs(layer, input_shape, path):
    if isinstance(layer, CompositeLayer) and layer.sublayers:
        for part, shape in layer.sublayer_calls(input_shape):
            yield from _costs(part, shape, f"{path}/{part.name}")
        return
    if not isinstance(layer, keras.Layer):  # a bare operation of the user's graph
        return
    output_shape = layer.compute_output_shape(input_shape)
    parameters = sum(math.prod(v.shape) for v in layer.trainable_variables)
    yield LayerCost(path, type(layer).__name__, input_shape, output_shape, parameters, _macs(layer, output_shape))


def _macs(layer, output_shape):
    if isinstance(layer, keras.layers.Dense):
        return math.prod(layer.kernel.shape) * math.prod(output_shape[1:-1])
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        rows, columns = (output_shape[axis] for axis in spatial_axes(layer.data_format))
        return math.prod(layer.kernel.shape) * rows * columns
    return 0


def feature_pyramid(model):
    """Returns the maps that detectors and segmenters build on, finest first.

    The output of each stage, named by the logarithm of its stride: `"P2"` to `"P5"` (strides 4, 8, 16,
    32) for the ImageNet topology, `"P0"` to `"P2"` (1, 2, 4) for the CIFAR one. The last is taken after
    `post_relu`, the others are the raw sums of their last unit. Post-activation units end in a ReLU: there
    each level is what the last unit returns.

        backbone = ResidualAttention56(include_top=False, weights=None)
        pyramid = keras.Model(backbone.input, feature_pyramid(backbone))

    Args:
        model: A network of this package, with or without top.

    Returns:
        Dictionary of KerasTensors of the model's graph.

    Raises:
        ValueError: if the model has no stages of its own, or does not end in an activated one.
    """
    last_of_stage = {}
    names = [layer.name for layer in model.layers]
    for name in names:
        stage = re.match(r"(?:stage(\d+)_|group(\d+)_unit)", name)
        if stage:
            last_of_stage[int(stage[1] or stage[2])] = name
    last = last_of_stage.get(max(last_of_stage, default=None))
    if last and "post_relu" in names:
        last_of_stage[max(last_of_stage)] = "post_relu"
    elif not last or not isinstance(model.get_layer(last), PostActivationUnit):
        raise ValueError(
            f"Expected a network of keras_resattn with its stages in its own graph; received: {model.name}. "
            "If the network is a layer of another model, pass that layer."
        )
    first_level = 2 if "stem_pool" in names else 0
    return {
        f"P{first_level + stage - 1}": model.get_layer(name).output for stage, name in sorted(last_of_stage.items())
    }
