"""Wrap Keras' compiled training step: skip completed steps, watch the loss, recover from an error in a step."""

import collections
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_resattn.utils.keras_internals import set_jax_state


class TrainingSteps:
    """Replacement for a model's `train_function`.

    `Model.fit` can only start an epoch at its first step. To resume inside an epoch, `fit` therefore runs the epoch
    from its start, and the steps that the checkpoint already contains return at once, as do steps after the last one.

    Args:
        model: A compiled model, whose `train_function` exists.
        first_step: Step that `fit` starts with, counted from the start of the run.
        is_skipped: Function that returns whether to skip a step.

    Attributes:
        next_step: The step after the last one that was called.
        size: Number of steps in one call (`steps_per_execution`).
        logs: Keras' logs of the last step.
    """

    def __init__(self, model: keras.Model, first_step: int, is_skipped: Callable[[int], bool]) -> None:
        self._model, self._compiled, self._is_skipped = model, model.train_function, is_skipped
        self.size, self.next_step = model.steps_per_execution, first_step
        self.logs: Any = {}
        self._losses = collections.deque()

    def __call__(self, *arguments: Any) -> Any:
        """Run one call of the compiled step, with the arguments that `fit` passes to it."""
        # On JAX, the step takes and returns the model's state; on other backends it takes batches and returns logs.
        *state, batches = arguments
        step, self.next_step = self.next_step, self.next_step + self.size
        if self._is_skipped(step):
            if hasattr(batches, "__next__"):  # on PyTorch, batches have already been read
                for _ in range(self.size):
                    next(batches)
            return (self.logs, *state) if state else self.logs
        try:
            result = self._compiled(*arguments)
        except BaseException:
            if state:  # Keras took the values out of the model's variables and would not restore them
                set_jax_state(self._model, state[0])
            raise
        self.logs = result[0] if state else result
        self._losses.append((step, self.logs["loss"]))
        return result

    def first_bad_loss(self, unread: int = 0) -> tuple[int, float] | None:
        """Read all losses except the latest `unread`; return `(step, loss)` of a NaN or infinite loss, or `None`."""
        while len(self._losses) > unread:
            step, loss = self._losses.popleft()
            loss = float(np.mean(keras.ops.convert_to_numpy(loss)))
            if not np.isfinite(loss):
                return step, loss
        return None
