"""However a run is interrupted, resuming it ends with the weights and the log of the uninterrupted run."""

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
from resuming import RECIPE, STEPS, AtStep, Killed, X, Y, files_of, killed_at, train

from keras_resattn import compile_and_fit
from keras_resattn.recipes.run_folder import RunFolder


@pytest.fixture(scope="module")
def uninterrupted():
    """Weights and log of the run that nothing interrupts."""
    model, report = train()
    return weights_of(model), report.history


def assert_same(model, report, uninterrupted):
    weights, history = uninterrupted
    for a, b in zip(weights_of(model), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    keys = ("epoch", "loss", "accuracy", "learning_rate")
    assert [[row[k] for k in keys] for row in report.history] == [[row[k] for k in keys] for row in history]


def step_of(run):
    """The step of a run's checkpoint; -1 without one."""
    loaded = RunFolder(run).load()
    return -1 if loaded is None else loaded[1]["step"]


@pytest.mark.parametrize(
    ("step", "checkpoint_steps", "resumed_from"),
    [(1, 1, -1), (8, None, 5), (STEPS, 2, 14)],
    ids=["before the first checkpoint", "from the start of an epoch", "in the last step"],
)
def test_a_run_killed_in_a_step(tmp_path, uninterrupted, step, checkpoint_steps, resumed_from):
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(step), checkpoint_steps=checkpoint_steps)
    assert step_of(tmp_path) == resumed_from
    assert_same(*train(tmp_path, checkpoint_steps=checkpoint_steps), uninterrupted)


@pytest.mark.once
def test_a_run_killed_again_and_again(tmp_path, uninterrupted):
    """Inside an epoch, in its first step, in its last one, and twice in the same epoch."""
    for step in (4, 6, 10, 12, 14):
        with pytest.raises(Killed):
            train(tmp_path, callbacks=killed_at(step), checkpoint_steps=1)
        assert step_of(tmp_path) == step - 1
    assert_same(*train(tmp_path), uninterrupted)


@pytest.mark.once
@pytest.mark.parametrize("moment", ["half written", "written", "log not written"])
def test_a_run_killed_while_a_checkpoint_is_written(tmp_path, uninterrupted, monkeypatch, moment):
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
    assert_same(*train(tmp_path, checkpoint_steps=2), uninterrupted)
    assert not list(tmp_path.glob(".partial*"))


@pytest.mark.once
def test_a_checkpoint_inside_an_epoch_is_due_after_some_time(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resattn.recipes.checkpointing.SECONDS_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(3))
    assert step_of(tmp_path) == 2


@pytest.mark.once
@pytest.mark.slow  # the kills above are the same to the files
def test_a_process_killed_by_the_system(tmp_path, uninterrupted):
    """`kill -9`: another process trains until its folder holds a checkpoint inside an epoch, and is killed there."""
    script = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        import resuming
        stop = resuming.AtStep(7, lambda: time.sleep(600))
        resuming.train(sys.argv[2], callbacks=[stop], checkpoint_steps=1)
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
    assert_same(*train(run), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_leaves_a_usable_model(tmp_path, uninterrupted, number, capsys):
    model, handler = tiny(dropout=0.3), signal.getsignal(number)
    stop = AtStep(8, lambda: os.kill(os.getpid(), number))
    expected = (KeyboardInterrupt, "step 8 of 15") if number == signal.SIGINT else (SystemExit, "143")
    with pytest.raises(expected[0], match=expected[1]):
        compile_and_fit(model, RECIPE, (X, Y), run_dir=tmp_path, verbose=0, callbacks=[stop])
    if number == signal.SIGTERM:  # SystemExit prints nothing itself
        message = f"Stopped after step 8 of 15. The checkpoint is in {tmp_path}; rerun to resume.\n"
        assert capsys.readouterr().err.endswith(message)
    assert np.isfinite(model.predict(X[:2] / 255.0, verbose=0)).all()
    assert step_of(tmp_path) == 8
    assert signal.getsignal(number) is handler
    assert_same(*train(tmp_path), uninterrupted)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere Keras creates metrics with the first batch")
def test_resuming_inside_an_epoch_compiles_no_test_step(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(8), checkpoint_steps=1)
    tested, test_on_batch = [], keras.Model.test_on_batch
    monkeypatch.setattr(
        keras.Model, "test_on_batch", lambda model, *args: (tested.append(model), test_on_batch(model, *args))
    )
    model, report = train(tmp_path)
    assert report.steps == 15
    assert tested, "batch norm is recalibrated for the averaged weights"
    assert not any(each is model for each in tested)


@pytest.mark.once
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, uninterrupted, monkeypatch):
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
    assert_same(*train(tmp_path), uninterrupted)


@pytest.mark.parametrize(
    "policy",
    [pytest.param("mixed_float16", marks=[pytest.mark.slow] if keras.backend.backend() == "tensorflow" else [])],
)
def test_the_loss_scale_is_restored(tmp_path, policy):
    keras.config.set_dtype_policy(policy)
    whole, report = train()
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(8), checkpoint_steps=1)
    assert_same(*train(tmp_path), (weights_of(whole), report.history))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs single steps")
def test_several_steps_per_execution_are_resumed(tmp_path):
    recipe = RECIPE.replace(batch_size=10)
    whole, report = train(recipe=recipe, steps_per_execution=2)
    with pytest.raises(Killed):
        train(tmp_path, recipe, callbacks=killed_at(8), checkpoint_steps=2, steps_per_execution=2)
    assert step_of(tmp_path) == 6
    assert_same(*train(tmp_path, recipe, steps_per_execution=2), (weights_of(whole), report.history))


@pytest.mark.once
def test_a_callback_that_stops_inside_an_epoch_ends_the_run_there(tmp_path):
    def stop():
        stopping.model.stop_training = True

    stopping = AtStep(7, stop)
    stopped, report = train(tmp_path, callbacks=[stopping])
    assert (report.steps, report.stopped, report.kept_epoch) == (7, True, 2)
    before = files_of(tmp_path)
    again, read_again = train(tmp_path)
    assert read_again == report, "a run that a callback stopped is finished"
    for a, b in zip(weights_of(again), weights_of(stopped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert files_of(tmp_path) == before


@pytest.mark.once
def test_a_kill_before_the_last_row_of_the_log_loses_no_row(tmp_path, monkeypatch):
    write = RunFolder.write_log

    def killed(folder, history):
        if len(history) == 3:
            raise Killed
        write(folder, history)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_log", killed)
        with pytest.raises(Killed):
            train(tmp_path)
    train(tmp_path)
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().split()] == ["epoch", "1", "2", "3"]


def test_an_error_while_a_batch_is_read_leaves_a_usable_model():
    """The first batch after a validation: on JAX, the step holds the values of the model's variables."""

    class Batches:
        def __init__(self):
            self.iterations = 0

        def __len__(self):
            return 5

        def __iter__(self):
            self.iterations += 1
            if self.iterations > 4:  # one for the length, one for the first batch, two epochs
                raise OSError("bad image")
            return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 40, 8))

    model = tiny()
    with pytest.raises(OSError, match="bad image"):
        compile_and_fit(model, RECIPE, Batches(), validation_data=(X, Y), statistics=([0] * 3, [255] * 3), verbose=0)
    assert all(np.isfinite(weight).all() for weight in weights_of(model))
    assert compile_and_fit(model, RECIPE, (X, Y), verbose=0).metrics["epoch"] == 3
