"""Functions that the tests share."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np


def random_array(*shape, seed=0):
    """Standard normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def tiny(activation=None, dropout=0.0, size=32):
    """A classifier of images of 32 x 32 (of any size for `None`) into 3 classes, with all state that training changes.

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
    """Copies of a model's weights."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]


def undrawn(function, **arguments):
    """Returns `function(**arguments)`, called where new weights get a shape and no values.

    The layers are the real ones; but Attention-452 takes no 650 MB, and no time to draw. It happens in a thread of
    its own, because Keras keeps a list of such weights in each thread, and draws them when it next comes across it.
    PyTorch layers read their weights whenever they are called: they get its device without memory.
    """
    device = keras.device("meta") if keras.backend.backend() == "torch" else contextlib.nullcontext()

    def in_scope():
        with device, keras.StatelessScope(initialize_variables=False):
            return function(**arguments)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(in_scope).result()


def forward(layer, inputs):
    """Calls a layer or a model in inference mode: NumPy in, NumPy out."""
    outputs = layer(inputs, training=False) if isinstance(layer, keras.Model) else layer(inputs)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def predict(model, x):
    """As `forward`, but compiled as a whole: on JAX, layer by layer, most of the time would go into compiling."""
    return model.predict(x, verbose=0)


def losses_of(layer, *args, **kwargs):
    """Calls a layer, and returns the losses that it adds."""
    layer(*args, **kwargs)
    return [float(keras.ops.convert_to_numpy(loss)) for loss in layer.losses]


def randomise(layer, seed=0):
    """Gives every weight a random value, batch normalisation's statistics included. Returns `layer`.

    Kernels keep the scale of what they are applied to, so that deep maps stay near one.
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
    """`{path: array}` of all weights, batch normalisation's statistics included."""
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in layer.weights}


def copy_weights(dataset, target):
    """Copies every weight of `source` into the weight of `target` of the same path."""
    values = weights_by_path(dataset)
    assert sorted(values) == sorted(variable.path for variable in target.weights)
    for variable in target.weights:
        variable.assign(values[variable.path])


def assert_close(actual, expected, tolerance=1e-5):
    """Compares shapes and values, with a tolerance relative to the largest expected value."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def assert_comes_back(layer):
    """Checks that a layer's configuration is registered as the package's, and makes the same layer again."""
    configuration = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(configuration)
    assert configuration["registered_name"] == f"keras_resattn>{type(layer).__name__}"
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


def channels_first(array):
    return np.moveaxis(array, -1, 1)


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def by_format(function, arrays, data_format):
    """Calls `function` on channels-last arrays in the data format of the test."""
    if data_format == "channels_last":
        return function(arrays)
    return channels_last(function(keras.tree.map_structure(channels_first, arrays)))
