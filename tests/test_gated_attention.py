"""Layers of gated attention, compared with NumPy references: modules, gates, the rectified sum, the loss."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    channels_last,
    forward,
    predict,
    random_array,
    randomise,
    weights_by_path,
)
from references import float64_weights, gates_reference, log_softmax, module_reference, rectified_reference, softmax

from keras_resattn.layers import AttentionHead, GatedSum, GlobalGate, HeadGate, OutputHead, Rectify
from keras_resattn.layers.gates import AGGREGATIONS
from keras_resattn.losses import NegativeLogLikelihood

CLASSES = 5


# --- Modules -------------------------------------------------------------------------------------


def module(size, heads, activation="softmax", head_gate="softmax", channels=4, regularization=0.0):
    """Build a model of one module in Keras' data format, with the output of each of its nodes."""
    first = keras.config.image_data_format() == "channels_first"
    x = inputs = keras.Input((channels, *size) if first else (*size, channels))
    masks = AttentionHead(heads, activation, regularization, name="mask")(x)
    found = {"masks": masks}
    if head_gate == "mean":
        found["outputs"] = OutputHead(CLASSES, scores=False, name="outputs")([x, masks])
        found["logits"] = GatedSum("mean", name="logits")(found["outputs"])
    else:
        found["outputs"], found["scores"] = OutputHead(CLASSES, name="outputs")([x, masks])
        found["gates"] = HeadGate(name="gates")(found["scores"])
        found["logits"] = GatedSum(name="logits")([found["outputs"], found["gates"]])
    return keras.Model(inputs, found)


def assert_module(model, x, **options):
    """Compare the nodes of a module, on a channels-last map, with the reference."""
    first = keras.config.image_data_format() == "channels_first"
    actual = predict(model, channels_first(x) if first else x)
    expected = module_reference(x, float64_weights(model), **options)
    assert set(actual) == set(expected)
    if first:
        actual["masks"] = channels_last(actual["masks"])
    for node in expected:
        assert_close(actual[node], expected[node])


MODULES = {
    "one_head": ((7, 6), 1, "softmax", "softmax"),
    "four_heads": ((5, 8), 4, "softmax", "softmax"),
    "one_row": ((1, 6), 3, "softmax", "softmax"),
    "sigmoid_masks": ((4, 4), 2, "sigmoid", "softmax"),
    "mean_of_heads": ((3, 5), 3, "softmax", "mean"),
}


@pytest.mark.parametrize(("size", "heads", "activation", "head_gate"), MODULES.values(), ids=MODULES)
def test_module(size, heads, activation, head_gate, data_format):
    model = randomise(module(size, heads, activation, head_gate))
    assert_module(model, random_array(3, *size, 4), activation=activation, head_gate=head_gate)
    shapes = {node: tensor.shape[1:] for node, tensor in model.output.items()}
    x = (2, *model.input_shape[1:])
    outputs = model.get_layer("outputs").compute_output_shape([x, (2, *shapes["masks"])])
    assert model.get_layer("mask").compute_output_shape(x) == (2, *shapes["masks"])
    assert outputs == ((2, heads, CLASSES) if head_gate == "mean" else ((2, heads, CLASSES), (2, heads)))
    assert shapes["masks"] == ((*size, heads) if data_format == "channels_last" else (heads, *size))
    assert (shapes["outputs"], shapes["logits"]) == ((heads, CLASSES), (CLASSES,))


def test_module_on_maps_of_any_size(data_format):
    model = randomise(module((None, None), 3, regularization=1.0))
    for size in [(5, 8), (1, 1)]:
        assert_module(model, random_array(2, *size, 4))


def test_weights_of_a_module():
    shapes = {variable.path: tuple(variable.shape) for variable in module((6, 6), 3).weights}
    assert shapes == {
        "mask/conv/kernel": (3, 3, 4, 3),
        "outputs/output_conv/kernel": (3, 3, 4, 3 * CLASSES),
        "outputs/score_conv/kernel": (3, 3, 4, 3),
    }


