"""Gated attention in whole graphs: outputs, precision, files, arguments."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    copy_weights,
    forward,
    losses_of,
    predict,
    random_array,
    randomise,
    weights_by_path,
)
from references import float64_weights, gates_reference, module_reference, rectified_reference

from keras_resattn.layers import AttentionHead, GatedSum, GlobalGate, GradientScale, HeadGate, OutputHead, Rectify
from keras_resattn.losses import NegativeLogLikelihood

CLASSES = 5


# --- Whole graphs: two notations, precision, files ----------------------------------------


def network(float32=None, gate="softmax", aggregation="log_prob", head_gate="softmax", activation="softmax"):
    """Build a module and a classifier on a feature map, as in a network."""
    options = {"dtype": float32}
    inputs = keras.Input((6, 5, 4))
    x = GradientScale(0.5, name="scaled")(inputs)
    masks = AttentionHead(2, activation, regularization=0.5, name="mask")(x)
    scores = OutputHead(CLASSES, scores=head_gate == "softmax", name="outputs")([x, masks])
    if head_gate == "softmax":
        scores = [scores[0], HeadGate(name="gates", **options)(scores[1])]
    module = GatedSum(head_gate, name="logits", **options)(scores)
    features = keras.layers.GlobalAveragePooling2D(name="features")(inputs)
    base = keras.layers.Dense(CLASSES, name="classifier", **options)(features)
    gates = GlobalGate(2, gate, name="gate", **options)(features)
    return keras.Model(inputs, Rectify(aggregation, name="rectify", **options)([gates, module, base]))


@pytest.mark.parametrize(
    ("gate", "aggregation"), [("softmax", "log_prob"), ("sigmoid", "prob"), ("linear", "log_prob")]
)
def test_network(gate, aggregation):
    model, x = randomise(network(gate=gate, aggregation=aggregation)), random_array(3, 6, 5, 4)
    weights = float64_weights(model)
    features = x.astype("float64").mean((1, 2))
    base = features @ weights["classifier/kernel"] + weights["classifier/bias"]
    if gate == "linear":
        gates = np.tile(weights["gate/combination"], (3, 1))
    else:
        gates = gates_reference(features, weights, gate)
    expected = rectified_reference(gates, [module_reference(x, weights)["logits"], base], aggregation)
    assert_close(predict(model, x), expected)


def test_softmaxes_compute_in_full_precision_under_a_mixed_policy(mixed_policy):
    half = randomise(network("float32"))
    small = mixed_policy.removeprefix("mixed_")
    assert {layer.name: layer.output.dtype for layer in half.layers[1:] if layer.name != "outputs"} == {
        **dict.fromkeys(["scaled", "mask", "features"], small),
        **dict.fromkeys(["gates", "logits", "classifier", "gate", "rectify"], "float32"),
    }
    sums = {"float16": "float32"}.get(small, small)  # float16 cannot represent large sums
    assert {tensor.dtype for tensor in half.get_layer("outputs").output} == {sums}
    assert {variable.dtype for variable in half.weights} == {"float32"}
    keras.config.set_dtype_policy("float32")
    full, x = network(), random_array(8, 6, 5, 4)
    copy_weights(half, full)
    actual, expected = predict(half, x), predict(full, x)
    assert actual.dtype == "float32"
    rounding = {"float16": 2**-10, "bfloat16": 2**-7}[small]
    assert np.abs(actual - expected).max() < 3 * rounding * np.abs(expected).max()


def test_masks_of_large_scores_stay_finite_in_half_precision(mixed_policy):
    layer = AttentionHead(2, regularization=1.0)
    x = 100 * random_array(2, 6, 5, 4)
    (loss,) = losses_of(layer, x, training=True)
    masks = keras.ops.convert_to_numpy(keras.ops.cast(layer(x), "float32"))
    assert np.isfinite(loss)
    assert_close(masks.sum((1, 2)), np.ones((2, 2)), 1e-2)


def test_a_saved_network_keeps_its_loss(tmp_path):
    model = network(gate="linear", head_gate="mean", activation="sigmoid")
    model.compile("sgd", NegativeLogLikelihood())
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    assert isinstance(restored.loss, NegativeLogLikelihood)
    assert restored.get_layer("mask").regularization == 0.5


def test_gradients_reach_every_weight():
    model = randomise(network())
    model.compile(keras.optimizers.SGD(1.0), NegativeLogLikelihood())
    before = weights_by_path(model)
    model.train_on_batch(random_array(4, 6, 5, 4), np.arange(4))
    assert [path for path, value in weights_by_path(model).items() if np.array_equal(value, before[path])] == []


# --- Arguments -----------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AttentionHead(0), "heads to be an integer of at least 1; received: heads=0"),
        (lambda: AttentionHead(True), "received: heads=True"),
        (lambda: AttentionHead(2, "tanh"), "activation to be one of 'softmax', 'sigmoid'; received: activation='tanh'"),
        (lambda: AttentionHead(2, None), "received: activation=None"),
        (
            lambda: AttentionHead(2, regularization=-0.1),
            "regularization to be a number of at least 0; received: regularization=-0.1",
        ),
        (lambda: AttentionHead(2, regularization="1e-3"), "received: regularization='1e-3'"),
        (lambda: AttentionHead(2, regularization=float("nan")), "received: regularization=nan"),
        (lambda: AttentionHead(2, data_format="NHWC"), "received: data_format='NHWC'"),
        (lambda: OutputHead(0), "classes to be an integer of at least 1; received: classes=0"),
        (lambda: OutputHead(2.0), "received: classes=2.0"),
        (lambda: GatedSum("sigmoid"), "gate to be one of 'softmax', 'mean'; received: gate='sigmoid'"),
        (lambda: GlobalGate(0), "outputs to be an integer of at least 1; received: outputs=0"),
        (
            lambda: GlobalGate(2, "tanh"),
            "gate to be one of 'softmax', 'sigmoid', 'linear', 'mean', 'base'; received: gate='tanh'",
        ),
        (lambda: Rectify("sum"), "aggregation to be one of 'log_prob', 'prob'; received: aggregation='sum'"),
        (lambda: Rectify(base="sigmoid"), "base to be one of 'logits', 'softmax'; received: base='sigmoid'"),
        (lambda: GradientScale(-1), "scale to be a number of at least 0; received: scale=-1"),
        (lambda: GradientScale(None), "received: scale=None"),
        (lambda: GradientScale(True), "received: scale=True"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.once
@pytest.mark.parametrize(
    "shapes",
    [
        [(6, 5, 4)],
        [(6, 5, 4), (6, 4, 2)],
        [(6, 5, 4), (5, 6, 2)],
        [(6, 5, 4), (30, 2)],
        [(6, 5, 4), (6, 5, 2), (6, 5, 2)],
        (6, 5, 4),
    ],
    ids=str,
)
def test_outputs_need_a_map_and_masks_of_equal_size(shapes):
    inputs = keras.Input(shapes) if isinstance(shapes, tuple) else [keras.Input(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"called on \[x, masks\], two 4-D maps of equal height and width; received"):
        OutputHead(CLASSES, name="outputs")(inputs)


def test_sums_of_large_maps_do_not_overflow_in_half_precision():
    x, masks = np.full((1, 112, 112, 1), 12, "float16"), np.ones((1, 112, 112, 1), "float16")
    head = OutputHead(1, scores=False, dtype="mixed_float16")
    head.build([x.shape, masks.shape])
    head.output_conv.kernel.assign(np.full((3, 3, 1, 1), 1e-3))
    rows = 111 + 112 + 111  # read by the three rows of the kernel; the same for its columns
    assert_close(forward(head, [x, masks]), [[[12e-3 * rows**2]]], 1e-3)
