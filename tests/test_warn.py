"""WARN and `attend_and_rectify`: counts, graphs, outputs against plain NumPy, files, any Keras model, arguments."""

import functools
import inspect
import json
import logging
import math
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import assert_close, random_array, randomise, undrawn, weights_by_path
from keras import layers
from test_gated_attention import (
    gates_reference,
    log_softmax,
    module_reference,
    overlap_reference,
    predict,
    rectified_reference,
    softmax,
)
from test_layers import norm_relu_reference, weights_of
from test_wide_resnet import groups_reference

import keras_resattn
from keras_resattn import WARN, WARN50x2, WideResNet, WideResNet50x2, attend_and_rectify, count_macs
from keras_resattn.layers import AttentionHead, GlobalGate
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.models import zoo
from keras_resattn.models.graph import tensors_of_layers

COUNTS = json.loads((Path(__file__).parent / "spec" / "counts_warn.json").read_text())


def narrow(**arguments):
    """WARN-10-1 with two heads and five classes."""
    defaults = {"weights": None, "depth": 10, "width": 1, "classes": 5, "attention_width": 2}
    return WARN(**{**defaults, **arguments})


# --- Counts --------------------------------------------------------------------------------------


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize("row", COUNTS)
def test_counts(row):
    network, *arguments = row.split()
    arguments = {name: int(value) for name, value in (argument.split("=") for argument in arguments)}
    counts = undrawn(_measure, network=network, **arguments)
    assert counts == COUNTS[row]


def _measure(network, **arguments):
    model = zoo.build(network, weights=None, **arguments)
    costs = count_macs(model, per_layer=True)
    assert sum(cost.parameters for cost in costs) == trainable(model)
    return {
        "input": model.input_shape[1],
        "classes": model.output_shape[1],
        "trainable": trainable(model),
        "with_bn_statistics": model.count_params(),
        "macs": sum(cost.macs for cost in costs),
    }


@pytest.mark.parametrize("network", [row for row in COUNTS if " " not in row])
def test_the_table_states_the_counts(network):
    row = zoo.NETWORKS[network]
    assert {"input": row.size, "classes": row.classes, "trainable": row.parameters, "macs": row.macs} == {
        key: value for key, value in COUNTS[network].items() if key != "with_bn_statistics"
    }


def test_every_network_has_its_counts():
    rows = {row for row in COUNTS if " " not in row}
    assert {network for network in zoo.NETWORKS if network.startswith("WARN")} == rows | {"WARN50x2"}


@functools.cache
def fine_grained_base():
    model = undrawn(WideResNet50x2, weights=None, classes=120)
    return trainable(model), count_macs(model)


@pytest.mark.parametrize(
    ("depth", "heads", "classes"), [(3, 1, 120), (3, 2, 120), (3, 4, 120), (2, 2, 120), (1, 4, 7)], ids=str
)
def test_what_attention_adds_to_the_fine_grained_network(depth, heads, classes):
    """Three 3x3 convolutions a module, of 9 C K (N + 2) weights; and the gate with its batch normalisation."""
    parameters, macs = fine_grained_base()
    maps = {256: 56, 512: 28, 1024: 14}
    taps = list(maps)[-depth:]
    model = undrawn(WARN50x2, weights=None, classes=classes, attention_depth=depth, attention_width=heads)
    added = sum(9 * c * heads * (classes + 2) for c in taps) + (depth + 1) * (2048 + 2)
    assert trainable(model) - parameters == added + (classes - 120) * 2049
    if depth == 3:
        assert added == 16128 * heads * (classes + 2) + 8200
    added = sum(9 * c * heads * (classes + 2) * maps[c] ** 2 for c in taps) + (depth + 1) * 2048
    assert count_macs(model) - macs == added + (classes - 120) * 2048


