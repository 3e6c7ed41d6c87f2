"""Distributed training on JAX: `keras.distribution.DataParallel`."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.recipes.distribution.strategy import Strategy
from keras_resattn.recipes.recipe import Recipe


class DataParallel(Strategy):
    """`keras.distribution.DataParallel`: one program over all devices of all processes.

    Batch normalisation uses the whole batch, and metrics cover all devices, by construction.
    """

    name = "several devices (keras.distribution)"
    metrics_first = True

    def __init__(self, distribution: Any) -> None:
        import jax

        self.rank, self.processes = jax.process_index(), jax.process_count()
        self._devices = set(distribution.device_mesh.backend_mesh.devices.flat)
        self.devices = len(self._devices)
        data_parallel = isinstance(distribution, keras.distribution.DataParallel)
        self._require(data_parallel, "keras.distribution.DataParallel", type(distribution).__name__)
        sharded = self.processes > 1 and distribution.auto_shard_dataset
        self._require(not sharded, "DataParallel(auto_shard_dataset=False)", "auto_shard_dataset=True")

    def check(
        self,
        model: keras.Model,
        recipe: Recipe,
        jit_compile: bool | Literal["auto"] = "auto",
        device_data: bool = False,
        steps_per_execution: int = 1,
    ) -> None:
        """Check that the model was built inside the scope. See `Strategy.check`."""
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        inside = all(variable.value.sharding.device_set == self._devices for variable in model.variables)
        self._require(inside, "a model built inside the scope", f"{model.name}, built outside of it")

    def gather(self, value: Any) -> list[np.ndarray]:
        """Return the values of all processes; see `Strategy.gather`."""
        from jax.experimental import multihost_utils

        if self.processes == 1:
            return super().gather(value)
        return list(np.asarray(multihost_utils.process_allgather(np.asarray(value))))


@contextlib.contextmanager
def scope(address: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Open a `DataParallel` scope over all devices, after connecting to the other processes if there are any."""
    import jax

    several = processes is not None or "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ
    if several and not jax.distributed.is_initialized():
        keras.distribution.initialize(address, processes, process)
    # Each process prepares its own part of a batch.
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        yield


def current_strategy() -> Strategy:
    """Return the strategy of the active `keras.distribution`."""
    import jax

    distribution = keras.distribution.distribution()
    if distribution is not None:
        return DataParallel(distribution)
    if jax.process_count() > 1:
        raise ValueError(
            f"Expected distribution.scope() around training in {jax.process_count()} processes; received: none, so "
            "each process would train on its own."
        )
    return Strategy()
