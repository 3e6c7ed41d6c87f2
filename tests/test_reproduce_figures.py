"""The papers' figures, drawn from finished runs."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from keras_resattn.data import ArrayDataset
from keras_resattn.reproduce import TABLES, Row, Table, figures
from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once


def test_a_figure_trains_the_rows_of_another_table(table, reproduce, tmp_path, monkeypatch):
    fields = {name: getattr(table.rows[0], name) for name in Row.__dataclass_fields__}
    row = Row(**fields | {"name": "naive", "same_as": "tiny/first"})
    monkeypatch.setitem(TABLES, "resattn/fig9", Table("resattn/fig9", "A figure", (row,), figure=True))
    measured = {"row": "naive", "network": "A", "scale": 1.0, "block": "stage1_unit1", "response": "0.5"}
    folders = []
    monkeypatch.setattr(figures, "measure", lambda row, folder, where: folders.append(folder) or [measured])
    assert reproduce("resattn/fig9") == 0
    assert [str(folder) for folder in folders] == ["runs/resattn/tiny/first/seed0"]
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_tiny.csv")] == ["first"]
    assert (tmp_path / "results/resattn_fig9.png").exists()
    assert [row["response"] for row in read_rows(tmp_path / "results/resattn_fig9.csv")] == ["0.5"]


@pytest.fixture
def finished_runs(narrow_network, tmp_path, monkeypatch):
    """Two finished runs of seed 4 in the folders `naive` and `residual`, with random weights."""

    def build(row, shape):
        assert (row.network, shape) == ("CifarResidualAttention56", (32, 32, 3))
        return narrow_network(classes=10, **row.arguments)

    x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype="uint8")
    monkeypatch.setattr(figures, "open_dataset", lambda where: ArrayDataset(x, np.arange(20) % 10))
    monkeypatch.setattr(figures, "build", build)
    networks = {}
    for learning in ("naive", "residual"):
        report = {
            "network": "cifar_residual_attention56",
            "recipe": {"seed": 4},
            "metrics": {"epoch": 7},
            "history": [{"epoch": 7}],
            "mean": [127.5] * 3,
            "std": [255.0] * 3,
            "environment": {"backend": "numpy", "revision": None},
        }
        (tmp_path / learning).mkdir()
        (tmp_path / learning / "report.json").write_text(json.dumps(report))
        networks[learning] = narrow_network(classes=10, learning=learning)
        networks[learning].save_weights(tmp_path / learning / "model.weights.h5")
    return networks


def test_the_lines_of_a_figure_say_what_was_trained():
    row = {"row": "naive", "network": "CifarResidualAttention164", "scale": 1.0, "epochs": 205}
    lines = [row, {**row, "scale": 0.1}, {**row, "network": "CifarResidualAttention56", "scale": ""}]
    lines.append({**row, "network": "AttentionNeXt56"})
    assert [figures._label(TABLES["resattn/fig4"], line) for line in lines] == [
        "naive learning",
        "naive learning, rehearsal at scale 0.1",
        "naive learning, Attention-56, 205 epochs",
        "naive learning, AttentionNeXt56",
    ]


RUN_OF = {
    "another learning": (
        "resattn/table1/mixed",
        r"learning='naive' for naive; .*table1/mixed with learning='residual'",
    ),
    "another mask": ("resattn/table4/local", r"mask='encoder_decoder', .*; received: naive, .* with mask='local'"),
    "another dataset": ("resattn/table6/attention236_cifar100", r"data='cifar10'.* with data='cifar100'"),
}


@pytest.mark.parametrize("case", RUN_OF)
def test_a_run_of_another_row_is_not_drawn_under_a_wrong_name(
    case, finished_runs, reproduce, tmp_path, monkeypatch, capsys
):
    recorded, message = RUN_OF[case]
    monkeypatch.setattr(figures, "build", None)
    (tmp_path / "naive/result.json").write_text(json.dumps({"run": {"row": recorded, "scale": 0.1}, "result": {}}))
    assert reproduce("resattn/fig4", "--runs", "residual=residual", "naive=naive") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()


def test_a_run_of_the_same_learning_may_be_of_another_depth(finished_runs, tmp_path):
    [naive] = TABLES["resattn/fig4"].select(["naive"])
    run = {"row": "resattn/table3/attention56_naive", "scale": 0.1}
    (tmp_path / "naive/result.json").write_text(json.dumps({"run": run, "result": {}}))
    assert figures.open_run(naive, tmp_path / "naive")[1:] == ("CifarResidualAttention56", run)


def test_a_network_that_diverged_is_not_drawn(finished_runs, reproduce, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "stage_responses", lambda model, images, blocks: {"stage1_unit1": np.inf})
    assert reproduce("resattn/fig4", "--runs", "naive=naive", "--output", "fig4.png") == 2
    assert "responses of the network in naive are not finite" in capsys.readouterr().err
    assert not (tmp_path / "fig4.png").exists()


def test_a_figure_of_two_finished_runs(finished_runs, reproduce, tmp_path, monkeypatch, capsys):
    def respond(model, images, blocks):
        """In place of a forward pass: the range of the images, and a weight of the network."""
        assert blocks
        return {"stage1_unit1": np.ptp(images), "stage1_attention1": float(np.abs(model.get_weights()[0]).sum())}

    monkeypatch.setattr(figures, "stage_responses", respond)
    given = ["--runs", "naive=naive", "--runs", "residual=residual"]
    assert reproduce("resattn/fig4", *given, "--output", "fig4.png") == 0
    assert "naive is no run of `reproduce`, and does not say how its attention learns" in capsys.readouterr().out
    with Image.open(tmp_path / "fig4.png") as image:
        assert image.width > 500
    rows = read_rows(tmp_path / "fig4.csv")
    assert {(row["network"], row["seed"], row["epochs"]) for row in rows} == {("CifarResidualAttention56", "4", "7")}
    assert [(row["row"], row["block"]) for row in rows[:3]] == [
        ("naive", "stage1_unit1"),
        ("naive", "stage1_attention1"),
        ("residual", "stage1_unit1"),
    ]
    weights = [np.abs(network.get_weights()[0]).sum() for network in finished_runs.values()]
    assert [float(row["response"]) for row in rows] == pytest.approx([1.0, weights[0], 1.0, weights[1]], rel=1e-4)
