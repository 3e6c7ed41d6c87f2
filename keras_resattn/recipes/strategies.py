"""How a training step is carried out on several devices: what `compile_and_fit` asks of Keras' backends."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.data.sharded_evaluation import ShardedEvaluationBatches
from keras_resattn.models.inspection import batch_norm_layers
from keras_resattn.recipes.recipe import Recipe

STEPS_BETWEEN_QUESTIONS = 10  # whether another process was told to stop: asking makes a device wait for its host


class Strategy:
    """One device in one process, and what the other strategies have in common with it.

    Attributes:
        name: As it is called in messages.
        rank: Number of this process, from 0; process 0 alone writes files.
        processes: Number of processes that train together.
        devices: Number of devices, of all processes together, that share a batch.
        metrics_first: Whether metrics have to have their variables before the step is compiled.
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
        """Raises a `ValueError` for what this strategy cannot do."""
        if self.devices == 1:
            return
        if recipe.batch_size % self.devices:
            raise ValueError(
                f"Expected a batch size that {self.devices} devices can share evenly; received: "
                f"batch_size={recipe.batch_size}, which is that of all devices together."
            )
        # A plan's rows and partners are those of the whole batch, and its images would lie on every device.
        self._require(not device_data, "device_data=False", "device_data=True")

    def gather(self, value: Any) -> list[np.ndarray]:
        """Returns the values, scalars or arrays of one shape, that all processes call this with, by rank."""
        return [np.asarray(value)]

    def first(self, *values: Any) -> list[Any]:
        """Returns what process 0 calls this with."""
        return [self.gather(value)[0].tolist() for value in values] if self.processes > 1 else list(values)

    def same(self, what: str, value: Any) -> None:
        """Raises a `ValueError` if processes call this with different values: they would wait for each other."""
        values = [each.item() for each in self.gather(value)]
        if len(set(values)) > 1:
            raise ValueError(f"Expected {what} to be the same in all processes; received, by process: {values}.")

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Ends the block in all processes with an error if it does in one: the others would wait for it."""
        try:
            yield
        except Exception:
            self.gather(1)
            raise
        failed = [rank for rank, error in enumerate(self.gather(0)) if error]
        if failed:
            raise RuntimeError(f"Stopped because process {failed[0]} did; see its error.")

    def signal(self, number: int | None, step: int = 0) -> int | None:
        """Returns the signal that some process was sent, or `None`. Of several processes it is asked at some steps."""
        if self.processes == 1 or step % STEPS_BETWEEN_QUESTIONS:
            return number if self.processes == 1 else None
        return max(each.item() for each in self.gather(number or 0)) or None

    def make_optimizer(self, recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Returns the recipe's optimizer, for gradients as this strategy hands them to it."""
        return recipe.make_optimizer(steps_per_epoch)

    def evaluation(self, *args: Any, **kwargs: Any) -> ShardedEvaluationBatches:
        """Returns `ShardedEvaluationBatches` for the devices."""
        return ShardedEvaluationBatches(*args, devices=self.devices, shard=self.shard, **kwargs)

    @contextlib.contextmanager
    def around(self, model: keras.Model) -> Iterator[None]:
        """Makes `model.fit`, inside the block, train on all devices."""
        yield

    def _require(self, holds, expected, received):
        if not holds:
            raise ValueError(f"Expected {expected} for training on {self.name}; received: {received}.")


class Jax(Strategy):
    """`keras.distribution.DataParallel`: one program over all devices of all processes.

    Batch normalisation sees the whole batch, and metrics are those of all devices, by construction.
    """

    name = "several devices (keras.distribution)"
    metrics_first = True

    def __init__(self, distribution: Any) -> None:
        import jax

        self.rank, self.processes = jax.process_index(), jax.process_count()
        self._devices = set(distribution.device_mesh.backend_mesh.devices.flat)
        self.devices = len(self._devices)
        one = isinstance(distribution, keras.distribution.DataParallel)
        self._require(one, "keras.distribution.DataParallel", type(distribution).__name__)
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
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        inside = all(variable.value.sharding.device_set == self._devices for variable in model.variables)
        self._require(inside, "a model that was built inside the scope", f"{model.name}, which was built outside")

    def gather(self, value: Any) -> list[np.ndarray]:
        from jax.experimental import multihost_utils

        if self.processes == 1:
            return super().gather(value)
        return list(np.asarray(multihost_utils.process_allgather(np.asarray(value))))


