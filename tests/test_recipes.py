"""Recipes are data; training by one is exact, logged, checkpointed and resumable."""

import csv
import json

import keras
import numpy as np
import pytest

import keras_resattn
from keras_resattn import compile_and_fit
from keras_resattn.data import TrainingBatches, network_input
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes import RECIPES, Recipe, fit, get_recipe
from keras_resattn.recipes.optimizer import CoupledSGD

CrossEntropy = keras.losses.SparseCategoricalCrossentropy
RECIPE = get_recipe("cifar_one_cycle").replace(epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 20)


def tiny(activation=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation)(x), name="tiny")


def weights_of(model):
    return [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"warmup_epochs": 3}, "warmup_epochs"),
        ({"momentum": 1}, "momentum"),
        ({"l2": -1}, "l2"),
        ({"pad": -1}, "pad"),
        ({"seed": -1}, "seed"),
        ({"epochs": 3, "iterations": 10}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"epochs": None, "iterations": 0}, "iterations"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": "steps"}, "warmup_epochs"),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": (0.6, 0.4)}, "milestones"),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": (60, 120)}, "milestones"),
        ({"milestones": (0.5,)}, "milestones"),
        ({"decay": 0}, "decay"),
        ({"pad_mode": "mirror"}, "pad_mode"),
        ({"normalization": "pixel"}, "normalization"),
        ({"cutout": 2.5}, "cutout"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": -1}, "cutmix"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"ema": 1}, "ema"),
        ({"nesterov": "yes"}, "nesterov"),
        ({"multipliers": {"": -1}}, "multipliers"),
        ({"multipliers": 0.1}, "multipliers"),
        ({"l2": "much"}, "l2"),
        ({"mixup": None}, "mixup"),
        ({"ema": "0.9"}, "ema"),
        ({"learning_rate": [0.1]}, "learning_rate"),
        ({"milestones": 0.5}, "milestones"),
    ],
)
def test_fields_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=f"received: {message}="):
        RECIPE.replace(**change)


def test_unknown_names_and_fields_are_refused():
    with pytest.raises(ValueError, match="cifar_one_cycle"):
        get_recipe("cifar_two_cycle")
    with pytest.raises(ValueError, match="fields of a Recipe"):
        Recipe.from_json('{"name": "x"}')


def test_the_schedule_is_one_cycle_counted_in_steps():
    schedule = RECIPE.optimizer(steps_per_epoch=10)._learning_rate
    rate = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(31)]
    np.testing.assert_allclose(rate[:11], np.linspace(0, 0.05, 11), atol=1e-7)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
    np.testing.assert_allclose(rate[10:], cosine, atol=1e-7)
    without_warmup = RECIPE.replace(warmup_epochs=0).optimizer(steps_per_epoch=10)._learning_rate
    np.testing.assert_allclose(float(keras.ops.convert_to_numpy(without_warmup(0))), 0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "rates"),
    [
        ("resattn_cifar", 1000, {0: 0.1, 63_999: 0.1, 64_000: 0.01, 95_999: 0.01, 96_000: 0.001, 159_999: 0.001}),
        ("warn_cifar", 390, {0: 0.1, 23_399: 0.1, 23_400: 0.02, 46_800: 0.004, 62_399: 0.004, 62_400: 0.0008}),
        ("cluttered_mnist", 2000, {0: 0.1, 119_999: 0.1, 120_000: 0.01, 199_999: 0.01}),
    ],
)
def test_the_papers_schedules_fall_at_their_iterations(name, steps_per_epoch, rates):
    schedule = get_recipe(name).learning_rate_schedule(steps_per_epoch)
    for step, rate in rates.items():
        np.testing.assert_allclose(float(keras.ops.convert_to_numpy(schedule(step))), rate, rtol=1e-6)


def test_a_new_length_takes_the_place_of_the_old_one():
    short = get_recipe("resattn_cifar").replace(epochs=3)
    assert (short.epochs, short.iterations) == (3, None)
    counted = RECIPE.replace(iterations=50)
    assert (counted.epochs, counted.iterations, counted.length(20)) == (None, 50, 3)