def test_the_table_states_the_counts_of_the_fine_grained_network():
    row, base = zoo.NETWORKS["WARN50x2"], zoo.NETWORKS["WideResNet50x2"]
    assert (row.size, row.classes) == (224, 1000)
    assert row.parameters - base.parameters == 16128 * 4 * 1002 + 8200
    positions = 256 * 56**2 + 512 * 28**2 + 1024 * 14**2
    assert row.macs - base.macs == 9 * positions * 4 * 1002 + 4 * 2048


# --- The graph and its names ---------------------------------------------------------------------

BODY = [
    *["stem_conv", "stem_bn", "stem_relu", "group1_unit1"],
    *["group2_preact_bn", "group2_preact_relu", "group2_unit1"],
    *["group3_preact_bn", "group3_preact_relu", "group3_unit1", "post_bn", "post_relu"],
]
TOP = ["avg_pool", "classifier", "global_gate", "rectify", "predictions"]


def module_names(*groups):
    return [f"attention{group}_{node}" for group in groups for node in ("mask", "outputs", "gates", "logits")]


def names_of(model):
    return sorted(layer.name for layer in model.layers[1:])  # after the input


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_names_of_the_layers_are_frozen(depth):
    model = undrawn(narrow, attention_depth=depth)
    assert names_of(model) == sorted([*BODY, *TOP, *module_names(*range(4 - depth, 4))])
    assert model.name == "warn_10_1"


