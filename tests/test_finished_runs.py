"""A finished run is read, never changed; its report describes exactly the weights that are kept."""

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


class ByHand(keras.callbacks.EarlyStopping):
    """Takes one epoch for the best, whatever its figures: `EarlyStopping` restores that one's weights."""

    def __init__(self, best, patience=2):
        super().__init__(monitor="loss", patience=patience, restore_best_weights=True)
        self.chosen = best

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {"loss": abs(epoch + 1 - self.chosen)})


class SetAtTheEnd(keras.callbacks.Callback):
    """Leaves weights that no epoch ended with."""

    def on_train_end(self, logs=None):
        self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])


def train(run_dir=None, recipe=LONG, validation_data=VALIDATION, **arguments):
    model = tiny()
    report = compile_and_fit(
        model, recipe, (X, Y), validation_data=validation_data, run_dir=run_dir, verbose=0, **arguments
    )
    return model, report


def assert_describes(report, model):
    """The report's figures on validation data are those of the model's weights."""
    inputs = network_input(VALIDATION[0], report.mean, report.std)
    loss, accuracy = model.evaluate(inputs, VALIDATION[1], verbose=0)
    np.testing.assert_allclose(
        [report.metrics["val_loss"], report.metrics["val_accuracy"]], [loss, accuracy], rtol=1e-4
    )


def assert_read_again(run_dir, model, report, **arguments):
    """The same call trains nothing, changes no file, and returns the same report and the weights that were kept."""
    before = files_of(run_dir)
    again, read = train(run_dir, **arguments)
    assert files_of(run_dir) == before
    assert read == report
    assert json.loads((run_dir / "report.json").read_text())["kept_epoch"] == report.kept_epoch
    for kept in (again, load_run(run_dir)):
        for a, b in zip(weights_of(kept), weights_of(model), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize(("best", "patience", "epochs"), [(2, 2, 4), (2, 9, 5)], ids=["stopped", "to the end"])
def test_weights_of_the_best_epoch_stay_the_best_ones(tmp_path, best, patience, epochs, ema):
    recipe, callbacks = LONG.replace(ema=ema), [ByHand(best, patience)]
    model, report = train(tmp_path, recipe, callbacks=callbacks)
    assert (report.kept_epoch, len(report.history), report.stopped) == (best, epochs, epochs < 5)
    assert report.metrics == report.history[best - 1]
    assert_describes(report, model)
    assert_read_again(tmp_path, model, report, recipe=recipe, callbacks=callbacks)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_callbacks_that_change_nothing_leave_the_last_epoch(tmp_path, ema):
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
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the averages, where there are some
    assert_read_again(tmp_path, model, report, recipe=recipe)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_weights_of_no_epoch_are_measured(tmp_path, ema):
    recipe = LONG.replace(epochs=2, ema=ema)
    model, report = train(tmp_path, recipe, callbacks=[SetAtTheEnd()])
    assert report.kept_epoch is None
    assert set(report.metrics) == {"val_loss", "val_accuracy"}
    assert_describes(report, model)
    assert_read_again(tmp_path, model, report, recipe=recipe)
    _, unmeasured = train(recipe=recipe, validation_data=None, callbacks=[SetAtTheEnd()])
    assert (unmeasured.kept_epoch, unmeasured.metrics) == (None, {})


def test_a_change_that_averages_would_swallow_is_refused():
    class Shrink(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights([weight * 0.5 for weight in self.model.get_weights()])

    with pytest.raises(ValueError, match="leave the weights alone in on_epoch_end"):
        train(recipe=LONG.replace(ema=0.5), callbacks=[Shrink()])
    _, report = train(recipe=LONG.replace(epochs=2), callbacks=[Shrink()])
    assert report.kept_epoch is None, "the validation was before the change"


def test_an_error_in_a_callback_leaves_the_weights_that_were_trained():
    """With averages the model holds these while callbacks of the user's are called."""

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


def test_nan_finishes_no_run(tmp_path):
    recipe = LONG.replace(learning_rate=1e30, momentum=0.0)
    with pytest.raises(FloatingPointError):
        train(tmp_path, recipe, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert not (tmp_path / "report.json").exists()


def test_a_kill_before_the_report_loses_only_files_that_are_written_again(tmp_path):
    model, report = train(tmp_path, callbacks=[ByHand(2)])
    for name in ("report.json", "model.weights.h5", "log.csv"):
        (tmp_path / name).unlink()
    train(tmp_path)
    assert_read_again(tmp_path, model, report)


def test_a_finished_run_without_its_checkpoint_is_not_trained_over(tmp_path):
    train(tmp_path, LONG.replace(epochs=2))
    (tmp_path / "checkpoint.npz").unlink()
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=r"without its checkpoint\.npz.*load_run"):
        train(tmp_path, LONG.replace(epochs=2))
    assert files_of(tmp_path) == before


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
def test_callbacks_that_contradict_a_recipe_are_refused_before_any_work(tmp_path, callbacks, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


def test_reports_of_earlier_versions_are_read():
    """Fields that came later have defaults."""
    later = ("best_on_validation", "precision", "steps", "processes", "data_format", "class_names")
    fields = [name for name in Report.__dataclass_fields__ if name not in (*later, "kept_epoch", "stopped")]
    assert Report(**dict.fromkeys(fields)).stopped is False