def test_iterations_are_rounded_up_to_epochs():
    paper = get_recipe("resattn_cifar")
    assert paper.length(50_000 // 64) == 205
    assert paper.length(1000) == 160


def test_decay_is_coupled_and_spares_vectors():
    """v = m v + (g + l2 w); w -= lr v: PyTorch's and Caffe's weight decay, twice, by hand."""
    kernel, bias = keras.Variable([[1.0, -2.0]]), keras.Variable([3.0])
    optimizer = CoupledSGD(0.1, l2=0.5, momentum=0.9)
    optimizer.build([kernel, bias])
    w, b, v_w, v_b = np.array([[1.0, -2.0]]), np.array([3.0]), 0.0, 0.0
    for _ in range(2):
        gradients = [keras.ops.convert_to_tensor(np.array(g, "float32")) for g in ([[0.3, 0.1]], [0.2])]
        optimizer.apply(gradients)
        v_w = 0.9 * v_w + np.array([[0.3, 0.1]]) + 0.5 * w
        v_b = 0.9 * v_b + 0.2
        w, b = w - 0.1 * v_w, b - 0.1 * v_b
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), w, rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), b, rtol=1e-6)
    assert CoupledSGD.from_config(optimizer.get_config()).l2 == 0.5


def test_vectors_decay_where_asked_for():
    bias = keras.Variable([3.0])
    optimizer = CoupledSGD(0.1, l2=0.5, decay_vectors=True)
    optimizer.build([bias])
    optimizer.apply([keras.ops.convert_to_tensor(np.array([0.2], "float32"))])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), [3.0 - 0.1 * (0.2 + 0.5 * 3.0)], rtol=1e-6)
    assert CoupledSGD.from_config(optimizer.get_config()).decay_vectors


def test_an_epoch_shows_each_picture_once_and_epochs_differ():
    x = np.arange(20, dtype="uint8").reshape(20, 1, 1, 1)
    stream = TrainingBatches(x, np.arange(20), RECIPE.replace(pad=0, flip=False, batch_size=5), lambda x: x)
    labels = np.stack([stream[i][1] for i in range(len(stream))]).reshape(3, 20)
    assert len(stream) == 12
    assert (np.sort(labels, 1) == np.arange(20)).all()
    assert not np.array_equal(labels[0], labels[1])
    for i in range(len(stream)):
        np.testing.assert_array_equal(stream[i][0].ravel(), stream[i][1])


def test_a_batch_depends_on_seed_and_place_alone():
    whole = TrainingBatches(X, Y, RECIPE, lambda x: x)
    rest = TrainingBatches(X, Y, RECIPE, lambda x: x, first_epoch=1)
    np.testing.assert_array_equal(whole[3][0], rest[1][0])
    other = TrainingBatches(X, Y, RECIPE.replace(seed=1), lambda x: x)
    assert not np.array_equal(whole[3][0], other[3][0])


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


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["after the checkpoint", "in the checkpoint's write", "between log and checkpoint"])
def test_a_killed_run_ends_with_the_weights_of_the_unbroken_one(tmp_path, monkeypatch, moment):
    unbroken = tiny()
    reference = compile_and_fit(unbroken, RECIPE, (X, Y), run_dir=tmp_path / "unbroken", verbose=0)

    original_save, original_end = keras.Model.save_weights, fit._Run.on_epoch_end
    state = {"epoch": 0}

    def save(self, path, *args, **kwargs):
        if state["epoch"] == 2 and moment != "after the checkpoint":
            if moment == "in the checkpoint's write":
                path.write_bytes(b"half a file")
            raise Killed
        original_save(self, path, *args, **kwargs)

    def on_epoch_end(self, epoch, logs=None):
        state["epoch"] = epoch + 1
        original_end(self, epoch, logs)
        if epoch + 1 == 2:
            raise Killed

    monkeypatch.setattr(keras.Model, "save_weights", save)
    monkeypatch.setattr(fit._Run, "on_epoch_end", on_epoch_end)
    with pytest.raises(Killed):
        compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path / "broken", verbose=0)
    monkeypatch.undo()

    resumed = tiny()
    report = compile_and_fit(resumed, RECIPE, (X, Y), run_dir=tmp_path / "broken", verbose=0)
    for a, b in zip(weights_of(resumed), weights_of(unbroken), strict=True):
        np.testing.assert_array_equal(a, b)
    keys = ("epoch", "loss", "accuracy", "learning_rate")
    assert [[row[k] for k in keys] for row in report.history] == [[row[k] for k in keys] for row in reference.history]
    assert not list((tmp_path / "broken").glob(".partial*"))


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