class Mirrored(Strategy):
    """`tf.distribute.MirroredStrategy`: a copy of the model on each device of one process.

    For the time of `fit` batch normalisation is synchronised: it sees the whole batch.
    """

    name = "several devices (tf.distribute.MirroredStrategy)"

    def __init__(self, strategy: Any) -> None:
        self.devices = strategy.num_replicas_in_sync

    def check(
        self,
        model: keras.Model,
        recipe: Recipe,
        jit_compile: bool | Literal["auto"] = "auto",
        device_data: bool = False,
        steps_per_execution: int = 1,
    ) -> None:
        import tensorflow as tf

        inside = all(isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables)
        self._require(inside, "a model that was built inside the scope", f"{model.name}, which was built outside")
        if self.devices == 1:
            return
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        # Keras' optimizers get the gradients of one device, and add them up afterwards.
        self._require(
            recipe.clip_norm is None,
            "clip_norm=None (Keras would clip each device's gradient by itself)",
            f"clip_norm={recipe.clip_norm}",
        )
        self._require(
            recipe.gradient_accumulation_steps == 1,
            "gradient_accumulation_steps=1 (Keras cannot do both)",
            f"gradient_accumulation_steps={recipe.gradient_accumulation_steps}",
        )
        policy = model.dtype_policy.name
        half = policy == "mixed_float16"
        self._require(not half, "mixed_bfloat16 (the loss scale would follow one device's gradient)", policy)
        self._require(jit_compile in ("auto", False), "jit_compile='auto' or False", f"jit_compile={jit_compile}")
        single = steps_per_execution == 1
        self._require(single, "steps_per_execution=1", f"steps_per_execution={steps_per_execution}")

    def make_optimizer(self, recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        # The penalty joins each device's gradient, and the gradients are added up.
        return recipe.replace(l2=recipe.l2 / self.devices).make_optimizer(steps_per_epoch)

    @contextlib.contextmanager
    def around(self, model: keras.Model) -> Iterator[None]:
        normalisations = batch_norm_layers(model)
        before = [layer.synchronized for layer in normalisations]
        for layer in normalisations:
            layer.synchronized = True
        try:
            yield
        finally:  # in a file of the model it would be refused by other backends
            for layer, synchronized in zip(normalisations, before, strict=True):
                layer.synchronized = synchronized


class Torch(Strategy):
    """`torch.nn.parallel.DistributedDataParallel`: a process for each device.

    Batch normalisation sees the images of its own device; its moving statistics are averaged over the devices, in
    each step, and so are the metrics. What a step leaves behind is therefore the same in all processes.
    """

    name = "several processes (torch.distributed)"

    def __init__(self):
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
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        self._require(jit_compile in ("auto", False), "jit_compile='auto' or False", f"jit_compile={jit_compile}")

    def gather(self, value: Any) -> list[np.ndarray]:
        from torch import distributed

        values: list[Any] = [None] * self.processes
        distributed.all_gather_object(values, np.asarray(value))
        return values

    @contextlib.contextmanager
    def around(self, model: keras.Model) -> Iterator[None]:
        from torch.nn.parallel import DistributedDataParallel

        statistics = [
            variable
            for layer in batch_norm_layers(model)
            if layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        through = _Through(model, DistributedDataParallel(model))
        # Keras' own steps; only that the forward pass of training goes through PyTorch's wrapper.
        train, test = functools.partial(type(model).train_step, through), model.test_step

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


class _Through:
    """A model whose call is another module's. Not that module, so that the model does not become a part of itself."""

    def __init__(self, model, module):
        self._model, self._module = model, module

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **kwargs):
        return self._module(*args, **kwargs)


def _average(variables):
    """Replaces variables by their mean over the processes."""
    import torch
    from torch import distributed

    values = [variable.value for variable in variables]
    with torch.no_grad():
        joined = torch.cat([value.reshape(-1).float() for value in values])
        distributed.all_reduce(joined)
        joined /= distributed.get_world_size()
        for value, mean in zip(values, joined.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.reshape(value.shape))


def current() -> Strategy:
    """Returns the strategy of the scope that this is called in, whoever opened it.

    Raises:
        ValueError: for a way to distribute that does not train, or not as one device does.
    """
    backend = keras.backend.backend()
    distribution = keras.distribution.distribution()
    if distribution is not None and backend != "jax":
        raise ValueError(
            f"Expected no keras.distribution on {backend}, where it does nothing; received: "
            f"{type(distribution).__name__}. Use keras_resattn.recipes.distribution.scope()."
        )
    return {"jax": _current_jax, "tensorflow": _current_tensorflow, "torch": _current_torch}[backend](distribution)


def _current_jax(distribution):
    if distribution is not None:
        return Jax(distribution)
    import jax

    if jax.process_count() > 1:
        raise ValueError(
            f"Expected distribution.scope() around training in {jax.process_count()} processes; received: none, so "
            "that each would train by itself."
        )
    return Strategy()


def _current_tensorflow(_):
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return Strategy()
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(
            f"Expected tf.distribute.MirroredStrategy; received: {type(strategy).__name__}, with which Keras 3.15 "
            "does not train. For several processes use the JAX or PyTorch backend."
        )
    return Mirrored(strategy)


def _current_torch(_):
    from torch import distributed

    return Torch() if distributed.is_available() and distributed.is_initialized() else Strategy()
