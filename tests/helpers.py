"""Helper functions shared by the tests."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np


def random_array(*shape, seed=0):
    """Return standard normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def tiny(activation=None, dropout=0.0, size=32):
    """Build a classifier of 32 x 32 images (of any size for `None`) into 3 classes, with batch statistics and dropout.

    Its weights are always the same.
    """
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, strides=4, kernel_initializer="zeros")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(dropout, seed=2)(x) if dropout else x
    x = keras.layers.Dense(3, activation=activation, kernel_initializer="zeros")(x)
    model = keras.Model(inputs, x, name="tiny")
    for i, layer in enumerate(model.layers):
        if hasattr(layer, "kernel"):
            layer.kernel.assign(0.3 * random_array(*layer.kernel.shape, seed=i))
    return model


def weights_of(model):
    """Return copies of the weights of a model."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


def undrawn(function, **arguments):
    """Return `function(**arguments)`, called in a scope where new weights have shapes but no values.

    This saves the memory (650 MB for Attention-452) and the time of drawing weights. It runs in a thread of its own,
    because Keras lists such weights for each thread and initialises them later. PyTorch layers read their weights in
    every call, so weights are created on the meta device.
    """
    device = keras.device("meta") if keras.backend.backend() == "torch" else contextlib.nullcontext()

    def in_scope():
        with device, keras.StatelessScope(initialize_variables=False):
            return function(**arguments)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(in_scope).result()


def forward(layer, inputs):
    """Call a layer or model in inference mode and return NumPy arrays."""
    outputs = layer(inputs, training=False) if isinstance(layer, keras.Model) else layer(inputs)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def predict(model, x):
    """Like `forward`, in the way that takes the backend the least time for a single call.

    JAX compiles the model as a whole, which is faster than compiling each of its operations; TensorFlow and PyTorch
    run it eagerly.
    """
    return model.predict(x, verbose=0) if keras.backend.backend() == "jax" else forward(model, x)


def losses_of(layer, *args, **kwargs):
    """Call a layer and return the losses that it adds."""
    layer(*args, **kwargs)
    return [float(keras.ops.convert_to_numpy(loss)) for loss in layer.losses]


def randomise(layer, seed=0):
    """Give every weight a random value, including statistics of batch normalisation, and return `layer`.

    Kernels preserve the scale of their inputs, so that deep feature maps stay close to one.
    """
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        if variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, variable.shape)
        else:
            fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 10
            value = rng.normal(size=variable.shape) / np.sqrt(fan_in)
        variable.assign(value)
    return layer


def weights_by_path(layer):
    """Return `{path: array}` of all weights, including statistics of batch normalisation."""
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in layer.weights}


def copy_weights(source, target):
    """Copy every weight of `source` to the weight of `target` with the same path."""
    values = weights_by_path(source)
    assert sorted(values) == sorted(variable.path for variable in target.weights)
    for variable in target.weights:
        variable.assign(values[variable.path])


def assert_close(actual, expected, tolerance=1e-5):
    """Compare shapes and values, with a tolerance relative to the largest expected value."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def channels_first(array):
    return np.moveaxis(array, -1, 1)


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def by_format(function, arrays, data_format):
    """Call `function` on channels-last arrays in the data format of the test."""
    if data_format == "channels_last":
        return function(arrays)
    return channels_last(function(keras.tree.map_structure(channels_first, arrays)))
