"""Residual Attention Networks in half precision, and in files."""

import json

import keras
import numpy as np
import pytest
from helpers import assert_close, forward, random_array, randomise

from keras_resattn.models.variants import TOPOLOGIES


def test_classifier_computes_in_float32_under_a_mixed_policy(narrow_network, images, mixed_policy):
    model = randomise(narrow_network())
    half = mixed_policy.removeprefix("mixed_")
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
    assert dtypes.pop("predictions") == "float32"
    assert set(dtypes.values()) == {half}
    assert {variable.dtype for variable in model.weights} == {"float32"}
    predictions = model(images, training=False)
    assert keras.backend.standardize_dtype(predictions.dtype) == "float32"
    assert_close(keras.ops.convert_to_numpy(predictions).sum(-1), np.ones(2), 1e-6)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_saved_network_loads_in_safe_mode(narrow_network, topology, tmp_path):
    model = randomise(narrow_network(topology, learning="naive", mask_activation="spatial"))
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    x = random_array(2, 32, 32, 3)
    np.testing.assert_array_equal(forward(restored, x), forward(model, x))


def test_a_saved_network_of_post_activation_units(narrow_network, images, tmp_path):
    rows = {"unit": "resnext", "widths": (32, 32, 32), "filters": (16, 16, 16), "mask_depth": (1, 1, 1)}
    network = narrow_network(**rows, include_top=False)
    randomise(network).save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    features = forward(network, images)
    assert features.shape == (2, 8, 8, 16)
    assert features.min() == 0  # after the last ReLU
    np.testing.assert_array_equal(forward(restored, images), features)


def test_a_saved_network_keeps_its_data_format_and_precision(narrow_network, tmp_path):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = randomise(narrow_network())
    model.save(tmp_path / "network.keras")
    expected = forward(model, random_array(2, 3, 32, 32))
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(forward(restored, random_array(2, 3, 32, 32)), expected)


def test_configuration_holds_registered_layers_only(narrow_network):
    classes = {
        (layer["module"].split(".")[0], layer["registered_name"]) for layer in narrow_network().get_config()["layers"]
    }
    assert {name for module, name in classes if module == "keras_resattn"} == {
        "keras_resattn>AttentionResidual",
        "keras_resattn>BatchNormalization",
        "keras_resattn>PreActivationUnit",
        "keras_resattn>SoftMask",
    }
    assert {module for module, _ in classes} == {"keras", "keras_resattn"}
    assert "Lambda" not in json.dumps(narrow_network("imagenet").get_config(), default=str)