def test_a_mask_of_large_scores_is_finite_and_sums_to_one():
    model = randomise(module((6, 5), 2))
    kernel = model.get_layer("mask").conv.kernel
    kernel.assign(kernel * 1e4)
    masks = forward(model, random_array(2, 6, 5, 4))["masks"]
    assert_close(masks.sum((1, 2)), np.ones((2, 2)), 1e-6)
    assert masks.max() > 0.999


def test_head_gates_are_bounded():
    """No head can be switched off, as tanh is between -1 and 1."""
    scores = np.array([[-1e3, 1e3, 1e3, 1e3], [1e3, -1e3, -1e3, -1e3], [0.0, 0.0, 0.0, 0.0]], "float32")
    gates = forward(HeadGate(), scores)
    np.testing.assert_allclose(gates[:, 0], [0.04317, 0.71123, 0.25], atol=1e-5)
    assert_close(gates.sum(-1), np.ones(3), 1e-6)
    gates = forward(HeadGate(), 100 * random_array(500, 4))
    assert 0.043 < gates.min() < gates.max() < 0.712


# --- The global gate -----------------------------------------------------------------------------


def built_gate(gate, outputs=4, features=6):
    layer = GlobalGate(outputs, gate, name="gate")
    layer.build((None, features))
    return layer


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_global_gate(gate):
    layer, features = randomise(built_gate(gate)), random_array(5, 6)
    gates = forward(layer, features)
    assert_close(gates, gates_reference(features, float64_weights(layer), gate))
    assert_close(gates.sum(-1), np.ones(5), 1e-6)
    assert layer.compute_output_shape(features.shape) == gates.shape
    assert {path: value.shape for path, value in weights_by_path(layer).items()} == {
        "gate/linear/kernel": (6, 4),
        **{f"gate/bn/{part}": (4,) for part in ("gamma", "beta", "moving_mean", "moving_variance")},
    }


@pytest.mark.parametrize(("gate", "least", "most"), [("softmax", 0.0432, 0.7112), ("sigmoid", 0.1092, 0.4754)])
def test_no_output_can_be_switched_off(gate, least, most):
    gates = forward(randomise(built_gate(gate)), 1e4 * random_array(500, 6))
    assert_close([gates.min(), gates.max()], [least, most], 1e-4)


def test_global_gate_normalises_by_the_batch_in_training():
    layer, features = built_gate("softmax"), 3 + random_array(8, 6)
    gates = keras.ops.convert_to_numpy(layer(features, training=True))
    scores = features.astype("float64") @ float64_weights(layer)["gate/linear/kernel"]
    normalised = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + 1e-5)
    assert_close(gates, softmax(np.tanh(normalised)))
    assert_close(weights_by_path(layer)["gate/bn/moving_mean"], 0.1 * scores.mean(0))


@pytest.mark.parametrize(
    ("gate", "expected"), [("mean", [1 / 3] * 3), ("base", [0, 0, 1]), ("linear", [1 / 3] * 3)], ids=lambda x: str(x)
)
def test_gates_that_do_not_depend_on_the_image(gate, expected):
    layer = built_gate(gate, 3)
    assert_close(forward(layer, random_array(4, 6)), [expected] * 4, 1e-6)
    assert [variable.path for variable in layer.weights] == (["gate/combination"] if gate == "linear" else [])


def test_a_linear_combination_is_learned():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, built_gate("linear", 3)(inputs))
    model.compile(keras.optimizers.SGD(0.3), "mse")
    target = np.array([0.5, -1.0, 2.0], "float32")
    model.train_on_batch(random_array(4, 6), np.tile(target, (4, 1)))
    start = np.full(3, 1 / 3)
    assert_close(model.get_weights()[0], start - 0.3 * 2 / 3 * (start - target), 1e-6)


