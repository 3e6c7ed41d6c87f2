"""Builders of Residual Attention Networks: names, signatures, sizes, outputs, and networks in other models."""

import inspect
import re

import keras
import numpy as np
import pytest
from helpers import assert_close, copy_weights, forward, predict, random_array, randomise, undrawn

import keras_resattn
from keras_resattn import CifarResidualAttention56, ResidualAttention56, ResidualAttentionNet
from keras_resattn.models.variants import TOPOLOGIES, VARIANTS

# --- The graph and its names ---------------------------------------------------------------------

MODULE = ["pre1", "trunk1", "trunk2", "mask", "merge", "post1"]

NAMES = {
    "ResidualAttention56": [
        *["stem_pad", "stem_conv", "stem_bn", "stem_relu", "stem_pool"],
        *["stage1_unit1", *(f"stage1_attention1_{part}" for part in MODULE)],
        *["stage2_unit1", *(f"stage2_attention1_{part}" for part in MODULE)],
        *["stage3_unit1", *(f"stage3_attention1_{part}" for part in MODULE)],
        *["stage4_unit1", "stage4_unit2", "stage4_unit3"],
        *["post_bn", "post_relu", "avg_pool", "predictions"],
    ],
    "AttentionNeXt56": [
        *["stem_pad", "stem_conv", "stem_bn", "stem_relu", "stem_pool"],
        *["stage1_unit1", *(f"stage1_attention1_{part}" for part in MODULE)],
        *["stage2_unit1", *(f"stage2_attention1_{part}" for part in MODULE)],
        *["stage3_unit1", *(f"stage3_attention1_{part}" for part in MODULE)],
        *["stage4_unit1", "stage4_unit2", "stage4_unit3"],
        *["avg_pool", "predictions"],
    ],
    "CifarResidualAttention92": [
        "stem_conv",
        "stage1_unit1",
        *(f"stage1_attention{module}_{part}" for module in (1, 2) for part in MODULE),
        *["stage1_unit2", "stage2_unit1"],
        *(f"stage2_attention{module}_{part}" for module in (1, 2) for part in MODULE),
        *["stage2_unit2", "stage3_unit1"],
        *(f"stage3_attention{module}_{part}" for module in (1, 2) for part in MODULE),
        "stage3_unit2",
        *["post_bn", "post_relu", "avg_pool", "predictions"],
    ],
}


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_layers_are_frozen(name):
    model = undrawn(getattr(keras_resattn, name), weights=None)
    assert [layer.name for layer in model.layers[1:]] == NAMES[name]  # after the input


@pytest.mark.once
def test_names_follow_p_t_and_r(narrow_network):
    model = undrawn(narrow_network, p=2, t=3, r=2)
    module = [layer.name for layer in model.layers if "attention1" in layer.name]
    parts = ["pre1", "pre2", "trunk1", "trunk2", "trunk3", "mask", "merge", "post1", "post2"]
    assert module == [f"stage1_attention1_{part}" for part in parts]
    assert model.get_layer("stage1_attention1_mask").units == 2


@pytest.mark.once
def test_networks_without_pre_and_post_units_or_without_modules(narrow_network):
    shortest, plain = undrawn(narrow_network, p=0, t=1), undrawn(narrow_network, modules=(0, 0, 0))
    assert shortest.get_layer("stage1_attention1_merge").output.shape == (None, 32, 32, 16)
    assert not any("attention" in layer.name for layer in plain.layers)


@pytest.mark.once
def test_summary_has_a_row_for_each_layer_of_the_papers_table(capsys):
    model = undrawn(ResidualAttention56, weights=None)
    model.summary(line_length=120)
    summary = capsys.readouterr().out
    assert all(f" {name} " in summary for name in NAMES["ResidualAttention56"])
    assert len(model.layers) <= 60


@pytest.mark.once
@pytest.mark.parametrize("name", VARIANTS)
def test_signature_is_that_of_keras_applications(name):
    signature = inspect.signature(getattr(keras_resattn, name))
    positional = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert positional == list(inspect.signature(keras.applications.ResNet50).parameters)
    snake_case = re.sub(r"(Cifar|Residual|Attention(?!\d))", r"\1_", name).lower()
    assert {parameter.name: parameter.default for parameter in signature.parameters.values()} == {
        "include_top": True,
        "weights": "default",
        "input_tensor": None,
        "input_shape": None,
        "pooling": None,
        "classes": None,
        "classifier_activation": "softmax",
        "name": snake_case,
        "include_preprocessing": False,
    }
    assert getattr(keras_resattn, name).__name__ == name


@pytest.mark.once
def test_the_general_builder_takes_the_same_eight_arguments_first():
    parameters = list(inspect.signature(ResidualAttentionNet).parameters.values())
    assert [p.name for p in parameters[:8]] == list(inspect.signature(keras.applications.ResNet50).parameters)
    assert {p.kind for p in parameters[8:]} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.once
def test_arguments_by_position():
    model = undrawn(lambda: CifarResidualAttention56(False, None, None, (48, 40, 1), "max", 3, None, "mine"))
    assert (model.name, model.input_shape, model.output_shape) == ("mine", (None, 48, 40, 1), (None, 256))


