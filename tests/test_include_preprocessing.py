"""Networks that preprocess images from 0 to 255 themselves; `preprocess_input` in graphs and in `tf.data`."""

import functools
import inspect
import json

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, randomise
from keras import ops

from keras_resattn import (
    WARN,
    CifarResidualAttention56,
    ResidualAttentionNet,
    WideResNet,
    WideResNetAtt2,
    attention_maps,
    compile_and_fit,
    feature_pyramid,
    preprocess_input,
)
from keras_resattn.data import ArrayDataset
from keras_resattn.evaluation import evaluate_model
from keras_resattn.models import registry
from keras_resattn.recipes import Recipe
from keras_resattn.recipes.backbone import Backbone
from keras_resattn.utils.io import sha256

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
preprocess_cifar = functools.partial(preprocess_input, weights="cifar10")


MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
NORMALIZED = ((IMAGES - np.array(MEAN)) / np.array(STD)).astype("float32")


def released(folder, network, model):
    """Write a folder like that of released weights, for any network."""
    folder.mkdir()
    model.save_weights(folder / "model.weights.h5")
    record = {
        "network": network,
        "tag": "mine",
        "sha256": sha256(folder / "model.weights.h5"),
        "classes": [f"class {i}" for i in range(10)],
        "preprocessing": {"mean": MEAN, "std": STD},
        "input_shape": [32, 32, 3],
        "metrics": {},
        "training": {},
    }
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def small_warn(**arguments):
    return WARN(depth=10, width=1, **arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "warn"
    return released(folder, "WARN-10-1", randomise(small_warn(weights=None)))


@pytest.fixture(scope="module")
def plain(weights):
    return small_warn(weights=weights)


@pytest.fixture(scope="module")
def preprocessing(weights):
    return small_warn(weights=weights, include_preprocessing=True)


@pytest.fixture(scope="module")
def expected(plain):
    return predict(plain, NORMALIZED)


@pytest.mark.once
def test_every_network_has_the_option():
    for name, network in registry.NETWORKS.items():
        parameter = inspect.signature(network.builder).parameters.get("include_preprocessing")
        assert parameter is not None, name
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is False
    assert "include_preprocessing" in inspect.signature(ResidualAttentionNet).parameters


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_network_normalises_its_images(preprocessing, expected, dtype):
    assert_close(predict(preprocessing, IMAGES.astype(dtype)), expected)


def test_preprocessing_is_a_layer_that_plain_keras_loads(preprocessing, plain, weights, expected, tmp_path):
    assert [layer.name for layer in preprocessing.layers[1:3]] == ["preprocessing", "stem_conv"]
    assert type(preprocessing.get_layer("preprocessing")) is keras.layers.Normalization
    assert len(preprocessing.weights) == len(plain.weights)
    preprocessing.save(tmp_path / "model.keras")
    assert_close(predict(keras.saving.load_model(tmp_path / "model.keras"), IMAGES), expected)
    preprocessing.save_weights(tmp_path / "own.weights.h5")
    again = small_warn(weights=tmp_path / "own.weights.h5")
    assert all(np.array_equal(x, y) for x, y in zip(again.get_weights(), plain.get_weights(), strict=True))


@pytest.mark.once
def test_attention_pyramid_and_transfer_work_with_preprocessing_inside(preprocessing, plain, weights):
    maps = attention_maps(preprocessing, IMAGES)  # images from 0 to 255, without a warning
    assert_close(maps["attention2_mask"], attention_maps(plain, NORMALIZED)["attention2_mask"])
    assert list(feature_pyramid(preprocessing)) == ["P0", "P1", "P2"]
    base = small_warn(weights=weights, include_top=False, include_preprocessing=True)
    found = Backbone.find(base, ArrayDataset(IMAGES, [0, 1]))
    assert found.statistics == ([0.0] * 3, [1.0] * 3)
    assert found.layers("last_stage")[0].startswith("group3")
    with pytest.raises(ValueError, match=r"Expected no statistics for .*layer preprocessing"):
        Backbone.find(base, ArrayDataset(IMAGES, [0, 1]), statistics=(MEAN, STD))


def itself(network):
    return network


def nested(network):
    return keras.Sequential([keras.Input(network.input_shape[1:]), network])


def rescaling(network):
    inputs = keras.Input(network.input_shape[1:])
    return keras.Model(inputs, network.layers[-1](network.layers[-2](keras.layers.Rescaling(1 / 255)(inputs))))


def augmented(network):
    return keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255), network]
    )


def small_classifier():
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
    return keras.Sequential(layers)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:There are no training images")
@pytest.mark.parametrize("around", [itself, nested, rescaling, augmented])
def test_a_network_that_normalises_its_images_is_trained_on_raw_ones(weights, around):
    """Normalised twice, they would be other images than those of `predict`."""
    network = (
        small_classifier()
        if around in (rescaling, augmented)
        else small_warn(weights=weights, include_preprocessing=True)
    )
    model = around(network)
    x = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
    recipe = Recipe("still", "none", epochs=1, batch_size=8, learning_rate=0.01, flip=False)
    with pytest.raises(ValueError, match="normalises its images itself"):
        compile_and_fit(model, recipe, (x, np.arange(8)), statistics=(MEAN, STD), verbose=0)
    report = compile_and_fit(model, recipe, (x, np.arange(8)), verbose=0)
    assert (report.mean, report.std) == ([0.0] * 3, [1.0] * 3)
    y = predict(model, x.astype("float32")).argmax(-1)
    assert evaluate_model(model, (x, y), report.mean, report.std).accuracy == 1.0
    with pytest.raises(ValueError, match=r"Expected mean=0 and std=1 .* normalises its images itself"):
        evaluate_model(model, (x, y), MEAN, STD)


