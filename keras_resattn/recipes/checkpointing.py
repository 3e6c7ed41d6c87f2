"""What happens around Keras' training steps: resuming at any one, watching the loss, stopping in good order."""

import collections
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_resattn.recipes.distribution import Strategy
from keras_resattn.recipes.run_folder import RunFolder, assign, check

# Losses are read so many steps late: reading one at once would make an accelerator wait for its host.
LAG = 4
SECONDS_BETWEEN_CHECKPOINTS = 300


class RunCallback(keras.callbacks.Callback):
    """Carries a run through `Model.fit`, from any step to the end.

    Keras' own loop counts epochs from their beginning. So an epoch that was broken off is run from its beginning, too,
    but the steps that are done already, and those past the recipe's last one, do nothing.

    Args:
        folder: The `RunFolder`.
        steps: Number of steps of the whole run.
        steps_per_epoch: Number of steps of an epoch.
        rows_of: Function of a step that returns the indices of its images, or `None`.
        batch_size: Images in a step.
        checkpoint_steps: Steps between checkpoints inside an epoch; `None`: one every five minutes.
        left_out: Variables of the model that no checkpoint holds.
        strategy: An `Strategy`, whose processes stop together.
        image_size: Function of a step that returns the side of its images, for the log; `None` where there is one size.
    """

    def __init__(
        self,
        folder: RunFolder,
        steps: int,
        steps_per_epoch: int,
        rows_of: Callable[[int], Any],
        batch_size: int,
        checkpoint_steps: int | None = None,
        left_out: Iterable[Any] = (),
        strategy: Strategy | None = None,
        image_size: Callable[[int], int | None] = lambda step: None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.rows_of = rows_of
        self.batch_size = batch_size
        self.checkpoint_steps = checkpoint_steps
        self.left_out = {id(variable) for variable in left_out}
        self.strategy = strategy or Strategy()
        self.image_size = image_size
        self.rows = []
        self.weights = {}  # a hash of those that each epoch ended with, see `Kept`
        self.done = 0
        self.signal = None
        self._arrays = None
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._size = 1

    def restore(self) -> None:
        """Reads the folder's checkpoint, if there is one; `done` is then its step. Variables wait for `fit`."""
        loaded = self.folder.load()
        if loaded is not None:
            self._arrays, progress = loaded
            self.done, self.rows, self.weights = progress["step"], progress["rows"], progress["weights"]
            self._seconds_before = progress["seconds"]

    def assign(self, model: keras.Model, metrics: bool = True) -> None:
        """Gives the model, its optimizer and its metrics the checkpoint's values; all of them, or none."""
        if self._arrays is None:
            return
        groups = {group: found for group, found in self._variables(model).items() if metrics or group != "metrics"}
        for group, variables in groups.items():
            check(variables, self._arrays, group)
        for group, variables in groups.items():
            assign(variables, self._arrays, group)

    def kept_variables(self, model: keras.Model, variables: Iterable[Any] | None = None) -> list[Any]:
        """Returns those of a model's weights (or of other variables) that a run keeps: all but images on the device."""
        return [v for v in (model.weights if variables is None else variables) if id(v) not in self.left_out]

    def finish(self, model: keras.Model, report: dict[str, Any]) -> None:
        """Writes the last checkpoint, of the weights that are kept, with the report: the run is finished."""
        if self.folder.path is None or self.folder.finished:
            return
        groups = {group: found for group, found in self._variables(model).items() if group != "metrics"}
        try:
            self.folder.save(groups, {**self._progress(self.done), "report": report})
        except FloatingPointError as error:
            raise FloatingPointError(self._diverged(f"{error} after", "", max(self.done - 1, 0))) from None

    def _progress(self, step):
        # The rows are in the checkpoint, too: one file holds all that a run needs to be resumed.
        return {"step": step, "rows": self.rows, "weights": self.weights, "seconds": self._seconds()}

    def _variables(self, model):
        return {
            "model": self.kept_variables(model, model.variables),
            "optimizer": list(model.optimizer.variables),
            "metrics": list(model.metrics_variables),
        }

    @contextlib.contextmanager
    def around(self, model: keras.Model) -> Iterator[None]:
        """Puts itself between Keras and its compiled step, and between signals and the process, for a `fit`."""
        model.make_train_function()
        compiled = model.train_function
        model.train_function = self._around_step(compiled, model.steps_per_execution)
        finalize = model.optimizer.finalize_variable_values

        def finalize_finished(variables):
            # On JAX Keras puts averaged weights into the model even where an error ends the training.
            if self.done >= self.steps or model.stop_training:
                finalize(variables)
                part(variables)

        model.optimizer.finalize_variable_values = finalize_finished
        try:
            with self._signals():
                yield
        finally:
            model.train_function = compiled
            model.optimizer.finalize_variable_values = finalize

    def _around_step(self, compiled, size):
        self._size = size
        self._step = self.done // self.steps_per_epoch * self.steps_per_epoch
        self._losses = collections.deque()
        self._logs = {}

        def step(*arguments):
            # JAX' step takes its state and returns it; the others take batches and return logs alone.
            *state, batches = arguments
            first, self._step = self._step, self._step + size
            if first < self.done or first >= self.steps:
                if hasattr(batches, "__next__"):  # PyTorch's have been taken already
                    for _ in range(size):
                        next(batches)
                return (self._logs, *state) if state else self._logs
            try:
                result = compiled(*arguments)
            except BaseException:
                if state:  # Keras took the variables' values out of the model, and would not put these back
                    groups = (
                        "trainable_variables",
                        "non_trainable_variables",
                        "optimizer_variables",
                        "metrics_variables",
                    )
                    self._model._jax_state = dict(zip(groups, state[0], strict=True))
                    self._model._jax_state_synced = False
                raise
            self._logs = result[0] if state else result
            self._losses.append((first, self._logs["loss"]))
            return result

        return step

    def _watch(self, unread):
        while len(self._losses) > unread:
            step, loss = self._losses.popleft()
            loss = float(np.mean(keras.ops.convert_to_numpy(loss)))
            if not np.isfinite(loss):
                raise FloatingPointError(self._diverged(f"The loss is {loss} from", " on", step))

    def _diverged(self, found, since, step):
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        rows = [self.rows_of(each) for each in range(step, min(step + self._size, self.steps))]
        known = [str(row) for each in rows if each is not None for row in each]
        images = f" of the images {', '.join(known)}" if known else ""
        which = f"step {step + 1}" if self._size == 1 else f"one of steps {step + 1} to {step + self._size}"
        if self.folder.path is None or not self.done:
            kept = "Nothing was saved."
        else:
            kept = f"{self.folder.path} holds the last good checkpoint, of step {self.done}."
        return (
            f"{found} {which}{since} (epoch {epoch + 1}, step {in_epoch + 1} of "
            f"{self.steps_per_epoch}){images}. {kept} Try a lower learning rate or a longer warm-up."
        )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch
        if self._arrays is not None:
            in_epoch = self.done % self.steps_per_epoch != 0
            self.assign(self.model, metrics=in_epoch)
            self._arrays = None
            self._logs = self.model.get_metrics_result() if in_epoch else {}
        self._started = self._checkpointed = time.monotonic()
        self.first = max(self.done, epoch * self.steps_per_epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step = self.epoch * self.steps_per_epoch + batch
        if step <= self.done or step >= self.steps:
            return
        self._watch(LAG)
        if self.checkpoint_steps is None:
            due = time.monotonic() - self._checkpointed > SECONDS_BETWEEN_CHECKPOINTS
        else:
            due = step // self.checkpoint_steps > self.done // self.checkpoint_steps
        asked = self.strategy.signal(self.signal, step)
        if due or asked:
            self._save(step)
        self._stop(asked)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._watch(0)
        end = min((epoch + 1) * self.steps_per_epoch, self.steps)
        done = min(self._step, end)  # less where a callback stopped the training inside the epoch
        seconds = self._seconds()
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items() if key != "images/s"}}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row["seconds"] = round(seconds, 1)
        side = self.image_size(done - 1)
        row.update({} if side is None else {"image_size": side})
        row["images/s"] = round((done - epoch * self.steps_per_epoch) * self.batch_size / seconds, 1)
        self.rows.append(row)
        self._seconds_before = 0.0
        self._started = time.monotonic()
        if done == end:
            self._save(end)
        else:  # nothing to go on from: metrics may be the validation's by now. The checkpoint before stays
            self._watch(0)
            self.done = done
        self.folder.write_log(self.rows)
        self._stop(self.strategy.signal(self.signal))

    def _seconds(self):
        return self._seconds_before + time.monotonic() - self._started

    def _save(self, step):
        self._watch(0)
        if self.folder.path is not None:
            try:
                self.folder.save(self._variables(self.model), self._progress(step))
            except FloatingPointError as error:
                raise FloatingPointError(self._diverged(f"{error} after", "", step - self._size)) from None
        self.done = step
        self._checkpointed = time.monotonic()

    @contextlib.contextmanager
    def _signals(self):
        """Ends the step that is running before Ctrl-C or a scheduler's SIGTERM stops the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {}

        def ask(number, frame):
            if self.signal is not None:  # asked twice
                raise KeyboardInterrupt
            self.signal = number

        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, asked):
        if asked is None:
            return
        kept = "" if self.folder.path is None else f"; {self.folder.path} goes on from there"
        message = f"Stopped after step {self.done} of {self.steps}{kept}."
        if asked == signal.SIGINT:
            raise KeyboardInterrupt(message)
        if self.strategy.rank == 0:
            print(message, file=sys.stderr)  # an exit status has no room for it
        raise SystemExit(128 + asked)


def part(variables: Iterable[Any]) -> None:
    """Gives variables arrays of their own: on JAX averaged weights share those of the optimizer, and a later step of
    either deletes both.
    """
    if keras.backend.backend() == "jax":
        for variable in variables:
            variable.assign(keras.ops.copy(variable.value))


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, with images per second beside it.

    Args:
        loop: The `RunCallback` whose steps it shows.
    """

    # It only prints, so that Keras may call it beside the next step.
    async_safe = True

    def __init__(self, loop: RunCallback) -> None:
        super().__init__()
        self.loop = loop

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.loop.done:
            print(f"Going on from step {self.loop.done} of {self.loop.steps}.")
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begun = time.monotonic()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, self._with_speed(batch + 1, logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, {**(logs or {}), "images/s": self.loop.rows[-1]["images/s"]})

    def _with_speed(self, steps, logs):
        done = steps + self.loop.epoch * self.loop.steps_per_epoch - self.loop.first
        if done <= 0:
            return logs
        return {**(logs or {}), "images/s": done * self.loop.batch_size / (time.monotonic() - self._begun)}
