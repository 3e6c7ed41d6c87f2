"""Networks for Cluttered Translated MNIST: layers, counts, the transformer, data formats, files, arguments."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, random_array, randomise, undrawn

from keras_resattn import ClutteredMnistCNN, count_macs

# Attention depth and width, spatial transformer; trainable parameters, multiply-adds.
COUNTS = [
    ((0, 1, False), 916_460, 16_604_160),
    ((1, 1, False), 930_800, 16_825_856),
    ((2, 1, False), 944_882, 17_323_776),
    ((3, 1, False), 958_964, 17_821_696),
    ((4, 1, False), 966_134, 18_264_320),
    ((5, 1, False), 969_848, 19_384_320),
    ((4, 4, False), 1_111_286, 23_240_960),
    ((0, 1, True), 8_730 + 916_460, 810_864 + 16_604_160),
]


def block(i, pooled):
    return [f"conv{i}", *([f"pool{i}"] if pooled else []), f"relu{i}", f"bn{i}"]


DENSE = ["flatten", "fc1", "fc1_relu", "fc1_bn"]
BASELINE = ["input_bn", *block(1, True), *block(2, True), *block(3, False), *block(4, False), *block(5, False), *DENSE]
TRANSFORMER = [*block(1, True), *block(2, True), *block(3, False), *DENSE, "theta", "grid", "sampler"]


@pytest.mark.once
@pytest.mark.parametrize(("arguments", "parameters", "macs"), COUNTS)
def test_counts(arguments, parameters, macs):
    depth, width, transformer = arguments
    model = undrawn(ClutteredMnistCNN, attention_depth=depth, attention_width=width, transformer=transformer)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == parameters
    assert count_macs(model) == macs
    assert (model.input_shape, model.output_shape) == ((None, 40, 40, 1), (None, 10))


@pytest.mark.once
def test_layers_of_the_plain_network():
    model = undrawn(ClutteredMnistCNN, attention_depth=0, classifier_activation=None)
    assert [layer.name for layer in model.layers[1:]] == [*BASELINE, "predictions"]
    assert model.get_layer("predictions").activation is keras.activations.linear
    sizes = {"bn1": (18, 32), "bn2": (8, 64), "bn3": (6, 128), "bn4": (6, 128), "bn5": (4, 128)}
    for name, (size, filters) in sizes.items():
        assert model.get_layer(name).output.shape == (None, size, size, filters)


@pytest.mark.once
def test_layers_of_the_transformer():
    model = undrawn(ClutteredMnistCNN, attention_depth=0, transformer=True)
    names = [*(f"transformer_{name}" for name in TRANSFORMER), *BASELINE, "predictions"]
    assert [layer.name for layer in model.layers[1:]] == names


@pytest.mark.once
@pytest.mark.parametrize("depth", [1, 4])
def test_modules_read_the_last_convolutions(depth):
    model = undrawn(ClutteredMnistCNN, attention_depth=depth)
    modules = [f"attention{i}_mask" for i in range(6 - depth, 6)]
    assert [layer.name for layer in model.layers if layer.name.endswith("_mask")] == modules
    for i in range(6 - depth, 6):
        assert model.get_layer(f"attention{i}_mask").input is model.get_layer(f"bn{i}").output
    assert model.get_layer("global_gate").input is model.get_layer("fc1_bn").output
    assert model.get_layer("classifier").activation is keras.activations.linear


def test_transformer_starts_as_the_identity_and_learns():
    model = ClutteredMnistCNN(0, transformer=True)
    model = keras.Model(model.input, model.get_layer("transformer_sampler").output)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=keras.backend.backend() == "jax")
    x = random_array(4, 40, 40, 1)
    moved = np.roll(x, 1, axis=1)
    assert_close(model.train_on_batch(x, moved), np.mean((x - moved) ** 2))
    kernel, bias = model.get_layer("transformer_theta").get_weights()
    assert np.isfinite(kernel).all()
    assert kernel.any()
    assert (bias != [1, 0, 0, 0, 1, 0]).all()


def test_same_output_in_both_data_formats():
    x = random_array(2, 40, 40, 1)
    last = randomise(ClutteredMnistCNN(0, transformer=True))
    keras.config.set_image_data_format("channels_first")
    first = ClutteredMnistCNN(0, transformer=True)
    assert first.input_shape == (None, 1, 40, 40)
    first.set_weights(last.get_weights())
    assert_close(first.predict(channels_first(x), verbose=0), last.predict(x, verbose=0), 1e-4)


@pytest.mark.once
def test_other_input_shapes():
    model = undrawn(ClutteredMnistCNN, transformer=True, input_shape=(32, 45, 3), classes=4)
    assert model.output_shape == (None, 4)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_depth": -1}, "attention_depth to be an integer of at least 0; received: attention_depth=-1"),
        ({"attention_depth": 6}, "attention_depth of at most 5.*; received: attention_depth=6"),
        ({"attention_width": 0}, "received: attention_width=0"),
        ({"transformer": 1}, "transformer to be True or False; received: transformer=1"),
        ({"classes": 0}, "received: classes=0"),
        ({"gate": "hard"}, "received: gate='hard'"),
        ({"classifier_activation": "foo"}, "received: classifier_activation='foo'"),
        ({"input_shape": (None, None, 1)}, r"known height and width.*; received: input_shape=\(None, None, 1\)"),
        ({"input_shape": (28, 28, 1)}, "at least 32 pixels"),
    ],
)
def test_arguments_of_the_network(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClutteredMnistCNN(**arguments)
