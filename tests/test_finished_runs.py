"""A finished run is never changed, and its report describes exactly the weights that are kept."""

import json

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import files_of
from training import RECIPE, X, Y

from keras_resattn import compile_and_fit
from keras_resattn.data import network_input
from keras_resattn.evaluation import load_run
from keras_resattn.recipes.report import Report

LONG = RECIPE.replace(epochs=5)
VALIDATION = (X[:10], Y[:10])


class RestoreEpoch(keras.callbacks.EarlyStopping):
    """`EarlyStopping` that restores the weights of a chosen epoch, whatever its metrics."""

    def __init__(self, best, patience=2):
        super().__init__(monitor="loss", patience=patience, restore_best_weights=True)
        self.chosen = best

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {"loss": abs(epoch + 1 - self.chosen)})


class ShrinkAtEnd(keras.callbacks.Callback):
    """Set weights that no epoch ended with."""

    def on_train_end(self, logs=None):
        self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])


def train(run_dir=None, recipe=LONG, validation_data=VALIDATION, **arguments):
    model = tiny()
    report = compile_and_fit(
        model, recipe, (X, Y), validation_data=validation_data, run_dir=run_dir, verbose=0, **arguments
    )
    return model, report


def assert_describes(report, model):
    """The report's validation metrics are those of the model's weights."""
    inputs = network_input(VALIDATION[0], report.mean, report.std)
    loss, accuracy = model.evaluate(inputs, VALIDATION[1], verbose=0)
    np.testing.assert_allclose(
        [report.metrics["val_loss"], report.metrics["val_accuracy"]], [loss, accuracy], rtol=1e-4
    )


def assert_read_again(run_dir, model, report, **arguments):
    """The same call trains nothing, changes no file, and returns the same report and the kept weights."""
    before = files_of(run_dir)
    again, read = train(run_dir, **arguments)
    assert files_of(run_dir) == before
    assert read == report
    assert json.loads((run_dir / "report.json").read_text())["kept_epoch"] == report.kept_epoch
    for kept in (again, load_run(run_dir)):
        for a, b in zip(weights_of(kept), weights_of(model), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.once
@pytest.mark.parametrize(
    ("patience", "epochs", "ema"),
    [(2, 4, None), (2, 4, 0.5), (9, 5, 0.5)],
    ids=["stopped", "stopped, averaged", "to the end, averaged"],
)
def test_restored_weights_of_an_earlier_epoch_are_kept(tmp_path, patience, epochs, ema):
    best, recipe = 2, LONG.replace(ema=ema)
    callbacks = [RestoreEpoch(best, patience)]
    model, report = train(tmp_path, recipe, callbacks=callbacks)
    assert (report.kept_epoch, len(report.history), report.stopped) == (best, epochs, epochs < 5)
    assert report.metrics == report.history[best - 1]
    assert_describes(report, model)
    assert_read_again(tmp_path, model, report, recipe=recipe, callbacks=callbacks)


@pytest.mark.once
@pytest.mark.parametrize("ema", [None, 0.5])
def test_callbacks_that_change_no_weights_keep_the_last_epoch(tmp_path, ema):
    recipe = LONG.replace(epochs=2, ema=ema)
    plain, expected = train(recipe=recipe)
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True)
    model, report = train(tmp_path, recipe, callbacks=[saving])
    assert (report.kept_epoch, report.stopped, report.metrics) == (2, False, report.history[-1])
    for a, b in zip(weights_of(model), weights_of(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    assert expected.kept_epoch == 2
    other = tiny()
    other.load_weights(tmp_path / "2.weights.h5")
    for a, b in zip(weights_of(model), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # of the averages, with ema
    assert_read_again(tmp_path, model, report, recipe=recipe)


@pytest.mark.once
@pytest.mark.parametrize("ema", [None, 0.5])
def test_weights_of_no_epoch_are_evaluated(tmp_path, ema):
    recipe = LONG.replace(epochs=2, ema=ema)
    model, report = train(tmp_path, recipe, callbacks=[ShrinkAtEnd()])
    assert report.kept_epoch is None
    assert set(report.metrics) == {"val_loss", "val_accuracy"}
    assert_describes(report, model)
    assert_read_again(tmp_path, model, report, recipe=recipe)
    if ema is None:
        _, without = train(recipe=recipe, validation_data=None, callbacks=[ShrinkAtEnd()])
        assert (without.kept_epoch, without.metrics) == (None, {})


def test_callbacks_must_not_change_averaged_weights():
    class Shrink(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])

    with pytest.raises(ValueError, match="do not change weights in on_epoch_end"):
        train(recipe=LONG.replace(ema=0.5), callbacks=[Shrink()])
    _, report = train(recipe=LONG.replace(epochs=2), callbacks=[Shrink()])
    assert report.kept_epoch is None, "validation came before the change"


def test_an_error_in_a_callback_leaves_the_raw_weights():
    """With `ema`, the model holds the averages while the user's callbacks run."""

    class Break(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise InterruptedError

        def on_train_batch_end(self, batch, logs=None):
            trained.append(weights_of(self.model))

    trained, recipe, model = [], LONG.replace(ema=0.5), tiny()
    with pytest.raises(InterruptedError):
        compile_and_fit(model, recipe, (X, Y), validation_data=VALIDATION, verbose=0, callbacks=[Break()])
    for a, b in zip(weights_of(model), trained[-1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_nan_loss_does_not_finish_the_run(tmp_path):
    recipe = LONG.replace(learning_rate=1e30, momentum=0.0)
    with pytest.raises(FloatingPointError):
        train(tmp_path, recipe, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert not (tmp_path / "report.json").exists()


@pytest.mark.once
def test_files_lost_before_the_report_are_written_again(tmp_path):
    model, report = train(tmp_path, callbacks=[RestoreEpoch(2)])
    for name in ("report.json", "model.weights.h5", "log.csv"):
        (tmp_path / name).unlink()
    train(tmp_path)
    assert_read_again(tmp_path, model, report)


@pytest.mark.once
def test_a_finished_run_without_its_checkpoint_is_not_overwritten(tmp_path):
    train(tmp_path, LONG.replace(epochs=2))
    (tmp_path / "checkpoint.npz").unlink()
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=r"without its checkpoint\.npz.*load_run"):
        train(tmp_path, LONG.replace(epochs=2))
    assert files_of(tmp_path) == before


@pytest.mark.once
@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([keras.callbacks.BackupAndRestore("backup")], "no BackupAndRestore.*run_dir keeps a checkpoint"),
        ([keras.callbacks.SwapEMAWeights()], r"no SwapEMAWeights.*replace\(ema="),
        ([keras.callbacks.ReduceLROnPlateau()], "no ReduceLROnPlateau.*schedule"),
        ([keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], "no LearningRateScheduler.*schedule"),
        (keras.callbacks.TerminateOnNaN(), "a list of keras.callbacks.Callback"),
        (["EarlyStopping"], "a list of keras.callbacks.Callback"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_callbacks_that_contradict_the_recipe_raise_before_any_work(tmp_path, callbacks, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.once
def test_reports_of_earlier_versions_can_be_read():
    """Fields added later have defaults."""
    later = ("best_on_validation", "precision", "steps", "processes", "data_format", "class_names")
    fields = [name for name in Report.__dataclass_fields__ if name not in (*later, "kept_epoch", "stopped")]
    assert Report(**dict.fromkeys(fields)).stopped is False
