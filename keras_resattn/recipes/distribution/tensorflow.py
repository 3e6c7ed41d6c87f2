"""Distributed training on TensorFlow: `tf.distribute.MirroredStrategy`."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import keras

from keras_resattn.models.inspection import batch_norm_layers
from keras_resattn.recipes.distribution.strategy import Strategy
from keras_resattn.recipes.recipe import Recipe


class Mirrored(Strategy):
    """`tf.distribute.MirroredStrategy`: a copy of the model on each device of one process.

    During `fit`, batch normalisation is synchronised: it uses the whole batch.
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
        """Check that Keras supports the arguments with `MirroredStrategy`. See `Strategy.check`."""
        import tensorflow as tf

        inside = all(isinstance(variable.value, tf.distribute.DistributedValues) for variable in model.variables)
        self._require(inside, "a model built inside the scope", f"{model.name}, built outside of it")
        if self.devices == 1:
            return
        super().check(model, recipe, jit_compile, device_data, steps_per_execution)
        # Keras' optimizers process the gradients of one device, and sum over devices afterwards.
        self._require(
            recipe.clip_norm is None,
            "clip_norm=None (Keras would clip each device's gradient separately)",
            f"clip_norm={recipe.clip_norm}",
        )
        self._require(
            recipe.gradient_accumulation_steps == 1,
            "gradient_accumulation_steps=1 (Keras cannot combine the two)",
            f"gradient_accumulation_steps={recipe.gradient_accumulation_steps}",
        )
        policy = model.dtype_policy.name
        half = policy == "mixed_float16"
        self._require(not half, "mixed_bfloat16 (the loss scale would follow one device's gradient)", policy)
        self._require(jit_compile in ("auto", False), "jit_compile='auto' or False", f"jit_compile={jit_compile}")
        single = steps_per_execution == 1
        self._require(single, "steps_per_execution=1", f"steps_per_execution={steps_per_execution}")

    def make_optimizer(self, recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
        """Return the recipe's optimizer with `l2` divided by the number of devices.

        Each device adds the penalty to its gradient before gradients are summed.
        """
        return recipe.replace(l2=recipe.l2 / self.devices).make_optimizer(steps_per_epoch)

    @contextlib.contextmanager
    def distributed(self, model: keras.Model) -> Iterator[None]:
        """Synchronise batch normalisation inside the block."""
        layers = batch_norm_layers(model)
        before = [layer.synchronized for layer in layers]
        for layer in layers:
            layer.synchronized = True
        try:
            yield
        finally:  # other backends cannot load a file of synchronised layers
            for layer, synchronized in zip(layers, before, strict=True):
                layer.synchronized = synchronized


@contextlib.contextmanager
def scope(address: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Open a `MirroredStrategy` scope over all devices of this process."""
    if processes is not None or "TF_CONFIG" in os.environ:
        raise ValueError(
            "Expected one process on TensorFlow: Keras 3.15 does not train with "
            "tf.distribute.MultiWorkerMirroredStrategy. Use the devices of one machine, or several processes with the "
            "JAX or PyTorch backend."
        )
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    with tf.distribute.MirroredStrategy([device.name for device in devices]).scope():
        yield


def current_strategy() -> Strategy:
    """Return the strategy of the active `tf.distribute` scope."""
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return Strategy()
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        raise ValueError(
            f"Expected tf.distribute.MirroredStrategy; received: {type(strategy).__name__}, with which Keras 3.15 "
            "does not train. For several processes, use the JAX or PyTorch backend."
        )
    return Mirrored(strategy)
