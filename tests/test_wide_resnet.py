"""Wide ResNets and the other baselines: counts, names, outputs against plain NumPy, arguments, files."""

import functools
import inspect
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    copy_weights,
    forward,
    random_array,
    randomise,
    undrawn,
    weights_by_path,
)
from test_layers import conv_reference, norm_relu_reference

import keras_resattn
from keras_resattn import (
    ResNet164,
    ResNet1001,
    WideResNet,
    WideResNet50x2,
    WideResNetAtt2,
    checkpoints,
    count_macs,
    evaluation,
)
from keras_resattn.files import sha256
from keras_resattn.layers.global_attention import AttendedSum, GlobalAttentionMap
from keras_resattn.layers.residual import PostActivationUnit, PreActivationUnit
from keras_resattn.models import wide_resnet, zoo
from keras_resattn.models.variants import VARIANTS

COUNTS = json.loads((Path(__file__).parent / "spec" / "counts_wide.json").read_text())
BUILDERS = [WideResNet, WideResNet50x2, WideResNetAtt2, ResNet164, ResNet1001]
NARROW = [WideResNet, WideResNetAtt2]


def narrow(build, **arguments):
    """The smallest network of a family, WRN-10-1 and its attention, with five classes."""
    return build(**{"weights": None, "depth": 10, "width": 1, "classes": 5, **arguments})


# --- The table, and its counts -------------------------------------------------------------------


@functools.cache
def measure(row):
    network, _, classes = row.partition(" classes=")
    return undrawn(_measure, network=network, **({"classes": int(classes)} if classes else {}))


def _measure(network, **arguments):
    model = zoo.build(network, weights=None, **arguments)
    costs = count_macs(model, per_layer=True)
    counts = {
        "input": model.input_shape[1],
        "classes": model.output_shape[1],
        "trainable": sum(math.prod(variable.shape) for variable in model.trainable_variables),
        "with_bn_statistics": model.count_params(),
        "macs": sum(cost.macs for cost in costs),
    }
    return counts, costs


@pytest.mark.parametrize("row", COUNTS)
def test_counts(row):
    assert measure(row)[0] == COUNTS[row]


@pytest.mark.parametrize("network", [row for row in COUNTS if " " not in row])
def test_the_table_states_the_counts(network):
    row = zoo.NETWORKS[network]
    assert {"input": row.size, "classes": row.classes, "trainable": row.parameters, "macs": row.macs} == {
        key: value for key, value in COUNTS[network].items() if key != "with_bn_statistics"
    }


def test_every_network_has_its_counts():
    others = {network for network in zoo.NETWORKS if not network.startswith("WARN")}
    assert others == set(VARIANTS) | {row for row in COUNTS if " " not in row}


@pytest.mark.parametrize("build", [WideResNet50x2, ResNet164, ResNet1001])
def test_the_builder_states_the_counts(build):
    millions, giga = COUNTS[build.__name__]["trainable"] / 1e6, COUNTS[build.__name__]["macs"] / 1e9
    stated = f"{millions:.2f} M trainable parameters and {giga:.2f} G multiply-adds"
    assert stated in inspect.getdoc(build)


@pytest.mark.parametrize("network", ["WideResNet-16-8", "WideResNet-40-10", "ResNet164", "ResNet1001"])
def test_the_number_in_a_name_is_the_depth(network):
    """Wide ResNets count the three projections as layers, pre-activation ResNets do not."""
    weighted = [cost.path for cost in measure(network)[1] if cost.macs]
    projections = [path for path in weighted if path.endswith("/projection")]
    depth = int(re.search(r"\d+", network).group())
    assert len(projections) == 3
    assert len(weighted) - (len(projections) if network.startswith("ResNet") else 1) == depth


def test_any_depth_and_width_has_an_id():
    model = undrawn(zoo.build, network="WideResNet-22-2", weights=None, classes=7)
    assert (model.name, model.output_shape) == ("wide_resnet_22_2", (None, 7))
    assert model.get_layer("group3_unit3").output.shape == (None, 8, 8, 128)


@pytest.mark.parametrize("network", ["ResNet50", "WideResNet-28", "WideResNet-28-10-4", None, 28])
def test_no_such_network(network):
    with pytest.raises(ValueError, match=f"network to be one of .*'WideResNet-16-8'.*received: network={network!r}"):
        zoo.build(network)


# --- The graph and its names ---------------------------------------------------------------------

GROUPS = [f"group{group}_unit{i}" for group in (1, 2, 3) for i in (1, 2)]
POST = ["post_bn", "post_relu"]
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


