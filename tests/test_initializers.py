"""Random initial values of kernels."""

import keras
import numpy as np

from keras_resattn.layers.initializers import HeGaussian

SHAPE = (3, 3, 64, 128)


def test_variance_is_two_over_fan_in():
    values = keras.ops.convert_to_numpy(HeGaussian(seed=0)(SHAPE))
    assert (values.shape, values.dtype) == (SHAPE, "float32")
    np.testing.assert_allclose([values.mean(), values.var() * 3 * 3 * 64 / 2], [0, 1], atol=0.02)
    assert np.abs(values).max() > 3.5 * values.std(), "tails are not cut off"


def test_values_depend_on_the_seed_only_on_every_backend():
    values = keras.ops.convert_to_numpy(HeGaussian(seed=1)(SHAPE))
    np.testing.assert_allclose(values.ravel()[:2], [0.1018884, -0.08417243], rtol=1e-6)
    assert not np.array_equal(values, keras.ops.convert_to_numpy(HeGaussian()(SHAPE)))
    keras.utils.set_random_seed(3)
    first = keras.ops.convert_to_numpy(HeGaussian()(SHAPE))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(first, keras.ops.convert_to_numpy(HeGaussian()(SHAPE)))


def test_values_have_the_dtype_of_the_layer():
    assert keras.backend.standardize_dtype(HeGaussian()((2, 2), dtype="bfloat16").dtype) == "bfloat16"


def test_layers_restore_the_initialiser():
    layer = keras.layers.Dense(2, kernel_initializer=HeGaussian(seed=5))
    restored = keras.layers.Dense.from_config(layer.get_config()).kernel_initializer
    assert (type(restored), restored.seed) == (HeGaussian, 5)
    assert HeGaussian().clone().seed != HeGaussian().seed