def received(model, name):
    """Names of the layers that a layer reads."""
    return [tensor._keras_history.operation.name for tensor in keras.tree.flatten(model.get_layer(name).input)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_modules_see_what_the_next_group_sees(depth):
    model = undrawn(narrow, attention_depth=depth, width=2)
    taps = {1: ("group2_preact_relu", 32, 32), 2: ("group3_preact_relu", 16, 64), 3: ("post_relu", 8, 128)}
    for group in range(4 - depth, 4):
        tap, size, channels = taps[group]
        assert received(model, f"attention{group}_mask") == [tap]
        assert received(model, f"attention{group}_outputs") == [tap, f"attention{group}_mask"]
        assert model.get_layer(tap).output.shape == (None, size, size, channels)
        assert model.get_layer(f"attention{group}_mask").output.shape == (None, size, size, 2)
        assert model.get_layer(f"attention{group}_mask").regularization == 1e-3 / depth
    assert received(model, "group2_unit1") == ["group1_unit1", "group2_preact_relu"]
    assert received(model, "global_gate") == received(model, "classifier") == ["avg_pool"]
    modules = [f"attention{group}_logits" for group in range(4 - depth, 4)]
    assert received(model, "rectify") == ["global_gate", *modules, "classifier"]
    assert model.get_layer("global_gate").output.shape == (None, depth + 1)


@pytest.mark.parametrize("depth", [1, 3])
def test_modules_of_the_fine_grained_network(depth):
    model = undrawn(WARN50x2, weights=None, classes=7, attention_depth=depth)
    taps = {1: "group1_unit3", 2: "group2_unit4", 3: "group3_unit6"}
    for group in range(4 - depth, 4):
        assert received(model, f"attention{group}_mask") == [taps[group]]
    assert received(model, "avg_pool") == ["group4_unit3"]
    assert [name for name in names_of(model) if "attention" in name] == sorted(module_names(*range(4 - depth, 4)))
    assert model.name == "warn50x2"


def test_arguments_reach_their_layers():
    model = undrawn(
        narrow,
        mask_activation="sigmoid",
        head_gate="mean",
        gate="linear",
        aggregation="log_prob",
        regularization=0.5,
        attention_depth=2,
        dropout=0.25,
    )
    mask = model.get_layer("attention3_mask")
    assert (mask.activation, mask.heads, mask.regularization) == ("sigmoid", 2, 0.25)
    assert model.get_layer("global_gate").gate == "linear"
    assert model.get_layer("attention3_logits").gate == "mean"
    assert not model.get_layer("attention3_outputs").scores
    assert model.get_layer("group3_unit1").dropout.rate == 0.25
    assert undrawn(narrow, aggregation="prob").get_layer("rectify").aggregation == "prob"


def test_kernels_are_drawn_as_the_authors_draw_them():
    convolutions = [layer for layer in narrow()._flatten_layers() if hasattr(layer, "kernel_initializer")]
    assert len(convolutions) == 7 + 2 + 3 * 3 + 2  # of stem and units, projections, modules, classifier and gate
    assert {type(layer.kernel_initializer).__name__ for layer in convolutions} == {"HeNormal"}


@pytest.mark.parametrize("build", [WARN, WARN50x2])
def test_signature_begins_as_that_of_keras_applications(build):
    parameters = list(inspect.signature(build).parameters.values())
    assert [p.name for p in parameters[:8]] == list(inspect.signature(keras.applications.ResNet50).parameters)
    assert {p.kind for p in parameters[8:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert getattr(keras_resattn, build.__name__) is build


@pytest.mark.parametrize("shape", [(33, 44, 3), (None, None, 1)], ids=str)
def test_any_size(shape, data_format):
    shape = shape if data_format == "channels_last" else (shape[-1], *shape[:-1])
    assert undrawn(narrow, input_shape=shape).output_shape == (None, 5)


# --- Outputs, against plain NumPy ----------------------------------------------------------------


def assert_scores(model, images, aggregation="log_prob"):
    weights = weights_of(model)
    *taps, last = groups_reference(images.astype("float64"), weights, attended=True)
    taps.append(norm_relu_reference(last, weights, "post_bn"))
    features = taps[-1].mean((1, 2))
    modules = [module_reference(x, weights, name=f"attention{i}_") for i, x in enumerate(taps, 1)]
    scores = [module["logits"] for module in modules]
    scores.append(features @ weights["classifier/kernel"] + weights["classifier/bias"])
    gates = gates_reference(features, weights, "softmax", name="global_gate")
    assert_close(predict(model, images), rectified_reference(gates, scores, aggregation))
    return modules


def test_warn(images):
    model = randomise(narrow(classifier_activation=None))
    modules = assert_scores(model, images)
    found = keras_resattn.attention_maps(model, images)
    assert list(found) == [f"attention{i}_mask" for i in (1, 2, 3)]
    for masks, module in zip(found.values(), modules, strict=True):
        assert_close(masks, module["masks"])


@pytest.mark.parametrize("aggregation", ["log_prob", "prob"])
def test_softmax_of_the_scores(base, aggregation):
    model = randomise(attend_and_rectify(base, ["scale"], aggregation=aggregation))
    scores = keras.Model(model.input, [model.get_layer("rectify").output, model.output])
    y, p = predict(scores, random_array(3, 16, 16, 3))
    assert_close(p, softmax(y.astype("float64")), 1e-6)
    total = np.exp(y).sum(-1)
    assert np.abs(total - 1).max() < 1e-6 if aggregation == "prob" else total.max() < 0.999


def test_training_follows_the_authors_loss():
    """One step's loss: the gated mean of cross-entropies, and the mean of the modules' overlaps."""
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


def test_scores_compute_in_float32_under_a_mixed_policy(mixed_policy):
    model = narrow()  # in this thread, as the policy is
    half = {*BODY, "avg_pool", *(f"attention{i}_{node}" for i in (1, 2, 3) for node in ("mask", "outputs"))}
    small = mixed_policy.removeprefix("mixed_")
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
    assert dtypes == {name: small if name in half else "float32" for name in dtypes}
    assert model.output.dtype == "float32"


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def warn_file(tmp_path):
    """A network, and the file of its weights."""
    model = randomise(narrow())
    model.save_weights(tmp_path / "warn.weights.h5")
    return model, tmp_path / "warn.weights.h5"


def test_a_file_of_weights_serves_with_and_without_top(warn_file, images):
    model, path = warn_file
    whole = narrow(weights=path, classifier_activation=None)
    values = weights_by_path(model)
    assert sorted(weights_by_path(whole)) == sorted(values)
    body = narrow(weights=path, include_top=False)
    assert names_of(body) == sorted(BODY)
    pooled = narrow(weights=path, include_top=False, pooling="avg")
    for loaded in (whole, body, pooled):
        for name, value in weights_by_path(loaded).items():
            np.testing.assert_array_equal(value, values[name])
    below = keras.Model(model.input, model.get_layer("post_relu").output)
    np.testing.assert_array_equal(predict(body, images), predict(below, images))


@pytest.mark.parametrize("options", [{"gate": "linear"}, {"gate": "mean"}, {"head_gate": "mean"}], ids=str)
def test_files_of_the_ablations(options, tmp_path):
    model = randomise(narrow(**options))
    model.save_weights(tmp_path / "own.weights.h5")
    for include_top in (True, False):
        loaded = weights_by_path(narrow(weights=tmp_path / "own.weights.h5", include_top=include_top, **options))
        for name, value in loaded.items():
            np.testing.assert_array_equal(value, weights_by_path(model)[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 16}, "tensors of the layer group1_unit2/bn1 .*another network's file"),
        ({"attention_depth": 2}, "shapes .* for the layer global_gate/linear"),
        ({"attention_width": 3}, "shapes .* for the layer attention1_mask/conv"),
        ({"head_gate": "mean"}, "no place for: attention1_outputs/score_conv"),
        ({"gate": "linear"}, "tensors of the layer global_gate in"),
        ({"gate": "base"}, "no place for: global_gate/bn, global_gate/linear"),
        ({"classes": 6}, "shapes .* for the layer (classifier|attention1_outputs/output_conv)"),
    ],
    ids=str,
)
def test_a_file_of_another_warn(warn_file, options, message):
    with pytest.raises(ValueError, match=message):
        narrow(weights=warn_file[1], **options)


def test_files_of_networks_without_attention(warn_file, tmp_path):
    plain = {"depth": 10, "width": 1, "classes": 5}
    WideResNet(weights=None, **plain).save_weights(tmp_path / "plain.weights.h5")
    for include_top in (True, False):
        with pytest.raises(ValueError, match=r"the layer stem_bn in .*another network's file"):
            narrow(weights=tmp_path / "plain.weights.h5", include_top=include_top)
        with pytest.raises(ValueError, match=r"group2_unit1/bn1 in .*another network's file"):
            WideResNet(weights=warn_file[1], include_top=include_top, **plain)


# --- Arguments -----------------------------------------------------------------------------------


@pytest.fixture
def refuses(monkeypatch):
    """A function that checks that a builder raises a `ValueError`, without having called a layer."""

    def fail(layer, *args, **kwargs):
        pytest.fail(f"{type(layer).__name__} was called before the arguments were checked")

    def check(build, message, *args, **kwargs):
        monkeypatch.setattr(keras.layers.Layer, "__call__", fail)
        with pytest.raises(ValueError, match=message):
            build(*args, **kwargs)

    return check


OPTIONS = [
    ("attention_width", 0, "attention_width to be an integer of at least 1; received: attention_width=0"),
    ("attention_width", 2.0, "received: attention_width=2.0"),
    ("mask_activation", "tanh", "mask_activation to be one of 'softmax', 'sigmoid'; received: mask_activation='tanh'"),
    ("head_gate", "sigmoid", "head_gate to be one of 'softmax', 'mean'; received: head_gate='sigmoid'"),
    ("gate", None, "gate to be one of 'softmax', 'sigmoid', 'linear', 'mean', 'base'; received: gate=None"),
    ("aggregation", "sum", "aggregation to be one of 'log_prob', 'prob'; received: aggregation='sum'"),
    ("regularization", -1, "regularization to be a number of at least 0; received: regularization=-1"),
    ("classifier_activation", "relu", "classifier_activation to be one of 'softmax', None; received"),
]


@pytest.mark.parametrize("build", [WARN, WARN50x2])
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        *OPTIONS,
        ("attention_depth", 0, "attention_depth to be an integer of at least 1; received: attention_depth=0"),
        ("attention_depth", 4, "attention_depth of at most 3, one module for each group; received: attention_depth=4"),
        ("attention_depth", True, "received: attention_depth=True"),
        ("classes", 0, "classes to be an integer of at least 1; received: classes=0"),
        ("pooling", "avg", "pooling=None.*; received: pooling='avg'. Pass include_top=False"),
        ("input_shape", (31, 32, 3), r"at least 32 pixels .*received: input_shape=\(31, 32, 3\)"),
        ("weights", "default", "received: weights='default'. Nothing is published for"),
    ],
)
def test_arguments_of_the_builders(refuses, build, argument, value, message):
    refuses(build, message, **{"weights": None, argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("depth", 27, r"depth to be 6n \+ 4 \(10, 16, 22, 28, \.\.\.\); received: depth=27"),
        ("width", 0, "width to be an integer of at least 1; received: width=0"),
        ("dropout", 1.0, "dropout to be a number from 0 .*, 1; received: dropout=1.0"),
    ],
)
def test_arguments_of_the_body(refuses, argument, value, message):
    refuses(WARN, message, **{"weights": None, argument: value})


