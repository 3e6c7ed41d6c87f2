"""`attend_and_rectify`: taps, outputs compared with NumPy references, one network in two models."""

import logging

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, random_array, randomise, undrawn, weights_by_path
from keras import layers
from networks import ENDS, base_of, module_names, names_of, received, small_cnn, taps_of
from references import (
    float64_weights,
    gates_reference,
    log_softmax,
    module_reference,
    overlap_reference,
    rectified_reference,
    softmax,
)

import keras_resattn
from keras_resattn import attend_and_rectify, count_macs
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.models.inspection import tensors_of_layers


@pytest.mark.parametrize("aggregation", ["log_prob", "prob"])
def test_softmax_of_the_scores(base, aggregation):
    model = randomise(attend_and_rectify(base, ["scale"], aggregation=aggregation))
    scores = keras.Model(model.input, [model.get_layer("rectify").output, model.output])
    y, p = predict(scores, random_array(3, 16, 16, 3))
    assert_close(p, softmax(y.astype("float64")), 1e-6)
    total = np.exp(y).sum(-1)
    assert np.abs(total - 1).max() < 1e-6 if aggregation == "prob" else total.max() < 0.999


def test_training_follows_the_authors_loss():
    """The loss of a step is the gated mean of cross-entropies plus the mean overlap of the modules."""
    model = attend_and_rectify(
        base_of(small_cnn()), ["conv3", "scale"], regularization=50.0, gate="mean", classifier_activation=None
    )
    randomise(model)
    model.compile(keras.optimizers.SGD(0.0), NegativeLogLikelihood())
    x, y = random_array(4, 16, 16, 3), np.array([0, 1, 4, 2])
    nodes = [f"attention{i}_{node}" for node in ("mask", "logits") for i in (1, 2)] + ["classifier"]
    found = predict(keras.Model(model.input, [model.get_layer(name).output for name in nodes]), x)
    masks, scores = found[:2], found[2:]
    error = np.mean([-log_softmax(each.astype("float64"))[np.arange(4), y].mean() for each in scores])
    overlap = 50 * np.mean([overlap_reference(each.astype("float64")) for each in masks])
    assert overlap > 1e-3
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
    assert history["loss"] == pytest.approx([error + overlap] * 2, rel=1e-5)


@pytest.mark.once
def test_taps_by_name(base):
    model = attend_and_rectify(base, ["pool", "conv1"], attention_width=3)
    assert received(model, "attention1_mask") == received(model, "attention1_outputs")[:1] == ["pool"]
    assert received(model, "attention2_mask") == ["conv1"]
    assert received(model, "global_gate") == ["features"]
    assert received(model, "rectify") == ["global_gate", "attention1_logits", "attention2_logits", "classifier"]
    added = [*module_names(1, 2), "global_gate", "rectify", "rectified_predictions"]
    assert names_of(model) == sorted([*names_of(base), *added])
    assert model.get_layer("attention1_mask").heads == 3
    assert model.get_layer("attention1_mask").regularization == 1e-3 / 2
    assert (model.name, model.input_shape, model.output_shape) == ("cnn_rectified", base.input_shape, (None, 5))
    assert attend_and_rectify(base, ["pool"], attention_depth=1, classes=5, name="mine").name == "mine"


@pytest.mark.once
@pytest.mark.parametrize(("depth", "taps"), [(None, ["conv2", "conv3", "scale"]), (2, ["conv3", "scale"])])
def test_automatic_taps_are_the_last_maps_of_each_resolution(base, depth, taps, caplog):
    with caplog.at_level(logging.INFO, "keras_resattn"):
        model = attend_and_rectify(base, attention_depth=depth)
    assert taps_of(model) == taps
    assert f"cnn ends in softmax; gated attention on {', '.join(taps)}" in caplog.text


@pytest.mark.once
@pytest.mark.parametrize(
    ("network", "taps", "features"),
    [
        ("ResNet50V2", ["conv3_block4_preact_relu", "conv4_block6_preact_relu", "post_relu"], "avg_pool"),
        ("MobileNet", ["conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu"], "global_gate_features"),
        ("MobileNetV2", ["block_6_expand_relu", "block_13_expand_relu", "out_relu"], "global_average_pooling2d"),
        (
            "EfficientNetB0",
            ["block4a_expand_activation", "block6a_expand_activation", "top_activation"],
            "top_dropout",
        ),
    ],
)
def test_automatic_taps_of_keras_applications(network, taps, features):
    def build():
        return attend_and_rectify(getattr(keras.applications, network)(weights=None, input_shape=(96, 96, 3)))

    model = undrawn(build)
    assert taps_of(model) == taps
    assert received(model, "global_gate") == [features]


