"""The tutorials run as they are written, block by block, Python and shell, on few and small images."""

import re
import shlex
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resattn.cli import main

pytestmark = [pytest.mark.once, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The folder of a reader: a photo, photos in a folder for each class, and CIFAR-10."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 17), ("val", 3)):
        for name in ("cat", "ship"):
            folder = tmp_path / "animals" / split / name
            folder.mkdir(parents=True)
            image = Image.open(next((ROOT / "examples" / "images").glob(f"{name}-*.png"))).resize((96, 72))
            for i in range(count):
                image.rotate(10 * i).save(folder / f"{i}.jpg")
    shutil.copy(ROOT / "examples" / "photos" / "chelsea.jpg", tmp_path / "photo.jpg")
    arrays = rng.integers(0, 256, (70, 32, 32, 3), dtype="uint8"), np.arange(70).reshape(-1, 1) % 10
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: (arrays, arrays))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_tutorial(page, reader):
    variables = {}
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    for language, code in blocks:
        if language == "python":
            exec(compile(code, page.name, "exec"), variables)
        else:
            for line in code.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "keras-resattn"
                assert main(arguments) == 0, line