def test_weights_of_a_linear_combination_are_no_distribution(refuses):
    refuses(
        WARN,
        "aggregation='log_prob' with gate='linear', .*; received: aggregation='prob'",
        weights=None,
        gate="linear",
        aggregation="prob",
    )


def test_published_weights_are_the_standard_networks():
    for option in ({"gate": "sigmoid"}, {"attention_width": 1}, {"attention_depth": 2}):
        with pytest.raises(ValueError, match="received: weights='default'"):
            WARN(**option)


# --- attend_and_rectify: a small network of its own ----------------------------------------------

ENDS = {
    "dense_softmax": (lambda x: layers.Dense(5, "softmax", name="classifier")(x), "softmax"),
    "dense_logits": (lambda x: layers.Dense(5, name="classifier")(x), "logits"),
    "activation_softmax": (lambda x: layers.Activation("softmax")(layers.Dense(5, name="classifier")(x)), "logits"),
    "activation_linear": (
        lambda x: layers.Activation("linear", name="end")(layers.Dense(5, name="classifier")(x)),
        "logits",
    ),
    "softmax_layer": (lambda x: layers.Softmax()(layers.Dense(5, name="classifier")(x)), "logits"),
}


def small_cnn(size=16, name="cnn"):
    """Input and features of a network of three resolutions, with padding, and squeeze-and-excitation at the end."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="conv3")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv4")(x)
    s = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    s = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    x = layers.Multiply(name="scale")([x, s])
    return inputs, layers.GlobalAveragePooling2D(name="features")(x)


def base_of(graph, end="dense_logits", name="cnn"):
    inputs, features = graph
    return keras.Model(inputs, ENDS[end][0](features), name=name)


@pytest.fixture
def base():
    return randomise(base_of(small_cnn(), "dense_softmax"))


def taps_of(model):
    names = [layer.name for layer in model.layers if isinstance(layer, AttentionHead)]
    return [received(model, name)[0] for name in sorted(names)]


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


@pytest.mark.parametrize(("depth", "taps"), [(None, ["conv2", "conv3", "scale"]), (2, ["conv3", "scale"])])
def test_automatic_taps_are_the_last_maps_of_each_resolution(base, depth, taps, caplog):
    with caplog.at_level(logging.INFO, "keras_resattn"):
        model = attend_and_rectify(base, attention_depth=depth)
    assert taps_of(model) == taps
    assert f"cnn ends in softmax; gated attention on {', '.join(taps)}" in caplog.text


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
    """Otherwise their authors' loss falls without end, as the weights of the combination do."""
    model = attend_and_rectify(base, ["conv2", "conv3"], gate="linear", classifier_activation=None)
    model.get_layer("global_gate").combination.assign([-3.0, 5.0, 0.5])
    probabilities = np.exp(predict(model, random_array(2, *base.input_shape[1:])))
    assert_close(probabilities.sum(-1), np.ones(2))


