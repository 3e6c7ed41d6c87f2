"""Training by a recipe: what comes out of it, what it refuses, and what stops it."""

import csv
import json

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of

import keras_resattn
from keras_resattn import compile_and_fit
from keras_resattn.data import network_input
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes import RECIPES, get_recipe

CrossEntropy = keras.losses.SparseCategoricalCrossentropy
RECIPE = get_recipe("cifar_one_cycle").replace(epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 20)


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


def test_another_runs_folder_is_left_alone(tmp_path):
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for recipe, data, resume in (
        (RECIPE.replace(seed=1), (X, Y), True),
        (RECIPE, (255 - X, Y), True),
        (RECIPE, (X, Y), False),
    ):
        with pytest.raises(ValueError, match=r"another run|empty run_dir"):
            compile_and_fit(tiny(), recipe, data, run_dir=tmp_path, resume=resume, verbose=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_softmax_and_logits_train_alike():
    results = []
    for activation in (None, "softmax"):
        model = tiny(activation)
        compile_and_fit(model, RECIPE, (X, Y), verbose=0)
        results.append(weights_of(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(("activation", "loss"), [(None, NegativeLogLikelihood), ("softmax", CrossEntropy)])
def test_gated_log_probabilities_train_by_their_authors_loss(activation, loss):
    model = keras_resattn.attend_and_rectify(tiny(), attention_depth=1, classifier_activation=activation)
    report = compile_and_fit(model, RECIPE.replace(epochs=1, warmup_epochs=0), (X, Y), verbose=0)
    assert type(model.loss) is loss
    assert np.isfinite(report.metrics["loss"])


MODERN = RECIPE.replace(cutout=8, mixup=0.2, cutmix=1.0, label_smoothing=0.1, ema=0.5, pad_mode="reflect")


def test_the_average_of_the_weights_is_validated_and_left():
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
def test_smoothed_labels_give_the_cross_entropy_of_shares(activation):
    recipe = RECIPE.replace(epochs=1, warmup_epochs=0, label_smoothing=0.3, learning_rate=1e-9, batch_size=20)
    model = tiny(activation)
    report = compile_and_fit(model, recipe.replace(pad=0, flip=False), (X, Y), validation_data=(X, Y), verbose=0)
    outputs = model(network_input(X, report.mean, report.std), training=True)
    p = keras.ops.convert_to_numpy(outputs if activation else keras.ops.softmax(outputs))
    shares = 0.7 * np.eye(3)[Y] + 0.1
    np.testing.assert_allclose(report.metrics["loss"], -np.mean(np.sum(shares * np.log(p), 1)), rtol=1e-4)
    inference = model.predict(network_input(X, report.mean, report.std), verbose=0)
    p = inference if activation else keras.ops.convert_to_numpy(keras.ops.softmax(inference))
    np.testing.assert_allclose(report.metrics["val_loss"], -np.mean(np.log(p[np.arange(20), Y])), rtol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_trains(name):
    recipe = get_recipe(name).replace(epochs=1, iterations=None, batch_size=10, warmup_epochs=0)
    report = compile_and_fit(tiny(dropout=recipe.dropout or 0), recipe, (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    recipe = RECIPE.replace(learning_rate=1e30, momentum=0.0)
    with pytest.raises(FloatingPointError, match=r"from step [34] on"):
        compile_and_fit(tiny(), recipe, (X, Y), run_dir=tmp_path, verbose=0)
    assert not (tmp_path / "model.weights.h5").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y + 1), "labels from 0 to 2"),
        ((X[:5], Y[:5]), "at least a batch of 8"),
        ((X[:, :16], Y), r"shape \(32, 32, 3\)"),
        ((X, Y[:-1]), "one integer label"),
        ((X, Y.astype("float32")), "one integer label"),
        ((X[0], Y), "shape"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_any_work(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), RECIPE, data, run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_an_npz_file_is_data_too(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y[:, None])
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), tmp_path / "data.npz", verbose=0)
    assert report.training_pictures == 20
    np.savez(tmp_path / "test.npz", x_test=X, y_test=Y)
    with pytest.raises(ValueError, match="x_train and y_train"):
        compile_and_fit(tiny(), RECIPE, tmp_path / "test.npz", verbose=0)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz to be an \.npz file"):
        compile_and_fit(tiny(), RECIPE, tmp_path / "text.npz", verbose=0)


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


def test_the_progress_bar_shows_pictures_per_second(capsys):
    compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y))
    assert "images/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (RECIPE, {"steps_per_execution": 3}, "steps_per_execution=3"),
        (RECIPE, {"checkpoint_steps": 0}, "checkpoint_steps=0"),
        (RECIPE.replace(precision="mixed_bfloat16"), {}, "set_dtype_policy"),
        (RECIPE.replace(dropout=0.3), {}, "dropout=0.3"),
    ],
)
def test_what_does_not_go_with_the_network_is_refused_before_any_work(tmp_path, recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), recipe, (X, Y), run_dir=tmp_path / "run", verbose=0, **arguments)
    assert not (tmp_path / "run").exists()


