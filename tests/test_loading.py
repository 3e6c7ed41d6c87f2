"""Loading weights files strictly by layer name, completely or not at all, and the argument `weights`."""

import os
import shutil
from functools import partial

import h5py
import keras
import numpy as np
import pytest
from helpers import randomise, weights_by_path

import keras_resattn
from keras_resattn import pretrained
from keras_resattn.pretrained.loading import load_saved_weights


@pytest.fixture
def narrow(narrow_network):
    """Function that builds a narrow network with one attention module in each of three stages, and 3 logits."""
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


def test_the_same_file_loads_without_top(narrow, file):
    expected = weights_by_path(randomise(narrow()))
    del expected["predictions/kernel"], expected["predictions/bias"]
    np.testing.assert_equal(weights_by_path(narrow(weights=file, include_top=False, pooling="avg")), expected)


def test_the_same_file_loads_on_top_of_other_layers(narrow, file):
    inputs = keras.Input((32, 32, 1))
    below = keras.layers.Conv2D(3, 1, name="to_rgb")(inputs)
    model = narrow(weights=file, input_tensor=below)
    expected = weights_by_path(randomise(narrow()))
    found = weights_by_path(model)
    assert {path for path in found if path not in expected} == {"to_rgb/kernel", "to_rgb/bias"}
    np.testing.assert_equal({path: found[path] for path in expected}, expected)


@pytest.mark.once
def test_a_file_saved_with_an_optimizer_loads(narrow, tmp_path, file):
    model = narrow(weights=file)
    model.compile("sgd", "mse")
    model.save_weights(tmp_path / "compiled.weights.h5")
    again = narrow(weights=tmp_path / "compiled.weights.h5")
    np.testing.assert_equal(weights_by_path(again), weights_by_path(narrow(weights=file)))


@pytest.mark.once
def test_one_channel_sums_the_stem_over_rgb_with_a_warning(narrow, file):
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


@pytest.mark.once
@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_raise(narrow, file, channels):
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

    def put(name, value):
        def change(h5):
            h5[name][...] = value

        return change

    def put_link(h5):
        del h5["layers/dense/vars/1"]
        h5["layers/dense/vars/1"] = h5py.ExternalLink(str(file), "layers/dense/vars/1")

    def put_bomb(h5):
        del h5["layers/dense/vars/0"]
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((2**40,))
        h5py.h5d.create(h5["layers/dense/vars"].id, b"0", h5py.h5t.IEEE_F32LE, space, dcpl=created)

    text = tmp_path / "text.weights.h5"
    text.write_text("no weights")
    empty = tmp_path / "empty.weights.h5"
    h5py.File(empty, "w").close()
    return {
        "another shape": (changed("shape", resize), "shapes"),
        "a tensor too many": (changed("extra", add), "no place for: head_of_another"),
        "a layer too few": (changed("missing", drop), "has none"),
        "not HDF5": (text, "cannot be read"),
        "no layers": (empty, "has no layers"),
        "an external link": (changed("link", put_link), "another file"),
        "a claim of terabytes": (changed("bomb", put_bomb), "claims 4,398,046,511,104 bytes"),
        "a NaN": (changed("nan", put("layers/dense/vars/1", np.nan)), "predictions/bias has NaN or infinite"),
        "an infinity": (changed("inf", put("layers/dense/vars/0", -np.inf)), "predictions/kernel has NaN or infinite"),
        "a negative variance": (
            changed("variance", put("layers/batch_normalization/vars/3", -1e-6)),
            "post_bn/moving_variance has negative",
        ),
    }


@pytest.mark.once
def test_files_that_do_not_fit_leave_the_model_untouched(narrow, file, tmp_path):
    model = randomise(narrow(), seed=1)
    before = weights_by_path(model)
    for path, message in broken_files(file, tmp_path).values():
        with pytest.raises(ValueError, match=message) as error:
            pretrained.load(model, resolve(path))
        assert str(path) in str(error.value)
        np.testing.assert_equal(weights_by_path(model), before)
        assert path.exists(), "a user's file is never deleted"


def resolve(path):
    return pretrained.resolve(path, network=None)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["a named pipe", "a device"])
def test_a_path_that_is_not_a_file_raises_before_the_network_is_built(tmp_path, kind):
    path = tmp_path / "model.weights.h5"
    os.mkfifo(path) if kind == "a named pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"regular file; it is {kind}"):
        resolve(path)


# --- Any Keras model, as in a finished run ----------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A small Keras model with an integer weight, and the path of its saved weights."""
    layers = [keras.Input((4,)), keras.layers.Normalization(), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    model.save_weights(tmp_path / "any.weights.h5")
    return model, tmp_path / "any.weights.h5"


def test_any_model_can_be_loaded(saved):
    model, path = saved
    before = weights_by_path(model)
    randomise(model)
    load_saved_weights(model, path)
    np.testing.assert_equal(weights_by_path(model), before)


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h5: h5.__setitem__("layers/dense/vars/1", h5py.ExternalLink("x.h5", "x")), "another file"),
        (lambda h5: h5.create_dataset("layers/dense/vars/1", shape=(3,), chunks=True), "chunks"),
        (lambda h5: h5.__setitem__("layers/dense/vars/1", np.zeros(5)), r"no place for shapes: \[\(5,\)\]"),
        (lambda h5: h5.__setitem__("layers/dense/vars/1", np.full(3, np.nan)), "NaN or infinite"),
        (lambda h5: h5.__setitem__("layers/dense_1/vars/0", np.zeros(3)), "loading failed"),
    ],
)
def test_a_hostile_file_raises_for_any_model(saved, change, message):
    model, path = saved
    with h5py.File(path, "r+") as h5:
        del h5["layers/dense/vars/1"]
        change(h5)
    with pytest.raises(ValueError, match=rf"any\.weights\.h5.*{message}"):
        load_saved_weights(model, path)


@pytest.mark.once
def test_a_negative_variance_raises_for_any_model(saved):
    model, path = saved
    with h5py.File(path, "r+") as h5:
        h5["layers/batch_normalization/vars/3"][...] = -1
    with pytest.raises(ValueError, match="variances of at least 0"):
        load_saved_weights(model, path)


# --- The argument `weights` -----------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("default", "There is no released checkpoint for ResidualAttention128"),
        ("imagenet", "never released ImageNet-1k weights"),
        ("no/such/file.weights.h5", "existing .weights.h5 file; received: weights='no/such/file.weights.h5'"),
        (["cifar10"], "received: weights="),
        ("hf://no-owner", "received: 'hf://no-owner'"),
        ("hf://owner/net@../../../etc", r"received: 'hf://owner/net@\.\./"),
    ],
)
def test_missing_weights_are_never_random(weights, message):
    with pytest.raises(ValueError, match=message):
        keras_resattn.ResidualAttention128(weights=weights)


@pytest.mark.once
def test_pretrained_weights_need_softmax_or_no_activation(narrow, file):
    with pytest.raises(ValueError, match="classifier_activation='relu'"):
        narrow(weights=file, classifier_activation="relu")