def predict_both(model, base, x):
    """What a rectified model and its base return, compiled together."""
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
    """Modules, global gate and sum, on what the base's own layers return."""
    model = randomise(attend_and_rectify(base, ["conv3", "scale"], classifier_activation=None), seed=1)
    x = random_array(3, 16, 16, 3)
    nodes = ["conv3", "scale", "features"]
    *maps, features = predict(keras.Model(base.input, [base.get_layer(name).output for name in nodes]), x)
    weights = weights_of(model)
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


def test_on_a_model_with_a_convolutional_classifier():
    """No vector leads to the logits: the gate reads the mean of the last map."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Flatten()(layers.Conv2D(5, 1)(x))
    model = attend_and_rectify(keras.Model(inputs, layers.Softmax()(x)), ["conv"])
    assert received(model, "global_gate_features") == ["conv"]
    assert received(model, "global_gate") == ["global_gate_features"]
    assert model.output_shape == (None, 5)


def test_on_a_model_with_a_dense_layer_on_a_map():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(5, name="dense")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Softmax()(layers.GlobalAveragePooling2D()(x))
    model = attend_and_rectify(keras.Model(inputs, x), ["conv"])
    assert received(model, "global_gate_features") == ["dense"]
    assert (model.get_layer("global_gate").output.shape, model.output_shape) == ((None, 2), (None, 5))


def test_maps_of_open_size():
    inputs, features = small_cnn(size=None)
    model = attend_and_rectify(randomise(base_of((inputs, features))), ["conv3", "scale"])
    assert predict(model, random_array(2, 17, 24, 3)).shape == (2, 5)


# --- attend_and_rectify: one network, two models -------------------------------------------------


def test_the_base_stays_as_it_is(base):
    x = random_array(2, 16, 16, 3)
    before = predict(base, x), base.get_config(), [layer.output for layer in base.layers], count_macs(base)
    model = attend_and_rectify(base)
    np.testing.assert_array_equal(predict(base, x), before[0])
    assert base.get_config() == before[1]
    assert all(layer.output is output for layer, output in zip(base.layers, before[2], strict=True))
    assert count_macs(base) == before[3]
    assert all(model.get_layer(layer.name) is layer for layer in base.layers)


def steps_of_the_base(gradient_scale):
    """What one step on the attended model adds to the base's weights: of three outputs, each counts a third."""
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


