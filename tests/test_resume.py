"""A run that is broken off, however that happens, goes on and ends with the weights of the unbroken one."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import RECIPE, STEPS, Killed, Stop, X, Y, files_of, kill, train

from keras_resattn import compile_and_fit
from keras_resattn.recipes.run_folder import RunFolder


@pytest.fixture(scope="module")
def unbroken():
    """Weights and log of the run that nobody kills."""
    model, report = train()
    return weights_of(model), report.history


def assert_same(model, report, unbroken):
    weights, history = unbroken
    for a, b in zip(weights_of(model), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    keys = ("epoch", "loss", "accuracy", "learning_rate")
    assert [[row[k] for k in keys] for row in report.history] == [[row[k] for k in keys] for row in history]


@pytest.mark.parametrize(("step", "checkpoint_steps"), [(1, 1), (5, None), (6, 2), (8, 1), (8, None), (STEPS, 2)])
def test_a_run_killed_in_a_batch(tmp_path, unbroken, step, checkpoint_steps):
    with pytest.raises(Killed):
        train(tmp_path, callbacks=[Stop(step, kill)], checkpoint_steps=checkpoint_steps)
    assert_same(*train(tmp_path, checkpoint_steps=checkpoint_steps), unbroken)


@pytest.mark.parametrize("moment", ["half written", "written", "log not written"])
def test_a_run_killed_around_a_checkpoint(tmp_path, unbroken, monkeypatch, moment):
    left, savez, save, write_log = [6], np.savez, RunFolder.save, RunFolder.write_log

    def half(path, **arrays):
        savez(path, **arrays)
        left[0] -= 1
        if left[0] == 0:
            path.write_bytes(path.read_bytes()[:1000])
            raise Killed

    def whole(*arguments):
        save(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    def log(*arguments):
        if left[0] <= 3:
            raise Killed
        left[0] -= 3
        write_log(*arguments)

    with monkeypatch.context() as patch:
        if moment == "half written":
            patch.setattr(np, "savez", half)
        elif moment == "written":
            patch.setattr(RunFolder, "save", whole)
        else:
            patch.setattr(RunFolder, "write_log", log)
        with pytest.raises(Killed):
            train(tmp_path, checkpoint_steps=2)
    assert_same(*train(tmp_path, checkpoint_steps=2), unbroken)
    assert not list(tmp_path.glob(".partial*"))


def test_time_makes_a_checkpoint_due_inside_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resattn.recipes.checkpointing.SECONDS_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(Killed):
        train(tmp_path, callbacks=[Stop(3, kill)])
    assert step_of(tmp_path) == 2


def test_a_run_killed_again_and_again(tmp_path, unbroken):
    for _ in range(4):
        with pytest.raises(Killed):
            train(tmp_path, callbacks=[Stop(4, kill)], checkpoint_steps=1)
    assert_same(*train(tmp_path), unbroken)


def test_a_process_that_the_system_kills(tmp_path, unbroken):
    """`kill -9`, for good: another process trains, slowly, until its folder holds a checkpoint inside an epoch."""
    script = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        import test_resume
        test_resume.train(sys.argv[2], callbacks=[test_resume.Stop(7, lambda: time.sleep(600))], checkpoint_steps=1)
    """
    run = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(script), str(Path(__file__).parent), str(run)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while step_of(run) < 6 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert step_of(run) == 6
    assert_same(*train(run), unbroken)


def step_of(run):
    """The step of a run's checkpoint; -1 without any."""
    loaded = read(run)
    return -1 if loaded is None else loaded[1]["step"]


def read(run):
    return RunFolder(run).load()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_leaves_a_usable_model(tmp_path, unbroken, number, capsys):
    model, handler = tiny(dropout=0.3), signal.getsignal(number)
    stop = Stop(8, lambda: os.kill(os.getpid(), number))
    expected = (KeyboardInterrupt, "step 8 of 15") if number == signal.SIGINT else (SystemExit, "143")
    with pytest.raises(expected[0], match=expected[1]):
        compile_and_fit(model, RECIPE, (X, Y), run_dir=tmp_path, verbose=0, callbacks=[stop])
    if number == signal.SIGTERM:  # whose exit says nothing by itself
        assert capsys.readouterr().err.endswith(f"Stopped after step 8 of 15; {tmp_path} goes on from there.\n")
    assert np.isfinite(model.predict(X[:2] / 255.0, verbose=0)).all()
    assert read(tmp_path)[1]["step"] == 8
    assert signal.getsignal(number) is handler
    assert_same(*train(tmp_path), unbroken)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="on others Keras makes its metrics with the first batch")
