"""Wide ResNets and other baselines: names, outputs compared with NumPy references, sizes, data formats, heads."""

import functools
import inspect
import json

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    copy_weights,
    forward,
    randomise,
    undrawn,
    weights_by_path,
)
from networks import BASELINES, GROUPS, POST, WIDE_FAMILIES, narrow_wide, wide_body
from references import conv_reference, groups_reference, norm_relu_reference

import keras_resattn
from keras_resattn import ResNet164, WideResNet, WideResNet50x2, WideResNetAtt2, evaluation, pretrained
from keras_resattn.layers.residual import PostActivationUnit, PreActivationUnit
from keras_resattn.models import registry, wide_resnet
from keras_resattn.utils.io import sha256

TOP = ["avg_pool", "predictions"]


NAMES = {
    "WideResNet-16-1": ["stem_conv", *GROUPS, *POST, *TOP],
    "WideResNet50x2": [
        *["stem_pad", "stem_conv", "stem_bn", "stem_relu", "pool_pad", "stem_pool"],
        *[f"group{group}_unit{i}" for group, units in enumerate((3, 4, 6, 3), 1) for i in range(1, units + 1)],
        *TOP,
    ],
    "ResNet164": ["stem_conv", *[f"stage{s}_unit{i}" for s in (1, 2, 3) for i in range(1, 19)], *POST, *TOP],
    "WideResNetAtt2-16-1": [
        *["stem_conv", *GROUPS, "group3_conv1", "group3_conv2"],
        *["global_bn1", "global_relu1", "global_pool1", "global_bn2", "global_relu2", "global_dropout1"],
        *["global_pool2", "global_dropout2", "global_dense"],
        *[f"attention{g}_{part}" for g in (2, 3) for part in ("bn", "relu", "dropout", "map", "sum")],
        *["context", "context_bn", "context_relu", "predictions"],
    ],
}


@pytest.mark.once
@pytest.mark.parametrize("network", NAMES)
def test_names_of_the_layers_are_frozen(network):
    model = undrawn(registry.create_model, id=network, weights=None)
    names = [layer.name for layer in model.layers[1:]]  # after the input
    assert sorted(names) == sorted(NAMES[network])
    if "Att2" not in network:  # whose graph is not a chain: Keras orders it by depth
        assert names == NAMES[network]


@pytest.mark.once
def test_an_attended_body_returns_its_taps():
    model = undrawn(wide_body, depth=16, width=2)
    taps = ["group2_preact_relu", "group3_preact_relu", "post_relu"]
    extra = ["stem_bn", "stem_relu", *[f"group{g}_preact_{part}" for g in (2, 3) for part in ("bn", "relu")]]
    assert sorted(layer.name for layer in model.layers[1:]) == sorted(["stem_conv", *GROUPS, *POST, *extra])
    assert [tensor._keras_history.operation.name for tensor in model.outputs] == taps
    assert model.output_shape == [(None, 32, 32, 32), (None, 16, 16, 64), (None, 8, 8, 128)]
    plain = undrawn(WideResNet, weights=None, depth=16, width=2, include_top=False)
    assert model.count_params() == plain.count_params() + 4 * 16  # the stem's batch normalisation


