"""Run the examples and the first program of the README on small input."""

import argparse
import contextlib
import json
import math
import re
import runpy
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import staged_network
from PIL import Image

import keras_resattn
from keras_resattn.evaluation import evaluate_run
from keras_resattn.pretrained import find
from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(monkeypatch, capsys):
    def run(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (24, 32, 32, 3), dtype="uint8"), np.arange(24) % 3
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    return tmp_path / "data.npz"


@pytest.mark.filterwarnings("ignore:There are no training images")  # some classes of CIFAR-10 have none
def test_train(run, data, tmp_path):
    sizes = ("--limit", 20, "--holdout", 4, "--batch-size", 8, "--epochs", 2)
    out = run("03_train_cifar10.py", data, tmp_path / "run", *sizes)
    assert "'epoch': 2" in out
    assert "val_accuracy" in out
    assert (tmp_path / "run" / "model.weights.h5").exists()


BUDGET = ("--model", "WideResNet-10-1", "--batch-size", 8, "--limit", 16, "--recipe", "warn_cifar")
BUDGET += ("--precision", "float32")


def test_a_budget_that_is_too_small_is_reported_after_measuring(run, data, tmp_path):
    """The measurement is still appended to the table."""
    table = tmp_path / "training.csv"
    with (
        _jax_cache_restored(),
        pytest.raises(SystemExit, match="more than 0 epochs; received: time for 0, as an epoch takes"),
    ):
        run("08_train_in_a_time_budget.py", data, tmp_path / "budget", *BUDGET, "--minutes", 0.01, "--benchmark", table)
    assert not (tmp_path / "budget" / "plan.json").exists()
    (row,) = read_rows(table)
    assert (row["model"], row["batch_size"], row["steps_per_epoch"]) == ("WideResNet-10-1", "8", "2")
    assert row["backend"] == keras.backend.backend()
    assert float(row["images_per_second"]) > 0 < float(row["matrix_utilisation"])
    assert f"keras {keras.version()}" in row["versions"]


def test_a_file_with_other_columns_gets_no_row(run, data, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("date,ratio\n2026-01-01,1\n")
    with _jax_cache_restored(), pytest.raises(SystemExit, match=r"--benchmark to be a new file .* has date, ratio"):
        run("08_train_in_a_time_budget.py", data, tmp_path / "run", *BUDGET, "--minutes", 9, "--benchmark", table)
    with _jax_cache_restored(), pytest.raises(SystemExit, match=r"received: .+, a folder"):
        run("08_train_in_a_time_budget.py", data, tmp_path / "run", *BUDGET, "--minutes", 9, "--benchmark", tmp_path)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_batch_may_not_be_larger_than_the_training_set(run, data, tmp_path):
    with (
        _jax_cache_restored(),
        pytest.raises(SystemExit, match="batch-size of at most the 16 training images; received: 17"),
    ):
        run("08_train_in_a_time_budget.py", data, tmp_path / "run", *BUDGET, "--batch-size", 17, "--minutes", 1)


@pytest.mark.parametrize("steps", [3, 0])
def test_steps_per_execution_must_divide_an_epoch(run, data, tmp_path, steps):
    with _jax_cache_restored(), pytest.raises(SystemExit, match=f"divide the 2 steps of an epoch; received: {steps}"):
        run("08_train_in_a_time_budget.py", data, tmp_path, *BUDGET, "--minutes", 9, "--steps-per-execution", steps)
    assert not (tmp_path / "plan.json").exists()


def test_a_run_in_a_time_budget_resumes_in_the_next_call(run, data, tmp_path):
    """The first call stops at once; the second completes the schedule."""
    (tmp_path / "plan.json").write_text('{"epochs": 2}')
    command = ("08_train_in_a_time_budget.py", data, tmp_path, *BUDGET, "--minutes", 9)
    with _jax_cache_restored(), pytest.raises(SystemExit, match="143"):
        run(*command, "--call-minutes", 0)
    assert not (tmp_path / "run" / "report.json").exists()
    with _jax_cache_restored():
        out = run(*command, "--benchmark", tmp_path / "training.csv")
    assert "'epoch': 2" in out
    assert "nothing is measured" in out
    assert not (tmp_path / "training.csv").exists()


def test_a_schedule_is_fitted_to_its_budget():
    affordable_epochs = runpy.run_path(str(ROOT / "examples" / "08_train_in_a_time_budget.py"))["affordable_epochs"]
    measured = {"seconds_per_epoch": 5, "startup_seconds": 30.0}
    in_one = argparse.Namespace(minutes=10, call_minutes=math.inf)
    assert affordable_epochs(in_one, measured, spent=100) == int((500 - 30) * 0.95 / 5)
    in_three = argparse.Namespace(minutes=10, call_minutes=4)
    assert affordable_epochs(in_three, measured, spent=100) == int((500 - 3 * 30) * 0.95 / 5)


def test_the_measurement_includes_validation_and_checkpoints(tmp_path, monkeypatch):
    """A slowed-down checkpoint makes each epoch take at least half a second."""
    example = runpy.run_path(str(ROOT / "examples" / "08_train_in_a_time_budget.py"))
    save = keras_resattn.recipes.run_folder.RunFolder.save
    monkeypatch.setattr(
        keras_resattn.recipes.run_folder.RunFolder, "save", lambda *args: (time.sleep(0.5), save(*args))
    )
    names = {"model": "WideResNet-10-1", "precision": "float32", "seed": 0, "measure": 3, "steps_per_execution": 1}
    args = argparse.Namespace(run_dir=tmp_path, **names)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (17, 32, 32, 3), dtype="uint8"), np.arange(17) % 3
    recipe = keras_resattn.recipes.get_recipe("warn_cifar").replace(batch_size=8)
    measured = example["measure"](args, recipe, data, data)
    assert measured["seconds_per_epoch"] > 0.5
    assert measured["images_per_second"] == pytest.approx(16 / measured["seconds_per_epoch"], rel=0.1)
    assert measured["startup_seconds"] > 0
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def _jax_cache_restored():
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    kept = jax.config.jax_compilation_cache_dir
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)


