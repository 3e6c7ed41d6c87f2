"""Which epoch the weights belong to that a run ends with: a user's callback may put back those of an earlier one."""

import hashlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


class Kept:
    """Follows a model's weights through `fit`, where callbacks of the user's may change them.

    With averaged weights, callbacks find these in the model at an epoch's end, with the batch-norm statistics that
    belong to them: they are what the epoch's validation figures describe, and what the run ends with.

    Args:
        loop: The `RunCallback` of the run, whose `weights` get a hash for each epoch.
        averages: The `AveragedWeights`, or `None`.
        callbacks: The user's.
    """

    def __init__(self, loop: Any, averages: Any, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        self._loop, self.averages = loop, averages
        self.callbacks = [_Before(self), *callbacks, _After(self)] if callbacks else [_Before(self)]
        self._hashes = bool(callbacks)  # nobody else changes weights
        self._ended = None

    def before_epoch_end(self, model: keras.Model, epoch: int) -> None:
        """Shows the epoch's weights to the user's callbacks."""
        if self._hashes:
            if self.averages is not None:
                self.averages.show(epoch)
            self._loop.weights[str(epoch + 1)] = self._hash(model)

    def after_epoch_end(self, model: keras.Model, epoch: int) -> None:
        """Takes averaged weights back out of the model, for the next epoch."""
        if self.averages is None:
            return
        changed = self._hash(model) != self._loop.weights[str(epoch + 1)]
        self.averages.hide()
        if changed:
            raise ValueError(
                "Expected callbacks that leave the weights alone in on_epoch_end where a recipe averages them (ema): "
                "the model then holds the averages, and a change of these is lost. Change weights in on_epoch_begin."
            )

    def before_train_end(self, model: keras.Model, epoch: int) -> None:
        """Gives averaged weights their statistics before the user's callbacks see what training ends with."""
        if self.averages is not None:
            self.averages.statistics.measure(epoch)
        if self._hashes:
            self._ended = self._hash(model)

    def epoch(self, model: keras.Model) -> int | None:
        """Returns the number of the epoch that ended with the model's weights, or `None` if none did."""
        last = self._loop.rows[-1]["epoch"]
        if not self._hashes:
            return last
        found = self._hash(model)
        if self.averages is not None and found == self._ended:
            return last
        epochs = [int(epoch) for epoch, of_epoch in self._loop.weights.items() if of_epoch == found]
        return max(epochs, default=None)

    def _hash(self, model):
        digest = hashlib.sha256()
        for variable in self._loop.kept_variables(model):
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data.cast("B"))
        return digest.hexdigest()


class _Before(keras.callbacks.Callback):
    """Comes before the user's callbacks."""

    def __init__(self, kept):
        super().__init__()
        self._kept = kept
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self._kept.before_epoch_end(self.model, epoch)

    def on_train_end(self, logs=None):
        self._kept.before_train_end(self.model, self._epoch)


class _After(keras.callbacks.Callback):
    """Comes after them."""

    def __init__(self, kept):
        super().__init__()
        self._kept = kept

    def on_epoch_end(self, epoch, logs=None):
        self._kept.after_epoch_end(self.model, epoch)
