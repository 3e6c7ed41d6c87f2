"""Fixtures that the tests share. Every test runs on the backend that `KERAS_BACKEND` names."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from helpers import random_array

from keras_resattn import ResidualAttentionNet


def pytest_configure(config):
    """Lets JAX look compiled functions up: tests compile the same small ones over and over, in all workers."""
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def keras_settings():
    """Seeds every test, and gives back the global settings that a test changes."""
    data_format, policy = keras.config.image_data_format(), keras.config.dtype_policy()
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(autouse=True)
def kernels_drawn_by_numpy(monkeypatch):
    """JAX compiles the drawing of random numbers anew for each shape: most of the time would go into it.

    NumPy's generator is seeded by `keras.utils.set_random_seed`, as Keras' own are.
    """

    def draw(initializer, shape, dtype=None):
        kernel = np.random.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        return keras.ops.convert_to_tensor(kernel, dtype or "float32")

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", draw)


@pytest.fixture(params=["channels_last", "channels_first"])
def data_format(request):
    """Runs a test under both data formats, set as Keras' default."""
    keras.config.set_image_data_format(request.param)
    return request.param


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed_policy(request):
    """Runs a test under both mixed policies, set as Keras' default."""
    keras.config.set_dtype_policy(request.param)
    return request.param


@pytest.fixture
def narrow_network():
    """A function that builds the smallest network with every kind of layer: one module, mask depth 3, width 4.

    Its keyword arguments are `ResidualAttentionNet`'s.
    """

    def build(topology="cifar", **arguments):
        stages = {"cifar": 3, "imagenet": 4}[topology]
        rows = {"modules": (1,) + (0,) * (stages - 1), "widths": (4,) * stages, "bottom_units": 1}
        defaults = {"topology": topology, "weights": None, "classes": 5, **rows}
        if "input_tensor" not in arguments:
            defaults["input_shape"] = {"channels_last": (32, 32, 3), "channels_first": (3, 32, 32)}[
                keras.config.image_data_format()
            ]
        return ResidualAttentionNet(**{**defaults, **arguments})

    return build


@pytest.fixture
def images():
    """Two random pictures, `(2, 32, 32, 3)`."""
    return random_array(2, 32, 32, 3)
