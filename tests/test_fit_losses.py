"""Training with a recipe: the loss of each kind of network, averaged weights, half precision."""

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from training import RECIPE, X, Y

import keras_resattn
from keras_resattn import compile_and_fit
from keras_resattn.data import network_input
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes.loss_and_metrics import returns_logits

CrossEntropy = keras.losses.SparseCategoricalCrossentropy


def test_softmax_and_logits_give_the_same_weights():
    results = []
    for activation in (None, "softmax"):
        model = tiny(activation)
        compile_and_fit(model, RECIPE, (X, Y), verbose=0)
        results.append(weights_of(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("activation", "loss"), [(None, NegativeLogLikelihood), ("softmax", CrossEntropy)])
def test_gated_log_probabilities_use_their_authors_loss(activation, loss):
    model = keras_resattn.attend_and_rectify(tiny(), attention_depth=1, classifier_activation=activation)
    report = compile_and_fit(model, RECIPE.replace(epochs=1, warmup_epochs=0), (X, Y), verbose=0)
    assert type(model.loss) is loss
    assert np.isfinite(report.metrics["loss"])


def test_averaged_weights_are_validated_and_kept():
    """w_ema = 0.5 w_ema + 0.5 w after each step."""
    model, seen = tiny(), []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([np.array(keras.ops.convert_to_numpy(v)) for v in self.model.trainable_variables])

    recipe = RECIPE.replace(ema=0.5)
    report = compile_and_fit(model, recipe, (X, Y), validation_data=(X, Y), verbose=0, callbacks=[Record()])
    inputs = network_input(X, report.mean, report.std)
    loss, accuracy = model.evaluate(inputs, Y, verbose=0)
    np.testing.assert_allclose(
        [report.metrics["val_loss"], report.metrics["val_accuracy"]], [loss, accuracy], rtol=1e-4
    )
    average = None
    for weights in seen:
        average = weights if average is None else [(a + w) / 2 for a, w in zip(average, weights, strict=True)]
    for a, variable in zip(average, model.trainable_variables, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), a, atol=1e-6)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_label_smoothing_gives_the_cross_entropy_of_soft_labels(activation):
    recipe = RECIPE.replace(epochs=1, warmup_epochs=0, label_smoothing=0.3, learning_rate=1e-9, batch_size=20)
    model = tiny(activation)
    report = compile_and_fit(model, recipe.replace(pad=0, flip=False), (X, Y), validation_data=(X, Y), verbose=0)
    outputs = model(network_input(X, report.mean, report.std), training=True)
    p = keras.ops.convert_to_numpy(outputs if activation else keras.ops.softmax(outputs))
    soft_labels = 0.7 * np.eye(3)[Y] + 0.1
    np.testing.assert_allclose(report.metrics["loss"], -np.mean(np.sum(soft_labels * np.log(p), 1)), rtol=1e-4)
    inference = model.predict(network_input(X, report.mean, report.std), verbose=0)
    p = inference if activation else keras.ops.convert_to_numpy(keras.ops.softmax(inference))
    np.testing.assert_allclose(report.metrics["val_loss"], -np.mean(np.log(p[np.arange(20), Y])), rtol=1e-4)


def test_a_network_with_the_recipes_dropout_trains():
    plain, dropped = tiny(), tiny(dropout=0.3)
    dropped.set_weights(plain.get_weights())
    compile_and_fit(plain, RECIPE.replace(epochs=2), (X, Y), verbose=0)
    compile_and_fit(dropped, RECIPE.replace(dropout=0.3, epochs=2), (X, Y), verbose=0)
    assert np.abs(weights_of(dropped)[-2] - weights_of(plain)[-2]).max() > 1e-3, "features were dropped"


def test_float16_scales_the_loss(mixed_policy):
    model = tiny()
    report = compile_and_fit(model, RECIPE.replace(precision=mixed_policy), (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])
    assert report.precision == mixed_policy
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (mixed_policy == "mixed_float16")


def test_logits_of_a_nested_network_are_recognized():
    plain = compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y), verbose=0)
    inner = tiny()
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner])
    nested = compile_and_fit(outer, RECIPE.replace(epochs=2), (X, Y), verbose=0)
    np.testing.assert_allclose(nested.metrics["loss"], plain.metrics["loss"], rtol=1e-4)
    unknown = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Rescaling(1.0)])
    with pytest.raises(ValueError, match="received: Rescaling at the end"):
        compile_and_fit(unknown, RECIPE, (X, Y), verbose=0)


@pytest.mark.parametrize("linear", [1, 2])
def test_a_linear_activation_behind_a_softmax_leaves_probabilities(linear):
    assert returns_logits(tiny())
    inner = keras.Sequential([tiny(), keras.layers.Activation("softmax")])
    ends = [keras.layers.Activation("linear", dtype="float32") for _ in range(linear)]
    for model in (keras.Sequential([inner, *ends]), keras.Sequential([tiny(), keras.layers.Softmax(), *ends])):
        assert not returns_logits(model)
    assert returns_logits(keras.Sequential([tiny(), *ends]))


def test_the_networks_own_policy_decides_on_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny()
    keras.config.set_dtype_policy("float32")
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kept.append(self.model.optimizer)

    compile_and_fit(model, RECIPE.replace(epochs=2), (X, Y), device_data=True, callbacks=[Keep()], verbose=0)
    assert isinstance(kept[0], keras.optimizers.LossScaleOptimizer)