def test_a_network_with_the_recipes_dropout_trains():
    report = compile_and_fit(tiny(dropout=0.3), RECIPE.replace(dropout=0.3, epochs=2), (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])


def test_half_precision_trains_by_a_scaled_loss(mixed_policy):
    model = tiny()
    report = compile_and_fit(model, RECIPE.replace(precision=mixed_policy), (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])
    assert report.precision == mixed_policy
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (mixed_policy == "mixed_float16")


def test_statistics_may_be_those_of_published_weights():
    given = ([120.0, 121.0, 122.0], [60.0, 61.0, 62.0])
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y), statistics=given, verbose=0)
    assert (report.mean, report.std) == given


def test_pictures_on_the_device_give_the_same_weights(tmp_path):
    recipe = RECIPE.replace(cutout=8, mixup=0.2, ema=0.5)
    host, device = tiny(), tiny()
    reference = compile_and_fit(host, recipe, (X, Y), validation_data=(X[:5], Y[:5]), verbose=0)
    report = compile_and_fit(
        device, recipe, (X, Y), validation_data=(X[:5], Y[:5]), run_dir=tmp_path, device_data=True, verbose=0
    )
    for a, b in zip(weights_of(host), weights_of(device), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(report.metrics["val_loss"], reference.metrics["val_loss"], rtol=1e-4)
    with np.load(tmp_path / "checkpoint.npz") as checkpoint:
        assert not any(checkpoint[name].nbytes >= X.nbytes for name in checkpoint.files), "without the pictures"
    compile_and_fit(tiny(), recipe, (X, Y), validation_data=(X[:5], Y[:5]), run_dir=tmp_path, verbose=0)


class Batches:
    """Batches of 8 pictures in an order of their own; the last one is of 4."""

    def __iter__(self):
        return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8))


def test_a_stream_trains_validates_and_goes_on(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0 and (tmp_path / "checkpoint.npz").exists():
                raise InterruptedError

    unbroken, resumed = tiny(), tiny()
    report = compile_and_fit(unbroken, RECIPE, Batches(), validation_data=Batches(), verbose=0)
    loss, _ = unbroken.evaluate(network_input(X, report.mean, report.std), Y, verbose=0)
    np.testing.assert_allclose(report.metrics["val_loss"], loss, rtol=1e-4, err_msg="the remainder is measured, too")
    with pytest.raises(InterruptedError):
        compile_and_fit(tiny(), RECIPE, Batches(), run_dir=tmp_path, verbose=0, checkpoint_steps=1, callbacks=[Stop()])
    compile_and_fit(resumed, RECIPE, Batches(), run_dir=tmp_path, verbose=0)
    for a, b in zip(weights_of(unbroken), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"recipe\.replace\(batch_size=8\)"):
        compile_and_fit(tiny(), RECIPE.replace(batch_size=10), Batches(), verbose=0)


def test_the_corrupt_picture_of_a_folder_is_named(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / "data" / f"class{y}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(tmp_path / "data" / f"class{y}" / f"{i}.png")
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), tmp_path / "data", verbose=0)
    assert np.isfinite(report.metrics["loss"])
    corrupt = tmp_path / "data" / f"class{Y[7]}" / "7.png"
    corrupt.write_bytes(corrupt.read_bytes()[:500])
    for batch_size in (4, 20):  # in the middle of an epoch, and in the first batch
        recipe = RECIPE.replace(batch_size=batch_size)
        with pytest.raises(ValueError, match=rf"class{Y[7]}.7\.png"):
            compile_and_fit(tiny(), recipe, tmp_path / "data", statistics=([0.0] * 3, [255.0] * 3), verbose=0)


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

    assert traced(4) == traced(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": RECIPE.replace(epochs=4)}, "epochs is 3 there, 4 here"),
        ({"data": (255 - X, Y)}, "other pictures or labels"),
        ({"statistics": ([0.0] * 3, [255.0] * 3)}, "statistics is None there"),
    ],
)
def test_a_refused_folder_says_what_differs(tmp_path, change, message):
    arguments = {"recipe": RECIPE, "data": (X, Y), "run_dir": tmp_path, "verbose": 0}
    compile_and_fit(tiny(), **arguments)
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), **{**arguments, **change})


