"""The command line with the user's networks: runs, files, folders, and classifiers of `fine-tune`."""

import csv
import io
import json
import shutil

import keras
import numpy as np
import pytest
from helpers import randomise
from PIL import Image

from keras_resattn import class_names_of, pretrained
from keras_resattn.cli import main
from keras_resattn.models import registry

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("built_once")]

TAG = "CifarResidualAttention56/cifar10_v2"
ONE_EPOCH = ["epochs=1", "warmup_epochs=0", "batch_size=4"]


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Four images of each of two classes, in the folders train and test."""
    root = tmp_path_factory.mktemp("animals")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("zebra", "ape"):
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, (40, 32, 3), dtype="uint8")
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(animals, tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = ["train", "--model", "WideResNet-10-1", "--recipe", "warn_cifar", "--data", str(animals), "--size", "32"]
    assert main([*command, "--run-dir", str(folder), "--set", "milestones=[]", *ONE_EPOCH]) == 0
    return folder


def printed(capsys, *argv):
    """Return the JSON output of a command."""
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_predicts_with_its_class_names(run, animals, capsys):
    found = printed(capsys, "predict", str(animals / "test"), "--run-dir", str(run))
    assert [entry["image"] for entry in found] == sorted(map(str, (animals / "test").rglob("*.png")))
    best = found[0]["predictions"]
    assert {entry["class"]: entry["index"] for entry in best} == {"ape": 0, "zebra": 1}
    assert sum(entry["probability"] for entry in best) == pytest.approx(1)
    assert printed(capsys, "predict", str(animals / "test"), "--weights", str(run / "model.weights.h5")) == found
    assert printed(capsys, "predict", str(animals / "test"), "--weights", str(run)) == found


def test_evaluation_of_a_run_agrees_with_its_predictions(run, animals, capsys):
    result = printed(capsys, "evaluate", "--data", str(animals), "--run-dir", str(run))
    found = printed(capsys, "predict", str(animals / "test"), "--run-dir", str(run), "--top", "1")
    right = sum(entry["predictions"][0]["class"] in entry["image"] for entry in found)
    assert (result["correct"], result["total"], result["changed"]) == (right, 8, None)
    assert result["backend"] == keras.backend.backend()
    assert main(["evaluate", "--data", str(animals), "--run-dir", str(run), "--csv"]) == 0
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["correct"], row["network"]) == (str(right), str(run))


def test_a_classifier_is_fine_tuned_and_used(run, animals, tmp_path, capsys):
    folder = tmp_path / "fine"
    command = ["fine-tune", "--weights", str(run), "--data", str(animals), "--run-dir", str(folder)]
    assert main([*command, "--head-set", *ONE_EPOCH, "--set", *ONE_EPOCH]) == 0
    assert f"wrote {folder / 'classifier.keras'}" in capsys.readouterr().out
    image = str(animals / "test" / "ape" / "0.png")
    of_run = printed(capsys, "predict", image, "--run-dir", str(folder))
    of_file = printed(capsys, "predict", image, "--weights", str(folder / "classifier.keras"))
    assert [entry["class"] for entry in of_run[0]["predictions"]] == [
        entry["class"] for entry in of_file[0]["predictions"]
    ]
    for one, other in zip(of_run[0]["predictions"], of_file[0]["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    result = printed(capsys, "evaluate", "--data", str(animals), "--weights", str(folder / "classifier.keras"))
    assert result["total"] == 8
    of_folder = printed(capsys, "evaluate", "--data", str(animals), "--run-dir", str(folder))
    assert of_folder["network"] == str(folder), "not the folder of a phase inside"
    assert class_names_of(keras.models.load_model(folder / "classifier.keras")) == ["ape", "zebra"]


@pytest.mark.parametrize("weights", ["network", "folder"])
def test_released_weights_are_fine_tuned(animals, tmp_path, capsys, weights):
    [tag] = pretrained.find(TAG)
    name = tag.network if weights == "network" else str(shutil.copytree(tag.folder, tmp_path / "copy"))
    output = tmp_path / "animals.keras"
    command = ["fine-tune", "--data", str(animals), "--run-dir", str(tmp_path / "run"), "--unfreeze", "none"]
    command += ["--weights", name]
    assert main([*command, "--output", str(output), "--head-set", *ONE_EPOCH]) == 0
    capsys.readouterr()
    [found] = printed(capsys, "predict", str(animals / "test" / "ape" / "0.png"), "--weights", str(output))
    assert {entry["class"] for entry in found["predictions"]} == {"ape", "zebra"}


def test_weights_of_a_run_are_trained_further(run, animals, tmp_path, capsys):
    command = ["train", "--weights", str(run), "--recipe", "warn_cifar", "--data", str(animals)]
    assert main([*command, "--run-dir", str(tmp_path / "more"), "--set", "milestones=[]", *ONE_EPOCH]) == 0
    old, new = (json.loads((folder / "report.json").read_text()) for folder in (run, tmp_path / "more"))
    assert (old["mean"], old["std"], old["class_names"]) == (new["mean"], new["std"], new["class_names"])
    assert old["metrics"]["loss"] != new["metrics"]["loss"]


@pytest.fixture
def seen(monkeypatch):
    """Record the arguments of the training, without training."""
    arguments = {}

    def fit(model, recipe, data, **others):
        arguments.update(others, model=model, data=data)
        raise ValueError("seen")

    monkeypatch.setattr("keras_resattn.recipes.fit.compile_and_fit", fit)
    return arguments


def test_released_weights_are_trained_further_with_their_statistics(tmp_path, seen):
    [tag] = pretrained.find(TAG)
    classes = np.array(tag.classes[::-1])
    data = tmp_path / "data.npz"
    np.savez(data, x_train=np.zeros((20, 32, 32, 3), "uint8"), y_train=np.arange(20) % 10, class_names=classes)
    assert main(["train", "--weights", TAG, "--data", str(data), "--run-dir", str(tmp_path / "run")]) == 2
    assert seen["statistics"] == (tag.mean, tag.std)
    np.testing.assert_array_equal(seen["data"].labels[:10], np.arange(10)[::-1])
    released = registry.create_model(tag.network, weights=tag.tag)
    for one, other in zip(seen["model"].weights, released.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


def test_a_copied_folder_of_released_weights_predicts_as_the_tag(animals, tmp_path, capsys):
    [tag] = pretrained.find(TAG)
    shutil.copytree(tag.folder, tmp_path / "copy")
    image = str(animals / "test" / "ape" / "0.png")
    expected = printed(capsys, "predict", image, "--weights", TAG)
    assert printed(capsys, "predict", image, "--weights", str(tmp_path / "copy")) == expected
    [file] = [shutil.copy(tag.tensors, tmp_path / "mine.weights.h5")]
    statistics = ["--mean", *map(str, tag.mean), "--std", *map(str, tag.std)]
    [found] = printed(capsys, "predict", image, "--weights", str(file), "--model", tag.network, *statistics)
    for one, other in zip(found["predictions"], expected[0]["predictions"], strict=True):
        assert one["class"] is None
        assert (one["index"], pytest.approx(one["probability"])) == (other["index"], other["probability"])


@pytest.fixture
def model(tmp_path):
    """Function that saves a small model and returns its path."""

    def save(*layers, name="model.keras", outputs=3):
        stack = [keras.Input((8, 8, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(outputs)]
        randomise(keras.Sequential(stack)).save(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_a_model_with_a_normalization_layer_needs_no_statistics(model, animals, capsys):
    image = str(animals / "test" / "ape" / "0.png")
    inside = printed(capsys, "predict", image, "--weights", model(keras.layers.Rescaling(1 / 255), name="a.keras"))
    plain = ["predict", image, "--weights", model(name="b.keras"), "--mean", "0", "--std", "255"]
    for one, other in zip(*(found[0]["predictions"] for found in (inside, printed(capsys, *plain))), strict=True):
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)


def bad_networks(model, tmp_path, animals):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.json").write_text("{}")
    (tmp_path / "text.keras").write_text("text")
    (tmp_path / "text.weights.h5").write_text("text")
    plain, statistics = model(), ["--mean", "0", "--std", "1"]
    return {
        "no statistics": (["--weights", plain], "or --mean and --std"),
        "half the statistics": (["--weights", plain, "--mean", "0"], "Received: --mean"),
        "other channels": (["--weights", plain, "--mean", "0", "1", "--std", "1"], "--mean with 1 or 3 numbers"),
        "a deviation of 0": (["--weights", plain, "--mean", "0", "--std", "0"], "--std with 1 or 3 numbers"),
        "statistics of a tag": (["--weights", TAG, *statistics], "--mean only with a .keras or .weights.h5 file"),
        "a network of a tag": (["--weights", TAG, "--model", "ResNet164"], "--model only with a .weights.h5 file"),
        "one output": (["--weights", model(name="one.keras", outputs=1), *statistics], "one number per image"),
        "a fixed size": (
            ["--weights", plain, *statistics, "--size", "16"],
            "--size only for a network of any",
        ),
        "a damaged model": (["--weights", str(tmp_path / "text.keras")], "text.keras to be a saved Keras model"),
        "no network": (["--weights", str(tmp_path / "text.weights.h5")], "Expected --model"),
        "damaged weights": (
            ["--weights", str(tmp_path / "text.weights.h5"), "--model", "ResNet164", *statistics],
            "text.weights.h5",
        ),
        "another suffix": (["--weights", str(animals / "test" / "ape" / "0.png")], "to be a .keras or .weights.h5"),
        "no run": (["--run-dir", str(animals)], "has no report.json"),
        "an unfinished run": (["--run-dir", str(tmp_path / "unfinished")], "not finished"),
        "no folder": (["--run-dir", str(tmp_path / "nothing")], "does not exist"),
        "nothing there": (["--weights", str(tmp_path / "nothing")], "nothing does not exist"),
    }


def test_invalid_networks_raise_one_line(model, tmp_path, animals, capsys):
    for case, (argv, message) in bad_networks(model, tmp_path, animals).items():
        assert main(["predict", str(animals / "test" / "ape" / "0.png"), *argv]) == 2, case
        captured = capsys.readouterr()
        assert message in captured.err, case
        assert (captured.err.count("\n"), captured.out) == (1, ""), case
