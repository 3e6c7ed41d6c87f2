"""Fixtures that the tests share. Every test runs on the backend that `KERAS_BACKEND` names."""

import functools
import inspect
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from helpers import random_array, randomise
from networks import base_of, narrow_residual, small_cnn, small_network
from sample_images import write_folder

from keras_resattn import evaluation
from keras_resattn.cli import main
from keras_resattn.models import registry
from keras_resattn.pretrained import records
from keras_resattn.reproduce import TABLES, Row, Table, runner


def pytest_configure(config):
    """Reduce the time that JAX spends on compiling, which would be most of the time of its tests.

    Compiled functions are kept beside pytest's cache, for other tests, workers, processes and later runs. Optimizations
    are off, because most functions run once or twice.
    """
    if keras.backend.backend() == "jax":
        import jax

        settings = {
            "jax_compilation_cache_dir": str(config.rootpath / ".pytest_cache" / "d" / "jax"),
            "jax_persistent_cache_min_compile_time_secs": 0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
            "jax_disable_most_optimizations": True,
        }
        for name, value in settings.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)


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
    """JAX compiles the drawing of random numbers again for each shape: most of the time would go into it.

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
    """A function that builds a small residual attention network."""
    return narrow_residual


@pytest.fixture
def images():
    """Two random images, `(2, 32, 32, 3)`."""
    return random_array(2, 32, 32, 3)


@functools.cache
def _released_network(network, folder, classes, data_format, **arguments):
    return registry.create_model(network, weights=folder, classes=classes, **arguments)


@pytest.fixture
def built_once(monkeypatch):
    """Networks of released checkpoints that are only evaluated are built and loaded once in the process."""

    def build(tag, **arguments):
        data_format = keras.config.image_data_format()
        return _released_network(tag.network, str(tag.folder), len(tag.classes), data_format, **arguments)

    monkeypatch.setattr(evaluation, "load_checkpoint", build)


@pytest.fixture
def image_folder(tmp_path):
    """The images of `sample_images`, in a folder for each class."""
    return write_folder(tmp_path / "images")


@pytest.fixture
def refuses(monkeypatch):
    """A function that checks that a builder raises a `ValueError`, without having called a layer.

    What takes `weights` gets `weights=None`, if nothing else is said.
    """

    def fail(layer, *args, **kwargs):
        pytest.fail(f"{type(layer).__name__} was called before the arguments were checked")

    def check(build, message, *args, **arguments):
        if "weights" in inspect.signature(build).parameters:
            arguments = {"weights": None, **arguments}
        monkeypatch.setattr(keras.layers.Layer, "__call__", fail)
        with pytest.raises(ValueError, match=message):
            build(*args, **arguments)

    return check


# --- Releases ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def released_run(tmp_path_factory):
    """Folder of a finished run with three classes, and in its subfolder `weights` its release."""
    from releasing import write_released_run

    root = tmp_path_factory.mktemp("run")
    write_released_run(root)
    return root


@pytest.fixture
def release(released_run, tmp_path, monkeypatch):
    """The only released checkpoint, `CifarResidualAttention56/shapes_v1`, in place of the bundled ones."""
    shutil.copytree(released_run / "weights", tmp_path / "weights")
    monkeypatch.setattr(records, "weights_folder", lambda: tmp_path / "weights")
    records.forget_tags()
    yield records.tags()[0]
    records.forget_tags()


# --- The Hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty folder in place of the Hub's cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch):
    """A local server in place of the Hub, with one repository."""
    from hub_cases import REPOSITORY, files
    from hub_server import HubServer

    with HubServer() as server:
        server.use(monkeypatch)
        server.add(REPOSITORY, files())
        yield server


# --- What attention is put on --------------------------------------------------------------------


@pytest.fixture
def base():
    """A small network of any kind, that ends in a softmax over five classes."""
    return randomise(base_of(small_cnn(), "dense_softmax"))


# --- `keras-resattn reproduce` -------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """A table of two rows, with networks that train in no time, and one row that shares the first one's run."""
    monkeypatch.setattr(runner, "build", small_network)
    shape = {"recipe": "resattn_cifar", "data": "cifar10", "parameters": 1, "macs": 1}
    changes = {"changes": {"epochs": 2, "batch_size": 10, "normalization": "channel", "pad": 1}}
    rows = Row("first", "A", published=5.5, **changes, **shape), Row("second", "B", published=6.5, **changes, **shape)
    again = Row("again", "A", published=5.5, same_as="tiny/first", **changes, **shape)
    monkeypatch.setitem(TABLES, "resattn/tiny", Table("resattn/tiny", "Tiny networks", rows))
    monkeypatch.setitem(TABLES, "resattn/other", Table("resattn/other", "Other networks", (again,)))
    return TABLES["resattn/tiny"]


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """Runs the command in an empty folder, on 40 training and 20 test images of 8 x 8."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8, 3), dtype="uint8"), np.arange(60) % 10
    np.savez(tmp_path / "data.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["reproduce", *arguments, "--data", "data.npz"])
