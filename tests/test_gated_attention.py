"""Gated attention: each layer against plain NumPy, the overlap regulariser, gradients, precision, files, arguments."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    channels_last,
    copy_weights,
    forward,
    random_array,
    randomise,
    weights_by_path,
)
from test_layers import conv_reference, norm_reference, sigmoid, weights_of

from keras_resattn.layers import (
    AttentionHead,
    GatedSum,
    GlobalGate,
    GradientScale,
    HeadGate,
    OutputHead,
    Rectify,
)
from keras_resattn.layers.gated_attention import AGGREGATIONS
from keras_resattn.losses import NegativeLogLikelihood

CLASSES = 5


def predict(model, x):
    """As `forward`, but compiled as a whole: on JAX, layer by layer, most of the time would go into compiling."""
    return model.predict(x, verbose=0)


# --- References, channels last, in float64 -------------------------------------------------------


def softmax(x, axis=-1):
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def module_reference(x, weights, activation="softmax", head_gate="softmax", name=""):
    """A module as the authors' code has it: three 3x3 convolutions at every position, and then attended sums."""
    x = x.astype("float64")
    masks = conv_reference(x, weights[f"{name}mask/conv/kernel"], pad=1)
    masks = softmax(masks, (1, 2)) if activation == "softmax" else sigmoid(masks)
    outputs = conv_reference(x, weights[f"{name}outputs/output_conv/kernel"], pad=1)
    outputs = outputs.reshape(*masks.shape, -1)
    outputs = (masks[..., None] * outputs).sum((1, 2))
    if head_gate == "mean":
        return {"masks": masks, "outputs": outputs, "logits": outputs.mean(1)}
    scores = conv_reference(x, weights[f"{name}outputs/score_conv/kernel"], pad=1)
    scores = (masks * scores).sum((1, 2))
    gates = softmax(np.tanh(scores))
    logits = (gates[..., None] * outputs).sum(1)
    return {"masks": masks, "outputs": outputs, "scores": scores, "gates": gates, "logits": logits}


def overlap_reference(masks):
    """Picture by picture: the products of all pairs of different heads' masks, after 2x2 averages, squared."""
    heads = masks.shape[-1]
    if min(masks.shape[1:3]) > 1:
        rows, columns = (size // 2 for size in masks.shape[1:3])
        masks = masks[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2, heads).mean((2, 4))
    total = 0.0
    for picture in masks.reshape(len(masks), -1, heads):
        total += sum((picture[:, i] @ picture[:, j]) ** 2 for i in range(heads) for j in range(heads) if i != j)
    return total / (len(masks) * heads**2)


def gates_reference(features, weights, gate, name="gate"):
    scores = features.astype("float64") @ weights[f"{name}/linear/kernel"]
    scores = np.tanh(norm_reference(scores, weights, f"{name}/bn"))
    if gate == "softmax":
        return softmax(scores)
    return sigmoid(scores) / (1e-6 + sigmoid(scores).sum(-1, keepdims=True))


def rectified_reference(gates, scores, aggregation):
    if aggregation == "log_prob":
        return sum(gates[:, [i]] * log_softmax(each) for i, each in enumerate(scores))
    return np.log(sum(gates[:, [i]] * softmax(each) for i, each in enumerate(scores)))


# --- Modules -------------------------------------------------------------------------------------


def module(size, heads, activation="softmax", head_gate="softmax", channels=4, regularization=0.0):
    """A model of one module, in Keras' data format, that returns what each of its nodes does."""
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
    """Compares a module's nodes on a channels-last map with the reference."""
    first = keras.config.image_data_format() == "channels_first"
    actual = predict(model, channels_first(x) if first else x)
    expected = module_reference(x, weights_of(model), **options)
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


def test_head_gates_have_bounds():
    """No head can be switched off: tanh lies between -1 and 1."""
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
    assert_close(gates, gates_reference(features, weights_of(layer), gate))
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
    scores = features.astype("float64") @ weights_of(layer)["gate/linear/kernel"]
    normalised = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + 1e-5)
    assert_close(gates, softmax(np.tanh(normalised)))
    assert_close(weights_by_path(layer)["gate/bn/moving_mean"], 0.1 * scores.mean(0))


