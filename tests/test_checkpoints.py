"""Loading weights: by name, strictly, from a file, and never half."""

import shutil
from functools import partial

import h5py
import keras
import numpy as np
import pytest
from helpers import randomise, weights_by_path

import keras_resattn
from keras_resattn import checkpoints


@pytest.fixture
def narrow(narrow_network):
    """A function that builds a narrow network of three stages with a module each, ending in the logits of 3 classes."""
    return partial(narrow_network, modules=(1, 1, 1), widths=(2, 3, 4), classes=3, classifier_activation=None)


@pytest.fixture
def file(narrow, tmp_path):
    path = tmp_path / "narrow.weights.h5"
    randomise(narrow()).save_weights(path)
    return path


def test_a_file_fills_every_variable(narrow, file):
    expected = weights_by_path(randomise(narrow()))
    np.testing.assert_equal(weights_by_path(narrow(weights=file)), expected)
    np.testing.assert_equal(weights_by_path(narrow(weights=str(file))), expected)


def test_the_same_file_serves_without_top(narrow, file):
    expected = weights_by_path(randomise(narrow()))
    del expected["predictions/kernel"], expected["predictions/bias"]
    np.testing.assert_equal(weights_by_path(narrow(weights=file, include_top=False, pooling="avg")), expected)


def test_the_same_file_serves_on_top_of_other_layers(narrow, file):
    inputs = keras.Input((32, 32, 1))
    below = keras.layers.Conv2D(3, 1, name="to_rgb")(inputs)
    model = narrow(weights=file, input_tensor=below)
    expected = weights_by_path(randomise(narrow()))
    found = weights_by_path(model)
    assert {path for path in found if path not in expected} == {"to_rgb/kernel", "to_rgb/bias"}
    np.testing.assert_equal({path: found[path] for path in expected}, expected)


def test_a_file_saved_with_its_optimizer_loads_too(narrow, tmp_path, file):
    model = narrow(weights=file)
    model.compile("sgd", "mse")
    model.save_weights(tmp_path / "compiled.weights.h5")
    again = narrow(weights=tmp_path / "compiled.weights.h5")
    np.testing.assert_equal(weights_by_path(again), weights_by_path(narrow(weights=file)))


def test_one_channel_sums_the_stem_over_rgb_and_says_so(narrow, file):
    with pytest.warns(UserWarning, match="summed over RGB"):
        gray = narrow(weights=file, input_shape=(32, 32, 1))
    rgb = narrow(weights=file)
    kernel = keras.ops.convert_to_numpy(rgb.get_layer("stem_conv").kernel)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(gray.get_layer("stem_conv").kernel), kernel.sum(2, keepdims=True), rtol=1e-6
    )
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype("float32")
    found, expected = (keras.ops.convert_to_numpy(y) for y in (gray(x), rgb(np.repeat(x, 3, -1))))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_refused(narrow, file, channels):
    with pytest.raises(ValueError, match="stem_conv"):
        narrow(weights=file, input_shape=(32, 32, channels))


def broken_files(file, tmp_path):
    def changed(name, change):
        path = tmp_path / f"{name}.weights.h5"
        shutil.copy(file, path)
        with h5py.File(path, "r+") as h5:
            change(h5)
        return path

    def resize(h5):
        del h5["layers/dense/vars/0"]
        h5["layers/dense/vars/0"] = np.zeros((3, 3), "float32")

    def add(h5):
        h5.create_group("layers/dense_9/vars").attrs["name"] = "head_of_another"
        h5["layers/dense_9/vars/0"] = np.zeros(3, "float32")

    def drop(h5):
        del h5["layers/soft_mask"]

    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    empty = tmp_path / "empty.weights.h5"
    h5py.File(empty, "w").close()
    return {
        "another shape": (changed("shape", resize), "shapes"),
        "a tensor too many": (changed("extra", add), "no place for: head_of_another"),
        "a layer too few": (changed("missing", drop), "has none"),
        "not HDF5": (text, "cannot be read"),
        "no layers": (empty, "cannot be read"),
    }


@pytest.mark.parametrize("fault", ["another shape", "a tensor too many", "a layer too few", "not HDF5", "no layers"])
def test_a_file_that_does_not_fit_leaves_the_model_untouched(narrow, file, tmp_path, fault):
    path, message = broken_files(file, tmp_path)[fault]
    model = randomise(narrow(), seed=1)
    before = weights_by_path(model)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(
            model,
            checkpoints.resolve(
                path, network=None, include_top=True, classes=3, classifier_activation=None, channels=3
            ),
        )
    np.testing.assert_equal(weights_by_path(model), before)
    assert path.exists(), "a user's file is never removed"


def test_a_record_that_is_broken_says_which(narrow, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        narrow(weights=tmp_path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("default", "Nothing is published for ResidualAttention92"),
        ("imagenet", "ImageNet weights .* never released"),
        ("no/such/file.weights.h5", "existing .weights.h5 file; received: weights='no/such/file.weights.h5'"),
        (["cifar10"], "received: weights="),
        ("hf://no-owner", "received: weights='hf://no-owner'"),
    ],
)
def test_missing_weights_are_never_random(weights, message):
    with pytest.raises(ValueError, match=message):
        keras_resattn.ResidualAttention92(weights=weights)


def test_pretrained_weights_keep_the_activation_to_softmax_or_none(narrow, file):
    with pytest.raises(ValueError, match="classifier_activation='relu'"):
        narrow(weights=file, classifier_activation="relu")
