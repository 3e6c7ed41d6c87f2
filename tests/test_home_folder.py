"""`~` in paths, in Python and in the command line."""

import numpy as np
import pytest
from helpers import tiny
from training import RECIPE, X, Y

from keras_resattn import CifarResidualAttention56, class_names_of, compile_and_fit
from keras_resattn.cli import main
from keras_resattn.data import ImageFolder, load_npz, open_dataset
from keras_resattn.evaluation import evaluate_run, load_run
from keras_resattn.pretrained import find

pytestmark = pytest.mark.once


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder outside the working directory."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert list((tmp_path / "work").iterdir()) == []


def test_runs_and_data(home, capsys):
    np.savez(home / "data.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    recipe = RECIPE.replace(epochs=1, warmup_epochs=0)
    compile_and_fit(tiny(), recipe, "~/data.npz", validation_data=(X, Y), run_dir="~/run", verbose=0)
    assert (home / "run" / "report.json").exists()
    assert load_run("~/run").name == "tiny"
    assert evaluate_run("~/run", "~/data.npz").total == len(Y)
    assert class_names_of("~/run", None) is None
    assert load_npz("~/data.npz")["x_train"].shape == X.shape
    assert main(["evaluate", "--run-dir=~/run", "--data=~/data.npz"]) == 0
    assert f"of {len(Y)} correct" in capsys.readouterr().out


def test_folders_and_weights(home):
    [tag] = find("CifarResidualAttention56/cifar10_v2")
    (home / "weights").symlink_to(tag.folder)
    CifarResidualAttention56(weights="~/weights")
    CifarResidualAttention56(weights="~/weights/model.weights.h5")
    for name in ("a", "b"):
        (home / "images" / name).mkdir(parents=True)
        (home / "images" / name / "0.png").write_bytes(b"")
    assert open_dataset("~/images").class_names == ImageFolder("~/images").class_names == ["a", "b"]


def test_missing_files_raise(home):
    for argv in (
        ["predict", "~/nothing.png"],
        ["predict", "~/nothing.png", "--weights=~/nothing.keras"],
        ["predict", "~/nothing.png", "--run-dir=~/nothing"],
        ["attend", "~/nothing.png", "--output=~/nothing/masks.png"],
        ["train", "--model=ResNet164", "--data=~/nothing.npz", "--run-dir=~/run"],
        ["train", "--model=ResNet164", "--recipe=~/nothing.json", "--data=x", "--run-dir=~/run"],
    ):
        assert main(argv) == 2
    assert list(home.iterdir()) == []