@pytest.mark.parametrize("network", NAMES)
def test_names_of_the_layers_are_frozen(network):
    model = undrawn(zoo.build, network=network, weights=None)
    names = [layer.name for layer in model.layers[1:]]  # after the input
    assert sorted(names) == sorted(NAMES[network])
    if "Att2" not in network:  # where the graph is no chain, Keras orders it by depth
        assert names == NAMES[network]


def body(depth=10, width=1, attended=True):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, wide_resnet.body(inputs, depth, width, attended=attended))


def test_an_attended_body_shows_its_taps():
    model = undrawn(body, depth=16, width=2)
    taps = ["group2_preact_relu", "group3_preact_relu", "post_relu"]
    extra = ["stem_bn", "stem_relu", *[f"group{g}_preact_{part}" for g in (2, 3) for part in ("bn", "relu")]]
    assert sorted(layer.name for layer in model.layers[1:]) == sorted(["stem_conv", *GROUPS, *POST, *extra])
    assert [tensor._keras_history.operation.name for tensor in model.outputs] == taps
    assert model.output_shape == [(None, 32, 32, 32), (None, 16, 16, 64), (None, 8, 8, 128)]
    plain = undrawn(WideResNet, weights=None, depth=16, width=2, include_top=False)
    assert model.count_params() == plain.count_params() + 4 * 16  # the stem's batch normalisation


