"""Folder of a transfer-learning run: read if finished, errors that name damaged files, one process at a time."""

import shutil

import keras
import numpy as np
import pytest
from helpers import weights_of
from resuming import files_of
from test_transfer import HEAD, TUNE, backbone, images, run

from keras_resattn.data import ArrayDataset
from keras_resattn.recipes.frozen_features import FrozenFeatures
from keras_resattn.utils.locking import locked

pytestmark = pytest.mark.once

SHORT = {"head_recipe": HEAD.replace(epochs=3), "fine_tune_recipe": TUNE.replace(epochs=3)}


class Best(keras.callbacks.EarlyStopping):
    """Keep the weights of the first epoch of each phase."""

    def __init__(self):
        super().__init__(monitor="loss", patience=9, restore_best_weights=True)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {"loss": epoch})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished run, its model, its report and the initial weights of its backbone."""
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
    with pytest.raises(ValueError, match=rf"Expected {copied / 'transfer.json'} to (be|hold) .*Pass another run_dir"):
        again(finished, copied)
    assert (copied / "transfer.json").read_bytes() == content


def test_a_folder_has_room_for_one_process(finished, tmp_path):
    with locked(tmp_path):
        (tmp_path / ".partial-transfer.json").write_text("of the other process")
        with pytest.raises(BlockingIOError, match=rf"train in {tmp_path}"):
            again(finished, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".partial-transfer.json"}


def test_a_head_of_another_run_is_refused_without_the_description(finished, copied):
    """`head/` states its network, data and weights itself."""
    (copied / "transfer.json").unlink()
    with pytest.raises(ValueError, match=rf"Expected {copied / 'head'} .*other images, labels or sample weights"):
        again(finished, copied, data=images(seed=5))


def test_a_finished_first_phase_needs_no_features(finished, copied, monkeypatch):
    monkeypatch.setattr(FrozenFeatures, "compute", lambda *args: pytest.fail("computed features again"))
    shutil.rmtree(copied / "fine_tune")
    _, report = again(finished, copied, callbacks=[Best()])
    assert report.head == finished[2].head
    assert report.fine_tune.kept_epoch == 1


def test_both_phases_are_announced_once(tmp_path, capsys):
    named = ArrayDataset(*images(), class_names=["cat", "dog"])
    base = backbone()
    base.save_weights(tmp_path / "base.weights.h5")
    run(base, named, run_dir=tmp_path / "run", verbose=2, **SHORT)
    printed = capsys.readouterr().out
    first = "Phase 1 of 2: a new classifier of 2 classes ('cat', 'dog') on the frozen network, 32 images.\n"
    second = "Phase 2 of 2: the classifier and layers stage2_conv to stage2_relu of the network.\n"
    assert 0 <= printed.find(first) < printed.find(second)
    base.load_weights(tmp_path / "base.weights.h5")
    run(base, named, run_dir=tmp_path / "run", verbose=2, **SHORT)
    assert "Phase" not in capsys.readouterr().out, "a finished run trains nothing"
