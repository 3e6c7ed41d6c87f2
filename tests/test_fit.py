"""Training with a recipe: results, log, and options of the training step."""

import csv
import json

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from training import RECIPE, X, Y

import keras_resattn
from keras_resattn import compile_and_fit
from keras_resattn.data import noisy_labels
from keras_resattn.recipes import RECIPES, get_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """`(model, report, folder)` of a run with validation data."""
    model, folder = tiny(), tmp_path_factory.mktemp("run")
    report = compile_and_fit(model, RECIPE, (X, Y), validation_data=(X, Y), run_dir=folder, verbose=0)
    return model, report, folder


def test_a_run_leaves_log_weights_and_report(finished):
    model, report, folder = finished
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images/s"} <= set(rows[0])
    assert report.metrics == report.history[-1], "the last epoch, not the best"
    assert report.metrics["loss"] == float(rows[-1]["loss"])
    assert report.best_on_validation["val_accuracy"] == max(row["val_accuracy"] for row in report.history)
    np.testing.assert_allclose(report.mean, X.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(report.std, X.reshape(-1, 3).std(0))
    written = json.loads((folder / "report.json").read_text())
    assert written["recipe"] == json.loads(RECIPE.to_json())
    assert written["environment"]["backend"] == keras.backend.backend()
    other = tiny()
    other.load_weights(folder / "model.weights.h5")
    for a, b in zip(weights_of(other), weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_the_history_is_plotted(finished):
    pytest.importorskip("matplotlib")
    assert (finished[2] / "history.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_restores_the_optimizer_too(finished):
    model = tiny()
    report = compile_and_fit(model, RECIPE, (X, Y), run_dir=finished[2], verbose=0)
    assert report == finished[1]
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6


@pytest.mark.once
@pytest.mark.parametrize("name", RECIPES)
def test_every_preset_trains(name):
    recipe = get_recipe(name).replace(epochs=1, iterations=None, batch_size=10, warmup_epochs=0)
    model = tiny(dropout=recipe.dropout or 0, size=None if recipe.image_sizes else 32)
    before = weights_of(model)
    report = compile_and_fit(model, recipe, (X, Y), verbose=0)
    assert (report.recipe["name"], report.steps) == (name, 2)
    assert [np.array_equal(a, b) for a, b in zip(before, weights_of(model), strict=True)] == [False] * len(before)


def test_a_residual_attention_network_trains():
    units = {"p": 0, "t": 1, "bottom_units": 1, "mask_depth": (1, 1, 1)}
    model = keras_resattn.ResidualAttentionNet(
        weights=None, topology="cifar", modules=(0, 0, 1), widths=(2, 2, 2), classes=3, **units
    )
    before = weights_of(model)
    report = compile_and_fit(model, RECIPE.replace(epochs=2), (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])
    changed = [not np.array_equal(a, b) for a, b in zip(before, weights_of(model), strict=True)]
    assert all(changed)


def test_iterations_end_inside_an_epoch():
    model = tiny()
    report = compile_and_fit(model, RECIPE.replace(iterations=5, warmup_epochs=0), (X, Y), verbose=0)
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 5
    assert (report.steps, report.metrics["epoch"]) == (5, 3)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs single steps")
def test_several_steps_per_execution_give_the_same_weights(finished):
    several = tiny()
    report = compile_and_fit(several, RECIPE, (X, Y), verbose=0, steps_per_execution=2)
    for a, b in zip(weights_of(finished[0]), weights_of(several), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert report.best_on_validation is None, "without validation data"
    with pytest.raises(ValueError, match="Expected steps_per_execution to divide the 2 steps of an epoch"):
        compile_and_fit(several, RECIPE, (X, Y), verbose=0, steps_per_execution=3)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs eagerly")
def test_a_longer_training_is_not_traced_more_often():

    def traces(epochs):
        inputs, counted = keras.Input((32, 32, 3)), CountedCalls()
        x = keras.layers.GlobalAveragePooling2D()(counted(inputs))
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        counted.count = 0
        compile_and_fit(model, RECIPE.replace(epochs=epochs), (X, Y), validation_data=(X, Y), verbose=0)
        return counted.count

    assert traces(4) == traces(2) > 0


@pytest.mark.once
def test_the_progress_bar_shows_speed_and_the_resumed_step(tmp_path, capsys):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, callbacks=[Stop()])
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "Resuming" not in printed
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=2)
    assert "Resuming from step 2 of 6." in capsys.readouterr().out


@pytest.mark.once
def test_label_noise_trains_on_the_noisy_labels_of_the_recipes_seed():
    noisy, expected, recipe = tiny(), tiny(), RECIPE.replace(seed=5, epochs=2)
    labels = noisy_labels(Y, 0.9, 3, seed=5)
    assert not np.array_equal(labels, Y)
    compile_and_fit(noisy, recipe.replace(label_noise=0.9), (X, Y), verbose=0)
    compile_and_fit(expected, recipe, (X, labels), verbose=0)
    for a, b in zip(weights_of(noisy), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)


class CountedCalls(keras.layers.Layer):
    """Return the input, and count the calls of `call`: one per step, or one per trace of a compiled step."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def call(self, x):
        self.count += 1
        return x


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch.compile takes minutes for these six steps")
def test_compiled_steps_train_alike():
    """Without compilation, JAX runs each step in Python; TensorFlow traces both, and compiles one with XLA."""
    found = {}
    for jit_compile in (False, True):
        inner, counted = tiny(), CountedCalls()
        model = keras.Model(inner.input, inner.layers[-1](counted(inner.layers[-2].output)), name="counted")
        counted.count = 0
        report = compile_and_fit(model, RECIPE, (X, Y), jit_compile=jit_compile, verbose=0)
        assert model.jit_compile is jit_compile
        found[jit_compile] = [row["loss"] for row in report.history], counted.count, weights_of(model)
    for compiled, other in zip(found[True][2], found[False][2], strict=True):
        np.testing.assert_allclose(compiled, other, atol=1e-5)
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-5)
    assert len(set(found[True][0])) == 3, "it learns"
    if keras.backend.backend() == "jax":
        assert found[False][1] >= 6 > found[True][1]