def test_log_probabilities_of_a_linear_combination_are_normalised(base):
    """Otherwise the authors' loss would decrease without bound, together with the weights of the combination."""
    model = attend_and_rectify(base, ["conv2", "conv3"], gate="linear", classifier_activation=None)
    model.get_layer("global_gate").combination.assign([-3.0, 5.0, 0.5])
    probabilities = np.exp(predict(model, random_array(2, *base.input_shape[1:])))
    assert_close(probabilities.sum(-1), np.ones(2))


def predict_both(model, base, x):
    """Return the outputs of a rectified model and of its base, compiled together."""
    return predict(keras.Model(model.input, [model.output, *base.outputs]), x)


def test_on_a_network_of_keras_applications():
    base = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=10)
    model = attend_and_rectify(base, attention_width=2, gate="base")
    assert_close(*predict_both(model, base, random_array(2, 32, 32, 3)), 1e-6)


@pytest.mark.parametrize("end", ENDS)
def test_a_gate_on_the_base_returns_its_probabilities(end):
    base = randomise(base_of(small_cnn(), end))
    model = attend_and_rectify(base, ["conv3", "scale"], gate="base")
    x = random_array(3, 16, 16, 3)
    actual, y = predict_both(model, base, x)
    assert_close(actual, y if "softmax" in end else softmax(y.astype("float64")), 1e-6)
    assert model.get_layer("rectify").base == ENDS[end][1]


def test_outputs(base):
    """Compute modules, global gate and sum from the outputs of the base's layers."""
    model = randomise(attend_and_rectify(base, ["conv3", "scale"], classifier_activation=None), seed=1)
    x = random_array(3, 16, 16, 3)
    nodes = ["conv3", "scale", "features"]
    *maps, features = predict(keras.Model(base.input, [base.get_layer(name).output for name in nodes]), x)
    weights = float64_weights(model)
    scores = [module_reference(each, weights, name=f"attention{i}_")["logits"] for i, each in enumerate(maps, 1)]
    scores.append(np.log(predict(base, x).astype("float64")))
    gates = gates_reference(features, weights, "softmax", name="global_gate")
    assert_close(predict(model, x), rectified_reference(gates, scores, "log_prob"))


def test_on_a_sequential_model():
    base = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3, name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 3, name="second"),
            layers.GlobalAveragePooling2D(name="features"),
            layers.Dense(5, "softmax"),
        ]
    )
    model = attend_and_rectify(randomise(base), attention_depth=2, gate="base")
    assert len(taps_of(model)) == 2
    assert taps_of(model)[1] == "second"
    assert received(model, "global_gate") == ["features"]
    assert count_macs(model) > count_macs(base)
    assert_close(*predict_both(model, base, random_array(2, 16, 16, 3)), 1e-6)


@pytest.mark.once
def test_on_a_model_with_a_convolutional_classifier():
    """The logits have no vector as input, so the gate reads the mean of the last map."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Flatten()(layers.Conv2D(5, 1)(x))
    model = attend_and_rectify(keras.Model(inputs, layers.Softmax()(x)), ["conv"])
    assert received(model, "global_gate_features") == ["conv"]
    assert received(model, "global_gate") == ["global_gate_features"]
    assert model.output_shape == (None, 5)


@pytest.mark.once
def test_on_a_model_with_a_dense_layer_on_a_map():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(5, name="dense")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Softmax()(layers.GlobalAveragePooling2D()(x))
    model = attend_and_rectify(keras.Model(inputs, x), ["conv"])
    assert received(model, "global_gate_features") == ["dense"]
    assert (model.get_layer("global_gate").output.shape, model.output_shape) == ((None, 2), (None, 5))


def test_maps_of_unknown_size():
    inputs, features = small_cnn(size=None)
    model = attend_and_rectify(randomise(base_of((inputs, features))), ["conv3", "scale"])
    assert predict(model, random_array(2, 17, 24, 3)).shape == (2, 5)


# --- One network, two models ---------------------------------------------------------------------


def test_the_base_is_not_changed(base):
    x = random_array(2, 16, 16, 3)
    before = predict(base, x), base.get_config(), [layer.output for layer in base.layers], count_macs(base)
    model = attend_and_rectify(base)
    np.testing.assert_array_equal(predict(base, x), before[0])
    assert base.get_config() == before[1]
    assert all(layer.output is output for layer, output in zip(base.layers, before[2], strict=True))
    assert count_macs(base) == before[3]
    assert all(model.get_layer(layer.name) is layer for layer in base.layers)


def steps_of_the_base(gradient_scale):
    """Return the changes of the base's weights in one step; each of the three outputs contributes a third."""
    model = base = randomise(base_of(small_cnn()))
    before = weights_by_path(base)
    if gradient_scale is None:
        loss, rate = keras.losses.SparseCategoricalCrossentropy(from_logits=True), 1 / 3
    else:
        options = {"gate": "mean", "classifier_activation": None, "regularization": 50.0}
        model = attend_and_rectify(base, ["conv3", "scale"], gradient_scale=gradient_scale, **options)
        loss, rate = NegativeLogLikelihood(), 1.0
    model.compile(keras.optimizers.SGD(rate), loss)
    model.fit(random_array(4, 16, 16, 3), np.array([0, 1, 4, 2]), batch_size=4, verbose=0)
    return {path: value - before[path] for path, value in weights_by_path(base).items()}