@pytest.mark.once
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_general_builder_takes_its_defaults_from_the_topology(topology):
    modules = (0,) * len(TOPOLOGIES[topology].widths)
    model = undrawn(ResidualAttentionNet, weights=None, topology=topology, modules=modules)
    size, classes = TOPOLOGIES[topology].default_size, TOPOLOGIES[topology].classes
    assert (model.input_shape, model.output_shape) == ((None, size, size, 3), (None, classes))


@pytest.mark.once
def test_a_variant_with_changes():
    model = undrawn(ResidualAttentionNet, weights=None, variant="CifarResidualAttention56", widths=[4, 4, 8], t=1)
    names = [layer.name for layer in model.layers]
    assert "stage3_attention1_mask" in names
    assert "stage3_attention1_trunk2" not in names
    assert model.get_layer("post_relu").output.shape == (None, 8, 8, 32)


@pytest.mark.once
def test_channels_of_the_stages():
    def channels(**arguments):
        model = undrawn(ResidualAttentionNet, weights=None, **arguments)
        return [model.get_layer(f"stage{stage}_unit1").output.shape[-1] for stage in (1, 2, 3)]

    assert channels(variant="CifarResidualAttention56", filters=[8, 8, 24]) == [8, 8, 24]
    assert channels(variant="AttentionNeXt56", widths=(32, 64, 64, 96)) == [64, 128, 128]
    assert channels(variant="AttentionInception56", widths=(8, 8, 8, 8)) == [256, 512, 1024]


@pytest.mark.once
def test_layer_names_do_not_depend_on_the_model_name(narrow_network):
    one, other = undrawn(narrow_network, name="one"), undrawn(narrow_network, name="other")
    assert (one.name, other.name) == ("one", "other")
    assert [layer.name for layer in one.layers[1:]] == [layer.name for layer in other.layers[1:]]
    assert [variable.path for variable in one.weights] == [variable.path for variable in other.weights]


# --- Sizes and data formats ----------------------------------------------------------------------

# Height and width of the last map, for images of each size.
LAST_MAPS = {
    "cifar": {(32, 32): (8, 8), (33, 47): (9, 12), (64, 35): (16, 9)},
    "imagenet": {(32, 32): (1, 1), (33, 47): (1, 2), (64, 35): (2, 2)},
}


@pytest.mark.once
@pytest.mark.parametrize("topology", LAST_MAPS)
def test_any_size_static_or_dynamic(narrow_network, topology):
    dynamic = randomise(narrow_network(topology, input_shape=(None, None, 3), include_top=False))
    for size, last_map in LAST_MAPS[topology].items():
        static = narrow_network(topology, input_shape=(*size, 3), include_top=False)
        copy_weights(dynamic, static)
        x = random_array(2, *size, 3)
        expected = predict(static, x)
        assert expected.shape == (2, *last_map, 16) == (2, *static.output_shape[1:])
        assert_close(predict(dynamic, x), expected)


# --- Outputs -------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling(narrow_network, images, pooling, reduce):
    unpooled = randomise(narrow_network(include_top=False))
    pooled = narrow_network(include_top=False, pooling=pooling)
    copy_weights(unpooled, pooled)
    features = forward(unpooled, images)
    assert features.shape == (2, 8, 8, 16)
    assert features.min() == 0  # after the last ReLU
    assert_close(forward(pooled, images), reduce(features, axis=(1, 2)))


def test_classifier_averages_the_features(narrow_network, images):
    model = randomise(narrow_network(classifier_activation=None))
    features = forward(keras.Model(model.input, model.get_layer("post_relu").output), images)
    kernel, bias = model.get_layer("predictions").get_weights()
    assert_close(forward(model, images), features.mean((1, 2)) @ kernel + bias)


def test_classifier_activation(narrow_network, images):
    logits = randomise(narrow_network(classes=7, classifier_activation=None))
    outputs = forward(logits, images)
    exponentials = np.exp(outputs - outputs.max(-1, keepdims=True))
    expected = {"softmax": exponentials / exponentials.sum(-1, keepdims=True), "sigmoid": 1 / (1 + np.exp(-outputs))}
    for activation in expected:
        model = narrow_network(classes=7, classifier_activation=activation)
        copy_weights(logits, model)
        assert_close(forward(model, images), expected[activation])


# --- As a part of other models -------------------------------------------------------------------


@pytest.mark.once
def test_input_tensor_that_is_an_input(narrow_network):
    inputs = keras.Input((40, 48, 1), name="grey")
    model = narrow_network(input_tensor=inputs)
    assert model.input is inputs


def test_input_tensor_that_a_layer_returns(narrow_network, images):
    inputs = keras.Input((32, 32, 3))
    model = randomise(narrow_network(input_tensor=keras.layers.Rescaling(1 / 2, offset=1)(inputs)))
    assert model.input is inputs
    bare = narrow_network()
    copy_weights(model, bare)
    assert_close(forward(model, images), forward(bare, images / 2 + 1))


@pytest.mark.once
def test_two_networks_nested_in_one_model(narrow_network, images, tmp_path):
    one, other = randomise(narrow_network(name="one")), randomise(narrow_network(name="other"), seed=1)
    inputs = keras.Input((32, 32, 3))
    both = keras.Model(inputs, keras.layers.Average()([one(inputs), other(inputs)]))
    expected = (forward(one, images) + forward(other, images)) / 2
    assert_close(forward(both, images), expected)
    both.save(tmp_path / "both.keras")
    assert_close(forward(keras.saving.load_model(tmp_path / "both.keras"), images), expected)
