"""Averaged weights (EMA), and batch-norm statistics recalibrated for them.

Moving batch-norm statistics describe the trained weights of the last few steps. For averaged weights they are wrong,
which costs a deep network points of accuracy. They are therefore re-estimated, as in stochastic weight averaging
(Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018, Sec. 3.2), but on images
without augmentation: statistics of random crops do not describe the images that the network will see (Touvron et al.,
"Fixing the train-test resolution discrepancy", 2019, Sec. 3).
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.models.inspection import batch_norm_layers
from keras_resattn.recipes.distribution import Strategy
from keras_resattn.recipes.run_spec import TrainingInputs
from keras_resattn.typing import Tensor

RECALIBRATION_IMAGES = 10_000


class AveragedWeights(keras.callbacks.SwapEMAWeights):
    """Validate with averaged weights and their batch-norm statistics.

    Args:
        recalibrator: The `BatchNormRecalibrator` of the model.
    """

    def __init__(self, recalibrator: "BatchNormRecalibrator") -> None:
        super().__init__()
        self.recalibrator = recalibrator
        self._epoch: Any = 0
        self._raw_statistics: Any = None
        self._raw_values = []
        self._recalibrated: tuple[Any, Any] = (None, None)  # an epoch and its statistics

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember the epoch, whose images recalibration uses."""
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put averaged weights and their statistics into the model."""
        if keras.backend.backend() == "tensorflow":  # where Keras swaps by adding and subtracting, which rounds
            variables = (*self.model.trainable_variables, *self.model.optimizer.variables)
            self._raw_values = [(variable, keras.ops.convert_to_numpy(variable).copy()) for variable in variables]
        super().on_test_begin(logs)
        self._raw_statistics = self.recalibrator.read()
        try:
            if self._recalibrated[0] == self._epoch:
                self.recalibrator.write(self._recalibrated[1])
            else:
                self.recalibrator.recalibrate(self._epoch)
                self._recalibrated = (self._epoch, self.recalibrator.read())
        except BaseException:  # Keras would leave the averages in the model
            self.on_test_end()
            raise

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the raw weights and their statistics back."""
        self.recalibrator.write(self._raw_statistics)
        self._raw_statistics = None
        super().on_test_end(logs)
        for variable, value in self._raw_values:
            variable.assign(value)
        self._raw_values = []

    def swap_in(self, epoch: int | None) -> None:
        """Put the averages of an epoch into the model, as for its validation."""
        self._epoch = epoch
        self.on_test_begin()

    def swap_out(self) -> None:
        """Put the raw weights back, unless the model already holds them."""
        if self._raw_statistics is not None:
            self.on_test_end()


class BatchNormRecalibrator:
    """Re-estimate a model's moving batch-norm statistics for its current weights.

    Layers that are not trainable keep their statistics, as in training.

    Args:
        inputs: The `TrainingInputs` of the run.
        strategy: The `Strategy` that trains it.
        jit_compile: As in `keras.Model.compile`.
    """

    def __init__(self, inputs: TrainingInputs, strategy: Strategy, jit_compile: bool | Literal["auto"]) -> None:
        model, self._batches, self._strategy = inputs.model, inputs.batches, strategy
        self._layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
        self._variables = [variable for layer in self._layers for variable in layer.non_trainable_variables]
        weights = {id(variable) for variable in model.weights}
        seeds = [variable for variable in model.non_trainable_variables if id(variable) not in weights]
        self._changing = [*self._variables, *seeds]  # in a forward pass
        self._forward = TrainingModeModel(model, jit_compile)

    def read(self) -> list[np.ndarray]:
        """Return copies of all values that recalibration changes."""
        return [keras.ops.convert_to_numpy(variable).copy() for variable in self._changing]

    def write(self, values: Sequence[np.ndarray]) -> None:
        """Restore values that `read` returned."""
        for variable, value in zip(self._changing, values, strict=True):
            variable.assign(value)

    def recalibrate(self, epoch: int) -> None:
        """Set the statistics to their mean over the first batches of an epoch, about 10,000 unaugmented images."""
        if not self._layers:
            return
        before = self.read()
        try:
            with self._momentum(0.5):
                means = self._means(epoch, before)
        finally:
            self.write(before)
        sizes = [math.prod(variable.shape) for variable in self._variables]
        for variable, mean in zip(self._variables, np.split(means, np.cumsum(sizes)[:-1]), strict=True):
            variable.assign(mean.reshape(variable.shape).astype(variable.dtype))

    def _means(self, epoch, before):
        """Return the mean of each statistic over batches, from each batch's contribution to the moving average."""
        batches, last, sums = self._batches, _concatenated(self._variables), 0
        count = min(math.ceil(RECALIBRATION_IMAGES / batches.recipe.batch_size), batches.steps_per_epoch)
        retained = None
        for step in range(count):
            x = batches.unaugmented_images(epoch * batches.steps_per_epoch + step)
            retained = self._retained(x, before) if retained is None else retained
            self._forward.test_on_batch(x)
            now = _concatenated(self._variables)
            sums = sums + (now - retained * last) / (1 - retained)
            last = now
        return np.mean(self._strategy.gather(sums / count), axis=0)

    def _retained(self, x, before):
        """Return the weight of the previous value in a moving average: 1/2, or 1/4 if a layer is called twice.

        It cannot be read from the graph, since layers inside composite layers have no nodes.
        """
        after = []
        for shift in (0, 1):
            self.write(before)
            for variable in self._variables:
                variable.assign(variable + shift)
            self._forward.test_on_batch(x)
            after.append(_concatenated(self._variables))
        self.write(before)
        return 0.5 ** np.maximum(np.round(-np.log2(np.maximum(after[1] - after[0], 2.0**-20))), 1)

    @contextlib.contextmanager
    def _momentum(self, momentum):
        momenta = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = momentum
        try:
            yield
        finally:
            for layer, before in zip(self._layers, momenta, strict=True):
                layer.momentum = before


class TrainingModeModel(keras.Model):
    """Wrapper of a model that `test_on_batch` runs in training mode: with batch statistics and dropout."""

    def __init__(self, model: keras.Model, jit_compile: bool | Literal["auto"]) -> None:
        super().__init__()
        self.model = model
        self.compile(jit_compile=jit_compile)

    def call(self, x: Any) -> Tensor:
        """Call the model in training mode."""
        return self.model(x, training=True)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool | None = True
    ) -> Any:
        """Return any scalar; the loss is not used."""
        return keras.ops.mean(y_pred)


def _concatenated(variables):
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return np.concatenate([value.reshape(-1).astype("float64") for value in values])