def test_a_gradient_scale_has_nodes_of_its_own(base):
    model = attend_and_rectify(base, ["conv3"], gradient_scale=0.5)
    assert received(model, "attention1_mask") == ["attention1_gradient"]
    assert received(model, "attention1_gradient") == ["conv3"]
    assert received(model, "global_gate") == ["global_gate_gradient"]
    assert model.get_layer("attention1_gradient").scale == model.get_layer("global_gate_gradient").scale == 0.5
    assert received(model, "rectify")[-1] == "classifier", "the base's own output keeps its gradient"


def test_a_saved_model_needs_no_trust(base, tmp_path):
    model = randomise(attend_and_rectify(base, ["scale"], gradient_scale=0.5))
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = random_array(2, 16, 16, 3)
    np.testing.assert_array_equal(predict(restored, x), predict(model, x))


def test_counting_before_and_after(base):
    """Reading a network calls its layers on other inputs: their uses in the model itself are what counts."""
    macs = count_macs(base)
    count_macs(base, (24, 24, 3))
    model = attend_and_rectify(base, attention_width=2)
    maps = 16 * 16 * 4 + 8 * 8 * 6 + 4 * 4 * 8
    assert count_macs(model) == macs + 9 * maps * 2 * (5 + 2) + 4 * 8
    assert count_macs(base) == macs
    assert model.get_layer("attention1_mask").output.shape == (None, 16, 16, 2)


