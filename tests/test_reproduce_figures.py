"""Figure 4: responses of trained networks, drawn by `keras-resattn reproduce`."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from keras_resattn.cli import main
from keras_resattn.evaluation import load_run
from keras_resattn.reproduce import TABLES, Table, figures, runner
from keras_resattn.utils.io import read_rows
from keras_resattn.visualize.responses import stage_responses

pytestmark = pytest.mark.once


@pytest.fixture
def figure(table, narrow_network, tmp_path, monkeypatch):
    """Register a figure that shares the run of a table's row, with a small network and 20 images of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 32, 32, 3), dtype="uint8"), np.arange(20) % 10
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.setattr(runner, "build", lambda row, shape, base_weights: narrow_network(classes=10))
    row = dataclasses.replace(table.rows[0], changes={**table.rows[0].changes, "epochs": 1})
    monkeypatch.setitem(TABLES, "resattn/tiny", dataclasses.replace(table, rows=(row,)))
    rows = (row.shared("tiny", "naive"),)
    monkeypatch.setitem(TABLES, "resattn/fig9", Table("resattn/fig9", "A figure", rows, draws_responses=True))
    monkeypatch.chdir(tmp_path)
    return x


@pytest.mark.filterwarnings("ignore:There are no training images")
def test_a_figure_trains_a_row_and_draws_its_responses(figure, tmp_path, capsys):
    assert main(["reproduce", "resattn/fig9", "--data", "images.npz"]) == 0
    out = capsys.readouterr().out
    assert "all rows: run shared with resattn/tiny." in out
    assert "wrote results/resattn_fig9.png and results/resattn_fig9_responses.csv" in out
    with Image.open(tmp_path / "results/resattn_fig9.png") as image:
        assert image.width > 500
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_fig9.csv")] == ["naive"]
    rows = read_rows(tmp_path / "results/resattn_fig9_responses.csv")
    assert {(row["row"], row["seed"], row["epochs"], row["images"]) for row in rows} == {("naive", "0", "1.0", "20")}
    model = load_run(tmp_path / "runs/resattn/tiny/first/seed0")
    mean, std = figure.mean((0, 1, 2)), figure.std((0, 1, 2))
    expected = stage_responses(model, ((figure - mean) / std).astype("float32"), blocks=True)
    assert [row["block"] for row in rows] == list(expected)
    assert [float(row["response"]) for row in rows] == pytest.approx(list(expected.values()), rel=1e-3)


def test_responses_that_are_not_finite_are_not_drawn(figure, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "load_run", lambda folder: None)
    monkeypatch.setattr(figures, "read_report", lambda folder: {"mean": [0.0] * 3, "std": [1.0] * 3})
    monkeypatch.setattr(figures, "stage_responses", lambda model, images, blocks: {"stage1_unit1": np.inf})
    with pytest.raises(FloatingPointError, match="responses of the network in run are NaN or infinite"):
        figures.run_responses("naive", {}, "run", tmp_path / "images.npz")


def test_lines_of_a_figure_name_row_and_scale(tmp_path, monkeypatch):
    drawn = {}
    plot = figures.plot_responses
    monkeypatch.setattr(figures, "plot_responses", lambda lines: drawn.update(lines) or plot(lines))
    row = {**dict.fromkeys(figures.COLUMNS, ""), "row": "naive", "scale": 1.0, "block": "stage1", "response": "0.5"}
    figures.draw([[row], [{**row, "seed": 1}], [{**row, "scale": 0.1}]], tmp_path / "fig4.png")
    assert drawn == {
        "naive learning": [{"stage1": 0.5}, {"stage1": 0.5}],
        "naive learning, scaled-down run (scale 0.1)": [{"stage1": 0.5}],
    }
    assert [row["seed"] for row in read_rows(tmp_path / "fig4_responses.csv")] == ["", "1", ""]
