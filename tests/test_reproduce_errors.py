"""Errors that `keras-resattn reproduce` raises before any training."""

import json
import re

import pytest

from keras_resattn.cli import main
from keras_resattn.reproduce import runner

pytestmark = pytest.mark.once

ERRORS = {
    "unknown table": (
        ["resattn/tabel1"],
        "Expected a table: .* received: resattn/tabel1. Did you mean 'resattn/table1'",
    ),
    "unknown row": (
        ["resattn/table1", "--row", "mixd"],
        "Expected a row of resattn/table1: mixed.* Did you mean 'mixed'",
    ),
    "scale": (["resattn/table1", "--scale", "0"], r"Expected --scale to be above 0 and at most 1; received: 0\."),
    "large scale": (["resattn/table1", "--scale", "2"], "Expected --scale to be above 0 and at most 1; received: 2"),
    "seed": (["resattn/table1", "--seeds", "0", "-1"], "Expected --seeds of at least 0; received: -1"),
    "ImageNet": (["resattn/table7"], r"rows require; they are missing: pass --data with a folder .*\(attention56, "),
    "ImageNet weights": (
        ["warn/table3", "--row", "warn_dogs"],
        r"pass --base-weights with a \.weights\.h5 file of WideResNet50x2 trained on ImageNet.*\(warn_dogs\)",
    ),
    "no such weights": (
        ["warn/table3", "--row", "wrn_dogs", "--base-weights", "no.h5"],
        "Expected --base-weights to be a file; no.h5 does not exist",
    ),
    "two datasets": (
        ["resattn/table6", "--data", "cifar10.npz"],
        r"Expected --data cifar10=\.\.\. cifar100=\.\.\., as these rows use 2 datasets; received: cifar10.npz",
    ),
    "other dataset": (["resattn/table1", "--data", "mnist=a"], "Expected a dataset of these rows: cifar10; received"),
    "data given twice": (
        ["resattn/table1", "--data", "cifar10=a", "--data", "cifar10=b"],
        "Expected one --data for cifar10; received: a and b",
    ),
    "two unnamed datasets": (
        ["resattn/table1", "--data", "a", "--data", "b"],
        "Expected one --data for cifar10; received: a and b",
    ),
    "missing file": (["resattn/table1", "--data", "no.npz"], "no.npz does not exist"),
    "output": (["resattn/table1", "--output", "a.txt"], "Expected --output to end in one of .md; received: a.txt"),
    "figure": (["resattn/fig4", "--output", "a.md"], "Expected --output to end in one of .png, .pdf, .svg, .jpg"),
    "no folder": (["resattn/table1", "--output", "no/a.md"], "no/a.md is not: the folder no does not exist"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_invalid_arguments_raise_before_any_training(case, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "open_splits", None)
    arguments, message = ERRORS[case]
    assert main(["reproduce", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--run-dir", "--results"])
@pytest.mark.parametrize("path", ["data.npz", "data.npz/below"])
def test_a_file_in_place_of_a_folder_raises_before_training(option, path, table, reproduce, monkeypatch, capsys):
    monkeypatch.setattr(runner, "open_splits", None)
    assert reproduce("resattn/tiny", option, path) == 2
    assert f"Expected {option} to be a folder; data.npz is a file." in capsys.readouterr().err


def test_a_folder_in_place_of_base_weights_raises(tmp_path, capsys):
    assert main(["reproduce", "warn/table3", "--base-weights", str(tmp_path)]) == 2
    assert f"Expected --base-weights to be a file; {tmp_path} is a folder." in capsys.readouterr().err


def test_a_folder_with_another_run_raises(table, reproduce, tmp_path, capsys):
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"run": {"scale": 1.0, "row": "resattn/tiny/first"}, "result": {}}))
    assert reproduce("resattn/tiny", "--row", "first") == 2
    assert "different values of recipe, data" in capsys.readouterr().err