def test_see_the_masks(run, tmp_path):
    out = run("01_see_the_masks.py", tmp_path / "masks.png")
    assert "stage3_attention1_mask" in out
    with Image.open(tmp_path / "masks.png") as image:
        assert image.width > 1000


def test_transfer_learning(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "keras_resattn.models.registry.create_model", lambda network, **kwargs: staged_network(**kwargs)
    )
    out = run("02_transfer_learning.py", data, "--epochs", 2, "--batch-size", 8, "--run-dir", tmp_path / "run")
    assert re.search(r"24 training images, classifier only: test accuracy \d+\.\d\d%", out)
    assert (tmp_path / "run" / "head" / "report.json").exists()


def test_transfer_is_measured(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_resattn.create_model", lambda network, **kwargs: staged_network(**kwargs))
    monkeypatch.setattr(
        "keras_resattn.models.registry.create_model", lambda network, **kwargs: staged_network(**kwargs)
    )
    sizes = ("--images", 6, "--seeds", 0, "--size", 32, "--epochs", 2, "--fine-tune-epochs", 1, "--test-images", 5)
    sources = ("--sources", "CifarResidualAttention56/cifar10", "CifarResidualAttention56")
    command = ("09_measure_transfer.py", data, tmp_path / "results.csv")
    run(*command, *sources, *sizes)
    rows = read_rows(tmp_path / "results.csv")
    assert [(row["source"], row["method"]) for row in rows] == [
        (source, method) for source in sources[1:] for method in ("dense", "fine_tune")
    ]
    assert {row["test_images"] for row in rows} == {"5"}
    assert all(0 <= float(row["test_accuracy"]) <= 100 for row in rows)
    assert run(*command, *sources, *sizes) == "", "existing rows are not computed again"


@pytest.fixture
def digits(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 28, 28), dtype="uint8"), np.arange(60) % 10
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    return tmp_path / "mnist.npz"


