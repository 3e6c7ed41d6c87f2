"""Averaged weights are validated and kept with batch-norm statistics recalibrated for them."""

import keras
import numpy as np
import pytest
from training import RECIPE, X, Y

from keras_resattn import compile_and_fit
from keras_resattn.data import BatchStream, network_input
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.recipes import weight_averaging

PLAIN = RECIPE.replace(ema=0.9, flip=False, pad=0)


def network_with_batch_norm():
    """A convolution, batch norm whose statistics depend on its weights, and dropout, which draws random numbers."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 5, strides=4, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(momentum=0.99, name="bn")(x)
    x = keras.layers.Dropout(0.5, seed=0)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def statistics(layer):
    return [keras.ops.convert_to_numpy(variable) for variable in (layer.moving_mean, layer.moving_variance)]


class Shuffled:
    """Two batches of eight images, in an order that changes with each iteration."""

    iterations = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.iterations += 1
        order = np.random.default_rng(self.iterations).permutation(16)
        for rows in (order[:8], order[8:]):
            yield X[rows], Y[rows]


AUGMENTED = {"flip": True, "pad": 4, "cutout": 16, "mixup": 1.0}


@pytest.mark.parametrize("device_data", [False, True])
def test_statistics_are_those_of_the_averaged_weights_and_unaugmented_images(device_data):
    """Means and variances of the averaged convolution's output, averaged over the batches of the last epoch."""
    model = network_with_batch_norm()
    report = compile_and_fit(model, PLAIN.replace(**AUGMENTED), (X, Y), verbose=0, device_data=device_data)
    convolve = keras.Model(model.inputs, model.get_layer("conv").output)
    order = np.random.default_rng((PLAIN.seed, 2)).permutation(len(X))
    moments = []
    for rows in (order[:8], order[8:16]):
        y = convolve.predict(network_input(X[rows], report.mean, report.std), verbose=0)
        moments.append([y.mean((0, 1, 2)), y.var((0, 1, 2))])
    layer = model.get_layer("bn")
    np.testing.assert_allclose(statistics(layer), np.mean(moments, axis=0), rtol=1e-3, atol=1e-4)
    assert layer.momentum == 0.99


def test_statistics_are_those_of_the_last_of_progressive_image_sizes():
    """The size that validation and the final network use."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.BatchNormalization(name="bn")(keras.layers.Conv2D(4, 5, strides=4, use_bias=False)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    sizes = {"crop": "inception", "pad": 0, "image_sizes": ((0, 16), (0.5, 32)), "batch_size": 20}
    report = compile_and_fit(model, PLAIN.replace(**sizes), (X, Y), verbose=0)
    y = keras.Model(inputs, model.layers[1].output).predict(network_input(X, report.mean, report.std), verbose=0)
    expected = [y.mean((0, 1, 2)), y.var((0, 1, 2))]
    np.testing.assert_allclose(statistics(model.get_layer("bn")), expected, rtol=1e-3, atol=1e-4)


def test_a_batch_norm_layer_called_twice_mixes_both_calls():
    """As in training, where the later call has more weight: with a momentum of 1/2, twice that of the earlier one."""
    inputs = keras.Input((32, 32, 3))
    layer = keras.layers.BatchNormalization()
    x = keras.layers.Add()([layer(inputs), layer(keras.layers.Rescaling(5.0, 3.0)(inputs))])
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    report = compile_and_fit(model, PLAIN.replace(epochs=1, warmup_epochs=0.5, batch_size=20), (X, Y), verbose=0)
    x = network_input(X, report.mean, report.std)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    mixed = [(mean + 2 * (5 * mean + 3)) / 3, (variance + 2 * 25 * variance) / 3]
    np.testing.assert_allclose(statistics(layer), mixed, rtol=1e-4, atol=1e-4)


def test_recalibration_is_compiled_like_the_training(monkeypatch):
    made = []

    class Recorded(weight_averaging.TrainingModeModel):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(weight_averaging, "TrainingModeModel", Recorded)
    recipe = PLAIN.replace(epochs=1, warmup_epochs=0, batch_size=20)
    compile_and_fit(network_with_batch_norm(), recipe, (X, Y), verbose=0, jit_compile=False)
    assert [model.jit_compile for model in made] == [False]


def test_frozen_batch_norm_keeps_its_statistics():
    model = network_with_batch_norm()
    model.get_layer("bn").trainable = False
    compile_and_fit(model, PLAIN, (X, Y), verbose=0)
    np.testing.assert_array_equal(statistics(model.get_layer("bn")), [np.zeros(4), np.ones(4)])


@pytest.mark.parametrize("end", [{"epochs": None, "iterations": 5}, {"epochs": 3}], ids=["in an epoch", "at its end"])
def test_the_last_row_of_the_log_describes_the_final_model(end):
    model = network_with_batch_norm()
    recipe = RECIPE.replace(ema=0.5, warmup_epochs=0.5, **end)
    report = compile_and_fit(model, recipe, (X, Y), validation_data=(X, Y), verbose=0)
    loss, _ = model.evaluate(network_input(X, report.mean, report.std), Y, verbose=0)
    assert report.metrics["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_validation_does_not_change_training():
    alone, validated = network_with_batch_norm(), network_with_batch_norm()
    validated.set_weights(alone.get_weights())
    compile_and_fit(alone, PLAIN, (X, Y), verbose=0)
    compile_and_fit(validated, PLAIN, (X, Y), validation_data=(X, Y), verbose=0)
    for one, other in zip(alone.get_weights(), validated.get_weights(), strict=True):
        # On TensorFlow Keras swaps weights and averages by adding and subtracting, which rounds.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.once
def test_recalibration_does_not_disturb_the_iteration_of_a_stream():

    def to_float(x):
        return x.astype("float32")

    batches = TrainingBatches(BatchStream(Shuffled(), steps=2), PLAIN, to_float, size=(32, 32), classes=3)
    first, _ = batches[0]
    batches.batch(0)
    second, _ = batches[1]
    batches.batch(1)
    rows = [np.flatnonzero((x == X).all((1, 2, 3))).item() for x in np.concatenate([first, second])]
    assert len(set(rows)) == 16


def test_an_error_during_recalibration_leaves_the_trained_weights(monkeypatch):
    model, trained = network_with_batch_norm(), []

    class Remember(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trained[:] = self.model.get_weights()

    def fail(batches, step):
        raise OSError("the disk is gone")

    monkeypatch.setattr(TrainingBatches, "unaugmented_images", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        compile_and_fit(model, PLAIN, (X, Y), validation_data=(X, Y), verbose=0, callbacks=[Remember()])
    for one, other in zip(model.get_weights(), trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert model.get_layer("bn").momentum == 0.99
