"""Inspection of a built network: walk its layers, replay it on other inputs, find tensors of its graph."""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras

from keras_resattn.utils.keras_internals import call_inputs, direct_sublayers, producer, symbolic_calls

_ATTRIBUTE = "_keras_resattn_remembered"


def replay(model: keras.Model, inputs: Any, visit: Callable[[keras.layers.Layer, tuple, Any], Any]) -> Any:
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
        layer, _, index = producer(tensor)
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


class _Remembered:
    """What was made for a model. No container of Python's: Keras looks into those when it saves a model."""

    def __init__(self, parts):
        self.parts = parts
        self.made = {}


def remembered(model: keras.Model, key: Hashable, make: Callable[[], Any]) -> Any:
    """Return `make()`, made once for a model and a key, for as long as the model has the same layers and weights.

    What is made on a model's layers adds nodes to them, and compiles when it is first called: once is enough. Values
    of weights may change, as the layers are shared. It is part of the model's own object, and of no file or copy, so
    it goes when the model goes. (A `WeakKeyDictionary` would keep models: from a layer, Keras' nodes lead to the
    models that it is in.)

    Args:
        model: A `keras.Model`.
        key: Hashable.
        make: Function without arguments.
    """
    parts = [*_inner_layers(model), *model.weights]
    kept = vars(model).get(_ATTRIBUTE)
    if kept is None or len(kept.parts) != len(parts) or any(a is not b for a, b in zip(kept.parts, parts, strict=True)):
        # Also where a layer was added to a sequential model, or the model was quantized.
        kept = vars(model)[_ATTRIBUTE] = _Remembered(parts)  # `setattr` would make it part of what is saved
    if key not in kept.made:
        kept.made[key] = make()
    return kept.made[key]


def _inner_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, (keras.Sequential, keras.Function)):
            yield from _inner_layers(layer)


def last_layer(model: keras.Model) -> keras.layers.Layer:
    """Return the layer that makes a model's output, at any depth; linear activations after it change nothing.

    Mixed precision puts `Activation("linear", dtype="float32")` behind a softmax: its output is still probabilities.

    Args:
        model: A built `keras.Model`, whose last output is looked at; of a subclassed one it is the last of its layers.
    """
    if not getattr(model, "outputs", None):
        layer = model.layers[-1]
        return last_layer(layer) if isinstance(layer, keras.Model) else layer
    layer, node, _ = producer(model.outputs[-1])
    while isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear:
        before = producer(call_inputs(layer, node)[0])
        tells = hasattr(before[0], "activation") or isinstance(before[0], (keras.layers.Softmax, keras.Model))
        if not tells:  # gated log-probabilities, say, or the input
            break
        layer, node, _ = before
    return last_layer(layer) if isinstance(layer, keras.Model) else layer


def unnormalized(model: keras.Model) -> str | None:
    """Return the name of the convolution that reads the model's input as it is, or `None` if there is none.

    Padding before the convolution does not count. A network whose first layers are others, such as `Rescaling`,
    `Normalization` or `BatchNormalization`, normalises its input itself.

    Args:
        model: A functional or built sequential `keras.Model`.
    """
    raw = {id(tensor) for tensor in keras.tree.flatten(model.inputs)}
    for layer in model.layers:
        for received, returned in symbolic_calls(layer):
            if not raw.intersection(map(id, received)):
                continue
            if isinstance(layer, (keras.Sequential, keras.Function)):
                found = unnormalized(layer)
            else:
                found = layer.name if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)) else None
            if found:
                return found
            if isinstance(layer, keras.layers.ZeroPadding2D):
                raw.update(map(id, returned))
    return None


def tensors_of_layers(model: keras.Model) -> dict[str, list[keras.KerasTensor]]:
    """Returns `{layer name: [KerasTensor, ...]}` of a model's own graph: what each layer returns there.

    `layer.output` is the layer's first use, which may belong to another model; this is its use in this one. Layers of
    nested models are not in it. A layer that is used twice has the tensors of both uses.

    Args:
        model: A functional or built sequential `keras.Model`.
    """
    found, waiting = {}, list(model.outputs)
    visited = set()
    while waiting:
        layer, index, _ = producer(waiting.pop())
        if (id(layer), index) not in visited:
            visited.add((id(layer), index))
            received, returned = symbolic_calls(layer)[index]
            found.setdefault(layer.name, []).extend(returned)
            waiting.extend(received)
    return found


def iter_layers(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield every layer inside a model, at any depth.

    `model.layers` has only the layers of the model's own graph. Residual units and soft masks are single layers
    there; their convolutions and batch normalization are inside. This walk goes into composite layers, nested models,
    and Keras' wrappers such as `TimeDistributed`.

        kernels = [layer.kernel for layer in iter_layers(model) if isinstance(layer, keras.layers.Conv2D)]

    Args:
        model: A `keras.Model` or any other `keras.layers.Layer`.

    Yields:
        Each layer once, a composite layer or nested model before the layers in it. `model` itself is not yielded.

    Raises:
        ValueError: if `model` is not a Keras layer.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"Expected a keras.Model or keras.layers.Layer; received: {type(model).__name__}.")
    return _walk(model, {id(model)})


def _walk(layer, seen):
    for part in direct_sublayers(layer):
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            yield from _walk(part, seen)


def freeze_batch_norm(model: keras.layers.Layer) -> int:
    """Freeze all batch normalization in a model: statistics, scales and offsets stay as they are.

    Sets `trainable = False` on each `keras.layers.BatchNormalization` that `iter_layers` finds. In Keras, such a layer
    runs in inference mode, inside `fit` too. Saved models keep it. Call it before `compile`, and after any
    `model.trainable = True`, which would make the layers trainable again.

    Args:
        model: A `keras.Model` or any other `keras.layers.Layer`. It is changed in place.

    Returns:
        The number of batch-normalization layers in the model, all of them frozen now.

    Raises:
        ValueError: if `model` is not a Keras layer.
    """
    layers = batch_norm_layers(model)
    for layer in layers:
        layer.trainable = False
    return len(layers)


def batch_norm_layers(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Return the batch-normalization layers of a model, at any depth; a single such layer is returned itself."""
    return [layer for layer in (model, *iter_layers(model)) if isinstance(layer, keras.layers.BatchNormalization)]
