"""`optimize_for_inference` of the networks of this package: the same numbers from fewer layers."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, forward, predict, random_array
from network_cases import NETWORKS
from networks import narrow_residual
from optimizing import assert_same_outputs, kinds, randomised

import keras_resattn
from keras_resattn import attention_maps, feature_pyramid, iter_layers, optimize_for_inference
from keras_resattn.layers.inference import InferenceConv2D
from keras_resattn.models.inspection import tensors_of_layers

BACKEND = keras.backend.backend()
SLOW_ON_JAX = pytest.mark.slow if BACKEND == "jax" else ()  # it compiles every network


def images_for(case):
    return random_array(2, *case.image_shape)


@pytest.mark.parametrize(
    "name", [name if name == "cifar" else pytest.param(name, marks=pytest.mark.once) for name in NETWORKS]
)
def test_every_network_returns_the_same_without_its_batch_normalisation(name):
    model = randomised(NETWORKS[name].build())
    optimized = assert_same_outputs(model, images_for(NETWORKS[name]))
    assert (optimized.name, optimized.output_shape) == (model.name, model.output_shape)
    assert optimized.trainable_weights == []
    assert (
        kinds(optimized)
        .keys()
        .isdisjoint({"Conv2D", "BatchNormalization", "Dropout", "SpatialDropout2D", "GradientScale"})
    )
    assert len(optimized.weights) <= len(model.weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_returns_the_same_on_every_backend(name):
    assert_same_outputs(randomised(NETWORKS[name].build()), images_for(NETWORKS[name]))


@pytest.mark.parametrize("topology", [pytest.param("cifar", marks=SLOW_ON_JAX)])
def test_a_trained_network_gives_the_same_logits(topology):
    model = keras_resattn.CifarResidualAttention56(weights="cifar10", classifier_activation=None)
    x = random_array(4, 32, 32, 3)
    logits = predict(model, x)
    assert np.abs(predict(optimize_for_inference(model), x) - logits).max() < 1e-4 * logits.std()


@pytest.mark.once
@pytest.mark.parametrize("name", ["cifar", "imagenet", "resnext", "warn", "wide_att2", "cluttered_mnist"])
def test_layers_of_the_same_name_return_the_same_values(name):
    model = randomised(NETWORKS[name].build())
    optimized = optimize_for_inference(model)
    before, after = tensors_of_layers(model), tensors_of_layers(optimized)
    assert after.keys() <= before.keys()
    x = images_for(NETWORKS[name])
    expected = forward(keras.Model(model.input, {layer: before[layer] for layer in after}), x)
    actual = forward(keras.Model(optimized.input, after), x)
    for layer in after:
        for one, other in zip(actual[layer], expected[layer], strict=True):
            assert_close(one, other, 1e-4)


@pytest.mark.once
@pytest.mark.parametrize("name", ["cifar", "warn", "rectified"])
def test_masks_are_found_as_before(name):
    model = randomised(NETWORKS[name].build())
    x = images_for(NETWORKS[name])
    actual, expected = attention_maps(optimize_for_inference(model), x), attention_maps(model, x)
    assert list(actual) == list(expected)
    for mask in expected:
        assert_close(actual[mask], expected[mask])


@pytest.mark.once
@pytest.mark.parametrize("name", ["imagenet", "resnext", "wide"])
def test_the_pyramid_is_found_as_before(name):
    model = randomised(NETWORKS[name].build(include_top=False))
    optimized = optimize_for_inference(model)
    x = images_for(NETWORKS[name])
    actual, expected = (forward(keras.Model(each.input, feature_pyramid(each)), x) for each in (optimized, model))
    assert list(actual) == list(expected)
    for level in expected:
        assert_close(actual[level], expected[level])


@pytest.mark.once
@pytest.mark.parametrize("name", ["cifar", "warn_ablation"])
def test_an_optimised_network_is_saved_cloned_and_part_of_another(name, tmp_path):
    x = images_for(NETWORKS[name])
    optimized = optimize_for_inference(randomised(NETWORKS[name].build()))
    expected = predict(optimized, x)
    optimized.save(tmp_path / "optimized.keras")
    restored = keras.saving.load_model(tmp_path / "optimized.keras", safe_mode=True)
    assert restored.trainable_weights == []
    clone = keras.models.clone_model(optimized)
    clone.set_weights(optimized.get_weights())
    for same in (restored, clone, keras.Sequential([keras.Input(x.shape[1:]), optimized])):
        np.testing.assert_array_equal(predict(same, x), expected)
    assert_close(predict(optimize_for_inference(restored), x), expected, 1e-6)


@pytest.mark.once
def test_an_optimised_network_keeps_its_class_names_and_the_check_of_its_input():
    model = keras_resattn.CifarResidualAttention56(weights="cifar10")
    optimized = optimize_for_inference(model)
    assert keras_resattn.class_names_of(optimized) == keras_resattn.class_names_of(model)
    with pytest.raises(ValueError, match="preprocess_input"):
        optimized(np.zeros((1, 32, 32, 3), "uint8"))


@pytest.mark.once
def test_weights_cannot_be_trained_and_training_mode_changes_nothing():
    optimized = optimize_for_inference(randomised(narrow_residual()))
    optimized.trainable = True
    assert {variable.path.split("/")[0] for variable in optimized.trainable_weights} == {"predictions"}
    x = random_array(2, 32, 32, 3)
    before = predict(optimized, x)
    optimized(x, training=True)
    np.testing.assert_array_equal(predict(optimized, x), before)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(optimized(x, training=True)), before)


# --- Precision, data format, sizes --------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [pytest.param("mixed_bfloat16", marks=SLOW_ON_JAX), pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", ["cifar", pytest.param("warn", marks=pytest.mark.slow)])
def test_half_precision_is_stored_and_near_the_original(name, policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = randomised(NETWORKS[name].build())
    x = images_for(NETWORKS[name])
    tolerance = {"mixed_float16": 0.01, "mixed_bfloat16": 0.06}[policy]
    optimized = assert_same_outputs(model, x, tolerance)
    assert optimized.output.dtype == "float32"
    convolutions = [layer for layer in iter_layers(optimized) if isinstance(layer, InferenceConv2D)]
    assert {layer.kernel.dtype for layer in convolutions} == {policy.removeprefix("mixed_")}
    optimized.save(tmp_path / "half.keras")
    restored = keras.saving.load_model(tmp_path / "half.keras")
    np.testing.assert_array_equal(predict(restored, x), predict(optimized, x))


@pytest.mark.parametrize(
    "name", ["cifar", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnext", "warn"))]
)
def test_channels_first_and_open_sizes(name):
    keras.config.set_image_data_format("channels_first")
    model = randomised(NETWORKS[name].build(input_shape=(3, None, None)))
    x = channels_first(random_array(2, 33, 44, 3))
    optimized = assert_same_outputs(model, x)
    assert optimized.input_shape == (None, 3, None, None)


@pytest.mark.skipif(BACKEND != "torch", reason="kernels are stored in another order on PyTorch only")
def test_kernels_stay_channels_last_in_memory(tmp_path):
    import torch

    optimized = optimize_for_inference(randomised(narrow_residual()))
    optimized.save(tmp_path / "optimized.keras")
    restored = keras.saving.load_model(tmp_path / "optimized.keras")
    restored.set_weights(optimized.get_weights())
    for layer in iter_layers(restored):
        if isinstance(layer, InferenceConv2D):
            kernel = layer.kernel.value.permute(3, 2, 0, 1)
            assert kernel.is_contiguous(memory_format=torch.channels_last)
            assert not kernel.requires_grad