def test_layers_that_were_first_used_elsewhere():
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


def test_tensors_of_a_layer_that_is_used_twice():
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


def test_tensors_of_a_layer_with_several_outputs():
    inputs = keras.Input((6, 6, 3))
    x, masks = layers.Conv2D(3, 1)(inputs), layers.Conv2D(2, 1)(inputs)
    _, scores = keras_resattn.layers.OutputHead(5, name="outputs")([x, masks])
    model = keras.Model(inputs, scores)
    found = tensors_of_layers(model)
    assert [tensor.shape for tensor in found["outputs"]] == [(None, 2, 5), (None, 2)]


# --- attend_and_rectify: what it refuses ---------------------------------------------------------


def nested():
    inputs, features = small_cnn()
    inner = keras.Model(inputs, features, name="inner")
    return inner, keras.Sequential([keras.Input((16, 16, 3)), inner, layers.Dense(5)])


def test_layers_of_a_nested_model(refuses):
    message = r"no layer 'conv3' in its own graph. Layers inside inner cannot be tapped.*keras.Model\(inner.input"
    refuses(attend_and_rectify, message, nested()[1], ["conv3"])


def test_automatic_taps_of_a_nested_model(refuses):
    refuses(attend_and_rectify, "has 0 in its own graph. Layers inside inner cannot be tapped", nested()[1])


def test_the_remedy_for_a_nested_model():
    inner, model = nested()
    classifier = model.layers[-1]
    remedy = attend_and_rectify(keras.Model(inner.input, classifier(inner.output)), ["conv3"], gate="base")
    x = random_array(2, 16, 16, 3)
    assert_close(predict(remedy, x), softmax(predict(model, x).astype("float64")), 1e-6)


def test_a_subclassed_model(refuses):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    refuses(
        attend_and_rectify,
        r"functional or built sequential .*; received: Subclassed.*keras.Model\(inputs, outputs\)",
        Subclassed(),
    )


@pytest.mark.parametrize("model", [None, "MobileNetV2", layers.Dense(5)], ids=lambda x: type(x).__name__)
def test_what_is_no_model(refuses, model):
    refuses(attend_and_rectify, f"functional or built sequential .*; received: {type(model).__name__}", model)


def test_a_sequential_model_that_is_not_built(refuses):
    message = "functional or built sequential keras.Model; received: Sequential. .*put keras.Input"
    refuses(attend_and_rectify, message, keras.Sequential([layers.Conv2D(4, 3), layers.Dense(3)]))


def test_several_inputs_or_outputs(refuses):
    inputs, features = small_cnn()
    y = layers.Dense(5)(features)
    two_outputs = keras.Model(inputs, [y, features])
    other = keras.Input((5,))
    two_inputs = keras.Model([inputs, other], layers.Dense(5)(layers.Add()([y, other])))
    refuses(attend_and_rectify, "one input and one output; .* has 1 and 2. Make one", two_outputs, ["conv3"])
    refuses(attend_and_rectify, "one input and one output; .* has 2 and 1. Make one", two_inputs, ["conv3"])


def test_a_model_of_one_class(refuses):
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(1)(features), name="binary")
    refuses(attend_and_rectify, r"for two classes or more; binary returns \(None, 1\)", model)


