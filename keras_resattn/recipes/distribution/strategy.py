"""Base class of distribution strategies: a training step on one device, and the interface that `fit` relies on."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.data.evaluation_batches import ShardedEvaluationBatches
from keras_resattn.recipes.recipe import Recipe

STEPS_BETWEEN_SIGNAL_CHECKS = 10  # comparing signals between processes makes a device wait for its host


class Strategy:
    """One device in one process; the base of the backends' strategies.

    Attributes:
        name: Name for messages.
        rank: Rank of this process, from 0; only process 0 writes files.
        processes: Number of processes that train together.
        devices: Number of devices that share a batch, over all processes.
        metrics_first: Whether metrics must create their variables before the step is compiled.
    """

    name = "one device"
    rank, processes, devices = 0, 1, 1
    metrics_first = False

    @property
    def shard(self) -> tuple[int, int]:
        """`(rank, processes)`: this process' part of the data."""
        return self.rank, self.processes

    def check(
        self,
        model: keras.Model,
        recipe: Recipe,
        jit_compile: bool | Literal["auto"] = "auto",
        device_data: bool = False,
        steps_per_execution: int = 1,
    ) -> None:
        """Raise a `ValueError` for arguments of `compile_and_fit` that this strategy does not support."""
        if self.devices == 1:
            return
        if recipe.batch_size % self.devices:
            raise ValueError(
                f"Expected a batch size that is a multiple of {self.devices}, the number of devices; received: "
                f"batch_size={recipe.batch_size}, which is the total over all devices."
            )
        # `device_data` draws augmentation for the whole batch, and every device would hold all images.
        self._require(not device_data, "device_data=False", "device_data=True")

    def gather(self, value: Any) -> list[np.ndarray]:
        """Return the values that all processes pass, ordered by rank: scalars, or arrays of one shape."""
        return [np.asarray(value)]

    def broadcast(self, *values: Any) -> list[Any]:
        """Return the values that process 0 passes."""
        return [self.gather(value)[0].tolist() for value in values] if self.processes > 1 else list(values)

    def check_same(self, what: str, value: Any) -> None:
        """Raise a `ValueError` if processes pass different values, which would cause a deadlock."""
        values = [each.item() for each in self.gather(value)]
        if len(set(values)) > 1:
            raise ValueError(f"Expected {what} to be the same in all processes; received, by rank: {values}.")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Raise an error in all processes if the block fails in one of them, because the others would wait for it."""
        try:
            yield
        except Exception:
            self.gather(1)
            raise
        failed = [rank for rank, error in enumerate(self.gather(0)) if error]
        if failed:
            raise RuntimeError(f"Stopped because process {failed[0]} failed; see its error.")

    def signal(self, number: int | None, step: int = 0) -> int | None:
        """Return the signal that any process has received, or `None`.

        Several processes compare their signals only every `STEPS_BETWEEN_SIGNAL_CHECKS` steps.
        """
        if self.processes == 1:
            return number
        if step % STEPS_BETWEEN_SIGNAL_CHECKS:
            return None
        return max(each.item() for each in self.gather(number or 0)) or None

    def make_optimizer(self, recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Return the recipe's optimizer, adapted to how this strategy combines gradients."""
        return recipe.make_optimizer(steps_per_epoch)

    def evaluation_batches(self, *args: Any, **kwargs: Any) -> ShardedEvaluationBatches:
        """Return `ShardedEvaluationBatches` for the devices."""
        return ShardedEvaluationBatches(*args, devices=self.devices, shard=self.shard, **kwargs)

    @contextlib.contextmanager
    def distributed(self, model: keras.Model) -> Iterator[None]:
        """Make `model.fit` inside the block train on all devices."""
        yield

    def _require(self, holds, expected, received):
        if not holds:
            raise ValueError(f"Expected {expected} for training on {self.name}; received: {received}.")
