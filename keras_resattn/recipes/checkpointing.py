"""The callback with which `Model.fit` writes checkpoints of a run, and resumes from them at any step."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_resattn.recipes.checkpoint_file import assign_variables, check_variables
from keras_resattn.recipes.distribution import Strategy
from keras_resattn.recipes.run_folder import RunFolder
from keras_resattn.recipes.run_spec import TrainingInputs
from keras_resattn.recipes.stop_signals import deferred_signals
from keras_resattn.recipes.training_steps import TrainingSteps

# Losses are read this many steps late: reading the latest one would make an accelerator wait for its host.
UNREAD_LOSSES = 4
SECONDS_BETWEEN_CHECKPOINTS = 300


class RunCallback(keras.callbacks.Callback):
    """Log, checkpoint and resume a run, and stop it on signals and on a NaN or infinite loss.

    Args:
        folder: The `RunFolder`.
        inputs: The `TrainingInputs`.
        strategy: The `Strategy`, whose processes stop together.
        checkpoint_steps: Steps between checkpoints inside an epoch; `None` writes one every five minutes.

    Attributes:
        steps: Number of steps of the whole run.
        completed_steps: Number of steps up to the last checkpoint or, without `run_dir`, up to the last step at which
            one was due.
        history: Rows of the log, one per epoch.
        weight_hashes: `{epoch: hash of the weights at its end}`; see `KeptEpoch`.
        epoch: The current epoch, from 0.
        first_step: The first step that the current epoch trains.
    """

    def __init__(
        self, folder: RunFolder, inputs: TrainingInputs, strategy: Strategy, checkpoint_steps: int | None = None
    ) -> None:
        super().__init__()
        batches, recipe = inputs.batches, inputs.batches.recipe
        self.steps, self.steps_per_epoch = recipe.steps(batches.steps_per_epoch), batches.steps_per_epoch
        self.batch_size = recipe.batch_size
        self.completed_steps, self.history, self.weight_hashes = 0, [], {}
        self._folder, self._batches, self._strategy = folder, batches, strategy
        self._checkpoint_steps = checkpoint_steps
        self._excluded = {id(variable) for variable in inputs.excluded_variables}
        self._arrays, self._signal = None, None
        self._seconds_before, self._started = 0.0, time.monotonic()

    def restore(self) -> None:
        """Read the folder's checkpoint, if there is one. Variables are assigned when `fit` starts."""
        loaded = self._folder.load()
        if loaded is not None:
            self._arrays, progress = loaded
            self.completed_steps, self.history = progress["step"], progress["history"]
            self.weight_hashes, self._seconds_before = progress["weight_hashes"], progress["seconds"]

    def assign(self, model: keras.Model, metrics: bool = True) -> None:
        """Assign the checkpoint's values to the model, its optimizer and its metrics: all of them or, on error, none.

        Args:
            model: The compiled model.
            metrics: Whether to include the metrics.
        """
        if self._arrays is None:
            return
        groups = {group: found for group, found in self._variables(model).items() if metrics or group != "metrics"}
        for group, variables in groups.items():
            check_variables(variables, self._arrays, group)
        for group, variables in groups.items():
            assign_variables(variables, self._arrays, group)

    def saved_variables(self, model: keras.Model, variables: Iterable[Any] | None = None) -> list[Any]:
        """Return a model's weights, or `variables`, without those that checkpoints exclude (images on the device)."""
        return [v for v in (model.weights if variables is None else variables) if id(v) not in self._excluded]

    def finish(self, model: keras.Model, report: dict[str, Any]) -> None:
        """Write the last checkpoint, with the weights that the run keeps and its report."""
        if self._folder.path is None or self._folder.finished:
            return
        groups = {group: found for group, found in self._variables(model).items() if group != "metrics"}
        try:
            self._folder.save(groups, {**self._progress(self.completed_steps), "report": report})
        except FloatingPointError as error:
            raise self._divergence(f"{error} after", max(self.completed_steps - 1, 0), 1) from None

    def _progress(self, step):
        # The log is included, so that one file holds everything that resuming needs.
        progress = {"step": step, "history": self.history, "weight_hashes": self.weight_hashes}
        return {**progress, "seconds": self._seconds()}

    def _variables(self, model):
        return {
            "model": self.saved_variables(model, model.variables),
            "optimizer": list(model.optimizer.variables),
            "metrics": list(model.metrics_variables),
        }

    @contextlib.contextmanager
    def attached(self, model: keras.Model) -> Iterator[None]:
        """Wrap the model's compiled step, and defer signals to the end of a step, for a `fit` inside the block."""
        model.make_train_function()
        compiled = model.train_function
        first_step = self.completed_steps // self.steps_per_epoch * self.steps_per_epoch
        self._training = model.train_function = TrainingSteps(model, first_step, self._is_skipped)
        finalize = model.optimizer.finalize_variable_values

        def finalize_finished(variables):
            # On JAX, Keras puts averaged weights into the model even if an error ends the training.
            if self.completed_steps >= self.steps or model.stop_training:
                finalize(variables)
                unshare_values(variables)

        model.optimizer.finalize_variable_values = finalize_finished
        try:
            with deferred_signals(self._receive):
                yield
        finally:
            model.train_function = compiled
            model.optimizer.finalize_variable_values = finalize

    def _is_skipped(self, step):
        return step < self.completed_steps or step >= self.steps

    def _receive(self, signal_number):
        self._signal = signal_number

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Assign the checkpoint's values before the first step of a resumed run."""
        self.epoch = epoch
        if self._arrays is not None:
            inside_epoch = self.completed_steps % self.steps_per_epoch != 0
            self.assign(self.model, metrics=inside_epoch)
            self._arrays = None
            self._training.logs = self.model.get_metrics_result() if inside_epoch else {}
        self._started = self._checkpointed = time.monotonic()
        self.first_step = max(self.completed_steps, epoch * self.steps_per_epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a checkpoint between two steps if one is due, and stop if a signal was received."""
        step = self.epoch * self.steps_per_epoch + batch
        if step <= self.completed_steps or step >= self.steps:
            return
        self._check_losses(unread=UNREAD_LOSSES)
        if self._checkpoint_steps is None:
            due = time.monotonic() - self._checkpointed > SECONDS_BETWEEN_CHECKPOINTS
        else:
            due = step // self._checkpoint_steps > self.completed_steps // self._checkpoint_steps
        signal_number = self._strategy.signal(self._signal, step)
        if due or signal_number:
            self._save(step)
        self._stop(signal_number)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Log the epoch and write its checkpoint."""
        self._check_losses()
        end = min((epoch + 1) * self.steps_per_epoch, self.steps)
        step = min(self._training.next_step, end)  # before the end if a callback stopped the training inside the epoch
        self.history.append(self._row(epoch, step, logs or {}))
        self._seconds_before, self._started = 0.0, time.monotonic()
        if step == end:
            self._save(end)
        else:  # not resumable, since metrics may be those of validation; the previous checkpoint is kept
            self.completed_steps = step
        self._folder.write_log(self.history)
        self._stop(self._strategy.signal(self._signal))

    def _row(self, epoch, step, logs):
        seconds = self._seconds()
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items() if key != "images/s"}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(seconds, 1)
        side = self._batches.recipe.image_size(step - 1, self.steps_per_epoch)
        row.update({} if side is None else {"image_size": side})
        row["images/s"] = round((step - epoch * self.steps_per_epoch) * self.batch_size / seconds, 1)
        return row

    def _seconds(self):
        return self._seconds_before + time.monotonic() - self._started

    def _save(self, step):
        self._check_losses()
        if self._folder.path is not None:
            try:
                self._folder.save(self._variables(self.model), self._progress(step))
            except FloatingPointError as error:
                size = self._training.size
                raise self._divergence(f"{error} after", step - size, size) from None
        self.completed_steps = step
        self._checkpointed = time.monotonic()

    def _check_losses(self, unread=0):
        bad = self._training.first_bad_loss(unread)
        if bad is not None:
            step, loss = bad
            raise self._divergence(f"The loss is {loss} since", step, self._training.size)

    def _divergence(self, found, step, size):
        """Return the error for `size` steps from `step` on, naming their images and the last good checkpoint."""
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        rows = [self._batches.indices(each) for each in range(step, min(step + size, self.steps))]
        numbers = ", ".join(str(row) for each in rows if each is not None for row in each)
        images = f"; images {numbers}" if numbers else ""
        which = f"step {step + 1}" if size == 1 else f"one of steps {step + 1} to {step + size}"
        if self._folder.path is None or not self.completed_steps:
            kept = "No checkpoint was saved."
        else:
            kept = f"{self._folder.path} holds the last good checkpoint, after step {self.completed_steps}."
        return FloatingPointError(
            f"{found} {which} (epoch {epoch + 1}, step {in_epoch + 1} of {self.steps_per_epoch}{images}). {kept} "
            "Try a lower learning rate or a longer warm-up."
        )

    def _stop(self, signal_number):
        if signal_number is None:
            return
        kept = "" if self._folder.path is None else f" The checkpoint is in {self._folder.path}; rerun to resume."
        message = f"Stopped after step {self.completed_steps} of {self.steps}.{kept}"
        if signal_number == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self._strategy.rank == 0:
            print(message, file=sys.stderr)  # SystemExit with a status prints nothing
        raise SystemExit(128 + signal_number)


def unshare_values(variables: Iterable[Any]) -> None:
    """Copy the variables' arrays on JAX: averaged weights share the optimizer's, which a later step deletes."""
    if keras.backend.backend() == "jax":
        for variable in variables:
            variable.assign(keras.ops.copy(variable.value))