def test_a_folder_without_a_checkpoint_is_taken_over(tmp_path):
    with pytest.raises(FloatingPointError, match="Nothing was saved"):
        compile_and_fit(
            tiny(), RECIPE.replace(learning_rate=1e38, warmup_epochs=0), (X, Y), run_dir=tmp_path, verbose=0
        )
    assert compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0).metrics["epoch"] == 3


@pytest.mark.parametrize("model", ["WideResNet-10-1", None, keras.Sequential([keras.layers.Conv2D(3, 1)])])
def test_what_is_no_classifier_is_refused(model):
    with pytest.raises(ValueError, match=r"output of shape \(n, classes\)"):
        compile_and_fit(model, RECIPE, (X, Y), verbose=0)


def test_a_run_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path / "file", verbose=0)


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


def test_a_nested_network_of_logits_is_trained_as_one():
    plain = compile_and_fit(tiny(), RECIPE.replace(epochs=2), (X, Y), verbose=0)
    inner = tiny()
    outer = keras.Sequential([keras.Input((32, 32, 3)), inner])
    nested = compile_and_fit(outer, RECIPE.replace(epochs=2), (X, Y), verbose=0)
    np.testing.assert_allclose(nested.metrics["loss"], plain.metrics["loss"], rtol=1e-4)
    unknown = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Rescaling(1.0)])
    with pytest.raises(ValueError, match="received: Rescaling in the end"):
        compile_and_fit(unknown, RECIPE, (X, Y), verbose=0)


def test_validation_data_may_come_and_go(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise InterruptedError

    for first, then in ((None, (X, Y)), ((X, Y), None)):
        run = {"run_dir": tmp_path / str(first is None), "verbose": 0}
        with pytest.raises(InterruptedError):
            compile_and_fit(tiny(), RECIPE, (X, Y), validation_data=first, callbacks=[Stop()], **run)
        report = compile_and_fit(tiny(), RECIPE, (X, Y), validation_data=then, **run)
        assert ["val_loss" in row for row in report.history] == ([False, True, True] if then else [True, False, False])
        assert (run["run_dir"] / "report.json").exists()


def test_a_file_may_hold_validation_pictures(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y, x_validation=X[:5], y_validation=Y[:5])
    path = tmp_path / "data.npz"
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), path, validation_data=path, verbose=0)
    assert "val_loss" in report.metrics


def test_a_warm_up_longer_than_the_run_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="more than the 2 steps of the warm-up"):
        compile_and_fit(tiny(), RECIPE.replace(iterations=2), (X, Y), run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_the_loss_is_scaled_by_the_networks_own_policy():
    keras.config.set_dtype_policy("mixed_float16")
    model = tiny()
    keras.config.set_dtype_policy("float32")
    kept = []

    class Keep(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kept.append(self.model.optimizer)

    compile_and_fit(model, RECIPE.replace(epochs=2), (X, Y), device_data=True, callbacks=[Keep()], verbose=0)
    assert isinstance(kept[0], keras.optimizers.LossScaleOptimizer)


def test_label_noise_and_jit_compile_arrive():
    clean, noisy = tiny(), tiny()
    compile_and_fit(clean, RECIPE, (X, Y), verbose=0, jit_compile=False)
    compile_and_fit(noisy, RECIPE.replace(label_noise=0.9), (X, Y), verbose=0)
    assert clean.jit_compile is False
    assert not np.array_equal(weights_of(clean)[-1], weights_of(noisy)[-1])
