"""Invalid arguments of WARN's builders and of `attend_and_rectify` raise before any layer is created."""

import keras
import pytest
from helpers import assert_close, predict, random_array, undrawn
from keras import layers
from networks import base_of, narrow_warn, small_cnn
from references import softmax

from keras_resattn import WARN, WARN50x2, attend_and_rectify
from keras_resattn.layers import GlobalGate

pytestmark = pytest.mark.once

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
        ("weights", "default", "received: weights='default'. There is no released checkpoint for"),
    ],
)
def test_arguments_of_the_builders(refuses, build, argument, value, message):
    refuses(build, message, **{"weights": None, argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("depth", 27, r"depth to be 6n \+ 4 \(10, 16, 22, 28, \.\.\.\); received: depth=27"),
        ("width", 0, "width to be an integer of at least 1; received: width=0"),
        ("dropout", 1.0, "dropout to be a number from 0 to below 1; received: dropout=1.0"),
    ],
)
def test_arguments_of_the_body(refuses, argument, value, message):
    refuses(WARN, message, **{"weights": None, argument: value})


def test_a_linear_gate_excludes_prob_aggregation(refuses):
    refuses(
        WARN,
        "aggregation='log_prob' with gate='linear', .*; received: aggregation='prob'",
        weights=None,
        gate="linear",
        aggregation="prob",
    )


def test_released_weights_belong_to_the_published_arguments_only():
    with pytest.raises(
        ValueError, match=r"received: weights='default'\. There is no released checkpoint for WARN-28-10"
    ):
        WARN()
    for option in ({"gate": "sigmoid"}, {"attention_width": 1}, {"attention_depth": 2}):
        with pytest.raises(
            ValueError, match=r"received: weights='default'\. There are no released checkpoints for custom networks"
        ):
            WARN(**option)


# --- attend_and_rectify --------------------------------------------------------------------------


def nested():
    inputs, features = small_cnn()
    inner = keras.Model(inputs, features, name="inner")
    return inner, keras.Sequential([keras.Input((16, 16, 3)), inner, layers.Dense(5)])


def test_layers_of_a_nested_model(refuses):
    message = r"no layer 'conv3' in its own graph. Layers inside inner cannot be tapped.*keras.Model\(inner.input"
    refuses(attend_and_rectify, message, nested()[1], ["conv3"])


def test_automatic_taps_of_a_nested_model(refuses):
    refuses(attend_and_rectify, "has 0 in its own graph. Layers inside inner cannot be tapped", nested()[1])


def test_the_suggested_fix_for_a_nested_model_works():
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
def test_objects_that_are_not_models(refuses, model):
    refuses(attend_and_rectify, f"functional or built sequential .*; received: {type(model).__name__}", model)


def test_a_sequential_model_that_is_not_built(refuses):
    message = "functional or built sequential keras.Model; received: Sequential. .*add keras.Input"
    refuses(attend_and_rectify, message, keras.Sequential([layers.Conv2D(4, 3), layers.Dense(3)]))


def test_several_inputs_or_outputs(refuses):
    inputs, features = small_cnn()
    y = layers.Dense(5)(features)
    two_outputs = keras.Model(inputs, [y, features])
    other = keras.Input((5,))
    two_inputs = keras.Model([inputs, other], layers.Dense(5)(layers.Add()([y, other])))
    refuses(attend_and_rectify, "one input and one output; .* has 1 and 2. Select one", two_outputs, ["conv3"])
    refuses(attend_and_rectify, "one input and one output; .* has 2 and 1. Select one", two_inputs, ["conv3"])


def test_a_model_of_one_class(refuses):
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(1)(features), name="binary")
    refuses(attend_and_rectify, r"for at least two classes; binary returns \(None, 1\)", model)


def test_a_model_without_a_top(refuses):
    inputs, _ = small_cnn()
    x = layers.Conv2D(4, 3)(inputs)
    message = (
        r"shape \(n, classes\), for at least two classes; body returns \(None, 14, 14, 4\). Add a classifier first"
    )
    refuses(attend_and_rectify, message, keras.Model(inputs, x, name="body"))


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (lambda x: layers.Dense(5, "sigmoid", name="end")(x), "end, a Dense with sigmoid. Let it end in .*Dense"),
        (lambda x: layers.Activation("relu", name="end")(x), "end, a Activation with relu"),
        (lambda x: keras.ops.softmax(layers.Dense(5)(x)), ".*keras.layers.Softmax.* instead of the bare operation"),
        (lambda x: x, "features, a GlobalAveragePooling2D"),
        (lambda x: layers.Dropout(0.5, name="end")(layers.Dense(5)(x)), "end, a Dropout"),
        (
            lambda x: keras.Sequential([keras.Input((8,)), layers.Dense(5, "softmax")], name="end")(x),
            "end, a Sequential.*Build the classifier on the inner model itself",
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
def test_invalid_taps(refuses, base, taps, message):
    refuses(attend_and_rectify, message, base, taps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 6}, "classes=5, the number of cnn, or None; received: classes=6"),
        ({"taps": ["conv3"], "attention_depth": 2}, "attention_depth=1 with 1 taps, or None; received: .*depth=2"),
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


def test_automatic_taps_need_a_known_size(refuses):
    message = "known input size for taps='auto'; that of cnn is unknown. Name the taps"
    refuses(attend_and_rectify, message, base_of(small_cnn(size=None)))


def test_attention_cannot_be_added_twice(refuses, base):
    message = "without gated attention; it has layers named attention1_mask, "
    models = attend_and_rectify(base), attend_and_rectify(base, ["conv1"])
    refuses(attend_and_rectify, message, models[0])
    refuses(attend_and_rectify, message, models[1], ["conv3"])


def test_attention_cannot_be_added_to_warn(refuses):
    model = undrawn(narrow_warn)
    refuses(attend_and_rectify, "without gated attention; it has layers named attention1_mask", model)


@pytest.mark.parametrize(
    "name",
    ["attention2_logits", "attention1_gradient", "global_gate", "global_gate_features", "rectify"],
)
def test_names_that_are_taken(refuses, name):
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(5)(layers.Identity(name=name)(features)))
    refuses(attend_and_rectify, f"without gated attention; it has layers named {name}", model)


def test_names_of_modules_that_are_not_added_may_be_taken():
    inputs, features = small_cnn()
    model = keras.Model(inputs, layers.Dense(5)(layers.Identity(name="attention3_logits")(features)))
    assert isinstance(attend_and_rectify(model, attention_depth=2).get_layer("global_gate"), GlobalGate)