def test_the_average_of_the_weights_is_validated_and_left(tmp_path):
    """w_ema = 0.5 w_ema + 0.5 w after each step; with a rate of zero in the end, one weight tells."""
    model = tiny()
    report = compile_and_fit(
        model, RECIPE.replace(ema=0.5), (X, Y), validation_data=(X, Y), run_dir=tmp_path, verbose=0
    )
    inputs = network_input(X, report.mean, report.std)
    loss, accuracy = model.evaluate(inputs, Y, verbose=0)
    np.testing.assert_allclose(
        [report.metrics["val_loss"], report.metrics["val_accuracy"]], [loss, accuracy], rtol=1e-4
    )
    raw = tiny()
    raw.compile(RECIPE.replace(ema=0.5).optimizer(2))
    raw.optimizer.build(raw.trainable_variables)
    raw.load_weights(tmp_path / "checkpoint.weights.h5")
    assert not np.array_equal(weights_of(raw)[0], weights_of(model)[0]), "the checkpoint goes on from the raw weights"
    raw.optimizer.finalize_variable_values(raw.trainable_variables)
    for a, b in zip(weights_of(raw), weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_modern_run_that_was_stopped_ends_with_the_weights_of_the_unbroken_one(tmp_path, monkeypatch, stopped_after):
    unbroken = tiny()
    compile_and_fit(unbroken, MODERN, (X, Y), run_dir=tmp_path / "unbroken", verbose=0)
    on_epoch_end = fit._Run.on_epoch_end

    def stop(run, epoch, logs=None):
        on_epoch_end(run, epoch, logs)
        if epoch + 1 == stopped_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit._Run, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            compile_and_fit(tiny(), MODERN, (X, Y), run_dir=tmp_path / "stopped", verbose=0)
    resumed = tiny()
    compile_and_fit(resumed, MODERN, (X, Y), run_dir=tmp_path / "stopped", verbose=0)
    for a, b in zip(weights_of(unbroken), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


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
    report = compile_and_fit(tiny(), recipe, (X, Y), verbose=0)
    assert np.isfinite(report.metrics["loss"])


def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    recipe = RECIPE.replace(learning_rate=1e30, momentum=0.0)
    with pytest.raises(FloatingPointError, match="not a finite number"):
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


def steps(learning_rate, multipliers=None):
    """What three steps of momentum and L2 add to three variables: no gradient but those that are given."""
    variables = [keras.Variable([[1.0, -2.0]], name=name) for name in ("attention1_kernel", "group1_kernel", "gate")]
    optimizer = CoupledSGD(learning_rate, l2=0.5, momentum=0.9, nesterov=True, multipliers=multipliers)
    optimizer.build(variables)
    for step in (1, 2, 3):
        optimizer.apply([keras.ops.convert_to_tensor(np.array([[0.3, step]], "float32"))] * 3)
    return {v.name: keras.ops.convert_to_numpy(v) - np.array([[1.0, -2.0]], "float32") for v in variables}


def test_multipliers_are_learning_rates_of_groups():
    grouped = steps(0.1, {"attention": 1.0, "group": 0.2, "": 0.0})
    for name, rate in {"attention1_kernel": 0.1, "group1_kernel": 0.02, "gate": 0.0}.items():
        np.testing.assert_allclose(grouped[name], steps(rate)[name], rtol=1e-5)
        assert np.abs(grouped[name]).max() == 0 if rate == 0 else np.abs(grouped[name]).min() > 0.01


def test_the_first_multiplier_that_matches_the_beginning_of_a_path_counts():
    plain = steps(0.1)
    grouped = steps(0.1, {"group1": 0.5, "group|attention1": 0.25, "attention": 3.0, "ate": 7.0})
    expected = {"attention1_kernel": steps(0.025), "group1_kernel": steps(0.05), "gate": plain}
    for name, same in expected.items():
        np.testing.assert_allclose(grouped[name], same[name], rtol=1e-5)
    for name, step in steps(0.1, {}).items():
        np.testing.assert_array_equal(step, plain[name])


def test_multipliers_go_by_the_paths_of_a_networks_layers():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Dense(2, name="group1")(inputs)
    x = keras_resattn.layers.AttentionHead(2, "sigmoid", name="attention1_mask")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.compile(CoupledSGD(0.1, multipliers={"attention|global_gate": 1.0, "": 0.0}), "mse")
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    model.train_on_batch(RNG.normal(size=(2, 4, 4, 3)), np.ones((2, 2)))
    moved = [
        v.path for v in model.trainable_variables if not np.array_equal(keras.ops.convert_to_numpy(v), before[v.path])
    ]
    assert list(before) == ["group1/kernel", "group1/bias", "attention1_mask/conv/kernel"]
    assert moved == ["attention1_mask/conv/kernel"]


def test_multipliers_come_back_from_the_configuration():
    multipliers = {"b": 0.1, "a": 2.0, "": 0.5}
    configuration = json.loads(json.dumps(keras.saving.serialize_keras_object(CoupledSGD(multipliers=multipliers))))
    restored = keras.saving.deserialize_keras_object(configuration)
    assert list(restored.multipliers.items()) == list(multipliers.items()), "in their order"
    assert CoupledSGD().get_config()["multipliers"] == {}
