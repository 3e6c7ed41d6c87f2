"""Progress bar of a training run."""

import time
from typing import Any

import keras

from keras_resattn.recipes.checkpointing import RunCallback


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with images per second.

    Args:
        run: The `RunCallback` whose steps it shows.
    """

    # It only prints, so Keras may call it concurrently with the next step.
    async_safe = True

    def __init__(self, run: RunCallback) -> None:
        super().__init__()
        self._run = run

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Print the step that a run resumes from."""
        if self._run.completed_steps:
            print(f"Resuming from step {self._run.completed_steps} of {self._run.steps}.")
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the epoch's clock."""
        self._started = time.monotonic()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the metrics and the speed so far."""
        super().on_train_batch_end(batch, self._with_speed(batch + 1, logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the epoch's metrics and speed."""
        super().on_epoch_end(epoch, {**(logs or {}), "images/s": self._run.history[-1]["images/s"]})

    def _with_speed(self, steps, logs):
        trained = steps + self._run.epoch * self._run.steps_per_epoch - self._run.first_step
        if trained <= 0:
            return logs
        return {**(logs or {}), "images/s": trained * self._run.batch_size / (time.monotonic() - self._started)}
