"""The folder of a transfer-learning run: read when it is finished, named where it is damaged, one process at a time."""

import keras
import numpy as np
import pytest
from helpers import weights_of
from resuming import files_of
from test_transfer import HEAD, TUNE, backbone, images, run

from keras_resattn.utils.io import locked

pytestmark = pytest.mark.once

SHORT = {"head_recipe": HEAD.replace(epochs=3), "fine_tune_recipe": TUNE.replace(epochs=3)}


class Best(keras.callbacks.EarlyStopping):
    """Keeps the weights of each phase's first epoch."""

    def __init__(self):
        super().__init__(monitor="loss", patience=9, restore_best_weights=True)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {"loss": epoch})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with its model, its report and the weights that it began with."""
    folder = tmp_path_factory.mktemp("transfer")
    base = backbone()
    weights = base.get_weights()
    keras.utils.set_random_seed(0)
    model, report = run(base, run_dir=folder, callbacks=[Best()], **SHORT)
    return folder, model, report, weights


def again(finished, folder, **arguments):
    base = backbone()
    base.set_weights(finished[3])
    return run(base, run_dir=folder, **{**SHORT, **arguments})


@pytest.fixture
def copied(finished, tmp_path):
    for path in finished[0].rglob("*.*"):
        target = tmp_path / path.relative_to(finished[0])
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def test_callbacks_keep_weights_in_both_phases_and_a_finished_run_is_read(finished, copied):
    _, model, report, _ = finished
    assert [phase.kept_epoch for phase in (report.head, report.fine_tune)] == [1, 1]
    assert report.fine_tune.metrics == report.fine_tune.history[0]
    before = files_of(copied)
    with locked(copied):  # a finished run needs no lock
        read, read_report = again(finished, copied)
    del before[".lock"]
    after = files_of(copied)
    del after[".lock"]
    assert after == before
    assert read_report == report
    for a, b in zip(weights_of(read), weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\x00\xff", b"{"])
def test_a_damaged_description_is_named(finished, copied, content):
    (copied / "transfer.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"Expected {copied / 'transfer.json'} to hold .*Pass another run_dir"):
        again(finished, copied)
    assert (copied / "transfer.json").read_bytes() == content


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "objects", "lacking", "others", "short"])
def test_damaged_features_are_named(finished, copied, damage):
    path = copied / "features.npz"
    (copied / "head" / "checkpoint.npz").unlink()
    (copied / "head" / "report.json").unlink()
    with np.load(path) as file:
        arrays = dict(file)
    if damage in ("empty", "garbage", "truncated"):
        path.write_bytes({"empty": b"", "garbage": b"PK" * 50, "truncated": path.read_bytes()[:200]}[damage])
    else:
        changes = {
            "objects": {"train": np.array([{}], object)},
            "lacking": {},
            "others": {"seal": arrays["seal"][::-1]},
            "short": {"train": arrays["train"][:-1]},
        }
        arrays = {"seal": arrays["seal"]} if damage == "lacking" else {**arrays, **changes[damage]}
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rf"Expected {path} to .* Delete {path}, and the same call") as caught:
        again(finished, copied)
    assert "allow_pickle" not in str(caught.value)


def test_a_folder_has_room_for_one_process(finished, tmp_path):
    (tmp_path / ".partial-features.npz").write_text("of the other process")
    with locked(tmp_path), pytest.raises(BlockingIOError, match=rf"train in {tmp_path}"):
        again(finished, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".partial-features.npz"}


def test_features_of_another_run_are_not_taken_for_this_ones(finished, copied):
    """The description was deleted, and with it what the folder holds; the features say it, too."""
    (copied / "transfer.json").unlink()
    with pytest.raises(ValueError, match=r"features\.npz to hold the features of this run; it holds others"):
        again(finished, copied, data=images(seed=5))
