"""Averaged weights, with the statistics of batch normalisation that go with them.

The moving statistics of batch normalisation are those of the weights that were trained, a few steps late. Averaged
weights are others, and a deep network with the wrong statistics loses points of accuracy: they are measured anew, as in
stochastic weight averaging (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018,
Sec. 3.2).
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_resattn.models.inspection import batch_norm_layers
from keras_resattn.typing import Tensor

IMAGES = 10_000  # that statistics are measured on


class AveragedWeights(keras.callbacks.SwapEMAWeights):
    """Puts averaged weights, and their statistics, into the model while it is measured on validation data.

    Args:
        statistics: A `BatchNormRecalibrator`.
    """

    def __init__(self, statistics: "BatchNormRecalibrator") -> None:
        super().__init__()
        self.statistics = statistics
        self._epoch: Any = 0
        self._trained: Any = None
        self._exact = []
        self._measured: tuple[Any, Any] = (None, None)  # an epoch, and the statistics that its validation had

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if keras.backend.backend() == "tensorflow":  # where Keras swaps by adding and subtracting, which rounds
            variables = (*self.model.trainable_variables, *self.model.optimizer.variables)
            self._exact = [(variable, keras.ops.convert_to_numpy(variable).copy()) for variable in variables]
        super().on_test_begin(logs)
        self._trained = self.statistics.read()
        try:
            if self._measured[0] == self._epoch:
                self.statistics.write(self._measured[1])
            else:
                self.statistics.measure(self._epoch)
                self._measured = (self._epoch, self.statistics.read())
        except BaseException:  # Keras would leave the average in the model
            self.on_test_end()
            raise

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self.statistics.write(self._trained)
        self._trained = None
        super().on_test_end(logs)
        for variable, value in self._exact:
            variable.assign(value)
        self._exact = []

    def show(self, epoch: int | None) -> None:
        """Puts the averages of an epoch into the model, as for its validation."""
        self._epoch = epoch
        self.on_test_begin()

    def hide(self) -> None:
        """Takes them out again; a second call does nothing."""
        if self._trained is not None:
            self.on_test_end()


class BatchNormRecalibrator:
    """The moving statistics of a model's batch normalisations, as its present weights make them.

    Args:
        inputs: The `TrainingInputs` of the run. Layers that are not trainable keep their statistics, as in training.
        strategy: The `Strategy` that trains it.
        jit_compile: As in `keras.Model.compile`.
    """

    def __init__(self, inputs: Any, strategy: Any, jit_compile: bool | Literal["auto"]) -> None:
        model, self._batches, self._engine = inputs.model, inputs.batches, strategy
        self._layers = [layer for layer in batch_norm_layers(model) if layer.trainable]
        self._variables = [variable for layer in self._layers for variable in layer.non_trainable_variables]
        weights = {id(variable) for variable in model.weights}
        seeds = [variable for variable in model.non_trainable_variables if id(variable) not in weights]
        self._changing = [*self._variables, *seeds]  # by a forward pass
        self._forward = Training(model, jit_compile)

    def read(self) -> list[np.ndarray]:
        """Returns the values of all that a measurement changes."""
        return [keras.ops.convert_to_numpy(variable).copy() for variable in self._changing]

    def write(self, values: Sequence[np.ndarray]) -> None:
        """Gives back what `read` returned."""
        for variable, value in zip(self._changing, values, strict=True):
            variable.assign(value)

    def measure(self, epoch: int) -> None:
        """Sets the statistics to their mean over the first batches of an epoch, some ten thousand images of it."""
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
        """The mean of each value over batches: what each of them adds to the moving average, scaled up."""
        batches, last, sums = self._batches, _joined(self._variables), 0
        count = min(math.ceil(IMAGES / batches.recipe.batch_size), batches.steps_per_epoch)
        kept = None
        for step in range(count):
            x, *_ = batches.batch(epoch * batches.steps_per_epoch + step)
            kept = self._kept(x, before) if kept is None else kept
            self._forward.test_on_batch(x)
            now = _joined(self._variables)
            sums = sums + (now - kept * last) / (1 - kept)
            last = now
        return np.mean(self._engine.gather(sums / count), axis=0)

    def _kept(self, x, before):
        """The share of the values before that a pass leaves in a moving average: less where it calls a layer twice."""
        after = []
        for shift in (0, 1):
            self.write(before)
            for variable in self._variables:
                variable.assign(variable + shift)
            self._forward.test_on_batch(x)
            after.append(_joined(self._variables))
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


class Training(keras.Model):
    """A model that is tested as it trains: on the statistics of batches, and with dropout."""

    def __init__(self, model: keras.Model, jit_compile: bool | Literal["auto"]) -> None:
        super().__init__()
        self.model = model
        self.compile(jit_compile=jit_compile)

    def call(self, x: Any) -> Tensor:
        return self.model(x, training=True)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool | None = True
    ) -> Any:
        return keras.ops.mean(y_pred)  # nobody looks at it


def _joined(variables):
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return np.concatenate([value.reshape(-1).astype("float64") for value in values])