def test_going_on_inside_an_epoch_compiles_no_step_of_testing(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(tmp_path, callbacks=[Stop(8, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    tested, test_on_batch = [], keras.Model.test_on_batch
    monkeypatch.setattr(
        keras.Model, "test_on_batch", lambda model, *args: (tested.append(model), test_on_batch(model, *args))
    )
    model, report = train(tmp_path)
    assert report.steps == 15
    assert tested, "the averages' statistics are measured"
    assert not any(each is model for each in tested)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, unbroken, monkeypatch):
    savez, left = np.savez, [4]

    def full(path, **arrays):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(path, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(
            OSError, match=r"checkpoint\.npz could not be written .*No space left.*previous file is intact"
        ):
            train(tmp_path, checkpoint_steps=2)
    assert_same(*train(tmp_path), unbroken)


def test_a_loss_that_is_no_number_names_step_images_and_checkpoint(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, 1):
                self.model.layers[-1].bias.assign([np.nan] * 3)

    with pytest.raises(FloatingPointError) as caught:
        train(tmp_path, checkpoint_steps=3, callbacks=[Poison()])
    message = str(caught.value)
    assert "The loss is nan from step 7 on (epoch 2, step 2 of 5)" in message
    images = np.random.default_rng((RECIPE.seed, 1)).permutation(len(X))[8:16]
    assert f"of the images {', '.join(map(str, images))}." in message
    assert "checkpoint, of step 6" in message
    arrays, progress = read(tmp_path)
    assert progress["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_diverging_run_keeps_its_last_finite_checkpoint(tmp_path):
    """The first step, at a learning rate of 0, is finite; the second one leaves weights too large to compute with."""
    with pytest.raises(FloatingPointError, match=r"is (nan|inf)|no longer finite"):
        train(tmp_path, RECIPE.replace(learning_rate=1e30, momentum=0.0, ema=None), checkpoint_steps=1)
    assert not (tmp_path / "model.weights.h5").exists()
    arrays, progress = read(tmp_path)
    assert progress["step"] >= 1
    assert all(np.isfinite(array).all() for name, array in arrays.items() if "metrics" not in name)


@pytest.mark.parametrize("policy", ["mixed_float16"])
def test_the_scale_of_the_loss_is_state_too(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    whole, report = train()
    with pytest.raises(Killed):
        train(tmp_path, callbacks=[Stop(8, kill)], checkpoint_steps=1)
    assert_same(*train(tmp_path), (weights_of(whole), report.history))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs single steps on PyTorch")
def test_several_steps_at_a_time_go_on_too(tmp_path):
    recipe = RECIPE.replace(batch_size=10)
    whole, report = train(recipe=recipe, steps_per_execution=2)
    with pytest.raises(Killed):
        train(tmp_path, recipe, callbacks=[Stop(3, kill)], checkpoint_steps=2, steps_per_execution=2)
    resumed = train(tmp_path, recipe, steps_per_execution=2)
    assert_same(*resumed, (weights_of(whole), report.history))


def test_a_callback_that_stops_inside_an_epoch_ends_the_run_there(tmp_path):
    class Enough(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.stop_training or int(self.model.optimizer.iterations) == 7

    stopped, report = train(tmp_path, callbacks=[Enough()])
    assert (report.steps, report.stopped, report.kept_epoch) == (7, True, 2)
    before = files_of(tmp_path)
    again, read_again = train(tmp_path)
    assert read_again == report, "a run that a callback stopped is finished"
    for a, b in zip(weights_of(again), weights_of(stopped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert files_of(tmp_path) == before


def test_a_kill_before_the_last_row_of_the_log_loses_no_row(tmp_path, monkeypatch):
    write = RunFolder.write_log

    def killed(folder, rows):
        if len(rows) == 3:
            raise Killed
        write(folder, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_log", killed)
        with pytest.raises(Killed):
            train(tmp_path)
    train(tmp_path)
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().split()] == ["epoch", "1", "2", "3"]


def test_an_error_while_a_batch_is_read_leaves_a_usable_model():
    """The first batch after a validation: on JAX the model's variables are in the middle of the step."""

    class Batches:
        def __init__(self):
            self.passes = 0

        def __iter__(self):
            self.passes += 1
            if self.passes > 4:  # the length, the first batch, two epochs
                raise OSError("bad image")
            return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))

    model = tiny()
    with pytest.raises(OSError, match="bad image"):
        compile_and_fit(model, RECIPE, Batches(), validation_data=(X, Y), statistics=([0] * 3, [255] * 3), verbose=0)
    assert all(np.isfinite(weight).all() for weight in weights_of(model))
    assert compile_and_fit(model, RECIPE, (X, Y), verbose=0).metrics["epoch"] == 3
