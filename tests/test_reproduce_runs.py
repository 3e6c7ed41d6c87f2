"""`keras-resattn reproduce`: runs, which are evaluated once, and tables of their results."""

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


def test_a_run_is_evaluated_and_recorded_once(table, reproduce, tmp_path, monkeypatch, capsys):
    assert reproduce("resattn/tiny", "--row", "first", "--output", "table.md") == 0
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    results = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert [(row["row"], row["seed"], row["scale"], row["epochs"]) for row in results] == [("first", "0", "1.0", "2.0")]
    assert (results[0]["images"], results[0]["test_images"], results[0]["data"]) == ("40", "20", "data.npz")
    assert results[0]["backend"] == keras.backend.backend()
    assert float(results[0]["error"]) == error_of(folder, tmp_path / "data.npz")
    text = (tmp_path / "table.md").read_text()
    assert (
        f"| first | A | 5.50 | {float(results[0]['error']):.2f} (n = 1) | 1 | 0 | 2 | 40 of 50,000; test 20 of" in text
    )
    assert "| second | B | 6.50 | - | - | - | - | - |" in text
    assert "wrote table.md" in capsys.readouterr().out

    def never(*args, **kwargs):
        raise AssertionError("the test images were used before")

    monkeypatch.setattr(runner, "open_splits", never)
    assert reproduce("resattn/tiny", "--row", "first") == 0
    assert "already" in capsys.readouterr().out
    assert read_rows(tmp_path / "results/resattn_tiny.csv") == results
    assert reproduce("resattn/other") == 0, "a row of another table shares the run"
    assert read_rows(tmp_path / "results/resattn_other.csv") == [{**results[0], "row": "again"}]


def error_of(folder, data):
    """The error of a finished run, computed from the files in its folder."""
    report = json.loads((folder / "report.json").read_text())
    model = small_network(TABLES["resattn/tiny"].rows[0], (8, 8, 3))
    model.load_weights(folder / "model.weights.h5")
    arrays = np.load(data)
    x = (arrays["x_test"] - np.array(report["mean"])) / np.array(report["std"])
    wrong = model.predict(x.astype("float32"), verbose=0).argmax(1) != arrays["y_test"]
    return round(100 * float(wrong.mean()), 3)


def test_a_run_that_was_trained_but_not_evaluated_is_not_trained_again(table, reproduce, tmp_path, monkeypatch):
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [before] = read_rows(tmp_path / "results/resattn_tiny.csv")
    (tmp_path / "runs/resattn/tiny/first/seed1/result.json").unlink()
    (tmp_path / "results/resattn_tiny.csv").unlink()
    monkeypatch.setattr(keras.Model, "fit", None)
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [after] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert {**after, "date": ""} == {**before, "date": ""}


@pytest.mark.filterwarnings("ignore:There are no training images")
def test_a_scaled_down_run_is_shorter_and_recorded_as_one(table, reproduce, tmp_path, capsys):
    assert reproduce("resattn/tiny", "--scale", "0.5", "--row", "second") == 0
    out = capsys.readouterr().out
    [row] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert f"second, seed 0, scale 0.5: error {row['error']} % on 10 test images\n" in out
    assert "20 of 50,000; test 10 of 10,000 |" in out
    assert (row["scale"], row["epochs"], row["images"], row["test_images"]) == ("0.5", "1.0", "20", "10")
    assert (tmp_path / "runs/resattn/tiny/second/seed0-scale0.5/result.json").exists()


def recorded(row, seed, error, scale=1.0, images=50_000):
    counts = {"epochs": 2.0, "images": images, "test_images": 10_000}
    return {
        key: str(value) for key, value in {"row": row, "seed": seed, "scale": scale, "error": error, **counts}.items()
    }