@pytest.mark.once
def test_the_bottleneck_body_returns_its_groups():
    inputs = keras.Input((64, 64, 3))
    maps = undrawn(wide_resnet.bottleneck_body, inputs=inputs)
    assert [x.shape for x in maps] == [(None, 16 // 2**i, 16 // 2**i, 256 * 2**i) for i in range(4)]


@pytest.mark.once
@pytest.mark.parametrize("build", BASELINES)
def test_signature_begins_as_that_of_keras_applications(build):
    parameters = list(inspect.signature(build).parameters.values())
    assert [p.name for p in parameters[:8]] == list(inspect.signature(keras.applications.ResNet50).parameters)
    assert {p.kind for p in parameters[8:]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert (parameters[1].default, parameters[5].default) == ("default", None)
    assert getattr(keras_resattn, build.__name__) is build


@pytest.mark.once
def test_arguments_by_position():
    model = undrawn(lambda: ResNet164(False, None, None, (48, 40, 1), "max", 3, None, "mine"))
    assert (model.name, model.input_shape, model.output_shape) == ("mine", (None, 48, 40, 1), (None, 256))


@pytest.mark.parametrize("attended", [False, True])
def test_wide_resnet(images, attended):
    model = randomise(wide_body(attended=attended))
    weights = weights_by_path(model)
    *expected, last = groups_reference(images, weights, attended)
    expected.append(norm_relu_reference(last, weights, "post_bn"))
    for actual, reference in zip(forward(model, images), expected, strict=True):
        assert_close(actual, reference)


def test_classifier_averages_the_features(images):
    model = randomise(narrow_wide(WideResNet, classifier_activation=None))
    weights = weights_by_path(model)
    features = norm_relu_reference(groups_reference(images, weights)[-1], weights, "post_bn")
    expected = features.mean((1, 2)) @ weights["predictions/kernel"] + weights["predictions/bias"]
    assert_close(forward(model, images), expected)


def test_bottleneck_stem(images, monkeypatch):
    """The stem pads by one before pooling, as in PyTorch, which pads with minus infinity."""
    monkeypatch.setattr(wide_resnet, "PostActivationUnit", lambda *_, name, **__: keras.layers.Identity(name=name))
    inputs = keras.Input((32, 32, 3))
    model = randomise(keras.Model(inputs, wide_resnet.bottleneck_body(inputs)[0]))
    weights = weights_by_path(model)
    x = norm_relu_reference(conv_reference(images, weights["stem_conv/kernel"], 2, pad=3), weights, "stem_bn")
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    x = np.max([x[:, i : i + 16 : 2, j : j + 16 : 2] for i in range(3) for j in range(3)], axis=0)
    assert_close(forward(model, images), x)


@pytest.mark.once
def test_units_of_the_resnets():
    """Outputs of the units are tested with the layers."""
    model = undrawn(WideResNet50x2, weights=None)
    units = [layer for layer in model.layers if "unit" in layer.name]
    assert [(unit.width, unit.filters) for unit in units] == [
        (128 * 2**i, 256 * 2**i) for i, count in enumerate((3, 4, 6, 3)) for _ in range(count)
    ]
    assert [unit.name for unit in units if unit.strides == 2] == ["group2_unit1", "group3_unit1", "group4_unit1"]
    assert {type(unit) for unit in units} == {PostActivationUnit}
    assert {unit.groups for unit in units} == {1}
    model = undrawn(ResNet164, weights=None)
    units = [layer for layer in model.layers if "unit" in layer.name]
    assert [unit.width for unit in units] == [16] * 18 + [32] * 18 + [64] * 18
    assert [unit.name for unit in units if unit.strides == 2] == ["stage2_unit1", "stage3_unit1"]
    assert {type(unit) for unit in units} == {PreActivationUnit}


@pytest.mark.once
def test_dropout_reaches_every_unit():
    for build in WIDE_FAMILIES:
        model = undrawn(narrow_wide, build=build, depth=16, dropout=0.25)
        assert [model.get_layer(name).dropout.rate for name in GROUPS] == [0.25] * 6


# --- Sizes, data formats, heads ------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("network", "shape"),
    [("WideResNet-16-2", (9, 11, 128)), ("ResNet164", (9, 11, 256)), ("WideResNet50x2", (2, 2, 2048))],
)
def test_last_maps(network, shape, data_format):
    def in_format(height, width, channels):
        return (height, width, channels) if data_format == "channels_last" else (channels, height, width)

    build = functools.partial(undrawn, registry.create_model, id=network, weights=None, include_top=False)
    assert build(input_shape=in_format(33, 44, 3)).output_shape == (None, *in_format(*shape))
    if network != "ResNet164":  # which is slower
        assert build(input_shape=in_format(None, None, 1)).output_shape == (None, *in_format(None, None, shape[-1]))
        assert build(pooling="max").output_shape == (None, shape[-1])


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling(images, pooling, reduce):
    unpooled = randomise(narrow_wide(WideResNet, include_top=False))
    pooled = narrow_wide(WideResNet, include_top=False, pooling=pooling)
    copy_weights(unpooled, pooled)
    features = forward(unpooled, images)
    assert features.shape == (2, 8, 8, 64)
    assert_close(forward(pooled, images), reduce(features, axis=(1, 2)))


@pytest.mark.once
def test_attended_sums_without_a_top():
    model = narrow_wide(WideResNetAtt2, include_top=False)
    assert model.output is model.get_layer("context_relu").output
    assert model.output_shape == (None, 96)


def test_on_other_layers(images):
    inputs = keras.Input((32, 32, 3))
    model = randomise(narrow_wide(WideResNet, input_tensor=keras.layers.Rescaling(1 / 2, offset=1)(inputs)))
    bare = narrow_wide(WideResNet)
    copy_weights(model, bare)
    assert_close(forward(model, images), forward(bare, images / 2 + 1))


# --- Files ---------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_file_of_another_network(tmp_path):
    narrow_wide(WideResNet).save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ValueError, match=r"group1_unit2/bn1 in .*It is another network's file"):
        narrow_wide(WideResNet, depth=16, weights=tmp_path / "own.weights.h5")


@pytest.mark.once
def test_a_released_folder_names_its_network_by_id(tmp_path):
    model = randomise(narrow_wide(WideResNet, classes=10))
    model.save_weights(tmp_path / "model.weights.h5")
    record = json.loads((pretrained.tags()[0].folder / "config.json").read_text())
    record |= {"network": "WideResNet-10-1", "sha256": sha256(tmp_path / "model.weights.h5")}
    (tmp_path / "config.json").write_text(json.dumps(record))
    loaded = evaluation.load_checkpoint(pretrained.Checkpoint.read(tmp_path))
    assert loaded.name == "wide_resnet_10_1"
    for path, value in weights_by_path(loaded).items():
        np.testing.assert_array_equal(value, weights_by_path(model)[path])