@pytest.mark.parametrize(
    ("gate", "expected"), [("mean", [1 / 3] * 3), ("base", [0, 0, 1]), ("linear", [1 / 3] * 3)], ids=lambda x: str(x)
)
def test_gates_that_do_not_look_at_the_picture(gate, expected):
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
    """Gates of two modules and a base, and their class scores."""
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
def test_a_base_of_probabilities_counts_as_one_of_logits(aggregation):
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
def test_what_is_certain_stays_finite(aggregation, base):
    """Scores whose softmax underflows, in the modules, and where a base returns probabilities, zeros."""
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


def test_the_loss_comes_back_from_its_configuration():
    configuration = keras.saving.serialize_keras_object(NegativeLogLikelihood(reduction="sum", name="mine"))
    restored = keras.saving.deserialize_keras_object(configuration)
    assert (type(restored), restored.reduction, restored.name) == (NegativeLogLikelihood, "sum", "mine")


# --- The overlap regulariser ---------------------------------------------------------------------


def losses_of(layer, *args, **kwargs):
    layer(*args, **kwargs)
    return [float(keras.ops.convert_to_numpy(loss)) for loss in layer.losses]


@pytest.mark.parametrize(
    ("size", "activation"), [((7, 6), "softmax"), ((7, 6), "sigmoid"), ((1, 4), "softmax")], ids=str
)
def test_heads_that_overlap_pay(size, activation, data_format):
    x = random_array(3, *size, 4)
    received = x if data_format == "channels_last" else channels_first(x)
    layer = AttentionHead(3, activation, 0.7, name="mask")
    layer.build(received.shape)
    randomise(layer)
    masks = forward(layer, received)
    masks = masks if data_format == "channels_last" else channels_last(masks)
    expected = 0.7 * overlap_reference(masks.astype("float64"))
    (loss,) = losses_of(layer, received, training=True)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_only_several_heads_pay_and_only_while_training():
    x = random_array(2, 6, 6, 4)
    layer = AttentionHead(2, regularization=0.5)
    assert len(losses_of(layer, x, training=True)) == 1
    assert losses_of(layer, x, training=False) == []
    assert losses_of(layer, x) == []
    assert losses_of(AttentionHead(1, regularization=0.5), x, training=True) == []
    assert losses_of(AttentionHead(2), x, training=True) == []


def test_calls_do_not_add_up():
    x = random_array(2, 6, 6, 4)
    layer = AttentionHead(2, regularization=0.5)
    model = keras.Model(inputs := keras.Input((6, 6, 4)), layer(inputs))
    attributes = set(vars(layer))
    first = losses_of(model, x, training=True)
    assert losses_of(model, x, training=True) == first
    assert losses_of(layer, x, training=True) == first
    assert len(first) == 1
    assert set(vars(layer)) == attributes


def test_the_regulariser_joins_the_loss_in_fit_and_trains_the_masks():
    """The loss sees the masks through `GradientScale(0)`, so that only the regulariser trains them."""
    x, y = random_array(4, 6, 6, 4), np.zeros((4, 6, 6, 3), "float32")
    inputs = keras.Input((6, 6, 4))
    masks = AttentionHead(3, regularization=100.0, name="mask")(inputs)
    model = randomise(keras.Model(inputs, GradientScale(0.0)(masks)))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    kernel = weights_of(model)["mask/conv/kernel"]

    def masks(kernel):
        return softmax(conv_reference(x.astype("float64"), kernel, pad=1), (1, 2))

    error, penalty = np.mean(masks(kernel) ** 2), 100 * overlap_reference(masks(kernel))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(error, rel=1e-5)
    history = model.fit(x, y, epochs=1, verbose=0).history
    assert history["loss"][0] == pytest.approx(error + penalty, rel=1e-5)
    step = kernel - weights_of(model)["mask/conv/kernel"]
    direction = random_array(*kernel.shape, seed=7).astype("float64")
    ahead, behind = (100 * overlap_reference(masks(kernel + h * direction)) for h in (1e-5, -1e-5))
    assert (step * direction).sum() == pytest.approx((ahead - behind) / 2e-5, rel=1e-3)


# --- GradientScale -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 0.1, 1, 3.0])
def test_gradient_scale_passes_its_input_on_unchanged(scale):
    x = random_array(4, 5) * np.float32(10.0) ** random_array(4, 5, seed=1)
    x[0] = [0.0, 1e-37, 3e38, -3e38, 1.0]
    np.testing.assert_array_equal(forward(GradientScale(scale), x), x)