def test_the_table_never_mixes_scales_or_numbers_of_images(table):
    results = [
        recorded("first", 0, 5.0),
        recorded("first", 1, 6.0),
        recorded("first", 0, 40.0, scale=0.1),
        recorded("first", 2, 20.0, images=10_000),
    ]
    text = markdown(table, results)
    assert [line for line in text.splitlines() if line.startswith("| first")] == [
        "| first | A | 5.50 | 5.50 ± 0.71 (n = 2) | 1 | 0, 1 | 2 | 50,000; test 10,000 |",
        "| first | A | 5.50 | 20.00 (n = 1) | 1 | 2 | 2 | 10,000 of 50,000; test 10,000 |",
        "| first | A | 5.50 | 40.00 (n = 1) | 0.1 | 0 | 2 | 50,000; test 10,000 |",
    ]
    assert "A scale below 1 is a scaled-down run" in text
    assert "A scale below 1" not in markdown(table, results[:2])


def test_a_diverging_row_does_not_stop_the_others(table, reproduce, tmp_path, monkeypatch, capsys):
    train = runner.compile_and_fit

    def diverging(model, *args, **kwargs):
        if "first" in model.name:
            raise FloatingPointError("The loss is not a finite number.")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(runner, "compile_and_fit", diverging)
    assert reproduce("resattn/tiny") == 2
    assert "first, seed 0: The loss" in capsys.readouterr().err
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_tiny.csv")] == ["second"]


def test_repeated_options_accumulate(table, reproduce, tmp_path, monkeypatch):
    given = []

    def record(table, row, seed, options):
        given.append((row.name, seed, options.sources))
        raise FloatingPointError("enough")

    monkeypatch.setattr("keras_resattn.reproduce.runner.run", record)
    repeated = ["--row", "second", "--row", "first", "--row", "second", "--seeds", "3", "--seeds", "5", "3"]
    assert reproduce("resattn/tiny", *repeated) == 2
    rows = [("second", 3), ("first", 3), ("second", 5), ("first", 5)]
    assert given == [(*of, {"cifar10": "data.npz"}) for of in rows]


def test_errors_of_one_and_of_five():
    """Images have one pixel whose channels are the scores: the true class ranks 1st, 2nd, 6th and 7th."""
    scores = np.full((4, 1, 1, 11), 10, "uint8")
    for row, (first, before) in enumerate([(3, 0), (3, 1), (0, 5), (0, 6)]):
        scores[row, 0, 0, [c for c in range(11) if c != first][:before]] = 200
        scores[row, 0, 0, first] = 100
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0, top5=1.0)
    errors = runner.measure_errors(scores_in_pixels(11), row, *split_of(scores, [3, 3, 0, 0]))
    assert errors == {"error": 75.0, "top5_error": 50.0}


def scores_in_pixels(classes, factor=1.0):
    """A network that returns the channels of an image of one pixel."""
    inputs = keras.Input((1, 1, classes))
    return keras.Model(inputs, keras.layers.Activation("linear")(keras.layers.Flatten()(inputs * factor)))


def split_of(images, labels):
    """`Splits` with these test images, and the `Report` of a run that does not normalise images."""
    channels = images.shape[-1]
    report = argparse.Namespace(mean=[0.0] * channels, std=[1.0] * channels)
    return argparse.Namespace(tests={"error": ArrayDataset(images, np.array(labels))}), report


def test_evaluation_at_another_size_uses_the_same_weights():
    row = Row("row", "CifarResidualAttention56", "resattn_cifar", "cifar10", 1.0, test_size=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "build", small_network)
        model = small_network(row, (8, 8, 3))
        resized = runner._at_test_size(model, row, 3)
    assert resized.input_shape == (None, 9, 9, 3)
    assert_close(resized.weights[0], model.weights[0], 0)


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract")
@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_outputs_that_are_not_finite_give_no_result(factor):
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0)
    split = split_of(np.ones((2, 1, 1, 10), "uint8"), [3, 3])
    with pytest.raises(FloatingPointError, match="NaN or infinite values for test images"):
        runner.measure_errors(scores_in_pixels(10, factor), row, *split)
