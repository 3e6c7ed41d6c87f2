"""Training by a recipe: what comes out of it, and what stops it."""

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


def test_a_run_leaves_log_weights_and_report(tmp_path):
    model = tiny()
    report = compile_and_fit(model, RECIPE, (X, Y), validation_data=(X[:4], Y[:4]), run_dir=tmp_path, verbose=0)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"} <= set(rows[0])
    assert report.metrics["loss"] == float(rows[-1]["loss"]), "the last epoch, not the best"
    np.testing.assert_allclose(report.mean, X.reshape(-1, 3).mean(0))
    np.testing.assert_allclose(report.std, X.reshape(-1, 3).std(0))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["recipe"] == json.loads(RECIPE.to_json())
    assert written["environment"]["backend"] == keras.backend.backend()
    other = tiny()
    other.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(weights_of(other), weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_not_run_again(tmp_path):
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    model = tiny()
    report = compile_and_fit(model, RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    assert report.metrics["epoch"] == 3
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 6


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_trains(name):
    recipe = get_recipe(name).replace(epochs=1, iterations=None, batch_size=10, warmup_epochs=0)
    model = tiny(dropout=recipe.dropout or 0, size=None if recipe.image_sizes else 32)
    before = weights_of(model)
    report = compile_and_fit(model, recipe, (X, Y), verbose=0)
    assert (report.recipe["name"], report.steps) == (name, 2)
    assert [np.array_equal(a, b) for a, b in zip(before, weights_of(model), strict=True)] == [False] * len(before)


def test_a_residual_attention_network_trains():
    model = keras_resattn.ResidualAttentionNet(
        weights=None, topology="cifar", modules=(0, 0, 1), widths=(2, 2, 2), classes=3
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


def test_the_report_names_the_best_row_and_keeps_the_last_weights(tmp_path):
    report = compile_and_fit(tiny(), RECIPE, (X, Y), validation_data=(X, Y), run_dir=tmp_path, verbose=0)
    best = max(row["val_accuracy"] for row in report.history)
    assert report.best_on_validation["val_accuracy"] == best
    assert report.metrics == report.history[-1]
    assert report.metrics["images/s"] > 0
    assert compile_and_fit(tiny(), RECIPE, (X, Y), verbose=0).best_on_validation is None
    pytest.importorskip("matplotlib")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs single steps on PyTorch")
def test_steps_may_be_run_several_at_a_time():
    single, several = tiny(), tiny()
    compile_and_fit(single, RECIPE, (X, Y), verbose=0)
    compile_and_fit(several, RECIPE, (X, Y), verbose=0, steps_per_execution=2)
    for a, b in zip(weights_of(single), weights_of(several), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_progress_bar_shows_images_per_second(capsys):
    compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y))
    assert "images/s" in capsys.readouterr().out


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs eagerly")
def test_a_longer_training_is_not_traced_more_often():
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(len(calls))
            return x

    def traced(epochs):
        inputs = keras.Input((32, 32, 3))
        x = keras.layers.GlobalAveragePooling2D()(Counted()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(3)(x))
        calls.clear()
        compile_and_fit(model, RECIPE.replace(epochs=epochs), (X, Y), validation_data=(X, Y), verbose=0)
        return len(calls)

    assert traced(4) == traced(2) > 0


def test_a_folder_without_a_checkpoint_is_taken_over(tmp_path):
    with pytest.raises(FloatingPointError, match="Nothing was saved"):
        compile_and_fit(
            tiny(), RECIPE.replace(learning_rate=1e38, warmup_epochs=0), (X, Y), run_dir=tmp_path, verbose=0
        )
    assert compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0).metrics["epoch"] == 3


def test_going_on_is_told(tmp_path, capsys):
    compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y), run_dir=tmp_path / "whole", verbose=2)
    assert "Going on" not in capsys.readouterr().out

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path / "run", verbose=0, callbacks=[Stop()])
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path / "run", verbose=2)
    assert "Going on from step 2 of 6." in capsys.readouterr().out


def test_label_noise_trains_on_the_noisy_labels_of_the_recipes_seed():
    clean, noisy, expected = tiny(), tiny(), tiny()
    labels = noisy_labels(Y, 0.9, 3, seed=5)
    compile_and_fit(clean, RECIPE.replace(seed=5), (X, Y), verbose=0)
    compile_and_fit(noisy, RECIPE.replace(seed=5, label_noise=0.9), (X, Y), verbose=0)
    compile_and_fit(expected, RECIPE.replace(seed=5), (X, labels), verbose=0)
    for a, b in zip(weights_of(noisy), weights_of(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(weights_of(clean)[-1], weights_of(noisy)[-1])


class Looked(keras.layers.Layer):
    """Passes its input on, and counts how often Python does so."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def call(self, x):
        self.count += 1
        return x


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch.compile takes minutes for these six steps")
def test_compiled_steps_train_as_others_do():
    """JAX runs what is not compiled step by step; TensorFlow traces both, and leaves only one to XLA."""
    found = {}
    for jit_compile in (False, True):
        inner, looked = tiny(), Looked()
        model = keras.Model(inner.input, inner.layers[-1](looked(inner.layers[-2].output)), name="looked")
        looked.count = 0
        report = compile_and_fit(model, RECIPE, (X, Y), jit_compile=jit_compile, verbose=0)
        assert model.jit_compile is jit_compile
        found[jit_compile] = [row["loss"] for row in report.history], looked.count, weights_of(model)
    for compiled, other in zip(found[True][2], found[False][2], strict=True):
        np.testing.assert_allclose(compiled, other, atol=1e-5)
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-5)
    assert len(set(found[True][0])) == 3, "it learns"
    if keras.backend.backend() == "jax":
        assert found[False][1] >= 6 > found[True][1]
