"""Averaged weights, with the statistics of batch normalisation that go with them.

The moving statistics of batch normalisation are those of the weights that were trained, a few steps late. Averaged
weights are others, and a deep network with the wrong statistics loses points of accuracy: they are measured anew, as in
stochastic weight averaging (Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018,
Sec. 3.2).
"""

import contextlib
import math

import keras
import numpy as np

from keras_resattn.recipes.engines import sublayers

PICTURES = 10_000  # that statistics are measured on


class AveragedWeights(keras.callbacks.SwapEMAWeights):
    """Puts averaged weights, and their statistics, into the model while it is measured on validation data.

    Args:
        statistics: A `BatchStatistics`.
    """

    def __init__(self, statistics):
        super().__init__()
        self.statistics = statistics
        self._epoch, self._trained = 0, None

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch

    def on_test_begin(self, logs=None):
        super().on_test_begin(logs)
        self._trained = self.statistics.read()
        self.statistics.measure(self._epoch)

    def on_test_end(self, logs=None):
        self.statistics.write(self._trained)
        super().on_test_end(logs)


class BatchStatistics:
    """The moving statistics of a model's batch normalisations, as its present weights make them.

    Args:
        feed: The `Feed` of the run. Layers that are not trainable keep their statistics, as in training.
        engine: The `Engine` that trains it.
    """

    def __init__(self, feed, engine):
        model, self._batches, self._engine = feed.model, feed.batches, engine
        self._layers = [
            layer
            for layer in sublayers(model)
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        self._variables = [variable for layer in self._layers for variable in layer.non_trainable_variables]
        left_out = {id(variable) for variable in feed.left_out}
        # A forward pass changes the seeds of dropout, too.
        self._changing = [variable for variable in model.non_trainable_variables if id(variable) not in left_out]
        self._forward = Training(model)

    def read(self):
        """Returns the values of all that a measurement changes."""
        return [keras.ops.convert_to_numpy(variable).copy() for variable in self._changing]

    def write(self, values):
        """Gives back what `read` returned."""
        for variable, value in zip(self._changing, values, strict=True):
            variable.assign(value)

    def measure(self, epoch):
        """Sets the statistics to their mean over the first batches of an epoch, some ten thousand pictures of it."""
        if not self._layers:
            return
        batches = self._batches
        count = min(math.ceil(PICTURES / batches.recipe.batch_size), batches.steps_per_epoch)
        before, sums = self.read(), 0
        with self._last_batch_alone():
            for step in range(count):
                x, _ = batches.batch(epoch * batches.steps_per_epoch + step)
                self._forward.test_on_batch(x)
                sums = sums + _joined(self._variables)
        self.write(before)
        means = np.mean(self._engine.gather(sums / count), axis=0)
        sizes = [math.prod(variable.shape) for variable in self._variables]
        for variable, mean in zip(self._variables, np.split(means, np.cumsum(sizes)[:-1]), strict=True):
            variable.assign(mean.reshape(variable.shape).astype(variable.dtype))

    @contextlib.contextmanager
    def _last_batch_alone(self):
        """Lets the statistics be those of the last batch, and no moving average."""
        momenta = [layer.momentum for layer in self._layers]
        for layer in self._layers:
            layer.momentum = 0.0
        try:
            yield
        finally:
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum


class Training(keras.Model):
    """A model that is tested as it trains: on the statistics of batches, and with dropout."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.compile()

    def call(self, x):
        return self.model(x, training=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(y_pred)  # nobody looks at it


def _joined(variables):
    values = [keras.ops.convert_to_numpy(variable) for variable in variables]
    return np.concatenate([value.reshape(-1).astype("float64") for value in values])
