"""What holds for every network: files, clones, half precision, data formats, the feature pyramid."""

import functools
import json

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    copy_weights,
    forward,
    predict,
    random_array,
    randomise,
    weights_by_path,
)
from network_cases import NETWORKS

from keras_resattn import feature_pyramid


def images_for(case, height=None, width=None):
    return random_array(2, height or case.image_shape[0], width or case.image_shape[1], case.image_shape[2])


@functools.cache
def built(name):
    """Return a network with random weights, and its outputs on `images_for`. Tests leave it as it is."""
    case = NETWORKS[name]
    model = randomise(case.build())
    return model, predict(model, images_for(case))


@pytest.mark.once
@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_needs_no_trust(name, tmp_path):
    model, expected = built(name)
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(predict(restored, images_for(NETWORKS[name])), expected)


@pytest.mark.once
@pytest.mark.parametrize("name", NETWORKS)
def test_a_clone_with_the_same_weights_is_the_same_network(name):
    model, expected = built(name)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert list(weights_by_path(clone)) == list(weights_by_path(model))
    np.testing.assert_array_equal(predict(clone, images_for(NETWORKS[name])), expected)


@pytest.mark.once
@pytest.mark.parametrize("name", NETWORKS)
def test_the_configuration_holds_registered_layers_only(name):
    configuration = built(name)[0].get_config()
    assert {layer["module"].split(".")[0] for layer in configuration["layers"]} == {"keras", "keras_resattn"}
    for layer in configuration["layers"]:
        if layer["module"].startswith("keras_resattn"):
            assert layer["registered_name"] == f"keras_resattn>{layer['class_name']}"
    assert "Lambda" not in json.dumps(configuration, default=str)


@pytest.mark.parametrize("name", ["cifar", "imagenet", "wide", "wide_att2", "warn", "warn_ablation"])
def test_a_file_of_weights_serves_with_and_without_top(name, tmp_path):
    case, model, file = NETWORKS[name], built(name)[0], tmp_path / "own.weights.h5"
    model.save_weights(file)
    values = weights_by_path(model)
    whole = weights_by_path(case.build(weights=file))
    body = weights_by_path(case.build(weights=file, include_top=False))
    assert list(whole) == list(values)
    assert body.keys() < values.keys()
    for loaded in (whole, body):
        for path, value in loaded.items():
            np.testing.assert_array_equal(value, values[path])


def once(*values):
    return pytest.param(*values, marks=pytest.mark.once)


# Every network in bfloat16, and one of each family in float16, too; one of each family on every backend.
HALF = [(name, "mixed_float16") for name in ("cifar", "warn")]
HALF += [once(name, "mixed_bfloat16") if name != "imagenet" else (name, "mixed_bfloat16") for name in NETWORKS]


@pytest.mark.parametrize(("name", "policy"), HALF)
def test_half_precision_is_near_full_precision_and_ends_in_float32(name, policy):
    case, (full, expected) = NETWORKS[name], built(name)
    keras.config.set_dtype_policy(policy)
    half = case.build()
    copy_weights(full, half)
    for layer in half.layers[1:]:
        dtype = "float32" if case.is_float32(layer.name) else policy.removeprefix("mixed_")
        assert layer.compute_dtype == dtype, layer.name
    assert {variable.dtype for variable in half.weights} == {"float32"}
    assert half.output.dtype == "float32"
    tolerance = {"mixed_float16": 0.02, "mixed_bfloat16": 0.1}[policy]
    assert_close(predict(half, images_for(case)), expected, tolerance)


@pytest.mark.parametrize("name", ["cifar", "wide_att2", "warn"])
def test_a_saved_network_keeps_its_data_format_and_precision(name, tmp_path):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = randomise(NETWORKS[name].build())
    model.save(tmp_path / "network.keras")
    x = channels_first(images_for(NETWORKS[name]))
    expected = predict(model, x)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    assert restored.input_shape == model.input_shape
    for layer in model.layers:
        if layer.weights:  # Keras' `SpatialDropout2D` saves its dtype in place of its policy
            assert restored.get_layer(layer.name).dtype_policy.name == layer.dtype_policy.name
    np.testing.assert_array_equal(predict(restored, x), expected)


@pytest.mark.parametrize("name", ["imagenet", "warn", *(once(name) for name in ("cifar", "resnext", "wide_att2"))])
def test_any_size_and_both_data_formats_return_the_same(name):
    """Odd sizes as a size of its own, as an open one, and with channels first."""
    case, x = NETWORKS[name], images_for(NETWORKS[name], 33, 44)
    model = randomise(case.build(input_shape=(33, 44, 3)))
    expected = predict(model, x)
    open_size = case.build(input_shape=(None, None, 3))
    copy_weights(model, open_size)
    assert_close(predict(open_size, x), expected)
    keras.config.set_image_data_format("channels_first")
    first = case.build(input_shape=(3, 33, 44))
    copy_weights(model, first)
    assert_close(predict(first, channels_first(x)), expected)


@pytest.mark.once
@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if case.levels])
def test_levels_of_the_pyramid_have_the_strides_of_the_stages(name, tmp_path):
    case, x = NETWORKS[name], images_for(NETWORKS[name])
    network = randomise(case.build(include_top=False))
    pyramid = keras.Model(network.input, feature_pyramid(network))
    outputs = forward(pyramid, x)
    assert list(outputs) == [f"P{stride.bit_length() - 1}" for stride in case.levels]
    assert [32 // level.shape[1] for level in outputs.values()] == list(case.levels)
    last = outputs[list(outputs)[-1]]
    assert last.min() == 0, "the last level is behind a ReLU"
    assert_close(last, forward(network, x), 1e-6)
    pyramid.save(tmp_path / "pyramid.keras")
    restored = forward(keras.saving.load_model(tmp_path / "pyramid.keras"), x)
    for level in outputs:
        np.testing.assert_array_equal(restored[level], outputs[level])
