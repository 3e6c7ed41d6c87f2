"""The example that measures deletion and insertion curves, on small input."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_resattn.layers import AttentionResidual
from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once

SCRIPT = str(Path(__file__).parents[1] / "examples" / "10_deletion_insertion.py")
KINDS = ("deletion", "insertion")


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", [SCRIPT, *map(str, arguments)])
        runpy.run_path(SCRIPT, run_name="__main__")
        return capsys.readouterr().out

    return run


def small_network():
    """Stand in for a released network: two stages with a mask each, under the same layer names."""
    inputs = x = keras.Input((32, 32, 3))
    for stage in (2, 3):
        x = keras.layers.Conv2D(4, 4, 4, name=f"stage{stage}_unit1")(x)
        mask = keras.layers.Conv2D(4, 1, activation="sigmoid", name=f"stage{stage}_attention1_mask")(x)
        x = AttentionResidual(name=f"stage{stage}_attention1_merge")([x, mask])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="predictions")(x))


def test_deletion_and_insertion(run, tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype="uint8")
    np.savez(tmp_path / "data.npz", x_test=x, y_test=np.arange(6))
    monkeypatch.setattr("keras_resattn.evaluation.load_checkpoint", lambda tag: small_network())
    command = (tmp_path / "data.npz", tmp_path / "results.csv", "--images", 4, "--steps", 2, "--seeds", 0, 1)
    assert "4 images" in run(*command)
    rows = read_rows(tmp_path / "results.csv")
    masked = {(row["ranking"], row["mask"]) for row in rows if row["mask"]}
    assert len(masked) == 2 * 5, "five rankings for each of two stages"
    assert {row["ranking"] for row in rows if not row["mask"]} == {"random pixels", "random blobs", "centre"}
    for row in rows:
        deletion, insertion = ([float(value) for value in row[f"{kind}_curve"].split()] for kind in KINDS)
        assert deletion[0] == insertion[-1] == pytest.approx(float(row["probability_full"]), abs=1e-3)
        assert deletion[-1] == pytest.approx(float(row["probability_mean"]), abs=1e-3)
        assert insertion[0] == pytest.approx(float(row["probability_blurred"]), abs=1e-3)
        assert float(row["deletion"]) == pytest.approx(np.trapezoid(deletion, dx=1 / 2), abs=1e-3)
    assert run(*command) == "", "existing settings are not measured again"
    run(*command, "--plot", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_pixels_are_replaced_in_the_order_of_their_rank():
    replaced = runpy.run_path(SCRIPT)["replaced"]
    before, after = np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3))
    images = replaced(before, after, np.array([[[1.0, 9.0], [0.0, 2.0]]]), 4)
    assert [image[0, :, :, 0].tolist() for image in images] == [[[0, 1], [0, 0]], [[0, 1], [0, 1]], [[1, 1], [0, 1]]]
