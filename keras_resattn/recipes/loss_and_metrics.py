"""Loss and metrics that a classifier is compiled with, chosen by its last layer and the recipe's labels."""

from typing import Any

import keras

from keras_resattn.layers import Rectify
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.models.inspection import iter_layers, last_layer

TOP5_FROM = 10  # networks with more classes also log top-5 accuracy
LOGITS = (keras.activations.linear, keras.activations.log_softmax)


def make_metrics(classes: int, mixes_labels: bool) -> list[Any]:
    """Return accuracy and, for more than ten classes, top-5 accuracy.

    Args:
        classes: Number of classes.
        mixes_labels: Whether labels are soft, `(n, classes)`.
    """
    if classes <= TOP5_FROM:
        return ["accuracy"]
    top5 = keras.metrics.TopKCategoricalAccuracy if mixes_labels else keras.metrics.SparseTopKCategoricalAccuracy
    return ["accuracy", top5(5, name="top5_accuracy")]


def make_loss(model: keras.Model, mixes_labels: bool) -> keras.losses.Loss:
    """Return the cross-entropy of probabilities or logits or, for gated log-probabilities, the authors' loss.

    Args:
        model: A classifier.
        mixes_labels: Whether labels are soft, `(n, classes)`.

    Raises:
        ValueError: if the last layer does not show whether the model returns logits or probabilities.
    """
    logits = returns_logits(model)
    if logits and any(isinstance(layer, Rectify) for layer in iter_layers(model)):
        return NegativeLogLikelihood()
    if mixes_labels:
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)


def returns_logits(model: keras.Model) -> bool:
    """Return whether a classifier returns logits rather than probabilities.

    Raises:
        ValueError: if its last layer does not show it.
    """
    layer = last_layer(model)
    if isinstance(layer, keras.layers.Softmax):
        return False
    if not hasattr(layer, "activation"):
        raise ValueError(
            "Expected a classifier that ends in a layer with an activation, or in Softmax, which shows whether it "
            f"returns probabilities; received: {type(layer).__name__} at the end of {model.name}."
        )
    if layer.activation not in (*LOGITS, keras.activations.softmax):
        raise ValueError(
            "Expected a classifier that ends in softmax, or without activation (logits); received: "
            f"activation={keras.activations.serialize(layer.activation)!r} at the end of {model.name}."
        )
    return layer.activation in LOGITS
