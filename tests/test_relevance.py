"""Relevance of attention masks for a class: gradients compared with finite differences, and arguments."""

import keras
import numpy as np
import pytest
from helpers import assert_close, randomise

from keras_resattn import attend_and_rectify, attention_maps, attention_relevance, optimize_for_inference
from keras_resattn.layers import AttentionHead, AttentionResidual
from keras_resattn.models.inspection import replay

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
MASK = "stage1_attention1_mask"


def network(activation="softmax", end=(), name=None):
    """A trunk, a mask and a classifier of three classes, with a nonlinear layer after the mask."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stage1_attention1_trunk1")(inputs)
    mask = keras.layers.Conv2D(4, 3, activation="sigmoid", name=MASK)(inputs)
    x = AttentionResidual(name="stage1_attention1_merge")([x, mask])
    x = keras.layers.Conv2D(5, 3, strides=2, activation="tanh", name="conv")(x)
    x = keras.layers.Dense(3, activation=activation, name="predictions")(keras.layers.GlobalAveragePooling2D()(x))
    for layer in end:
        x = layer(x)
    return randomise(keras.Model(inputs, x, name=name))


def gated(model=None, **options):
    options = {"attention_width": 2, "classifier_activation": None, **options}
    return randomise(attend_and_rectify(model or network(), ["conv"], **options))


def change(model, scores, name, direction):
    """Return the change of class scores per change of the masks in a direction, by central differences."""

    def moved(step):
        def visit(layer, args, outputs):
            if isinstance(layer, AttentionHead) and layer.name == name:
                return outputs * (1 + step * direction)
            if isinstance(layer, AttentionResidual) and layer.name == name.replace("mask", "merge"):
                trunk, mask = args[0]
                return layer([trunk, mask * (1 + step * direction)])
            return None

        inputs = keras.Input(model.input_shape[1:])
        return scores(keras.Model(inputs, replay(model, inputs, visit)).predict(IMAGES, verbose=0).astype("float64"))

    return (moved(0.03) - moved(-0.03)) / 0.06


MODELS = {
    "soft mask": (network, MASK, np.log),  # up to a constant for each image: see `centred`
    "nested": (lambda: keras.Sequential([keras.Input((8, 8, 3)), network()]), MASK, np.log),
    "gated attention": (gated, "attention1_mask", lambda outputs: outputs),
}


@pytest.mark.parametrize("case", MODELS)
def test_relevance_is_the_change_of_the_score_per_relative_change_of_the_mask(case):
    build, name, scores = MODELS[case]
    model = build()
    relevance = np.stack([attention_relevance(model, IMAGES, classes)[name] for classes in (0, 1, 2)])
    direction = np.random.default_rng(1).uniform(0, 1, relevance.shape[2:]).astype("float32")
    actual = (relevance * direction).sum((2, 3, 4)).T
    expected = change(model, scores, name, direction)
    if scores is np.log:  # logarithms of probabilities are logits minus a number that all classes share
        actual, expected = (values - values.mean(1, keepdims=True) for values in (actual, expected))
    assert_close(actual, expected, 0.01)
    for variable in model.trainable_variables:
        variable.assign(0 * variable)
    assert not attention_relevance(model, IMAGES)[name].any(), "the current weights count"


SAME = {
    "logits": {"activation": None},
    "log-softmax": {"activation": "log_softmax"},
    "sigmoid": {"activation": "sigmoid"},
    "Activation": {"activation": None, "end": [keras.layers.Activation("softmax")]},
    "Softmax": {"activation": None, "end": [keras.layers.Softmax()]},
    "float32 after it": {"end": [keras.layers.Activation("linear", dtype="float32")]},
}


@pytest.mark.once
@pytest.mark.parametrize("case", SAME)
def test_the_score_is_the_logit(case):
    actual = attention_relevance(network(**SAME[case]), IMAGES, [0, 2])[MASK]
    assert_close(actual, attention_relevance(network(), IMAGES, [0, 2])[MASK])


@pytest.mark.once
def test_copies_for_inference_have_the_same_relevance():
    model = network()
    assert_close(
        attention_relevance(optimize_for_inference(model), IMAGES)[MASK], attention_relevance(model, IMAGES)[MASK]
    )


@pytest.mark.once
def test_the_predicted_classes_are_the_default():
    model = network()
    classes = model.predict(IMAGES, verbose=0).argmax(1)
    expected = attention_relevance(model, IMAGES, classes)[MASK]
    np.testing.assert_array_equal(attention_relevance(model, IMAGES)[MASK], expected)
    assert_close(attention_relevance(model, IMAGES, batch_size=1)[MASK], expected)
    assert expected.shape == attention_maps(model, IMAGES)[MASK].shape


@pytest.mark.once
def test_a_factor_on_gradients_in_training_has_no_effect():
    relevance = [attention_relevance(gated(network(), gradient_scale=scale), IMAGES, 1)[MASK] for scale in (0.0, 1.0)]
    assert_close(*relevance)


@pytest.mark.once
@pytest.mark.parametrize("classes", [3, -1, [0], [0, 1, 2], 0.5, "cat"])
def test_invalid_classes_raise(classes):
    with pytest.raises(ValueError, match="index from 0 to 2, or 2 of them, one for each image; received: classes="):
        attention_relevance(network(), IMAGES, classes)


@pytest.mark.once
def test_models_without_classes_raise():
    model = network()
    backbone = keras.Model(model.input, model.get_layer("conv").output)
    with pytest.raises(ValueError, match=r"one output of shape \(n, classes\).*returns \(None, 2, 2, 5\)"):
        attention_relevance(backbone, IMAGES)
    with pytest.raises(ValueError, match="one output"):
        attention_relevance(keras.Model(model.input, [model.output, model.output]), IMAGES)
