"""Commands of the command line with bundled weights: printed output and written files."""

import json
import re
import runpy

import keras
import numpy as np
import pytest
from PIL import Image

import keras_resattn
from keras_resattn import pretrained
from keras_resattn.cli import main
from keras_resattn.cli.training_arguments import change_recipe
from keras_resattn.models.registry import NETWORKS
from keras_resattn.recipes import get_recipe

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("built_once")]

NAME = "CifarResidualAttention56/cifar10_v2"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype="uint8")).save(path)
    return path


@pytest.mark.parametrize("weights", [[], ["--weights", "CifarResidualAttention56"]], ids=["default", "network"])
def test_predict_prints_a_table(weights, image, capsys):
    assert main(["predict", str(image), "--top", "2", *weights]) == 0
    out = capsys.readouterr().out
    assert NAME in out
    assert "noise.png" in out
    assert out.count("%") == 2


def test_predict_reads_all_colour_modes(tmp_path, capsys):
    for mode in ("L", "RGBA", "P"):
        Image.new("RGB", (32, 32), "red").convert(mode).save(tmp_path / f"{mode}.png")
    assert main(["predict", str(tmp_path), "--top", "1"]) == 0
    assert capsys.readouterr().out.count("%") == 3


def test_attend_writes_an_image(image, tmp_path, capsys):
    output = tmp_path / "out.png"
    assert main(["attend", str(image), str(image), "-o", str(output), "--channels", "1"]) == 0
    with Image.open(output) as figure:
        assert figure.width > figure.height > 300
    assert f"wrote {output}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.png", "out.png"]


def test_list_names_networks_and_tags(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name, network in NETWORKS.items():  # not wrapped in the 80 columns of a terminal
        assert re.search(rf" {name} .* {network.parameters:,} .* {network.macs / 1e9:.3f} ", out)
    assert "cifar10_v2" in out
    assert "No ImageNet-1k weights" in out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ResidualAttention92", "52466344"),
        ("CifarResidualAttention452", "bottom_units"),
        ("WideResNet-28-10", "36479194"),
        ("WideResNet50x2", "224 x 224"),
        (NAME, "sha256"),
    ],
)
def test_info_shows_details(name, expected, capsys):
    assert main(["info", name]) == 0
    assert expected in capsys.readouterr().out


def test_verify_hashes_the_bundled_weights(capsys):
    assert main(["verify"]) == 0
    assert f"{NAME}: ok" in capsys.readouterr().out


def test_verify_fails_for_damaged_files(monkeypatch, capsys):
    results = [pretrained.Verification(NAME, "damaged", "model.weights.h5 has SHA-256 0"), ("other", "not bundled")]
    monkeypatch.setattr(pretrained, "verify", lambda: [pretrained.Verification(*result) for result in results])
    assert main(["verify"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{NAME}: damaged\nother: not bundled\n"
    assert "model.weights.h5 has SHA-256 0" in printed.err


def test_evaluate_counts_correct_predictions(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x_test=rng.integers(0, 256, (10, 32, 32, 3), dtype="uint8"), y_test=np.arange(10))
    assert main(["evaluate", "--data", str(tmp_path / "noise.npz")]) == 0
    out = capsys.readouterr().out
    assert "of 10 correct" in out
    assert "the release has none for these test images" in out


def test_evaluate_reads_folders_of_the_same_classes(tmp_path, capsys):
    for name in pretrained.find(NAME)[0].classes:
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(tmp_path / "test" / name / "red.png")
    assert main(["evaluate", "--data", str(tmp_path)]) == 0
    assert "of 10 correct" in capsys.readouterr().out


@pytest.mark.parametrize("pixels", [32, 28])
def test_evaluate_reads_datasets_by_name(pixels, monkeypatch, capsys):
    test = np.random.default_rng(0).integers(0, 256, (4, pixels, pixels, 3), dtype="uint8"), np.arange(4)[:, None]
    monkeypatch.setattr("keras_resattn.data.named_datasets._has_tfds", lambda: False)
    monkeypatch.setattr("keras.datasets.cifar10.load_data", lambda: ((None, None), test))
    fits = pixels == 32
    assert main(["evaluate", "--data", "cifar10"]) == (0 if fits else 2)
    captured = capsys.readouterr()
    assert ("of 4 correct" in captured.out) == fits
    assert ("of shape (32, 32, 3)" in captured.err) == (not fits)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 32, 32, 3), dtype="uint8"), np.arange(12) % 3
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y)
    return tmp_path / "images.npz"


def test_train_writes_a_run_and_leaves_a_finished_one_as_it_is(images, tmp_path, capsys):
    command = ["train", "--model", "WideResNet-10-1", "--recipe", "warn_cifar", "--data", str(images)]
    command += ["--holdout", "4", "--run-dir", str(tmp_path / "run")]
    command += ["--set", "epochs=2", "batch_size=4", "normalization=unit"]
    assert main(command) == 0
    out = capsys.readouterr().out
    [summary] = re.findall(r"last epoch: epoch 2, .*", out)
    assert re.search(r"training accuracy [\d.]+.*validation accuracy [\d.]+", summary)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["training_images"], report["recipe"]["normalization"]) == (8, "unit")
    log = (tmp_path / "run" / "log.csv").read_text()
    assert main(command) == 0
    assert (tmp_path / "run" / "log.csv").read_text() == log


def test_a_recipe_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(get_recipe("warn_cifar").replace(epochs=5, seed=3).to_json())
    recipe = change_recipe(str(path), ["mixup=0.2", "milestones=[0.5]"])
    assert (recipe.epochs, recipe.seed, recipe.mixup, recipe.milestones) == (5, 3, 0.2, (0.5,))


def test_options_of_train_are_passed_on(images, tmp_path, monkeypatch):
    seen = {}

    def fit(model, recipe, data, **arguments):
        seen.update(arguments, model=model, data=data)
        raise ValueError("seen")

    monkeypatch.setattr("keras_resattn.recipes.fit.compile_and_fit", fit)
    command = ["train", "--model", "WideResNet-10-1", "--data", str(images), "--run-dir", str(tmp_path / "run")]
    command += ["--set", "dropout=0.3", "precision=mixed_bfloat16", "--size", "40", "--holdout", "4", "--device-data"]
    assert main([*command, "--checkpoint-steps", "7", "--steps-per-execution", "2"]) == 2
    assert (seen["checkpoint_steps"], seen["steps_per_execution"], seen["device_data"]) == (7, 2, True)
    assert seen["run_dir"] == tmp_path / "run"
    assert (len(seen["data"]), len(seen["validation_data"])) == (8, 4)
    assert 40 in seen["model"].input_shape
    assert seen["model"].dtype_policy.name == "mixed_bfloat16"


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["keras_resattn", "verify"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("keras_resattn", run_name="__main__")
    assert exit.value.code == 0
    assert f"{NAME}: ok" in capsys.readouterr().out


def test_the_version_names_the_package_and_keras(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert f"{keras_resattn.__version__}, Keras {keras.version()}" in capsys.readouterr().out
