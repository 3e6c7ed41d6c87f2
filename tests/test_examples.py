"""The examples run as they are, on small input; so does the first program of the README."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_train(run, data, tmp_path):
    sizes = ("--limit", 20, "--holdout", 4, "--batch-size", 8, "--epochs", 4)
    out = run("01_train_cifar10.py", data, tmp_path / "run", *sizes)
    assert "'epoch': 4" in out
    assert "val_accuracy" in out
    assert (tmp_path / "run" / "model.weights.h5").exists()


def test_see_the_masks(run, tmp_path):
    out = run("02_see_the_masks.py", tmp_path / "masks.png")
    assert "stage3_attention1_mask" in out
    with Image.open(tmp_path / "masks.png") as image:
        assert image.width > 1000


def test_transfer_learning(run, data):
    assert re.search(r"test accuracy \d+\.\d\d%", run("03_transfer_learning.py", data, "--epochs", 2))


def test_the_first_program_of_the_readme(tmp_path, monkeypatch, capsys):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    exec(compile(program, "README.md", "exec"), {})
    assert "cat" in capsys.readouterr().out
    assert (tmp_path / "masks.png").exists()
