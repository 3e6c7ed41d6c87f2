"""The command line, with the bundled weights: what it prints, writes and refuses."""

import dataclasses
import json
import re
import runpy

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


def test_predict_prints_a_table(image, capsys):
    assert main(["predict", str(image), "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert NAME in out
    assert "noise.png" in out
    assert out.count("%") == 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_predict_reads_any_colour_mode(tmp_path, mode, capsys):
    Image.new("RGB", (32, 32), "red").convert(mode).save(tmp_path / "red.png")
    assert main(["predict", str(tmp_path / "red.png")]) == 0


def test_attend_writes_an_image(image, tmp_path, capsys):
    output = tmp_path / "out.png"
    assert main(["attend", str(image), str(image), "-o", str(output), "--channels", "1"]) == 0
    with Image.open(output) as image:
        assert image.width > image.height > 300
    assert f"wrote {output}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.png", "out.png"]


def test_list_names_networks_and_tags(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "ResidualAttention452" in out
    assert "1,030,362" in out
    for name, network in NETWORKS.items():  # whole, in the 80 columns of a terminal
        assert re.search(rf" {name} .* {network.parameters:,} .* {network.macs / 1e9:.3f} ", out)
    assert "cifar10_v2" in out
    assert "never released" in out


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
def test_info_tells_all(name, expected, capsys):
    assert main(["info", name]) == 0
    assert expected in capsys.readouterr().out


def test_verify_hashes_the_bundled_weights(capsys):
    assert main(["verify"]) == 0
    assert f"{NAME}: ok" in capsys.readouterr().out


def test_verify_fails_on_damage(monkeypatch, capsys):
    results = [pretrained.Verification(NAME, "damaged", "model.weights.h5 has SHA-256 0"), ("other", "not bundled")]
    monkeypatch.setattr(pretrained, "verify", lambda: [pretrained.Verification(*result) for result in results])
    assert main(["verify"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{NAME}: damaged\nother: not bundled\n"
    assert "model.weights.h5 has SHA-256 0" in printed.err


def test_evaluate_takes_folders_of_the_same_classes(tmp_path, capsys):
    classes = pretrained.find(NAME)[0].classes
    assert main(["evaluate", "--data", folder(tmp_path / "sets" / "test", *classes)]) == 0
    assert "of 10 correct" in capsys.readouterr().out


@pytest.mark.parametrize("pixels", [32, 28])
def test_evaluate_takes_data_by_name(monkeypatch, capsys, pixels):
    test = np.random.default_rng(0).integers(0, 256, (4, pixels, pixels, 3), dtype="uint8"), np.arange(4)[:, None]
    monkeypatch.setattr("keras_resattn.data.named_datasets._has_tfds", lambda: False)
    monkeypatch.setattr("keras.datasets.cifar10.load_data", lambda: ((None, None), test))
    fits = pixels == 32
    assert main(["evaluate", "--data", "cifar10"]) == (0 if fits else 2)
    captured = capsys.readouterr()
    assert ("of 4 correct" in captured.out) == fits
    assert ("of shape (32, 32, 3)" in captured.err) == (not fits)


def test_the_weights_of_a_network_are_its_default_ones(image, capsys):
    assert main(["predict", str(image), "--weights", "CifarResidualAttention56"]) == 0
    assert NAME in capsys.readouterr().out


def test_evaluate_counts(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x_test=rng.integers(0, 256, (10, 32, 32, 3), dtype="uint8"), y_test=np.arange(10))
    assert main(["evaluate", "--data", str(tmp_path / "noise.npz")]) == 0
    out = capsys.readouterr().out
    assert "of 10 correct" in out
    assert "not the images that the weights were released with" in out


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def folder(path, *classes):
    """A folder of class folders; returns what holds it."""
    for name in classes:
        (path / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(path / name / "red.png")
    return str(path.parent)


def bad_calls(tmp_path, image):
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.read_bytes()[:500])
    images = np.zeros((2, 32, 32, 3), "uint8")
    empty = tmp_path / "empty"
    empty.mkdir()
    return {
        "missing file": (["predict", "no.png"], "no file or folder no.png"),
        "unreadable image": (["predict", str(text)], "text.png to be an image"),
        "cut-off image": (["predict", str(cut)], "cut.png to be an image"),
        "an empty folder": (["predict", str(empty)], "in the folder"),
        "wrong tag": (
            ["predict", str(image), "--weights", "imagenet"],
            f"Expected released weights, a file or a folder ({NAME[:-1]}",
        ),
        "nearly a tag": (["predict", str(image), "--weights", "cifar01"], "Did you mean 'cifar10'"),
        "no weights": (["predict", str(image), "--weights", "ResNet164"], "received: ResNet164. It has none."),
        "no weights of a width": (["predict", str(image), "--weights", "WARN-22-8"], "WARN-22-8. It has none."),
        "nearly a network": (
            ["predict", str(image), "--weights", "CifarResidualAttention65"],
            "Did you mean 'CifarResidualAttention56'",
        ),
        "top": (["predict", str(image), "--top", "0"], "--top to be 1 or more; received: 0"),
        "unknown name": (["info", "ResNet50"], "received: ResNet50"),
        "other case": (["info", "resnet164"], "Did you mean 'ResNet164'"),
        "output folder": (["attend", str(image), "-o", str(tmp_path / "no" / "out.png")], "cannot"),
        "output is a folder": (["attend", str(image), "-o", str(tmp_path / "text.png" / "x.png")], "cannot"),
        "output format": (["attend", str(image), "-o", "out.txt"], "out.txt"),
        "channels": (["attend", str(image), "-o", str(tmp_path / "o.png"), "--channels", "-1"], "-1"),
        "no data": (["evaluate", "--data", "no.npz"], "there is nothing at no.npz"),
        "a name": (["evaluate", "--data", "cifar01"], "Did you mean 'cifar10'"),
        "data_dir": (["evaluate", "--data", str(text), "--data-dir", "sets"], "data_dir only with the name"),
        "no archive": (["evaluate", "--data", str(text)], "text.png to be an .npz file"),
        "objects": (["evaluate", "--data", npz(tmp_path / "o.npz", x_test=[{}])], "holds Python objects"),
        "scale": (
            ["evaluate", "--data", npz(tmp_path / "e.npz", x_test=images / 255 + 0.5, y_test=[0, 1])],
            "0 to 255; received: floats that go up to 0.5",
        ),
        "classes": (["evaluate", "--data", folder(tmp_path / "sets" / "test", "cat", "gnu")], "other classes: 'gnu'"),
        "no test images": (["evaluate", "--data", npz(tmp_path / "a.npz", x_train=images)], "x_test and y_test"),
        "labels": (
            ["evaluate", "--data", npz(tmp_path / "b.npz", x_test=images, y_test=[0, 10])],
            "labels from 0 to 9",
        ),
        "size": (
            ["evaluate", "--data", npz(tmp_path / "c.npz", x_test=images[:, :16], y_test=[0, 1])],
            "(32, 32, 3)",
        ),
        "batch": (
            ["evaluate", "--data", npz(tmp_path / "d.npz", x_test=images, y_test=[0, 1]), "--batch-size", "0"],
            "0",
        ),
    }


@pytest.mark.parametrize(
    "fault",
    [
        "missing file", "unreadable image", "cut-off image", "an empty folder", "wrong tag", "nearly a tag",
        "no weights", "no weights of a width", "nearly a network", "top", "unknown name", "other case",
        "objects", "scale", "classes",
        "output folder", "output is a folder", "output format", "channels", "no data", "a name", "data_dir",
        "no archive", "no test images", "labels", "size", "batch",
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_and_exit_code_2(tmp_path, image, capsys, fault):
    argv, message = bad_calls(tmp_path, image)[fault]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# --- train ---------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (12, 32, 32, 3), dtype="uint8"), np.arange(12) % 3
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y)
    return tmp_path / "images.npz"


def test_train_writes_a_run_and_goes_on_with_it(images, tmp_path, capsys):
    command = ["train", "--model", "WideResNet-10-1", "--recipe", "warn_cifar", "--data", str(images)]
    command += ["--holdout", "4", "--run-dir", str(tmp_path / "run")]
    command += ["--set", "epochs=2", "batch_size=4", "normalization=unit"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert re.search(r"last epoch: epoch 2, .*val_accuracy", out)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (report["training_images"], report["recipe"]["normalization"]) == (8, "unit")
    log = (tmp_path / "run" / "log.csv").read_text()
    assert main(command) == 0
    assert (tmp_path / "run" / "log.csv").read_text() == log, "a finished run is not run again"


def test_images_that_are_too_small_may_be_resized(tmp_path, capsys):
    np.savez(tmp_path / "digits.npz", x_train=np.zeros((8, 28, 28, 1), "uint8"), y_train=np.arange(8))
    command = ["train", "--model", "CifarResidualAttention56", "--data", str(tmp_path / "digits.npz")]
    assert main([*command, "--run-dir", str(tmp_path / "run")]) == 2
    assert re.search(r"input_shape=\(28, 28, 1\)\. With --size the images", capsys.readouterr().err)


def test_a_recipe_may_come_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(get_recipe("warn_cifar").replace(epochs=5, seed=3).to_json())
    recipe = change_recipe(str(path), ["mixup=0.2", "milestones=[0.5]"])
    assert (recipe.epochs, recipe.seed, recipe.mixup, recipe.milestones) == (5, 3, 0.2, (0.5,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "epoch=3"], "--set FIELD=VALUE with a field of a recipe .*Did you mean 'epochs'"),
        (["--set", "epochs"], "--set FIELD=VALUE"),
        (["--set", "epochs=none"], "epochs=.none."),
        (["--recipe", "mine"], "Expected a Recipe or one of"),
        (["--recipe", "mine.json"], "there is no file mine.json"),
        (["--holdout", "12"], "--holdout from 0 to below 12"),
        (["--holdout", "2", "--validation", "x.npz"], "--validation or --holdout"),
        (["--set", "epochs=4", "--set", "batch_size=13"], "at least a batch of 13"),
        (["--set", "dropout=0.3", "--model", "CifarResidualAttention56"], r"received: dropout\.$"),
        (["--size", "16"], r"at least 32 .*input_shape=\(16, 16, 3\)\.$"),
    ],
)
def test_bad_training_arguments_leave_no_run(images, tmp_path, capsys, changes, message):
    command = ["train", "--model", "WideResNet-10-1", "--data", str(images), "--run-dir", str(tmp_path / "run")]
    assert main([*command, *changes]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_every_option_of_train_arrives(images, tmp_path, monkeypatch):
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


def test_an_unknown_network_is_told_before_data_are_opened(tmp_path, capsys):
    assert main(["train", "--model", "WARN", "--data", "nowhere.npz", "--run-dir", str(tmp_path / "run")]) == 2
    assert "network='WARN'. Did you mean 'WARN" in capsys.readouterr().err


def test_a_tag_of_several_networks_is_not_guessed(image, monkeypatch, capsys):
    (tag,) = pretrained.find(NAME)
    twins = (tag, dataclasses.replace(tag, network="ResNet164"))
    monkeypatch.setattr(pretrained, "find", lambda name, network=None: list(twins))
    assert main(["predict", str(image), "--weights", "cifar10_v2"]) == 2
    assert f"several networks: {NAME}, ResNet164/cifar10_v2." in capsys.readouterr().err


def test_the_package_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["keras_resattn", "verify"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("keras_resattn", run_name="__main__")
    assert exit.value.code == 0
    assert f"{NAME}: ok" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert keras_resattn.__version__ in capsys.readouterr().out
