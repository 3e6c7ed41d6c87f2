"""Errors of the command line: one line on standard error, exit code 2, and no files."""

import re

import numpy as np
import pytest
from PIL import Image

from keras_resattn.cli import main

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("built_once")]

TAG = "CifarResidualAttention56/cifar10_v2"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of valid and invalid input files."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype="uint8")
    Image.fromarray(pixels).save(folder / "image.png")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "image.png").read_bytes()[:500])
    (folder / "empty").mkdir()
    for name in ("cat", "gnu"):
        (folder / "classes" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), "red").save(folder / "classes" / "test" / name / "red.png")
    images, labels = np.zeros((2, 32, 32, 3), "uint8"), np.arange(2)
    np.savez(folder / "good.npz", x_test=images, y_test=labels)
    np.savez(folder / "objects.npz", x_test=[{}])
    np.savez(folder / "scale.npz", x_test=images / 255 + 0.5, y_test=labels)
    np.savez(folder / "train.npz", x_train=np.repeat(images, 6, 0), y_train=np.arange(12) % 3)
    np.savez(folder / "label.npz", x_test=images, y_test=[0, 10])
    np.savez(folder / "size.npz", x_test=images[:, :16], y_test=labels)
    np.savez(folder / "digits.npz", x_train=np.zeros((8, 28, 28, 1), "uint8"), y_train=np.arange(8))
    return folder


#: Arguments and a part of the message.
ERRORS = {
    "missing file": ("predict no.png", "no.png does not exist"),
    "unreadable image": ("predict text.png", "text.png to be an image"),
    "truncated image": ("predict cut.png", "cut.png to be an image"),
    "empty folder": ("predict empty", "in the folder empty; found: none"),
    "unknown tag": (
        "predict image.png --weights imagenet",
        f"Expected released weights, a file or a folder ({TAG[:-1]}",
    ),
    "empty name of weights": ("predict image.png --weights=", "Expected released weights ("),
    "misspelled tag": ("predict image.png --weights cifar01", "Did you mean 'cifar10_v2'"),
    "network without weights": (
        "predict image.png --weights ResNet164",
        "received: ResNet164. None are released for it.",
    ),
    "width without weights": ("predict image.png --weights WARN-22-8", "WARN-22-8. None are released for it."),
    "misspelled network": (
        "predict image.png --weights CifarResidualAttention65",
        "Did you mean 'CifarResidualAttention56'",
    ),
    "top": ("predict image.png --top 0", "--top to be 1 or more; received: 0"),
    "unknown name": ("info ResNet50", "received: ResNet50"),
    "case of a name": ("info resnet164", "Did you mean 'ResNet164'"),
    "no output folder": ("attend image.png -o no/out.png", "the folder no does not exist"),
    "file as output folder": ("attend image.png -o text.png/x.png", "to be a writable file"),
    "output format": ("attend image.png -o out.txt", "out.txt"),
    "channels": ("attend image.png -o out.png --channels -1", "--channels to be 0 or more; received: -1"),
    "channels of a montage": ("attend image.png -o out.png --montage --channels 1", "--channels without --montage"),
    "class without its rank": ("attend image.png -o out.png --class cat", "--class with --rank gradient"),
    "unknown class": (
        "attend image.png -o out.png --rank gradient --class cow",
        "such as airplane, or an index from 0",
    ),
    "no data": ("evaluate --data no.npz", "no.npz"),
    "misspelled dataset": ("evaluate --data cifar01", "Did you mean 'cifar10'"),
    "data_dir": ("evaluate --data text.png --data-dir sets", "data_dir only with the name"),
    "no archive": ("evaluate --data text.png", "text.png to be an .npz file"),
    "objects": ("evaluate --data objects.npz", "holds Python objects"),
    "scale": ("evaluate --data scale.npz", "0 to 255; received: floats that go up to 0.5"),
    "classes": ("evaluate --data classes", "other classes: 'gnu'"),
    "no test images": ("evaluate --data train.npz", "x_test and y_test"),
    "labels": ("evaluate --data label.npz", "labels from 0 to 9"),
    "image size": ("evaluate --data size.npz", "(32, 32, 3)"),
    "batch size": ("evaluate --data good.npz --batch-size 0", "--batch-size to be 1 or more; received: 0"),
    "unknown network": (
        "train --model WARN --data nowhere.npz --run-dir run",
        "network='WARN'. Did you mean 'WARN",
    ),
    "small images": (
        "train --model CifarResidualAttention56 --data digits.npz --run-dir run",
        "input_shape=(28, 28, 1). Pass --size to resize the images",
    ),
}


def test_an_unknown_option_is_reported_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "image.png", "--size=32", "--weight-decay=1"])
    error = capsys.readouterr().err
    assert error.startswith("usage: keras-resattn predict ")
    assert error.endswith("keras-resattn predict: error: unrecognized arguments: --weight-decay=1\n")


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_with_exit_code_2(case, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    argv, message = ERRORS[case]
    before = sorted(files.rglob("*"))
    assert main(argv.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("--set epoch=3", "--set FIELD=VALUE with a field of a recipe; .*Did you mean 'epochs'"),
        ("--set epochs", "--set FIELD=VALUE"),
        ("--set epochs=none", "epochs=.none."),
        ("--recipe mine", "Expected a Recipe or one of"),
        ("--recipe mine.json", "mine.json does not exist"),
        ("--holdout 12", "--holdout below the number of images, 12; received: 12"),
        ("--holdout 2 --validation x.npz", "--validation or --holdout"),
        ("--set epochs=4 --set batch_size=13", "at least a batch of 13"),
        ("--set dropout=0.3 --model CifarResidualAttention56", r"received: dropout\.$"),
        ("--size 16", r"at least 32 .*input_shape=\(16, 16, 3\)\.$"),
    ],
)
def test_invalid_training_arguments_leave_no_run(changes, message, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    command = "train --model WideResNet-10-1 --data train.npz --run-dir run"
    assert main([*command.split(), *changes.split()]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (files / "run").exists()


@pytest.mark.parametrize("content", ["[]", "null", "3", "{", "", '{"name": []}'])
def test_a_recipe_file_with_invalid_json_is_named(content, tmp_path, capsys):
    (tmp_path / "mine.json").write_text(content)
    command = ["train", "--model", "ResNet164", "--data", "x", "--run-dir", str(tmp_path / "run")]
    assert main([*command, "--recipe", str(tmp_path / "mine.json")]) == 2
    error = capsys.readouterr().err
    assert f"Expected {tmp_path / 'mine.json'} to hold a recipe" in error
    assert error.count("\n") == 1


def test_a_tag_of_several_networks_is_ambiguous(capsys):
    assert main(["info", "tiny_imagenet"]) == 2
    ids = "ResidualAttention56/tiny_imagenet_v1, ResidualAttention92/tiny_imagenet_v1"
    assert f"Several networks have this tag; pass one of {ids}." in capsys.readouterr().err


def test_an_unexpected_error_is_one_line(monkeypatch, capsys):
    def fail():
        raise RuntimeError("a bug\nof two lines")

    monkeypatch.setattr("keras_resattn.pretrained.verify", fail)
    assert main(["verify"]) == 1
    error = capsys.readouterr().err
    assert "unexpected RuntimeError: a bug of two lines" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("KERAS_RESATTN_TRACEBACK", "1")
    assert main(["verify"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_reported(monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_resattn.pretrained.verify", stop)
    assert main(["verify"]) == 130
    assert capsys.readouterr().err == "keras-resattn: stopped\n"
