"""`keras-resattn train --tensorboard` writes logs, or fails with a clear error if TensorBoard is not installed."""

import importlib.util

import numpy as np
import pytest

from keras_resattn.cli import main

pytestmark = pytest.mark.once


@pytest.fixture
def train(tmp_path):
    """`(function, folder)`: the function runs the command for two epochs of two steps, with `--tensorboard logs`."""
    x, y = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8"), np.arange(8) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_validation=x[:4], y_validation=y[:4])
    data = ["--data", str(tmp_path / "data.npz"), "--validation", str(tmp_path / "data.npz")]
    command = ["train", "--model", "WideResNet-10-1", *data, "--run-dir", str(tmp_path / "run")]
    command += ["--set", "epochs=2", "warmup_epochs=0", "batch_size=4", "--tensorboard", str(tmp_path / "logs")]
    return lambda: main(command), tmp_path


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and TensorBoard's own
def test_logs_hold_the_losses_of_all_epochs(train):
    pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    run, folder = train
    assert run() == 0
    with open(folder / "run" / "log.csv") as file:
        header, *rows = (line.strip().split(",") for line in file)
    for part, column in (("train", "loss"), ("validation", "val_loss")):
        assert list((folder / "logs" / part).glob("events.out.tfevents.*"))
        events = EventAccumulator(str(folder / "logs" / part)).Reload()
        logged = [float(make_ndarray(event.tensor_proto)) for event in events.Tensors("epoch_loss")]
        np.testing.assert_allclose(logged, [float(row[header.index(column)]) for row in rows], rtol=1e-5)


@pytest.mark.parametrize("missing", ["tensorflow", "tensorboard"])
def test_the_error_without_tensorboard_comes_before_any_work(train, missing, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == missing else find(name, *args))
    run, folder = train
    assert run() == 2
    assert "Expected TensorFlow and TensorBoard for --tensorboard. Run: pip install" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["data.npz"]