def test_a_gradient_scale_of_zero_leaves_the_base_its_own_gradient():
    alone, blocked, whole = (steps_of_the_base(scale) for scale in (None, 0, 1))
    for path, step in alone.items():
        assert_close(blocked[path], step, 2e-5)
        if not path.startswith("classifier"):
            assert np.abs(whole[path] - step).max() > 0.05 * np.abs(step).max(), "modules train what is below them"


@pytest.mark.once
def test_a_gradient_scale_has_nodes_of_its_own(base):
    model = attend_and_rectify(base, ["conv3"], gradient_scale=0.5)
    assert received(model, "attention1_mask") == ["attention1_gradient"]
    assert received(model, "attention1_gradient") == ["conv3"]
    assert received(model, "global_gate") == ["global_gate_gradient"]
    assert model.get_layer("attention1_gradient").scale == model.get_layer("global_gate_gradient").scale == 0.5
    assert received(model, "rectify")[-1] == "classifier", "the base's own output keeps its gradient"


@pytest.mark.once
def test_counting_before_and_after(base):
    """Counting and attention maps call layers on other inputs; only calls in the model itself may count."""
    macs = count_macs(base)
    count_macs(base, (24, 24, 3))
    model = attend_and_rectify(base, attention_width=2)
    maps = 16 * 16 * 4 + 8 * 8 * 6 + 4 * 4 * 8
    assert count_macs(model) == macs + 9 * maps * 2 * (5 + 2) + 4 * 8
    assert count_macs(base) == macs
    assert model.get_layer("attention1_mask").output.shape == (None, 16, 16, 2)


def test_layers_that_were_first_called_elsewhere():
    chain = [
        layers.Conv2D(4, 3, name="conv"),
        layers.GlobalAveragePooling2D(name="features"),
        layers.Dense(5, name="classifier"),
    ]
    first, second = (keras.Sequential([keras.Input((size, size, 3)), *chain]) for size in (8, 12))
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for layer in chain:
        x = layer(x)
    third = keras.Model(inputs, x)
    assert third.get_layer("conv").output.shape == (None, 6, 6, 4), "the layer's first use, in another model"
    for model, size in ((first, 6), (second, 10), (third, 14)):
        rectified = attend_and_rectify(model, ["conv"], gate="base")
        assert rectified.get_layer("attention1_mask").output.shape == (None, size, size, 4)
        assert count_macs(rectified) == count_macs(model) + 9 * size * size * 4 * 4 * (5 + 2)
    actual, y = predict_both(rectified, third, random_array(2, 16, 16, 3))
    assert_close(actual, softmax(y.astype("float64")), 1e-6)


@pytest.mark.once
def test_tensors_of_a_layer_that_is_called_twice():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, name="conv")
    conv(keras.Input((20, 20, 3)))  # not in the model
    once = conv(inputs)
    twice = conv(once)
    model = keras.Model(inputs, layers.Dense(5, name="classifier")(layers.Flatten(name="flat")(twice)))
    found = tensors_of_layers(model)
    assert set(found) == {layer.name for layer in model.layers}
    assert {id(tensor) for tensor in found["conv"]} == {id(once), id(twice)}
    assert all(found["classifier"][0] is tensor for tensor in model.outputs)
    with pytest.raises(ValueError, match=r"one 4-D feature map; 'conv' returns \(None, .*, 3\), \(None, .*, 3\)"):
        attend_and_rectify(model, ["conv"])


@pytest.mark.once
def test_tensors_of_a_layer_with_several_outputs():
    inputs = keras.Input((6, 6, 3))
    x, masks = layers.Conv2D(3, 1)(inputs), layers.Conv2D(2, 1)(inputs)
    _, scores = keras_resattn.layers.OutputHead(5, name="outputs")([x, masks])
    model = keras.Model(inputs, scores)
    found = tensors_of_layers(model)
    assert [tensor.shape for tensor in found["outputs"]] == [(None, 2, 5), (None, 2)]
