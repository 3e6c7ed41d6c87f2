"""The notebooks of examples/: their cells run, and their links, install cells and stored outputs are in order."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import staged_network

import keras_resattn
from keras_resattn.pretrained import find

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
NAMES = [path.name for path in NOTEBOOKS]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Execute a notebook's code cells in a temporary folder, with other values of its parameters; return the text.

    Networks with released weights are replaced by small ones of random weights.
    """

    def natural(include_top=True, **arguments):
        (tag,) = find("default", "ResidualAttention56")
        model = staged_network(include_top, **{"classes": len(tag.classes), "input_shape": tag.input_shape} | arguments)
        if include_top:
            keras_resattn.set_class_names(model, list(tag.classes))
        return model

    def created(network, **arguments):
        return {"ResidualAttention56": natural}.get(network, staged_network)(**arguments)

    monkeypatch.setattr("keras_resattn.ResidualAttention56", natural)
    monkeypatch.setattr("keras_resattn.CifarResidualAttention56", staged_network)
    monkeypatch.setattr("keras_resattn.models.registry.create_model", created)
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    monkeypatch.chdir(tmp_path)

    def run(name, **parameters):
        names = {}
        for cell in json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if source.startswith("%%writefile "):
                first, _, content = source.partition("\n")
                Path(first.split()[1]).write_text(content, encoding="utf-8")
            elif cell["cell_type"] == "code":
                exec(compile(source, f"{name}:{cell['id']}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert parameters.keys() <= names.keys()
                names.update(parameters)
        return capsys.readouterr().out

    return run


@pytest.fixture
def photos(tmp_path):
    """An `.npz` file with 48 random images of four classes."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (48, 32, 32, 3), dtype="uint8"), np.arange(48) % 4
    path = tmp_path / "photos.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, class_names=np.array(["ant", "bee", "cow", "dog"]))
    return str(path)


def test_look_at_attention(run):
    out = run("01_look_at_attention.ipynb")
    assert "stage3_attention1_mask" in out
    assert out.count("%") == 2 * 3, "three classes for each photograph"


def test_transfer_to_your_images(run, photos, tmp_path):
    small = {"DATA": photos, "CLASSES": ("ant", "cow"), "IMAGES": 10, "HEAD_EPOCHS": 1, "EPOCHS": 1, "BATCH_SIZE": 8}
    out = run("02_transfer_to_your_images.ipynb", **small)
    assert "['ant', 'cow'] 16 training and 4 validation images" in out
    assert re.search(r"last stage, epoch 1: \d+\.\d%, validation \d+\.\d%", out)
    assert re.search(r"\d+\.png \[\[\(\d, '(ant|cow)', ", out)
    assert keras_resattn.class_names_of(keras.models.load_model(tmp_path / "classifier.keras")) == ["ant", "cow"]


def test_transfer_to_a_folder_of_ones_own(run, image_folder):
    out = run("02_transfer_to_your_images.ipynb", FOLDER=str(image_folder), HEAD_EPOCHS=1, EPOCHS=1, BATCH_SIZE=8)
    assert "['a', 'b', 'c', 'd'] 17 training and 5 validation images" in out


def test_gated_attention(run, photos, monkeypatch):
    def small_mobilenet(include_top, weights, input_shape):
        inputs = x = keras.Input(input_shape)
        for width in (8, 16, 32):
            x = keras.layers.Conv2D(width, 3, 2, "same", activation="relu")(x)
        return keras.Model(inputs, x)

    monkeypatch.setattr("keras.applications.MobileNetV2", small_mobilenet)
    out = run("04_gated_attention.ipynb", WEIGHTS=None, DATA=photos, SIZE=32, TRAINING=16, TEST=48, EPOCHS=1)
    assert re.search(r"with gated attention: \d+\.\d%", out)
    assert re.search(r"attention1_mask: \d+% of the mask on \d+% of the positions; weight 0\.\d\d", out)


def test_transfer_to_digits(run, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 256, (60, 28, 28), dtype="uint8"), np.arange(60) % 10
    monkeypatch.setattr("keras.datasets.mnist.load_data", lambda: (digits, digits))
    small = {"TRAINING": 40, "VALIDATION": 10, "TEST": 60, "HEAD_EPOCHS": 2, "EPOCHS": 1, "BATCH_SIZE": 20}
    out = run("09_transfer_to_digits.ipynb", **small)
    for model in ("frozen features", "last stage fine-tuned", "from scratch"):
        assert re.search(rf"{model} +\d+\.\d\d% of 60 test images", out)
    assert (tmp_path / "digits.keras").exists()


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX exports neither format")
def test_export_and_run(run):
    out = run("13_export_and_run.ipynb", FORMATS={"onnx": "network.onnx"}, RUNS=1)
    assert "same class for 100%" in out
    assert re.search(r"coffee\.jpg: .+ \d+%; Keras imported: False", out)


def cells_of(name):
    return json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]


def test_every_notebook_has_a_badge_and_an_install_cell_for_one_repository():
    """If the repository moves, one word changes in all notebooks and on the page that lists them."""
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    texts = [page]
    for name in NAMES:
        title, install, *_ = sources = ["".join(cell["source"]) for cell in cells_of(name)]
        badge = f"/keras_resattn/blob/main/examples/{name})"
        assert badge in title
        assert badge in page
        assert re.search(r'^REPOSITORY = "https://github\.com/', install, re.MULTILINE)
        texts += sources
    assert len(set(re.findall(r"github(?:\.com)?/(\w[\w-]*)/keras_resattn", "\n".join(texts)))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stored_and_hold_no_paths_or_warnings(name):
    nbformat = pytest.importorskip("nbformat")
    from tools.run_notebook import problems

    notebook = nbformat.read(ROOT / "examples" / name, as_version=4)
    assert problems(notebook) == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "an interrupted or edited notebook"
    kinds = {kind for cell in code for output in cell.outputs for kind in output.get("data", ())}
    assert kinds & {"image/png", "image/jpeg"} or "export" in name


SMALL = {
    "01_look_at_attention.ipynb": {},
    "02_transfer_to_your_images.ipynb": {
        "CLASSES": ("ant", "cow"),
        "IMAGES": 10,
        "HEAD_EPOCHS": 1,
        "EPOCHS": 1,
        "BATCH_SIZE": 8,
    },
    "04_gated_attention.ipynb": {"WEIGHTS": None, "TRAINING": 64, "TEST": 48, "EPOCHS": 1},
    "13_export_and_run.ipynb": {"RUNS": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_notebooks_run_in_a_process_of_their_own(name, photos, monkeypatch):
    """With the released weights, in a Jupyter kernel and on the backend of the notebook, as a user runs them."""
    from tools.run_notebook import executed, problems

    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    parameters = SMALL[name] | ({"DATA": photos} if name[:2] in ("02", "04") else {})
    assert problems(executed(ROOT / "examples" / name, parameters)) == []