def test_a_model_without_a_top(refuses):
    inputs, _ = small_cnn()
    x = layers.Conv2D(4, 3)(inputs)
    message = (
        r"shape \(n, classes\), for two classes or more; body returns \(None, 14, 14, 4\). Put a classifier on it first"
    )
    refuses(attend_and_rectify, message, keras.Model(inputs, x, name="body"))


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (lambda x: layers.Dense(5, "sigmoid", name="end")(x), "end, a Dense with sigmoid. End it in .*Dense"),
        (lambda x: layers.Activation("relu", name="end")(x), "end, a Activation with relu"),
        (lambda x: keras.ops.softmax(layers.Dense(5)(x)), ".*keras.layers.Softmax.* in place of the bare operation"),
        (lambda x: x, "features, a GlobalAveragePooling2D"),
        (lambda x: layers.Dropout(0.5, name="end")(layers.Dense(5)(x)), "end, a Dropout"),
        (
            lambda x: keras.Sequential([keras.Input((8,)), layers.Dense(5, "softmax")], name="end")(x),
            "end, a Sequential.*Take that model's own graph",
        ),
    ],
)
def test_a_model_that_ends_in_something_else(refuses, end, name):
    inputs, features = small_cnn()
    model = keras.Model(inputs, end(features), name="model")
    refuses(attend_and_rectify, f"logits or a softmax; model ends in {name}", model)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (["conv3", "conv9"], "taps to name layers of cnn; it has no layer 'conv9'"),
        (["features"], r"one 4-D feature map; 'features' returns \(None, 8\)"),
        (["conv3", "conv3"], "a list of different layer names; received: taps="),
        ([], r"received: taps=\[\]"),
        ("conv3", "'auto' or a list of different layer names; received: taps='conv3'"),
        (None, "received: taps=None"),
        (3, "received: taps=3"),
        ([3], r"received: taps=\[3\]"),
    ],
    ids=str,
)
def test_taps_that_are_none(refuses, base, taps, message):
    refuses(attend_and_rectify, message, base, taps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 6}, "classes=5, as cnn has, or none; received: classes=6"),
        ({"taps": ["conv3"], "attention_depth": 2}, "attention_depth=1 with 1 taps, or none; received: .*depth=2"),
        ({"attention_depth": 4}, "at least 4 resolutions for taps='auto'; cnn has 3. Pass a smaller attention_depth"),
        ({"attention_depth": 0}, "attention_depth to be an integer of at least 1; received: attention_depth=0"),
        ({"gradient_scale": -0.5}, "gradient_scale to be a number of at least 0; received: gradient_scale=-0.5"),
        ({"gate": "linear", "aggregation": "prob"}, "aggregation='log_prob' with gate='linear'"),
        *(({argument: value}, message) for argument, value, message in OPTIONS),
    ],
    ids=str,
)
def test_arguments_of_attend_and_rectify(refuses, base, arguments, message):
    refuses(attend_and_rectify, message, base, **arguments)


def test_automatic_taps_need_a_fixed_size(refuses):
    message = "fixed input size for taps='auto'; cnn has an open one. Name the taps"
    refuses(attend_and_rectify, message, base_of(small_cnn(size=None)))


def test_attention_is_put_on_once(refuses, base):
    message = "without gated attention; it has layers named attention1_mask, "
    models = attend_and_rectify(base), attend_and_rectify(base, ["conv1"])
    refuses(attend_and_rectify, message, models[0])
    refuses(attend_and_rectify, message, models[1], ["conv3"])


def test_attention_is_not_put_on_warn(refuses):
    model = undrawn(narrow)
    refuses(attend_and_rectify, "without gated attention; it has layers named attention1_mask", model)


@pytest.mark.parametrize(
    "name",
    ["attention2_logits", "attention1_gradient", "global_gate", "global_gate_features", "rectify"],
)
def test_names_that_are_taken(refuses, name):
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(5)(layers.Identity(name=name)(features)))
    refuses(attend_and_rectify, f"without gated attention; it has layers named {name}", model)


def test_names_of_modules_that_are_not_made_are_free():
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(5)(layers.Identity(name="attention3_logits")(features)))
    assert isinstance(attend_and_rectify(model, attention_depth=2).get_layer("global_gate"), GlobalGate)
