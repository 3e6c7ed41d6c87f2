"""`optimize_for_inference` of any Keras model: what is folded, what keeps its form, and errors."""

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, random_array
from keras import layers
from networks import base_of, narrow_residual, small_cnn
from optimizing import assert_same_outputs, kinds, randomised

import keras_resattn
from keras_resattn import attend_and_rectify, attention_maps, iter_layers, optimize_for_inference
from keras_resattn.layers.inference import InferenceBatchNormalization


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