# --- Rectify, and the loss -----------------------------------------------------------------------


def outputs_of_three(seed=0):
    """Return gates of two modules and a base, and their class scores."""
    gates = softmax(random_array(6, 3, seed=seed)).astype("float32")
    return gates, [3 * random_array(6, CLASSES, seed=seed + i) for i in (1, 2, 3)]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_rectify(aggregation):
    gates, scores = outputs_of_three()
    y = forward(Rectify(aggregation), [gates, *scores])
    expected = rectified_reference(gates, [each.astype("float64") for each in scores], aggregation)
    assert_close(y, expected, 1e-6)
    total = np.exp(y).sum(-1)
    if aggregation == "prob":
        assert_close(total, np.ones(6), 1e-6)
    else:
        assert total.max() < 0.99, "a geometric mean of different distributions sums to less than one"


def test_log_probabilities_are_summed_by_default():
    gates, scores = outputs_of_three()
    np.testing.assert_array_equal(forward(Rectify(), [gates, *scores]), forward(Rectify("log_prob"), [gates, *scores]))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_base_of_probabilities_equals_a_base_of_logits(aggregation):
    gates, (*modules, base) = outputs_of_three()
    probabilities = softmax(base.astype("float64")).astype("float32")
    y = forward(Rectify(aggregation, base="softmax"), [gates, *modules, probabilities])
    assert_close(y, forward(Rectify(aggregation), [gates, *modules, base]), 1e-6)


@pytest.mark.parametrize("base", ["logits", "softmax"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_gate_on_the_base_returns_its_probabilities(aggregation, base):
    _, (*modules, logits) = outputs_of_three()
    gates = forward(built_gate("base", 3), random_array(6, 6))
    probabilities = softmax(logits.astype("float64"))
    received = logits if base == "logits" else probabilities.astype("float32")
    y = forward(Rectify(aggregation, base), [gates, *modules, received])
    assert_close(softmax(y.astype("float64")), probabilities, 1e-6)


@pytest.mark.parametrize("base", ["logits", "softmax"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_certain_predictions_stay_finite(aggregation, base):
    """Modules have scores whose softmax underflows, and a base that returns probabilities returns zeros."""
    gates = np.full((2, 2), 0.5, "float32")
    module = np.array([[1e4, 0.0, -1e4]] * 2, "float32")
    received = module if base == "logits" else np.array([[1.0, 0.0, 0.0]] * 2, "float32")
    y = forward(Rectify(aggregation, base), [gates, module, received])
    assert np.isfinite(y).all()
    assert (y.argmax(-1) == 0).all()


@pytest.mark.parametrize("labels", ["integers", "a_column", "floats"])
def test_the_loss_is_the_gated_mean_of_cross_entropies(labels):
    gates, scores = outputs_of_three()
    y_true = np.array([0, 4, 2, 1, 1, 3])
    entropies = np.stack([-log_softmax(each.astype("float64"))[np.arange(6), y_true] for each in scores], axis=1)
    received = {"integers": y_true, "a_column": y_true[:, None], "floats": y_true.astype("float32")}[labels]
    y_pred = forward(Rectify(), [gates, *scores])
    expected = (gates * entropies).sum(-1)
    each = NegativeLogLikelihood(reduction=None)(received, y_pred)
    assert_close(keras.ops.convert_to_numpy(each), expected, 1e-6)
    mean = NegativeLogLikelihood()(received, y_pred)
    assert_close(keras.ops.convert_to_numpy(mean), expected.mean(), 1e-6)


def test_the_loss_is_restored_from_its_configuration():
    configuration = keras.saving.serialize_keras_object(NegativeLogLikelihood(reduction="sum", name="mine"))
    restored = keras.saving.deserialize_keras_object(configuration)
    assert (type(restored), restored.reduction, restored.name) == (NegativeLogLikelihood, "sum", "mine")