def test_the_bottleneck_body_shows_its_groups():
    inputs = keras.Input((64, 64, 3))
    maps = undrawn(wide_resnet.bottleneck_body, inputs=inputs)
    assert [x.shape for x in maps] == [(None, 16 // 2**i, 16 // 2**i, 256 * 2**i) for i in range(4)]


@pytest.mark.parametrize("build", BUILDERS)
def test_signature_begins_as_that_of_keras_applications(build):
    parameters = list(inspect.signature(build).parameters.values())
    assert [p.name for p in parameters[:8]] == list(inspect.signature(keras.applications.ResNet50).parameters)
    assert {p.kind for p in parameters[8:]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert (parameters[1].default, parameters[5].default) == ("default", 1000 if build is WideResNet50x2 else 10)
    assert getattr(keras_resattn, build.__name__) is build


def test_arguments_by_position():
    model = undrawn(lambda: ResNet164(False, None, None, (48, 40, 1), "max", 3, None, "mine"))
    assert (model.name, model.input_shape, model.output_shape) == ("mine", (None, 48, 40, 1), (None, 256))


# --- Outputs, against plain NumPy ----------------------------------------------------------------


def wide_unit_reference(x, weights, name, stride=1, activated=None):
    a = norm_relu_reference(x, weights, f"{name}/bn1") if activated is None else activated
    y = conv_reference(a, weights[f"{name}/conv1/kernel"], stride, pad=1)
    y = norm_relu_reference(y, weights, f"{name}/bn2")
    y = conv_reference(y, weights[f"{name}/conv2/kernel"], pad=1)
    projection = weights.get(f"{name}/projection/kernel")
    return y + (x if projection is None else conv_reference(x, projection, stride))


def groups_reference(x, weights, attended=False):
    """The three groups of WRN-10-1, and what an attended body returns of the first two."""
    x = conv_reference(x, weights["stem_conv/kernel"], pad=1)
    if attended:
        x = norm_relu_reference(x, weights, "stem_bn")
    x = wide_unit_reference(x, weights, "group1_unit1")
    maps = []
    for group in (2, 3):
        a = norm_relu_reference(x, weights, f"group{group}_preact_bn") if attended else None
        maps.append(a if attended else x)
        x = wide_unit_reference(x, weights, f"group{group}_unit1", 2, a)
    return [*maps, x]


@pytest.mark.parametrize("attended", [False, True])
def test_wide_resnet(images, attended):
    model = randomise(body(attended=attended))
    weights = weights_by_path(model)
    *expected, last = groups_reference(images, weights, attended)
    expected.append(norm_relu_reference(last, weights, "post_bn"))
    for actual, reference in zip(forward(model, images), expected, strict=True):
        assert_close(actual, reference)


def test_classifier_averages_the_features(images):
    model = randomise(narrow(WideResNet, classifier_activation=None))
    weights = weights_by_path(model)
    features = norm_relu_reference(groups_reference(images, weights)[-1], weights, "post_bn")
    expected = features.mean((1, 2)) @ weights["predictions/kernel"] + weights["predictions/bias"]
    assert_close(forward(model, images), expected)


def test_bottleneck_stem(images, monkeypatch):
    """PyTorch pads by one before pooling, with minus infinity."""
    monkeypatch.setattr(wide_resnet, "PostActivationUnit", lambda *_, name, **__: keras.layers.Identity(name=name))
    inputs = keras.Input((32, 32, 3))
    model = randomise(keras.Model(inputs, wide_resnet.bottleneck_body(inputs)[0]))
    weights = weights_by_path(model)
    x = norm_relu_reference(conv_reference(images, weights["stem_conv/kernel"], 2, pad=3), weights, "stem_bn")
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    x = np.max([x[:, i : i + 16 : 2, j : j + 16 : 2] for i in range(3) for j in range(3)], axis=0)
    assert_close(forward(model, images), x)


def test_units_of_the_resnets():
    """What the units compute is tested with the layers."""
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


def test_dropout_reaches_every_unit():
    for build in NARROW:
        model = undrawn(narrow, build=build, depth=16, dropout=0.25)
        assert [model.get_layer(name).dropout.rate for name in GROUPS] == [0.25] * 6


# --- WRN-att2 ------------------------------------------------------------------------------------


def attention_reference(local, vector, kernel):
    """The map of a 1x1 convolution of `[local; vector]`, and the sum of `local` by it."""
    tiled = np.broadcast_to(vector[:, None, None], (*local.shape[:3], vector.shape[-1]))
    scores = conv_reference(np.concatenate([local, tiled], axis=-1), kernel)
    weights = np.exp(scores) / np.exp(scores).sum((1, 2), keepdims=True)
    return weights, (local * weights).sum((1, 2))


def test_attention_layers(data_format):
    local, vector = random_array(2, 5, 4, 6), random_array(2, 3, seed=1)
    x = channels_first(local) if data_format == "channels_first" else local
    layer, total = GlobalAttentionMap(), AttendedSum()
    layer.build([x.shape, vector.shape])
    randomise(layer)
    weights = forward(layer, [x, vector])
    expected, expected_sum = attention_reference(local, vector, layer.get_weights()[0])
    assert_close(forward(total, [x, weights]), expected_sum)
    assert_close(weights, channels_first(expected) if data_format == "channels_first" else expected)
    assert layer.compute_output_shape([x.shape, vector.shape]) == weights.shape
    assert total.compute_output_shape([x.shape, weights.shape]) == (2, 6)


def test_attention_of_large_scores_is_finite(mixed_policy):
    local, vector = 1e3 * random_array(2, 5, 4, 6), random_array(2, 3)
    weights = GlobalAttentionMap()([local, vector])
    assert keras.backend.standardize_dtype(weights.dtype) == mixed_policy.removeprefix("mixed_")
    assert_close(keras.ops.convert_to_numpy(keras.ops.cast(weights, "float32")).sum((1, 2, 3)), np.ones(2), 1e-2)


def test_wide_resnet_att2(images):
    model = randomise(narrow(WideResNetAtt2, classifier_activation=None))
    weights = weights_by_path(model)
    _, second, third = groups_reference(images, weights)
    for i in (1, 2):
        third = conv_reference(third, weights[f"group3_conv{i}/kernel"], pad=1)
    x = norm_relu_reference(third, weights, "global_bn1")
    x = x.reshape(2, 4, 2, 4, 2, 64).max((2, 4))
    x = norm_relu_reference(x, weights, "global_bn2")
    vector = x.max((1, 2)) @ weights["global_dense/kernel"]  # the 4x4 pooling of a 4x4 map
    sums = []
    for group, local in ((2, second), (3, third)):
        local = norm_relu_reference(local, weights, f"attention{group}_bn")
        expected, total = attention_reference(local, vector, weights[f"attention{group}_map/score/kernel"])
        maps = keras.Model(model.input, model.get_layer(f"attention{group}_map").output)
        assert_close(forward(maps, images), expected)
        sums.append(total)
    context = norm_relu_reference(np.concatenate(sums, axis=-1), weights, "context_bn")
    expected = context @ weights["predictions/kernel"] + weights["predictions/bias"]
    assert_close(forward(model, images), expected)
    assert_close(forward(keras.Model(model.input, model.get_layer("context_relu").output), images), context)


def test_the_global_branch_is_dead(images):
    model = randomise(narrow(WideResNetAtt2))
    before = forward(model, images)
    vector = keras.Model(model.input, model.get_layer("global_dense").output)
    vector_before = forward(vector, images)
    for name in ("global_bn1", "global_bn2", "global_dense"):
        randomise(model.get_layer(name), seed=1)
    assert np.abs(forward(vector, images) - vector_before).max() > 1
    assert_close(forward(model, images), before)


def test_the_global_vector_gets_no_gradient():
    local = keras.Input((4, 4, 3))
    vector = keras.layers.Dense(3, name="global")(keras.layers.GlobalMaxPooling2D()(local))
    weights = GlobalAttentionMap(name="map")([local, vector])
    model = randomise(keras.Model(local, AttendedSum()([local, weights])))
    before = weights_by_path(model)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(random_array(2, 4, 4, 3), np.ones((2, 3)))
    moved = {path: np.abs(after - before[path]) for path, after in weights_by_path(model).items()}
    assert max(moved["global/kernel"].max(), moved["global/bias"].max()) < 1e-6
    score = moved["map/score/kernel"].squeeze()  # by local features, then by the global vector
    assert score[:3].max() > 1e-3
    assert score[3:].max() < 1e-6


# --- Arguments -----------------------------------------------------------------------------------


@pytest.fixture
def refuses(monkeypatch):
    """A function that checks that a builder raises a `ValueError`, without having called a layer."""

    def fail(layer, *args, **kwargs):
        pytest.fail(f"{type(layer).__name__} was called before the arguments were checked")

    def check(build, message, **arguments):
        monkeypatch.setattr(keras.layers.Layer, "__call__", fail)
        with pytest.raises(ValueError, match=message):
            build(**{"weights": None, **arguments})

    return check


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("include_top", 1, "include_top to be True or False; received: include_top=1"),
        ("classes", 0, "classes to be an integer of at least 1; received: classes=0"),
        ("classifier_activation", "softmaks", "Keras activation; received: classifier_activation='softmaks'"),
        ("pooling", "avg", "pooling=None.*; received: pooling='avg'. Pass include_top=False"),
        ("input_shape", (31, 32, 3), r"at least 32 pixels .*received: input_shape=\(31, 32, 3\)"),
        ("input_tensor", np.zeros((1, 32, 32, 3)), "input_tensor to be a KerasTensor"),
        ("weights", "cifar10", "received: weights='cifar10'. Nothing is published for"),
        ("weights", "default", "received: weights='default'. Nothing is published for"),
    ],
)
def test_every_builder_checks_its_arguments(refuses, build, argument, value, message):
    refuses(build, message, **{argument: value})


@pytest.mark.parametrize("build", NARROW)
@pytest.mark.parametrize("depth", [0, 4, 12, 27, 28.0, "28", True, None])
def test_depth_that_is_not_6n_plus_4(refuses, build, depth):
    message = rf"depth to be 6n \+ 4 \(10, 16, 22, 28, \.\.\.\); received: depth={depth!r}"
    refuses(build, message, depth=depth)


@pytest.mark.parametrize("build", NARROW)
@pytest.mark.parametrize("width", [0, 1.5, "10"])
def test_width_that_is_no_count(refuses, build, width):
    refuses(build, f"width to be an integer of at least 1; received: width={width!r}", width=width)


@pytest.mark.parametrize("build", NARROW)
@pytest.mark.parametrize("dropout", [-0.1, 1, "0.3", True, None])
def test_dropout_that_is_no_rate(refuses, build, dropout):
    refuses(build, f"dropout to be a number from 0 .*, 1; received: dropout={dropout!r}", dropout=dropout)


@pytest.mark.parametrize("include_top", [True, False])
def test_attended_sums_are_not_pooled_again(refuses, include_top):
    message = "pooling=None, as this network's attention pools its maps; received: pooling='max'"
    refuses(WideResNetAtt2, message, include_top=include_top, pooling="max")


# --- Sizes, data formats, heads ------------------------------------------------------------------


def test_sizes_and_data_formats():
    """An odd size as a size of its own, as an open one, and with channels first."""
    x = random_array(2, 33, 44, 3)
    model = randomise(narrow(WideResNetAtt2, input_shape=(33, 44, 3)))
    expected = model.predict(x, verbose=0)
    open_size = narrow(WideResNetAtt2, input_shape=(None, None, 3))
    copy_weights(model, open_size)
    assert_close(open_size.predict(x, verbose=0), expected)
    keras.config.set_image_data_format("channels_first")
    first = narrow(WideResNetAtt2, input_shape=(3, 33, 44))
    copy_weights(model, first)
    assert_close(first.predict(channels_first(x), verbose=0), expected)


@pytest.mark.parametrize(
    ("network", "shape"),
    [("WideResNet-16-2", (9, 11, 128)), ("ResNet164", (9, 11, 256)), ("WideResNet50x2", (2, 2, 2048))],
)
def test_last_maps(network, shape, data_format):
    def in_format(height, width, channels):
        return (height, width, channels) if data_format == "channels_last" else (channels, height, width)

    build = functools.partial(undrawn, zoo.build, network=network, weights=None, include_top=False)
    assert build(input_shape=in_format(33, 44, 3)).output_shape == (None, *in_format(*shape))
    if network != "ResNet164":  # which takes longer
        assert build(input_shape=in_format(None, None, 1)).output_shape == (None, *in_format(None, None, shape[-1]))
        assert build(pooling="max").output_shape == (None, shape[-1])


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling(images, pooling, reduce):
    unpooled = randomise(narrow(WideResNet, include_top=False))
    pooled = narrow(WideResNet, include_top=False, pooling=pooling)
    copy_weights(unpooled, pooled)
    features = forward(unpooled, images)
    assert features.shape == (2, 8, 8, 64)
    assert_close(forward(pooled, images), reduce(features, axis=(1, 2)))


def test_attended_sums_without_a_top():
    model = narrow(WideResNetAtt2, include_top=False)
    assert model.output is model.get_layer("context_relu").output
    assert model.output_shape == (None, 96)


def test_on_other_layers(images):
    inputs = keras.Input((32, 32, 3))
    model = randomise(narrow(WideResNet, input_tensor=keras.layers.Rescaling(1 / 2, offset=1)(inputs)))
    bare = narrow(WideResNet)
    copy_weights(model, bare)
    assert_close(forward(model, images), forward(bare, images / 2 + 1))


# --- Precision and files -------------------------------------------------------------------------


@pytest.mark.parametrize("build", NARROW)
def test_classifier_computes_in_float32_under_a_mixed_policy(mixed_policy, build):
    model = narrow(build)  # in this thread, as the policy is
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
    assert dtypes.pop("predictions") == "float32"
    assert set(dtypes.values()) == {mixed_policy.removeprefix("mixed_")}
    assert model.output.dtype == "float32"


def test_half_precision_is_near_full_precision(images):
    full = randomise(narrow(WideResNetAtt2))
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = narrow(WideResNetAtt2)
    copy_weights(full, half)
    assert_close(forward(half, images), forward(full, images), 0.1)


@pytest.mark.parametrize(
    "make",
    [functools.partial(narrow, WideResNet, dropout=0.3), functools.partial(narrow, WideResNetAtt2), body],
    ids=["WideResNet", "WideResNetAtt2", "attended_body"],
)
def test_a_saved_network_needs_no_trust(images, make, tmp_path):
    model = randomise(make())
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    for actual, expected in zip(*(keras.tree.flatten(forward(m, images)) for m in (restored, model)), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (WideResNet, {}),
        (WideResNet, {"dropout": 0.3}),
        (WideResNetAtt2, {}),
    ],
)
def test_a_file_of_weights_serves_with_and_without_top(tmp_path, build, arguments):
    path = tmp_path / "own.weights.h5"
    model = randomise(narrow(build, **arguments))
    model.save_weights(path)
    values = weights_by_path(model)
    for include_top in (True, False):
        loaded = weights_by_path(narrow(build, weights=path, include_top=include_top, **arguments))
        assert len(values) - len(loaded) == (0 if include_top else 2)
        for name, value in loaded.items():
            np.testing.assert_array_equal(value, values[name])


def test_a_file_of_another_network(tmp_path):
    narrow(WideResNet).save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ValueError, match=r"group1_unit2/bn1 in .*It is another network's file"):
        narrow(WideResNet, depth=16, weights=tmp_path / "own.weights.h5")


def test_a_released_folder_names_its_network_by_id(tmp_path):
    model = randomise(narrow(WideResNet, classes=10))
    model.save_weights(tmp_path / "model.weights.h5")
    record = json.loads((checkpoints.tags()[0].folder / "config.json").read_text())
    record |= {"network": "WideResNet-10-1", "sha256": sha256(tmp_path / "model.weights.h5")}
    (tmp_path / "config.json").write_text(json.dumps(record))
    loaded = evaluation.build(checkpoints.Tag.read(tmp_path))
    assert loaded.name == "wide_resnet_10_1"
    for path, value in weights_by_path(loaded).items():
        np.testing.assert_array_equal(value, weights_by_path(model)[path])
