"""`keras-resattn reproduce`: runs that are measured once, and the tables that they fill."""

import argparse
import json

import keras
import numpy as np
import pytest
from helpers import assert_close
from networks import small_network

from keras_resattn.data import ArrayDataset
from keras_resattn.reproduce import TABLES, Row, runner
from keras_resattn.reproduce.results import markdown
from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once


def test_a_run_is_measured_and_recorded_once(table, reproduce, tmp_path, monkeypatch, capsys):
    assert reproduce("resattn/tiny", "--row", "first", "--output", "table.md") == 0
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    results = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert [(row["row"], row["seed"], row["scale"], row["epochs"]) for row in results] == [("first", "0", "1.0", "2.0")]
    assert (results[0]["images"], results[0]["test_images"], results[0]["data"]) == ("40", "20", "data.npz")
    assert results[0]["backend"] == keras.backend.backend()
    assert float(results[0]["error"]) == error_of(folder, tmp_path / "data.npz")
    text = (tmp_path / "table.md").read_text()
    assert f"| first | A | 5.50 | {float(results[0]['error']):.2f} (n = 1) | 0 | 2 | 40 of 50,000; test 20 of" in text
    assert "| second | B | 6.50 | - | - | - | - |" in text
    assert "wrote table.md" in capsys.readouterr().out

    def never(*args, **kwargs):
        raise AssertionError("the test images were used already")

    monkeypatch.setattr(runner, "open_sets", never)
    assert reproduce("resattn/tiny", "--row", "first") == 0
    assert "already" in capsys.readouterr().out
    assert read_rows(tmp_path / "results/resattn_tiny.csv") == results
    assert reproduce("resattn/other") == 0, "a row of another table shares the run"
    assert read_rows(tmp_path / "results/resattn_other.csv") == [{**results[0], "row": "again"}]


def error_of(folder, data):
    """The error of a finished run, computed anew from what its folder holds."""
    report = json.loads((folder / "report.json").read_text())
    model = small_network(TABLES["resattn/tiny"].rows[0], (8, 8, 3))
    model.load_weights(folder / "model.weights.h5")
    arrays = np.load(data)
    x = (arrays["x_test"] - np.array(report["mean"])) / np.array(report["std"])
    wrong = model.predict(x.astype("float32"), verbose=0).argmax(1) != arrays["y_test"]
    return round(100 * float(wrong.mean()), 3)


def test_a_run_that_was_trained_but_not_measured_is_not_trained_again(table, reproduce, tmp_path, monkeypatch):
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [before] = read_rows(tmp_path / "results/resattn_tiny.csv")
    (tmp_path / "runs/resattn/tiny/first/seed1/result.json").unlink()
    (tmp_path / "results/resattn_tiny.csv").unlink()
    monkeypatch.setattr(keras.Model, "fit", None)
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [after] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert {**after, "date": ""} == {**before, "date": ""}


@pytest.mark.filterwarnings("ignore:There are no training images")
def test_a_rehearsal_is_shorter_and_kept_apart(table, reproduce, tmp_path, capsys):
    assert reproduce("resattn/tiny", "--scale", "0.5", "--row", "second") == 0
    out = capsys.readouterr().out
    [row] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert f"second, seed 0 at scale 0.5: error {row['error']} % of 10 test images\n" in out
    assert "20 of 50,000; test 10 of 10,000 |" in out
    assert (row["scale"], row["epochs"], row["images"], row["test_images"]) == ("0.5", "1.0", "20", "10")
    assert (tmp_path / "runs/resattn/tiny/second/seed0-scale0.5/result.json").exists()


def measured(row, seed, error, scale=1.0, images=50_000):
    counts = {"epochs": 2.0, "images": images, "test_images": 10_000}
    return {
        key: str(value) for key, value in {"row": row, "seed": seed, "scale": scale, "error": error, **counts}.items()
    }


def test_the_table_never_mixes_scales_or_numbers_of_images(table):
    results = [
        measured("first", 0, 5.0),
        measured("first", 1, 6.0),
        measured("first", 0, 40.0, scale=0.1),
        measured("first", 2, 20.0, images=10_000),
    ]
    whole, rehearsal = markdown(table, results).split("**Rehearsal at scale 0.1**")
    assert "| first | A | 5.50 | 5.50 ± 0.71 (n = 2) | 0, 1 | 2 | 50,000; test 10,000 |" in whole
    assert "| first | A | 5.50 | 20.00 (n = 1) | 2 | 2 | 10,000 of 50,000; test 10,000 |" in whole
    assert "40.00" not in whole
    assert "measured, scale 0.1" in rehearsal
    assert "40.00 (n = 1)" in rehearsal


def test_a_training_that_diverges_leaves_the_other_rows(table, reproduce, tmp_path, monkeypatch, capsys):
    train = runner.compile_and_fit

    def diverging(model, *args, **kwargs):
        if "first" in model.name:
            raise FloatingPointError("The loss is not a finite number.")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(runner, "compile_and_fit", diverging)
    assert reproduce("resattn/tiny") == 2
    assert "first, seed 0: The loss" in capsys.readouterr().err
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_tiny.csv")] == ["second"]


def test_options_given_again_add_up(table, reproduce, tmp_path, monkeypatch):
    given = []

    def record(table, row, seed, options):
        given.append((row.name, seed, options.where))
        raise FloatingPointError("enough")

    monkeypatch.setattr("keras_resattn.reproduce.runner.run", record)
    repeated = ["--row", "second", "--row", "first", "--row", "second", "--seeds", "3", "--seeds", "5", "3"]
    assert reproduce("resattn/tiny", *repeated) == 2
    rows = [("second", 3), ("first", 3), ("second", 5), ("first", 5)]
    assert given == [(*of, {"cifar10": "data.npz"}) for of in rows]


def test_errors_of_one_and_of_five():
    """Images of one pixel whose channels are the scores: the own class comes 1st, 2nd, 6th and 7th."""
    scores = np.full((4, 1, 1, 10), 10, "uint8")
    for row, (first, before) in enumerate([(3, 0), (3, 1), (0, 5), (0, 6)]):
        scores[row, 0, 0, [c for c in range(10) if c != first][:before]] = 200
        scores[row, 0, 0, first] = 100
    inputs = keras.Input((1, 1, 10))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0, top5=1.0)
    sets = argparse.Namespace(tests={"error": ArrayDataset(scores, np.array([3, 3, 0, 0]))})
    normalised = argparse.Namespace(mean=[0.0] * 10, std=[1.0] * 10)
    assert runner._errors(model, row, sets, normalised) == {"error": 75.0, "top5_error": 50.0}


def test_tested_at_another_size_with_the_same_weights():
    row = Row("row", "CifarResidualAttention56", "resattn_cifar", "cifar10", 1.0, test_size=9)
    sets = argparse.Namespace(train=argparse.Namespace(channels=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "build", small_network)
        model = small_network(row, (8, 8, 3))
        tested = runner._tested(model, row, sets)
    assert tested.input_shape == (None, 9, 9, 3)
    assert_close(tested.weights[0], model.weights[0], 0)


def test_outputs_that_are_not_numbers_are_no_result():
    inputs = keras.Input((1, 1, 10))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs / 0.0))
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0)
    sets = argparse.Namespace(tests={"error": ArrayDataset(np.zeros((2, 1, 1, 10), "uint8"), np.array([3, 3]))})
    normalised = argparse.Namespace(mean=[0.0] * 10, std=[1.0] * 10)
    with pytest.raises(FloatingPointError, match="outputs on test images are not finite numbers"):
        runner._errors(model, row, sets, normalised)