@pytest.mark.filterwarnings("ignore:The weights expect three input channels")
def test_one_channel_uses_the_mean_of_the_three(weights):
    model = small_warn(weights=weights, include_top=False, input_shape=(32, 32, 1), include_preprocessing=True)
    layer = model.get_layer("preprocessing")
    assert_close(ops.convert_to_numpy(layer(IMAGES[..., :1])), (IMAGES[..., :1] - 110.0) / 60.0)


@pytest.mark.once
def test_the_bundled_weights():
    layer = CifarResidualAttention56(include_preprocessing=True).get_layer("preprocessing")
    assert_close(ops.convert_to_numpy(layer(IMAGES)), preprocess_cifar(IMAGES))


@pytest.mark.once
@pytest.mark.parametrize("builder", [WideResNet, WideResNetAtt2])
def test_all_builders_pass_the_option_on(builder, tmp_path):
    size = {"depth": 10, "width": 1}
    folder = released(tmp_path / "weights", f"{builder.__name__}-10-1", builder(weights=None, **size))
    model = builder(weights=folder, include_preprocessing=True, **size)
    assert_close(ops.convert_to_numpy(model.get_layer("preprocessing")(IMAGES)), NORMALIZED)


@pytest.mark.once
@pytest.mark.parametrize("dataset", [None, "file"])
def test_weights_without_statistics(dataset, tmp_path):
    if dataset == "file":
        dataset = tmp_path / "own.weights.h5"
        dataset.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Expected released weights with include_preprocessing=True.*Normalization\("):
        CifarResidualAttention56(weights=dataset, include_preprocessing=True)
    with pytest.raises(ValueError, match="Expected include_preprocessing to be True or False; received"):
        CifarResidualAttention56(include_preprocessing="yes")


# --- `preprocess_input` where tensors have no values ----------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_in_a_functional_model(dtype, tmp_path):
    inputs = keras.Input((32, 32, 3), dtype=dtype)
    model = keras.Model(inputs, keras.layers.ReLU(negative_slope=1.0)(preprocess_cifar(inputs)))
    model.save(tmp_path / "model.keras")
    for each in (model, keras.saving.load_model(tmp_path / "model.keras")):
        assert_close(predict(each, IMAGES), preprocess_cifar(IMAGES))


def test_as_an_input_tensor(weights):
    model = small_warn(weights=weights, input_tensor=preprocess_cifar(keras.Input((32, 32, 3))))
    assert list(feature_pyramid(model)) == ["P0", "P1", "P2"]
    attention_maps(model, IMAGES)  # without a warning


@pytest.mark.parametrize("shape", [(32, 32, 3), (3, 32, 32)], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_keras_tensors(shape, channels):
    data_format = "channels_last" if shape[-1] == 3 else "channels_first"
    axis = -1 if data_format == "channels_last" else 0
    images = np.moveaxis(IMAGES[..., :channels], -1, axis if axis else 1)
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, preprocess_cifar(inputs, data_format=data_format))
    assert_close(predict(model, images), preprocess_cifar(images, data_format=data_format))
    with pytest.raises(ValueError, match="Expected images with 1 or 3 channels"):
        preprocess_cifar(keras.Input((32, 32, 5)))


@pytest.mark.parametrize("batched", [False, True])
def test_in_tf_data(batched):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices(IMAGES)
    data = data.batch(2).map(preprocess_cifar) if batched else data.map(preprocess_cifar).batch(2)
    (found,) = data.as_numpy_iterator()
    assert found.dtype == np.float32
    assert_close(found, preprocess_cifar(IMAGES))
    with pytest.raises(ValueError, match=r"unknown rank.*ensure_shape"):
        data.map(
            lambda x: preprocess_input(
                tf.io.decode_image(tf.io.encode_png(tf.zeros((4, 4, 3), "uint8"))), weights="cifar10"
            )
        )


def test_while_the_backend_compiles():
    backend = keras.backend.backend()
    if backend == "torch":
        pytest.skip("compiling takes a C++ compiler, and a minute")
    if backend == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(preprocess_cifar)
    else:
        import jax

        compiled = jax.jit(preprocess_cifar)
    assert_close(ops.convert_to_numpy(compiled(ops.convert_to_tensor(IMAGES))), preprocess_cifar(IMAGES))


# --- Raw images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype("int64")], ids=["uint8", "int64"])
def test_networks_with_released_weights_reject_integers(plain, images):
    message = r"expected dtype=float, for normalised images \(call keras_resattn.preprocess_input.*found dtype=(u?int)"
    plain.compile("sgd", "sparse_categorical_crossentropy")
    calls = [
        lambda: plain(images),
        lambda: plain.predict(images, verbose=0),
        lambda: plain.evaluate(images, np.zeros(2), verbose=0),
        lambda: plain.fit(images, np.zeros(2), verbose=0),
    ]
    for call in calls[:1] if keras.backend.backend() == "jax" else calls:  # the JAX trainer does not check inputs
        with pytest.raises(ValueError, match=message):
            call()


def test_networks_with_released_weights_accept_floats_of_any_precision(plain, expected):
    assert_close(predict(plain, NORMALIZED.astype("float64")), expected)
    half = plain(ops.cast(NORMALIZED, "bfloat16"), training=False)
    assert_close(ops.convert_to_numpy(half), expected, 0.2)


def test_networks_with_random_weights_accept_integers():
    model = small_warn(weights=None, include_top=False)
    model(keras.Input((32, 32, 3), dtype="uint8"))