@pytest.mark.parametrize("scale", [1, 0.1, 0])
def test_gradient_scale_multiplies_the_gradient(scale):
    """A layer below, whose output a scaled and a direct layer read: a step of gradient descent, by hand."""
    x, y = random_array(8, 4), random_array(8, 4, seed=1)
    inputs = keras.Input((4,))
    below = keras.layers.Dense(3, use_bias=False, name="below")(inputs)
    scaled = keras.layers.Dense(2, use_bias=False, name="scaled")(GradientScale(scale)(below))
    direct = keras.layers.Dense(2, use_bias=False, name="direct")(below)
    model = randomise(keras.Model(inputs, keras.layers.Concatenate()([scaled, direct])))
    before = weights_of(model)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, batch_size=8, verbose=0)

    h = x @ before["below/kernel"]
    residuals = np.concatenate([h @ before["scaled/kernel"], h @ before["direct/kernel"]], axis=1) - y
    gradient = 2 * residuals / y.size
    through_scaled = gradient[:, :2] @ before["scaled/kernel"].T
    through_direct = gradient[:, 2:] @ before["direct/kernel"].T
    after = weights_of(model)
    steps = {path.removesuffix("/kernel"): before[path] - after[path] for path in before}
    assert_close(steps["below"], x.T @ (scale * through_scaled + through_direct), 2e-6)
    assert_close(steps["scaled"], h.T @ gradient[:, :2], 2e-6)
    assert_close(steps["direct"], h.T @ gradient[:, 2:], 2e-6)
    assert np.abs(x.T @ through_scaled).max() > 0.1


# --- Whole graphs: both ways of writing, precision, files ----------------------------------------


def network(float32=None, gate="softmax", aggregation="log_prob", head_gate="softmax", activation="softmax"):
    """A map with one module and a classifier beside it, as a network has them."""
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
    weights = weights_of(model)
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
    assert {tensor.dtype for tensor in half.get_layer("outputs").output} == {small}
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gate": "linear", "head_gate": "mean", "activation": "sigmoid"},
    ],
    ids=lambda options: "-".join(options.values()) or "standard",
)
def test_a_saved_network_needs_no_trust(options, tmp_path):
    model, x = randomise(network(**options)), random_array(3, 6, 5, 4)
    model.compile("sgd", NegativeLogLikelihood())
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_array_equal(predict(restored, x), predict(model, x))
    assert isinstance(restored.loss, NegativeLogLikelihood)
    assert restored.get_layer("mask").regularization == 0.5


def test_gradients_reach_every_weight():
    model = randomise(network())
    model.compile(keras.optimizers.SGD(1.0), NegativeLogLikelihood())
    before = weights_by_path(model)
    model.train_on_batch(random_array(4, 6, 5, 4), np.arange(4))
    assert [path for path, value in weights_by_path(model).items() if np.array_equal(value, before[path])] == []


LAYERS = [
    lambda **kwargs: AttentionHead(3, "sigmoid", 0.25, data_format="channels_first", **kwargs),
    lambda **kwargs: OutputHead(7, scores=False, data_format="channels_first", **kwargs),
    HeadGate,
    lambda **kwargs: GatedSum("mean", **kwargs),
    lambda **kwargs: GlobalGate(3, "sigmoid", **kwargs),
    lambda **kwargs: Rectify("prob", "softmax", **kwargs),
    lambda **kwargs: GradientScale(0.25, **kwargs),
]


@pytest.mark.parametrize("make", LAYERS)
def test_every_layer_comes_back_from_its_configuration(make):
    layer = make(name="layer", dtype="mixed_bfloat16")
    configuration = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(configuration)
    assert configuration["registered_name"] == f"keras_resattn>{type(layer).__name__}"
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


# --- Arguments -----------------------------------------------------------------------------------


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
def test_outputs_need_a_map_and_masks_of_its_size(shapes):
    inputs = keras.Input(shapes) if isinstance(shapes, tuple) else [keras.Input(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"called on \[x, masks\], two 4-D maps of equal height and width; received"):
        OutputHead(CLASSES, name="outputs")(inputs)


def test_sums_of_large_maps_do_not_overflow_in_half_precision():
    x, masks = np.full((1, 112, 112, 1), 12, "float16"), np.ones((1, 112, 112, 1), "float16")
    head = OutputHead(1, scores=False, dtype="mixed_float16")
    head.build([x.shape, masks.shape])
    head.output_conv.kernel.assign(np.full((3, 3, 1, 1), 1e-3))
    rows = 111 + 112 + 111  # that the kernel's three rows see, and its columns likewise
    assert_close(forward(head, [x, masks]), [[[12e-3 * rows**2]]], 1e-3)
