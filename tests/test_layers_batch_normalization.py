"""Fused batch normalisation gives the results of Keras' own layer."""

import keras
import numpy as np
import pytest
from helpers import random_array

from keras_resattn.layers import BatchNormalization

X = 3 + 2 * random_array(4, 6, 5, 3)
TOLERANCES = {"float32": 2e-5, "mixed_bfloat16": 0.03, "mixed_float16": 4e-3, "float64": 2e-5}
if keras.backend.backend() == "jax":  # 64 bits would have to be enabled for the whole process
    del TOLERANCES["float64"]


def pair(shape, dtype="float32", **options):
    """Return Keras' layer and ours, with the same random parameters."""
    layers = [cls(dtype=dtype, **options) for cls in (keras.layers.BatchNormalization, BatchNormalization)]
    for layer in layers:
        layer.build(shape)
        for i, variable in enumerate(layer.variables):
            variable.assign(1 + 0.1 * np.abs(random_array(*variable.shape, seed=i)))
    return layers


def train(layer, x, weights):
    """Return output, gradients of all trainable variables and moving statistics of one training step."""
    inputs = keras.Input(x.shape[1:], dtype=layer.compute_dtype)
    model = keras.Model(inputs, layer(inputs))
    variables = layer.trainable_variables
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, out: keras.ops.sum(keras.ops.cast(out, "float32") * y))
    model.train_on_batch(x, weights)
    gradients = [old - keras.ops.convert_to_numpy(v) for old, v in zip(before, variables, strict=True)]
    return gradients, [keras.ops.convert_to_numpy(v) for v in layer.non_trainable_variables]


def close(a, b, tolerance):
    np.testing.assert_allclose(
        np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(a, "float32"))),
        np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(b, "float32"))),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("training", [False, True])
def test_output_and_statistics_equal_those_of_keras(training, dtype, axis):
    layers = pair(X.shape, dtype, axis=axis)
    expected, found = (layer(X.astype(layer.compute_dtype), training=training) for layer in layers)
    assert keras.backend.standardize_dtype(found.dtype) == layers[1].compute_dtype
    close(found, expected, TOLERANCES[dtype])
    for ours, theirs in zip(layers[1].variables, layers[0].variables, strict=True):
        assert ours.name == theirs.name
        close(ours, theirs, 1e-5)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"axis": 1}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_gradients_equal_those_of_keras(dtype, options):
    weights = random_array(*X.shape, seed=1)
    layers = pair(X.shape, dtype, **options)
    expected, found = (train(layer, X, weights) for layer in layers)
    tolerance = 1e-3 if dtype == "float32" else 0.3  # of sums over 120 values
    for ours, theirs in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        close(ours, theirs, tolerance)


def test_gradient_of_the_input_equals_that_of_keras():
    results = []
    for layer in pair((None, 6, 5, 4)):
        inputs = keras.Input((6, 5, 3))
        first = keras.layers.Conv2D(4, 1, kernel_initializer="ones")
        model = keras.Model(inputs, layer(first(inputs)))
        model.compile(keras.optimizers.SGD(0.1), loss="mse")
        first.kernel.assign(random_array(1, 1, 3, 4, seed=5))
        model.train_on_batch(X, random_array(4, 6, 5, 4, seed=2))
        results.append(first.kernel)
    close(results[1], results[0], 1e-4)


@pytest.mark.parametrize(
    "shape", [(4, 3), (4, 5, 3), (2, 2, 3, 2, 3), (1, 1, 1, 3)], ids=["2-D", "3-D", "5-D", "one value"]
)
def test_other_shapes_are_normalised_by_keras(shape):
    layers = pair(shape)
    expected, found = (layer(random_array(*shape), training=True) for layer in layers)
    close(found, expected, 1e-5)


def test_masked_values_are_ignored():
    layers = pair(X.shape)
    mask = random_array(*X.shape[:3], seed=3) > 0
    expected, found = (layer(X, training=True, mask=mask) for layer in layers)
    close(found, expected, 1e-5)
    close(layers[1].moving_mean, layers[0].moving_mean, 1e-6)


def test_a_frozen_layer_uses_its_moving_statistics_and_does_not_change_them():
    _, layer = pair(X.shape)
    layer.trainable = False
    before = keras.ops.convert_to_numpy(layer.moving_mean).copy()
    close(layer(X, training=True), layer(X, training=False), 0)
    close(layer.moving_mean, before, 0)


def test_is_an_instance_of_the_keras_layer_but_saved_as_its_own_class():
    layer = BatchNormalization(momentum=0.8, epsilon=1e-4, name="bn")
    assert isinstance(layer, keras.layers.BatchNormalization)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is BatchNormalization
    assert again.get_config() == layer.get_config()
