"""Measuring published weights again, picture by picture."""

from dataclasses import dataclass

import numpy as np

from keras_resattn.data import check_pictures, network_input
from keras_resattn.models import zoo

PREDICTIONS = "predictions.npy"


@dataclass(frozen=True)
class Evaluation:
    """What a network got right.

    Attributes:
        predictions: The class of highest probability for each picture, `(n,)` uint8 or int64.
        correct: Number of pictures classified correctly.
        total: Number of pictures.
        loss: Mean cross-entropy in nats.
        changed: Indices of the pictures whose predicted class is not the one that the tag was released
            with; `None` where the tag was released with other pictures.
    """

    predictions: np.ndarray
    correct: int
    total: int
    loss: float
    changed: list | None

    @property
    def accuracy(self):
        """Share of pictures classified correctly, 0 to 1."""
        return self.correct / self.total


def build(tag, **kwargs):
    """Returns the network of a released `Tag`, with its weights."""
    return zoo.build(tag.network, weights=str(tag.folder), classes=len(tag.classes), **kwargs)


def evaluate(tag, x, y, batch_size=256, verbose=0):
    """Classifies labelled pictures with released weights.

    Args:
        tag: A `Tag` of the registry.
        x: Pictures, `(n, h, w, 3)`, 0 to 255.
        y: Integer labels, `(n,)`.
        batch_size: Pictures in a step.
        verbose: Keras' verbosity; 1 is a progress bar.

    Raises:
        ValueError: if pictures or labels do not fit the tag.
    """
    y = check_pictures(x, y, len(tag.classes))
    if tuple(x.shape[1:]) != tag.input_shape:
        raise ValueError(f"Expected pictures of shape {tag.input_shape} for {tag.id}; received: {tuple(x.shape[1:])}.")
    if not len(x):
        raise ValueError("Expected at least one picture; received: none.")
    model = build(tag, classifier_activation=None)
    logits = model.predict(network_input(x, tag.mean, tag.std), batch_size=batch_size, verbose=verbose).astype(
        "float64"
    )
    predictions = logits.argmax(1)
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]
    return Evaluation(
        predictions=predictions,
        correct=int((predictions == y).sum()),
        total=len(y),
        loss=float(losses.mean()),
        changed=_changed(tag, y, predictions),
    )


def _changed(tag, y, predictions):
    """Compares with the predictions that lie beside the record, if they are of these very labels."""
    path = tag.folder / PREDICTIONS
    if not path.exists():
        return None
    released = np.load(path, allow_pickle=False)
    if released.shape != (2, len(y)) or not np.array_equal(released[0], y):
        return None
    return np.flatnonzero(released[1] != predictions).tolist()
