"""Distributed training on PyTorch: `torch.nn.parallel.DistributedDataParallel`, one process per device."""

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.models.inspection import batch_norm_layers
from keras_resattn.recipes.distribution.strategy import Strategy
from keras_resattn.recipes.recipe import Recipe


class DistributedDataParallel(Strategy):
    """`torch.nn.parallel.DistributedDataParallel`: one process per device.

    Batch normalisation uses the images of its own device. Its moving statistics and the metrics are averaged over the
    devices in each step, so the state after a step is the same in all processes.
    """

    name = "several processes (torch.distributed)"

    def __init__(self) -> None:
        from torch import distributed

        self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()
        self.devices = self.processes

    def check(
        self,
        model: keras.Model,
        recipe: Recipe,
        jit_compile: bool | Literal["auto"] = "auto",
        device_data: bool = False,
        steps_per_execution: int = 1,
    ) -> None:
        """Check that the step is not compiled. See `Strategy.check`."""
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        self._require(jit_compile in ("auto", False), "jit_compile='auto' or False", f"jit_compile={jit_compile}")

    def gather(self, value: Any) -> list[np.ndarray]:
        """Return the values of all processes; see `Strategy.gather`."""
        from torch import distributed

        values: list[Any] = [None] * self.processes
        distributed.all_gather_object(values, np.asarray(value))
        return values

    @contextlib.contextmanager
    def distributed(self, model: keras.Model) -> Iterator[None]:
        """Train through PyTorch's wrapper inside the block."""
        from torch.nn import parallel

        statistics = [
            variable
            for layer in batch_norm_layers(model)
            if layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        wrapped = _WrappedCall(model, parallel.DistributedDataParallel(model))
        # These are Keras' own steps, except that the forward pass of training calls PyTorch's wrapper.
        train, test = functools.partial(type(model).train_step, wrapped), model.test_step

        def train_step(data):
            train(data)
            _average([*statistics, *model.metrics_variables])
            return model.get_metrics_result()

        def test_step(data):
            test(data)
            _average(model.metrics_variables)
            return model.get_metrics_result()

        model.train_step, model.test_step = train_step, test_step
        try:
            yield
        finally:
            del model.train_step, model.test_step


class _WrappedCall:
    """Proxy of a model that redirects calls to a wrapper module.

    The wrapper module contains the model, so it cannot be an attribute of the model.
    """

    def __init__(self, model, module):
        self._model, self._module = model, module

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        return self._module(*args, **kwargs)


def _average(variables):
    """Replace variables by their mean over the processes."""
    import torch
    from torch import distributed

    values = [variable.value for variable in variables]
    with torch.no_grad():
        joined = torch.cat([value.reshape(-1).float() for value in values])
        distributed.all_reduce(joined)
        joined /= distributed.get_world_size()
        for value, mean in zip(values, joined.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.reshape(value.shape))


@contextlib.contextmanager
def scope(address: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Connect to the other processes; a process group that is already initialised is used as it is."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    if processes is None and not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise ValueError(
            "Expected one process per device on PyTorch; received: neither torchrun's environment nor address, "
            "processes and process. Start the program with: torchrun --nproc-per-node DEVICES program.py."
        )
    rank = int(os.environ["RANK"]) if process is None else process
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank % torch.cuda.device_count())))
    options = {} if processes is None else {"init_method": f"tcp://{address}", "world_size": processes, "rank": process}
    # Both backends, because the processes also exchange values on the host.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", **options)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def current_strategy() -> Strategy:
    """Return the strategy of the active process group."""
    from torch import distributed

    active = distributed.is_available() and distributed.is_initialized()
    return DistributedDataParallel() if active else Strategy()
