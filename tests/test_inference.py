"""`optimize_for_inference`: the same numbers from fewer layers, for every network and for plain Keras models."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, forward, predict, random_array, randomise, weights_of
from keras import layers
from network_cases import NETWORKS
from networks import base_of, narrow_residual, small_cnn

import keras_resattn
from keras_resattn import attend_and_rectify, attention_maps, feature_pyramid, iter_layers, optimize_for_inference
from keras_resattn.layers.inference import InferenceBatchNormalization, InferenceConv2D
from keras_resattn.models.inspection import tensors_of_layers

BACKEND = keras.backend.backend()
SLOW_ON_JAX = pytest.mark.slow if BACKEND == "jax" else ()  # it compiles every network


def images_for(case):
    return random_array(2, *case.image_shape)


def randomised(model):
    return randomise(model, seed=3)


def kinds(model):
    """Count the layers of each class, at any depth."""
    names = [type(layer).__name__ for layer in iter_layers(model)]
    return {name: names.count(name) for name in sorted(set(names))}


def assert_same_outputs(model, x, tolerance=1e-5):
    """Optimise a model, compare it with the original, and return it."""
    before = weights_of(model)
    optimized = optimize_for_inference(model)
    for actual, expected in zip(*(keras.tree.flatten(predict(each, x)) for each in (optimized, model)), strict=True):
        assert_close(actual, expected, tolerance)
    for now, then in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    return optimized


# --- Networks of this package -------------------------------------------------------------------


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


# --- Plain Keras models -------------------------------------------------------------------------


def plain_cnn():
    """Every fold: before and after each kind of layer, with and without an activation between."""
    inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="input_bn")(inputs)
    x = layers.Conv2D(8, 3, strides=2, name="conv1")(x)
    x = layers.BatchNormalization(scale=False, name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="conv2")(x)
    x = layers.BatchNormalization(name="bn2")(x)
    x = layers.ReLU(6.0, name="relu2")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.SeparableConv2D(8, 3, name="conv3")(x)
    x = layers.BatchNormalization(center=False, name="bn3")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="tanh", kernel_regularizer="l2", name="conv4")(x)
    x = layers.BatchNormalization(name="bn4")(x)  # behind an activation, before a convolution that pads
    x = layers.Conv2D(8, (2, 3), padding="same", strides=(2, 1), groups=2, name="conv5")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(12, kernel_regularizer="l2", name="dense1")(x)
    x = layers.BatchNormalization(name="bn5")(x)
    x = layers.Activation("elu", name="elu")(x)
    x = layers.BatchNormalization(name="bn6")(x)
    x = layers.GaussianNoise(0.1, name="noise")(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="predictions")(x), name="plain")


def test_plain_layers_are_folded_where_that_is_exact():
    model = randomised(plain_cnn())
    optimized = assert_same_outputs(model, random_array(2, 16, 16, 3))
    names = [layer.name for layer in optimized.layers[1:]]
    assert names == [*["relu1", "bn2", "relu2", "bn3", "conv4", "bn4", "conv5", "flatten", "bn5", "elu", "predictions"]]
    assert kinds(optimized)["InferenceBatchNormalization"] == 1
    assert optimized.losses == []


@pytest.mark.once
def test_shared_and_tapped_layers_keep_their_form():
    inputs = keras.Input((8, 8, 3))
    conv, norm = layers.Conv2D(4, 3, padding="same", name="conv"), layers.BatchNormalization(name="norm")
    twice = layers.Conv2D(4, 1, name="twice")
    a = layers.BatchNormalization(name="norm_a")(twice(inputs))
    b = layers.BatchNormalization(name="norm_b")(twice(layers.ReLU(name="relu")(inputs)))
    c = norm(conv(inputs))
    d = norm(a)
    tapped = layers.Conv2D(4, 1, name="tapped")(b)
    e = layers.BatchNormalization(name="norm_e")(tapped)
    model = randomised(keras.Model(inputs, [layers.Add(name="sum")([c, d, e]), tapped]))
    optimized = assert_same_outputs(model, random_array(2, 8, 8, 3))
    removed = {layer.name for layer in model.layers} - {layer.name for layer in optimized.layers}
    assert removed == {"norm_b"}, "only the convolution `tapped` reads its output"


@pytest.mark.once
def test_layers_called_in_training_mode_stay():
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="batch")(layers.Conv2D(4, 3, name="conv")(inputs), training=True)
    sampled = layers.Dropout(0.5, seed=1, name="sampled")(x, training=True)
    model = randomised(keras.Model(inputs, [x, sampled]))
    optimized = optimize_for_inference(model)
    x = random_array(4, 8, 8, 3)
    (expected, _), (actual, dropped) = (
        map(keras.ops.convert_to_numpy, each(x))
        for each in (model, optimized)  # `training=False` would go first
    )
    assert_close(actual, expected)
    assert 0.3 < (dropped == 0).mean() < 0.7


@pytest.mark.once
def test_nested_models_are_optimised_inside(tmp_path):
    inner = randomised(narrow_residual(include_top=False, pooling="avg"))
    sequential = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")], name="small"
    )
    inputs, crop = keras.Input((32, 32, 3)), keras.Input((8, 8, 3))
    first, second = sequential(crop), sequential(layers.ReLU()(crop))
    pooled = layers.GlobalAveragePooling2D()(layers.Subtract()([first, second]))
    outputs = layers.Dense(3)(layers.Concatenate()([inner(layers.Rescaling(2.0)(inputs)), pooled]))
    model = randomised(keras.Model([inputs, crop], outputs))
    x = [random_array(2, 32, 32, 3), random_array(2, 8, 8, 3)]
    optimized = assert_same_outputs(model, x)
    assert [layer.name for layer in optimized.get_layer("small").layers[1:]] == ["bn"]
    assert "BatchNormalization" not in kinds(optimized)
    optimized.save(tmp_path / "nested.keras")
    np.testing.assert_array_equal(predict(keras.saving.load_model(tmp_path / "nested.keras"), x), predict(optimized, x))


@pytest.mark.once
def test_a_nested_model_in_training_mode_stays():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
    inputs = keras.Input((8, 8, 3))
    model = randomised(keras.Model(inputs, inner(inputs, training=True)))
    x = random_array(4, 8, 8, 3)
    actual, expected = (keras.ops.convert_to_numpy(each(x)) for each in (optimize_for_inference(model), model))
    assert_close(actual, expected)


@pytest.mark.once
def test_bare_operations_normalisation_of_images_and_subclasses_stay():
    class Twice(layers.Layer):
        def call(self, x):
            return 2 * x

    normalization = layers.Normalization(name="normalization")
    normalization.adapt(5 + 3 * random_array(8, 8, 8, 3))
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(4, 3)(normalization(inputs / 2 + 0.5))
    x = Twice()(layers.BatchNormalization()(x))
    model = keras.Model({"images": inputs}, {"mean": keras.ops.mean(x, axis=(1, 2)), "map": x})
    for layer in model.layers:
        if layer is not normalization:
            randomised(layer)
    assert_same_outputs(model, {"images": random_array(2, 8, 8, 3)})


@pytest.mark.once
def test_attention_on_another_network():
    base = randomised(base_of(small_cnn(), "dense_softmax"))
    model = randomised(attend_and_rectify(base, ["pool", "scale"], gradient_scale=0.5))
    optimized = assert_same_outputs(model, random_array(2, 16, 16, 3))
    assert not [layer.name for layer in optimized.layers if layer.name.endswith("_gradient")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "ResNet50V2", "Xception", "DenseNet121", "EfficientNetB0"])
def test_keras_applications(name):
    model = randomised(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=7))
    optimized = assert_same_outputs(model, np.abs(random_array(2, 96, 96, 3)), 1e-4)
    assert len(optimized.layers) < len(model.layers)


@pytest.mark.slow
def test_attention_on_mobilenet():
    base = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=7)
    model = randomised(attend_and_rectify(base))
    x = random_array(2, 96, 96, 3)
    optimized = assert_same_outputs(model, x, 1e-4)
    for mask, values in attention_maps(model, x).items():
        assert_close(attention_maps(optimized, x)[mask], values, 1e-4)


# --- Settings of single layers ------------------------------------------------------------------


@pytest.mark.once
def test_a_unit_with_settings_of_its_own_keeps_its_form():
    unit = keras_resattn.layers.WideUnit(4, name="unit", dtype="mixed_bfloat16")
    unit = type(unit).from_config({**unit.get_config(), "sublayer_settings": {"conv1": {"dtype": "float32"}}})
    inputs = keras.Input((8, 8, 4))
    model = randomised(keras.Model(inputs, unit(inputs)))
    optimized = optimize_for_inference(model)
    x = random_array(2, 8, 8, 4)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(optimized(x)).astype("float32"),
        keras.ops.convert_to_numpy(model(x)).astype("float32"),
    )


class DoubledUnit(keras_resattn.layers.WideUnit):
    def call(self, inputs, training=None):
        return 2 * self.conv2(keras.ops.relu(self.bn2(self.conv1(inputs), training=training)))


@pytest.mark.once
def test_a_subclass_of_a_unit_keeps_its_form():
    inputs = keras.Input((8, 8, 4))
    model = randomised(keras.Model(inputs, DoubledUnit(4)(inputs)))
    assert "BatchNormalization" in kinds(assert_same_outputs(model, random_array(2, 8, 8, 4)))


@pytest.mark.once
def test_layers_adapted_by_lora_keep_what_they_learned():
    inputs = keras.Input((8, 8, 3))
    conv, dense = layers.Conv2D(4, 3), layers.Dense(5)
    x = layers.BatchNormalization()(conv(inputs))
    x = layers.BatchNormalization()(dense(layers.GlobalAveragePooling2D()(x)))
    model = keras.Model(inputs, x)
    conv.enable_lora(2)
    dense.enable_lora(2)
    assert_same_outputs(randomised(model), random_array(2, 8, 8, 3))


@pytest.mark.once
def test_frozen_batch_normalisation_is_folded_too():
    model = randomised(narrow_residual())
    keras_resattn.freeze_batch_norm(model)
    optimized = assert_same_outputs(model, random_array(2, 32, 32, 3))
    assert not [
        layer
        for layer in iter_layers(optimized)
        if isinstance(layer, layers.BatchNormalization) and not isinstance(layer, InferenceBatchNormalization)
    ]


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # Keras warns of layers that it cannot quantise
def test_quantised_dense_layers_stay_quantised():
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, name="dense")(inputs))
    model = randomised(keras.Model(inputs, x))
    model.quantize("int8")
    optimized = assert_same_outputs(model, random_array(4, 8))
    assert optimized.get_layer("dense").quantization_mode == "int8"


# --- Errors -------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def call(self, x):
        return x


class NotRebuilt(layers.Layer):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, x):
        return x


@pytest.mark.once
def test_models_without_a_graph_are_errors():
    with pytest.raises(ValueError, match=r"Expected a functional or sequential keras\.Model; received: Subclassed"):
        optimize_for_inference(Subclassed())
    with pytest.raises(ValueError, match="received: list"):
        optimize_for_inference([])
    with pytest.raises(ValueError, match=r"has no input yet\. Add keras\.Input"):
        optimize_for_inference(keras.Sequential([layers.Dense(2)], name="open"))


@pytest.mark.once
def test_a_layer_that_cannot_be_rebuilt_is_named():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, NotRebuilt(3)(inputs))
    with pytest.raises(ValueError, match=r"not_rebuilt, a NotRebuilt, cannot: .* Give it get_config"):
        optimize_for_inference(model)
