"""What `keras-resattn reproduce` refuses, before any work."""

import json
import re

import pytest

from keras_resattn.cli import main
from keras_resattn.reproduce import runner
from keras_resattn.utils.io import append_row

pytestmark = pytest.mark.once

REFUSED = {
    "unknown table": (
        ["resattn/tabel1"],
        "Expected a table: .* received: resattn/tabel1. Did you mean 'resattn/table1'",
    ),
    "unknown row": (
        ["resattn/table1", "--row", "mixd"],
        "Expected a row of resattn/table1: mixed.* Did you mean 'mixed'",
    ),
    "scale": (["resattn/table1", "--scale", "0"], r"Expected --scale above 0, up to 1; received: 0\."),
    "large scale": (["resattn/table1", "--scale", "2"], "Expected --scale above 0, up to 1; received: 2"),
    "seed": (["resattn/table1", "--seeds", "0", "-1"], "Expected --seeds of at least 0; received: -1"),
    "ImageNet": (["resattn/table7"], r"Expected what these rows need: pass --data with a folder .*\(attention56, "),
    "ImageNet weights": (
        ["warn/table3", "--row", "warn_dogs"],
        r"pass --base-weights with a \.weights\.h5 file of WideResNet50x2 trained on ImageNet.*\(warn_dogs\)",
    ),
    "no such weights": (
        ["warn/table3", "--row", "wrn_dogs", "--base-weights", "no.h5"],
        "Expected --base-weights to be a file; there is no no.h5",
    ),
    "two datasets": (
        ["resattn/table6", "--data", "cifar10.npz"],
        r"Expected --data cifar10=\.\.\. cifar100=\.\.\., as these rows use 2 datasets; received: cifar10.npz",
    ),
    "other dataset": (["resattn/table1", "--data", "mnist=a"], "Expected a dataset of these rows: cifar10; received"),
    "data given twice": (
        ["resattn/table1", "--data", "cifar10=a", "--data", "cifar10=b"],
        "Expected one --data cifar10=...; received: a and b",
    ),
    "two unnamed datasets": (
        ["resattn/table1", "--data", "a", "--data", "b"],
        r"Expected --data cifar10=\.\.\., as these rows use one dataset; received: a b\.",
    ),
    "missing file": (["resattn/table1", "--data", "no.npz"], "there is no no.npz"),
    "output": (["resattn/table1", "--output", "a.txt"], "Expected --output to end in one of .md; received: a.txt"),
    "figure": (["resattn/fig4", "--output", "a.md"], "Expected --output to end in one of .png, .pdf, .svg, .jpg"),
    "no folder": (["resattn/table1", "--output", "no/a.md"], "no/a.md cannot: there is no folder no"),
    "runs of a table": (["resattn/table1", "--runs", "mixed=a"], "Expected --runs with a figure, such as resattn/fig4"),
    "unknown run": (["resattn/fig4", "--runs", "nave=a"], "Expected a row of resattn/fig4, as ROW=FOLDER.*naive"),
    "runs and a scale": (
        ["resattn/fig4", "--runs", "naive=a", "--scale", "0.1"],
        "Expected --runs without what only a training takes; received: --scale",
    ),
    "no table": (["--row", "mixed", "--seeds", "1"], "Expected a table to run, .*; received: --row, --seeds"),
    "list of one row": (["resattn/table1", "--list", "--row", "mixed"], "no more than a table with --list; .*: --row"),
    "unfinished run": (["resattn/fig4", "--runs", "naive=a"], "Expected the folder of a finished run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "open_sets", None)
    arguments, message = REFUSED[case]
    assert main(["reproduce", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--run-dir", "--results"])
@pytest.mark.parametrize("path", ["data.npz", "data.npz/below"])
def test_a_file_in_place_of_a_folder_is_refused_before_training(option, path, table, reproduce, monkeypatch, capsys):
    monkeypatch.setattr(runner, "open_sets", None)
    assert reproduce("resattn/tiny", option, path) == 2
    assert f"Expected {option} to be a folder; data.npz is a file." in capsys.readouterr().err


def test_a_folder_in_place_of_weights_is_refused(tmp_path, capsys):
    assert main(["reproduce", "warn/table3", "--base-weights", str(tmp_path)]) == 2
    assert f"Expected --base-weights to be a file; {tmp_path} is a folder." in capsys.readouterr().err


def test_a_file_of_other_results_is_refused_before_training(table, reproduce, tmp_path, capsys):
    append_row(tmp_path / "results/resattn_tiny.csv", {"network": "another"})
    assert reproduce("resattn/tiny") == 2
    assert "Expected columns date, row, seed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_another_run_is_refused(table, reproduce, tmp_path, capsys):
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"run": {"scale": 1.0, "row": "resattn/tiny/first"}, "result": {}}))
    assert reproduce("resattn/tiny", "--row", "first") == 2
    assert "differs in recipe, data" in capsys.readouterr().err
