"""Walking all layers of a model, those inside composite layers and nested models included."""

from collections.abc import Iterator

import keras


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
    # Keras has no public list of the layers inside a layer that is not a model.
    for part in layer._layers:
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
