"""Find the epoch whose weights a run keeps: a user's callback may restore the weights of an earlier epoch."""

import hashlib
from collections.abc import Sequence

import keras
import numpy as np

from keras_resattn.recipes.checkpointing import RunCallback
from keras_resattn.recipes.weight_averaging import AveragedWeights


class KeptEpoch:
    """Track a model's weights through `fit`, where the user's callbacks may change them.

    With averaged weights, the callbacks see the averages and their batch-norm statistics in the model at the end of an
    epoch. The epoch's validation metrics refer to these weights, and the run ends with averaged weights.

    Args:
        run: The `RunCallback`, whose `weight_hashes` get an entry for each epoch.
        averages: The `AveragedWeights`, or `None`.
        callbacks: The user's callbacks.

    Attributes:
        averages: The argument `averages`.
        callbacks: The user's callbacks, and before and after them the callbacks that track the weights.
    """

    def __init__(
        self, run: RunCallback, averages: AveragedWeights | None, callbacks: Sequence[keras.callbacks.Callback]
    ) -> None:
        self._run, self.averages = run, averages
        self.callbacks = [_BeforeUser(self), *callbacks, _AfterUser(self)] if callbacks else [_BeforeUser(self)]
        self._tracks = bool(callbacks)  # nothing else changes the weights
        self._final = None

    def before_epoch_end(self, model: keras.Model, epoch: int) -> None:
        """Put the weights that the epoch ends with into the model, and record their hash."""
        if self._tracks:
            if self.averages is not None:
                self.averages.swap_in(epoch)
            self._run.weight_hashes[str(epoch + 1)] = self._hash(model)

    def after_epoch_end(self, model: keras.Model, epoch: int) -> None:
        """Put the raw weights back into the model for the next epoch."""
        if self.averages is None:
            return
        changed = self._hash(model) != self._run.weight_hashes[str(epoch + 1)]
        self.averages.swap_out()
        if changed:
            raise ValueError(
                "Expected callbacks that do not change weights in on_epoch_end if the recipe averages weights (ema): "
                "the model then holds the averages, and changes to them are lost. Change weights in on_epoch_begin."
            )

    def before_train_end(self, model: keras.Model, epoch: int) -> None:
        """Recalibrate batch norm for averaged weights before the user's callbacks see the final model."""
        if self.averages is not None:
            self.averages.recalibrator.recalibrate(epoch)
        if self._tracks:
            self._final = self._hash(model)

    def find(self, model: keras.Model) -> int | None:
        """Return the number, from 1, of the epoch that ended with the model's weights, or `None` if none did."""
        last = self._run.history[-1]["epoch"]
        if not self._tracks:
            return last
        found = self._hash(model)
        if self.averages is not None and found == self._final:
            return last
        epochs = [int(epoch) for epoch, of_epoch in self._run.weight_hashes.items() if of_epoch == found]
        return max(epochs, default=None)

    def _hash(self, model):
        digest = hashlib.sha256()
        for variable in self._run.saved_variables(model):
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).data.cast("B"))
        return digest.hexdigest()


class _BeforeUser(keras.callbacks.Callback):
    """Callback that runs before the user's callbacks."""

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


class _AfterUser(keras.callbacks.Callback):
    """Callback that runs after the user's callbacks."""

    def __init__(self, kept):
        super().__init__()
        self._kept = kept

    def on_epoch_end(self, epoch, logs=None):
        self._kept.after_epoch_end(self.model, epoch)