def test_cluttered_mnist(run, digits, tmp_path, monkeypatch):
    splits = keras_resattn.data.mnist_splits
    monkeypatch.setattr("keras_resattn.data.mnist_splits", lambda dataset: splits(dataset, validation=20))
    results = tmp_path / "results.csv"
    sizes = ("--images", 100, "--test-images", 10, "--epochs", 1)
    run("05_cluttered_mnist.py", digits, results, "--networks", "baseline", "depth1_width1", *sizes)
    rows = read_rows(results)
    assert [row["network"] for row in rows] == ["baseline", "depth1_width1"]
    assert all(0 <= float(row["test_error_64"]) <= 100 for row in rows)
    again = run("05_cluttered_mnist.py", digits, results, "--networks", "baseline", *sizes)
    assert "baseline, seed 0: already in" in again, "existing rows are not computed again"
    run("05_cluttered_mnist.py", digits, results, "--plot", tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 1000


def test_label_noise(run, data, tmp_path):
    results = tmp_path / "results.csv"
    command = ("06_label_noise.py", data, results, tmp_path / "runs", "--networks", "WideResNet-10-1", "--epochs", 4)
    command += ("--images", 20, "--batch-size", 8)
    with np.load(data) as arrays:
        arrays = dict(arrays)
    np.savez(data, **{**arrays, "y_test": arrays["y_test"][:, None]})  # the shape of labels in keras.datasets
    run(*command, "--rates", 0, 0.7)
    rows = read_rows(results)
    assert [(row["network"], row["rate"]) for row in rows] == [("WideResNet-10-1", "0.0"), ("WideResNet-10-1", "0.7")]
    folder = tmp_path / "runs" / "WideResNet-10-1-0.7-0-20-4-8"
    recipe = json.loads((folder / "report.json").read_text())["recipe"]
    assert (recipe["label_noise"], recipe["batch_size"], recipe["learning_rate"]) == (0.7, 8, 0.2 * 8 / 128)
    found = evaluate_run(folder, (arrays["x_test"], arrays["y_test"]))
    assert int(rows[1]["test_images"]) == found.total
    assert float(rows[1]["test_error"]) == pytest.approx(100 * (1 - found.accuracy), abs=1e-3)
    assert "70% noise, seed 0: already in" in run(*command, "--rates", 0.7)
    run(*command, "--plot", tmp_path / "noise.png")
    with Image.open(tmp_path / "noise.png") as image:
        assert image.width > 900


@pytest.mark.filterwarnings("ignore:There are no training images")  # some classes of CIFAR-10 have none
def test_another_cycle_starts_from_the_released_weights(run, data, tmp_path):
    out = run("07_another_cycle.py", data, tmp_path / "run", "--epochs", 1, "--batch-size", 8, "--limit", 16)
    assert "'epoch': 1" in out
    (tag,) = find("cifar10_v2", "CifarResidualAttention56")
    assert json.loads((tmp_path / "run" / "statistics.json").read_text()) == [list(tag.mean), list(tag.std)]
    before, after = (
        _convolution(keras_resattn.CifarResidualAttention56(weights=str(weights)))
        for weights in (tag.folder, tmp_path / "run" / "model.weights.h5")
    )
    assert np.corrcoef(before, after)[0, 1] > 0.9
    assert not np.array_equal(before, after)


def _convolution(model):
    """Return the values of the last 3x3 convolution of a model."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in layers if layer.kernel_size == (3, 3)]
    return kernels[-1].ravel()


def test_attend_and_rectify(run, data, tmp_path):
    inputs = x = keras.Input((32, 32, 3))
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(4, 3, 2, "same", activation="relu", name=f"conv{i}")(x)
    keras.Model(inputs, x).save(tmp_path / "base.keras")
    results = tmp_path / "results.csv"
    arguments = (results, "--data", data, "--base", tmp_path / "base.keras", "--epochs", 2, "--batch-size", 8)
    arguments += ("--mean", 127, "--std", 64)
    run("04_attend_and_rectify.py", *arguments, "--cache", tmp_path / "cache", "--plot", tmp_path / "birds.png")
    run("04_attend_and_rectify.py", *arguments, "--cache", tmp_path / "cache", "--holdout", 2)
    run("04_attend_and_rectify.py", *arguments, "--fine-tune", "--widths", 2)
    rows = [(row["network"], row["trained"], row["measured_on"], row["images"]) for row in read_rows(results)]
    assert rows == [
        ("plain", "above the base", "test", "24"),
        ("attention", "above the base", "test", "24"),
        ("plain", "above the base", "validation", "18"),
        ("attention", "above the base", "validation", "18"),
        ("attention", "all", "test", "24"),
    ]
    assert (tmp_path / "birds.png").exists()


def test_first_program_of_the_readme(tmp_path, monkeypatch, capsys):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    exec(compile(program, "README.md", "exec"), {})
    assert "espresso" in capsys.readouterr().out
    assert (tmp_path / "masks.png").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_has_a_help_text(run, capsys, name):
    with pytest.raises(SystemExit) as exit:
        run(name, "--help")
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
