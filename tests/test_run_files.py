"""Files of a run folder: errors name damaged or edited ones, and a full disk or a second process does no harm."""

import errno
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import RECIPE, AtStep, Killed, X, Y, files_of, killed_at, train

from keras_resattn import compile_and_fit
from keras_resattn.evaluation import evaluate_run, load_run
from keras_resattn.recipes.run_folder import RunFolder, read_report
from keras_resattn.utils import io
from keras_resattn.utils.io import atomic_write
from keras_resattn.utils.locking import LOCK, locked

pytestmark = pytest.mark.once

# Trains fast; these tests do not depend on the recipe.
QUICK = RECIPE.replace(epochs=2, ema=None, mixup=0.0, cutmix=0.0, cutout=0, batch_size=20, warmup_epochs=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run, and one that was killed after its first epoch."""
    root = tmp_path_factory.mktemp("runs")
    train(root / "finished", QUICK)
    with pytest.raises(Killed):
        train(root / "killed", QUICK, callbacks=killed_at(3))
    return root


@pytest.fixture
def copied(folders, tmp_path):
    """A function that copies one of the two folders."""

    def copy(name):
        target = tmp_path / name
        target.mkdir()
        for path in (folders / name).iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        return target

    return copy


GARBAGE = {
    "empty": b"",
    "binary": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "truncated": None,
}


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
@pytest.mark.parametrize("name", ["checkpoint.npz", "recipe.json", "statistics.json"])
@pytest.mark.parametrize("state", ["killed", "finished"])
def test_a_damaged_file_is_named_and_nothing_is_changed(copied, state, name, garbage):
    run = copied(state)
    content = (run / name).read_bytes()
    content = content[: len(content) // 2] if GARBAGE[garbage] is None else GARBAGE[garbage]
    if (name, garbage) == ("statistics.json", "a list"):
        content = b"{}"
    (run / name).write_bytes(content)
    before = files_of(run)
    with pytest.raises(ValueError, match=rf"Expected {run / name} to .*(Delete|delete) ") as caught:
        train(run, QUICK)
    assert "pickle" not in str(caught.value)
    assert files_of(run) == before


@pytest.mark.parametrize("garbage", GARBAGE, ids=str)
@pytest.mark.parametrize("name", ["report.json", "model.json", "model.weights.h5"])
def test_a_damaged_result_is_named(copied, name, garbage):
    run = copied("finished")
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2] if GARBAGE[garbage] is None else GARBAGE[garbage])
    with pytest.raises(ValueError, match=rf"{run / name}"):
        load_run(run)


def test_a_report_without_its_fields_is_named(copied):
    run = copied("finished")
    (run / "report.json").write_text("{}")
    for read in (read_report, load_run, lambda run: evaluate_run(run, (X, Y))):
        with pytest.raises(ValueError, match=r"report\.json to be the report of a run; it lacks mean, metrics"):
            read(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": [1.0, 1.0, 1.0]}, r"statistics\.json to match report\.json; one of them was edited"),
        ({"mean": "abc"}, r"report\.json to hold finite numbers as mean and std; received: \['abc'"),
        ({"mean": [float("nan")] * 3}, r"report\.json to hold finite numbers"),
    ],
    ids=["edited", "text", "nan"],
)
def test_statistics_edited_in_the_report_are_detected(copied, changes, message):
    run = copied("finished")
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps(report | changes))
    for read in (read_report, load_run, lambda run: evaluate_run(run, (X, Y))):
        with pytest.raises(ValueError, match=message):
            read(run)


def edited(run, **changes):
    """Rewrite a checkpoint with an edited progress."""
    with np.load(run / "checkpoint.npz") as file:
        arrays = dict(file)
    progress = {**json.loads(arrays["progress"].tobytes()), **changes}
    arrays["progress"] = np.frombuffer(json.dumps(progress).encode(), "uint8")
    np.savez(run / "checkpoint.npz", **arrays)


@pytest.mark.parametrize("step", [-1, 1, 10**12, "2", None, 1.5])
def test_an_edited_step_is_detected(copied, step):
    run = copied("killed")
    edited(run, step=step)
    with pytest.raises(ValueError, match=r"checkpoint\.npz to be as a run wrote it; it was edited"):
        train(run, QUICK)


@pytest.mark.parametrize("name", ["seal", "progress", "model/0", "optimizer/1"])
def test_an_incomplete_checkpoint_leaves_the_model_unchanged(copied, name):
    run = copied("killed")
    with np.load(run / "checkpoint.npz") as file:
        arrays = {key: value for key, value in file.items() if key != name}
    np.savez(run / "checkpoint.npz", **arrays)
    model = tiny(dropout=0.3)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"checkpoint\.npz to be a checkpoint|Expected a checkpoint of this network"):
        compile_and_fit(model, QUICK, (X, Y), run_dir=run, verbose=0)
    for a, b in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["recipe.json", "statistics.json"])
@pytest.mark.parametrize("state", ["killed", "finished"])
def test_an_edited_copy_is_detected_and_a_missing_one_written_again(copied, state, name):
    run = copied(state)
    original = (run / name).read_text()
    content = json.loads(original)
    content[next(iter(content)) if isinstance(content, dict) else 0] = [1.0, 2.0, 3.0]
    (run / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{run / name} to match checkpoint\.npz; .*delete"):
        train(run, QUICK)
    (run / name).unlink()
    train(run, QUICK)
    assert not (run / name).exists() if state == "finished" else (run / name).read_text() == original


def test_a_recipe_file_of_the_user_is_not_overwritten(tmp_path):
    (tmp_path / "recipe.json").write_text(QUICK.to_json())
    with pytest.raises(ValueError, match=r"recipe\.json to describe a run; it holds something else"):
        train(tmp_path, QUICK)
    assert (tmp_path / "recipe.json").read_text() == QUICK.to_json()


def test_the_checkpoint_identifies_its_run(copied):
    """The files next to it may belong to another run."""
    run = copied("killed")
    (run / "recipe.json").unlink()
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        train(run, QUICK.replace(seed=1))


def test_one_process_trains_in_a_folder(tmp_path, copied):
    """A process that trains in the folder is not disturbed, even before its first checkpoint."""
    run = tmp_path / "run"
    script = """
        import sys, pathlib
        from keras_resattn.utils.locking import locked
        folder = pathlib.Path(sys.argv[1])
        with locked(folder):
            (folder / ".partial-mine").write_text("")
            print("locked", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match=rf"train in {run}; it is locked by process {process.pid} on "):
            train(run, QUICK)
        assert {path.name for path in run.iterdir()} == {".partial-mine", LOCK}
        process.communicate("")
    assert train(run, QUICK)[1].steps == 4
    assert not list(run.glob(".partial-*"))


def test_a_finished_run_can_be_read_while_its_folder_is_locked(copied):
    run = copied("finished")
    with locked(run):
        assert train(run, QUICK)[1].steps == 4


def test_a_nested_call_cannot_train_in_the_same_folder(tmp_path):
    def begin_another():
        train(tmp_path, QUICK.replace(seed=1))

    with pytest.raises(BlockingIOError, match="locked by process"):
        train(tmp_path, QUICK, callbacks=[AtStep(1, begin_another)])
    assert train(tmp_path, QUICK)[1].recipe["seed"] == 0


@pytest.mark.parametrize("name", ["log.csv", "model.weights.h5", "model.json", "report.json", "recipe.json"])
def test_an_error_on_a_full_disk_names_the_file(tmp_path, monkeypatch, name):
    replace = io.os.replace

    def full(dataset, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(dataset, target)

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "replace", full)
        with pytest.raises(
            OSError, match=rf"{tmp_path / name} could not be written .*No space left.*no file was created"
        ):
            train(tmp_path, QUICK)
    assert not list(tmp_path.glob(".partial-*"))
    assert train(tmp_path, QUICK)[1].steps == 4
    assert read_report(tmp_path)["steps"] == 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of POSIX")
def test_a_failed_write_leaves_the_old_file(tmp_path):
    """Writes beyond a size limit fail like writes to a full disk."""
    script = """
        import resource, sys
        from pathlib import Path
        from keras_resattn.utils.io import atomic_write, reserve
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for name, size in {"small": 3, "large": 2000}.items():
            try:
                with atomic_write(Path(sys.argv[1]) / name) as path:
                    reserve(path, size)
            except OSError as error:
                print(error)
    """
    for name in ("small", "large"):
        (tmp_path / name).write_text("old")
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path / 'large'} could not be written" in said
    assert said.count("the previous file is intact") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"small": chr(0) * 3, "large": "old"}


def test_other_errors_are_not_wrapped(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "file"):
        raise KeyError("name")
    with pytest.raises(FileNotFoundError, match=r"file could not be written"), atomic_write(tmp_path / "none" / "file"):
        pass
    assert RunFolder(tmp_path / "none").progress is None
