"""Inspection of built models: walk their layers, replay them on other inputs, find tensors of their graphs."""

import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import keras

from keras_resattn.utils.keras_internals import call_inputs, direct_sublayers, producer, run_graph, symbolic_calls

_CACHE_ATTRIBUTE = "_keras_resattn_cache"


def replay(model: keras.Model, inputs: Any, visit: Callable[[keras.layers.Layer, tuple, Any], Any]) -> Any:
    """Call the layers of `model` again, on `inputs`, including those of nested models.

    The layers are shared, not copied, so their outputs here can become outputs of a new model with the same weights.

    Args:
        model: A functional or sequential `keras.Model`.
        inputs: KerasTensor to call the model on, or a structure of them.
        visit: Called as `visit(layer, args, outputs)` after each layer. A result other than `None` replaces the
            outputs.

    Returns:
        The outputs of the model for `inputs`.

    Raises:
        ValueError: if the model is neither functional nor sequential.
    """

    def call(layer, *args, **kwargs):
        nested = isinstance(layer, (keras.Sequential, keras.Function))
        outputs = replay(layer, args[0], visit) if nested else layer(*args, **kwargs)
        replacement = visit(layer, args, outputs)
        return outputs if replacement is None else replacement

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = call(layer, inputs)
        return inputs
    if not isinstance(model, keras.Function):
        raise ValueError(f"Expected a functional or sequential keras.Model; received: {type(model).__name__}.")
    return run_graph(model, inputs, lambda layer: functools.partial(call, layer))


class _Cache:
    """Values cached for a model. Not a Python container, as Keras would inspect that when it saves the model."""

    def __init__(self, parts):
        self.parts = parts
        self.values = {}


def cached_on_model(model: keras.Model, key: Hashable, make: Callable[[], Any]) -> Any:
    """Return `make()`, cached for as long as the model has the same layers and weight variables.

    Models built on the layers of `model` add nodes to these layers and are compiled on first use, so they should be
    built only once. Values of weights may change, as the layers are shared. The cache is an attribute of the model and
    is freed with it; files and copies do not contain it. (A `WeakKeyDictionary` would keep models alive, because nodes
    of shared layers refer to the models that contain them.)

    Args:
        model: A `keras.Model`.
        key: Hashable key of the value.
        make: Function without arguments that returns the value.
    """
    parts = [*_inner_layers(model), *model.weights]
    cache = vars(model).get(_CACHE_ATTRIBUTE)
    if cache is None or list(map(id, cache.parts)) != list(map(id, parts)):
        # Layers may be added to a sequential model, and quantisation replaces weights.
        cache = vars(model)[_CACHE_ATTRIBUTE] = _Cache(parts)  # `setattr` would make Keras track it
    if key not in cache.values:
        cache.values[key] = make()
    return cache.values[key]


def _inner_layers(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, (keras.Sequential, keras.Function)):
            yield from _inner_layers(layer)


def last_layer(model: keras.Model) -> keras.layers.Layer:
    """Return the layer that produces a model's output, at any depth, ignoring linear activations after it.

    Under mixed precision, networks often end in `Activation("linear", dtype="float32")` after a softmax, whose output
    is still probabilities.

    Args:
        model: A built `keras.Model`. With several outputs, the last one counts; for a subclassed model, its last layer.
    """
    if not getattr(model, "outputs", None):
        layer = model.layers[-1]
        return last_layer(layer) if isinstance(layer, keras.Model) else layer
    layer, node, _ = producer(model.outputs[-1])
    while isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear:
        before = producer(call_inputs(layer, node)[0])
        has_activation = hasattr(before[0], "activation")
        if not has_activation and not isinstance(before[0], (keras.layers.Softmax, keras.Model)):  # such as `Rectify`
            break
        layer, node, _ = before
    return last_layer(layer) if isinstance(layer, keras.Model) else layer


def tensors_of_layers(model: keras.Model) -> dict[str, list[keras.KerasTensor]]:
    """Return `{layer name: [KerasTensor, ...]}`, the outputs of each layer in a model's own graph.

    In contrast, `layer.output` is the output of the layer's first call, which may belong to another model. Layers of
    nested models are not included. A layer that is called twice has the outputs of both calls.

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

    `model.layers` has only the layers of the model's own graph, where a residual unit or soft mask is a single layer.
    This function also yields the layers inside composite layers, nested models, and Keras' wrappers such as
    `TimeDistributed`.

        kernels = [layer.kernel for layer in iter_layers(model) if isinstance(layer, keras.layers.Conv2D)]

    Args:
        model: A `keras.Model` or any other `keras.layers.Layer`.

    Yields:
        Each layer once, except `model` itself; composite layers and nested models before the layers inside them.

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
    """Freeze all batch normalisation in a model: its statistics, scales and offsets no longer change.

    Sets `trainable = False` on each `keras.layers.BatchNormalization` that `iter_layers` yields. In Keras, such a layer
    runs in inference mode, also inside `fit`. Saved models keep the setting. Call this before `compile`, and after any
    `model.trainable = True`, which would unfreeze the layers.

    Args:
        model: A `keras.Model` or any other `keras.layers.Layer`, changed in place.

    Returns:
        The number of batch-normalisation layers in the model.

    Raises:
        ValueError: if `model` is not a Keras layer.
    """
    layers = batch_norm_layers(model)
    for layer in layers:
        layer.trainable = False
    return len(layers)


def batch_norm_layers(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Return all batch-normalisation layers of a model, at any depth, including `model` if it is one itself."""
    return [layer for layer in (model, *iter_layers(model)) if isinstance(layer, keras.layers.BatchNormalization)]
