"""Exported files: what they return, what they say about themselves, and what a failed export leaves."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import assert_close, forward, random_array, tiny, weights_of

from keras_resattn import export, set_class_names
from keras_resattn.cli import main
from keras_resattn.deployment import exporting, files, formats
from keras_resattn.deployment.formats import FORMATS
from keras_resattn.deployment.runtimes import open_runtime

BACKEND = keras.backend.backend()
WRITABLE = [name for name, format in FORMATS.items() if BACKEND in format.packages]
FORMAT = WRITABLE[-1]  # written in the shortest time
IMAGES = Path(__file__).parents[1] / "examples" / "images"
STATISTICS = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def target(folder, format=FORMAT):
    return folder / f"network{FORMATS[format].suffix}"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def metadata_in(path, format):
    """Read the metadata of a file as its users would, with nothing of this package."""
    if format == "onnx":
        import onnxruntime

        found = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    elif format == "openvino":
        import openvino

        found = openvino.Core().read_model(path).get_rt_info("keras_resattn").value
        found = {name: value.value if hasattr(value, "value") else value for name, value in found.items()}
    elif format == "litert":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))
    elif format == "tf_saved_model":
        return json.loads((path / "assets.extra" / "metadata.json").read_text())
    else:
        import torch

        files = {"metadata.json": ""}
        torch.export.load(path, extra_files=files)
        return json.loads(files["metadata.json"])
    return {name: json.loads(value) if value[0] in "[{" else value for name, value in found.items()}


@pytest.mark.parametrize("format", WRITABLE)
def test_a_file_returns_what_keras_does_and_names_its_classes(format, tmp_path):
    model = tiny("softmax")
    set_class_names(model, ["ant", "bee", "cow"])
    model.compile("sgd", "mse")
    before, flags = weights_of(model), [layer.trainable for layer in model.layers]
    report = export(model, target(tmp_path, format), format, statistics=STATISTICS, include_preprocessing=True)
    assert (report.format, report.backend, report.images) == (format, BACKEND, 10)
    assert (report.max_difference < 1e-6, report.agreement) == (True, 1.0)
    assert report.input_shape == (None, 32, 32, 3)
    assert report.size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("float32")
    [probabilities] = open_runtime(report.path, format)(images)
    normalized = (images - STATISTICS[0]) / STATISTICS[1]
    assert_close(probabilities, forward(model, normalized.astype("float32")))
    if report.path.is_file():
        assert b"site-packages" not in report.path.read_bytes(), "paths of this machine are in the file"
    metadata = metadata_in(report.path, format)
    assert metadata["class_names"] == ["ant", "bee", "cow"]
    assert (metadata["mean"], metadata["std"]) == ([0.0] * 3, [1.0] * 3)
    assert (metadata["outputs"], metadata["data_format"]) == ("probabilities", "channels_last")

    assert all(np.array_equal(*pair) for pair in zip(before, weights_of(model), strict=True))
    assert [layer.trainable for layer in model.layers] == flags
    assert model.optimizer is not None


@pytest.mark.once
def test_a_file_for_normalised_images_and_batches_of_two(tmp_path):
    model = tiny()
    report = export(model, target(tmp_path), FORMAT, statistics=STATISTICS, batch_size=2)
    assert report.input_shape == (2, 32, 32, 3)
    [logits] = open_runtime(report.path, FORMAT)(images := random_array(2, 32, 32, 3))
    assert_close(logits, forward(model, images))
    metadata = metadata_in(report.path, FORMAT)
    assert (metadata["mean"], metadata["std"], metadata["outputs"]) == (*STATISTICS, "logits")


@pytest.mark.once
def test_a_model_under_a_mixed_policy_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = tiny("softmax")
    keras.config.set_dtype_policy("float32")
    report = export(model, target(tmp_path), FORMAT)
    [probabilities] = open_runtime(report.path, FORMAT)(images := random_array(3, 32, 32, 3))
    assert_close(probabilities, forward(tiny("softmax"), images))
    assert model.dtype_policy.name == "mixed_bfloat16"


# --- Failures ------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class ShiftsUnlessToldNotTo(keras.layers.Layer):
    """Keras' exporters call models without `training`, and some layers then do what they do in training."""

    def call(self, x, training=None):
        return x if training is False else x + 1


def unfaithful():
    model = tiny()
    return keras.Model(model.input, ShiftsUnlessToldNotTo()(model.output))


def cannot_convert(model, path, *arguments):
    path.write_bytes(b"half a file") if path.suffix else path.mkdir()
    raise OSError(28, "No space left on device")


@pytest.mark.once
@pytest.mark.parametrize("problem", ["outputs differ", "the disk is full"])
def test_a_failed_export_leaves_the_previous_file(problem, tmp_path, monkeypatch):
    path = target(tmp_path)
    export(tiny(), path, FORMAT)
    names, size = names_in(tmp_path), sum(each.stat().st_size for each in tmp_path.rglob("*"))
    model = unfaithful()
    if problem == "the disk is full":
        monkeypatch.setattr(exporting, "convert", cannot_convert)
    with pytest.raises((ValueError, OSError), match=r"received: a difference of|No space left"):
        export(model, path, FORMAT, overwrite=True)
    assert names_in(tmp_path) == names
    assert sum(each.stat().st_size for each in tmp_path.rglob("*")) == size
    assert len(open_runtime(path, FORMAT)(random_array(1, 32, 32, 3))[0]) == 1


@pytest.mark.once
def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = target(tmp_path)
    path.mkdir() if FORMATS[FORMAT].suffix == "" else path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"exists\. Choose another path, or pass overwrite=True"):
        export(tiny(), path, FORMAT)
    assert export(tiny(), path, FORMAT, overwrite=True).path == path
    assert names_in(tmp_path) == [path.name]


def build_only():
    return keras.Sequential([keras.layers.Dense(2)])


def two_inputs():
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


def vectors():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def normalizing():
    return keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), *tiny().layers[1:]])


@pytest.mark.once
@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (build_only, {}, "Expected a functional or built sequential model"),
        (two_inputs, {}, "Expected a model with one input, a batch of images"),
        (vectors, {}, "Expected a model with one input, a batch of images"),
        (object, {}, r"Expected a keras\.Model; received: object"),
        (tiny, {"batch_size": 0}, "Expected batch_size to be an integer of at least 1"),
        (tiny, {"image_size": 64}, r"Expected image_size=\(height, width\) that tiny accepts"),
        (tiny, {"include_preprocessing": True}, r"Expected statistics=\(mean, std\)"),
        (tiny, {"statistics": ([1.0], [1.0])}, r"Expected statistics=\(mean, std\), 3 finite numbers"),
        (normalizing, {"include_preprocessing": True}, "normalises its images itself"),
        (normalizing, {"statistics": STATISTICS}, "Expected no statistics"),
        (tiny, {"image_size": 32.0}, "Expected image_size to be an integer"),
        (tiny, {"class_names": ["a", "b"]}, "Expected 3 class names"),
        (tiny, {"class_names": "abc"}, "Expected class_names to be a list of strings"),
        (tiny, {"images": np.zeros((2, 8, 8, 3))}, r"Expected images, .*\(None, 32, 32, 3\)"),
        (tiny, {"images": np.full((2, 32, 32, 3), np.nan)}, "Expected images, finite numbers"),
        (tiny, {"tolerance": -1}, "Expected tolerance"),
    ],
)
def test_invalid_arguments_are_errors_before_any_work(build, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "convert", lambda *_: pytest.fail("converted before the arguments were checked"))
    with pytest.raises(ValueError, match=message):
        export(build(), target(tmp_path), FORMAT, **arguments)
    assert names_in(tmp_path) == []


def test_what_a_backend_cannot_write_names_one_that_can(tmp_path):
    for format in set(FORMATS) - set(WRITABLE):
        with pytest.raises(ValueError, match=rf"Expected the backend {'torch' if format == 'torch' else 'tensorflow'}"):
            export(tiny(), target(tmp_path, format), format)
    with pytest.raises(ValueError, match="Expected format to be one of 'onnx'"):
        export(tiny(), tmp_path / "network.h5", "h5")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="PyTorch exports them, and JAX writes no ONNX")
def test_grouped_convolutions_get_into_onnx_from_pytorch_only(tmp_path):
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.GroupNormalization(groups=2)(inputs)  # groups of another kind
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, groups=2, name="grouped")(x), name="mine")
    with pytest.raises(ValueError, match=r"Expected the backend torch .*; mine has them \('grouped'\)"):
        export(model, target(tmp_path, "onnx"), "onnx")
    assert names_in(tmp_path) == []


@pytest.mark.once
def test_missing_packages_and_unsuitable_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'Expected onnx, .*Run: pip install "keras-resattn\[export\]"'):
        formats.check_format("onnx", "torch")
    with pytest.raises(ImportError, match="pip install tensorflow"):
        formats.check_format("tf_saved_model", "jax")
    monkeypatch.undo()
    (tmp_path / "saved").mkdir()
    for path, format, message in [
        ("network.onnx", "torch", r"Expected a path that ends in \.pt2"),
        ("missing/network.pt2", "torch", "Expected a path in an existing folder"),
        ("network.onnx", "tf_saved_model", "Expected the path of a folder"),
        ("saved", "tf_saved_model", "exists"),
    ]:
        with pytest.raises((ValueError, FileExistsError), match=message):
            files.check_path(tmp_path / path, FORMATS[format], overwrite=False)


@pytest.mark.once
def test_a_folder_that_is_no_saved_model_is_never_replaced(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report.json").touch()
    with pytest.raises(ValueError, match=r"Expected a new path, or the folder of a SavedModel; .*runs is a folder"):
        files.check_path(tmp_path / "runs", FORMATS["tf_saved_model"], overwrite=True)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow leaves the size open")
def test_open_image_sizes_need_tensorflow(tmp_path):
    with pytest.raises(ValueError, match=r"Expected image_size .*Only TensorFlow exports networks of open image size"):
        export(tiny(size=None), target(tmp_path), FORMAT)
    assert export(tiny(size=None), target(tmp_path), FORMAT, image_size=40).input_shape == (None, 40, 40, 3)


# --- The command ---------------------------------------------------------------------------------


@pytest.mark.once
def test_the_command_exports_a_file(tmp_path, capsys):
    normalizing().save(tmp_path / "mine.keras")
    path = target(tmp_path)
    command = ["export", str(tmp_path / "mine.keras"), "--format", FORMAT, "-o", str(path), "--batch-size", "1"]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["path"], printed["input_shape"], printed["agreement"]) == (str(path), [1, 32, 32, 3], 1.0)
    assert main(command) == 2
    assert "exists. Choose another path, or pass --overwrite." in capsys.readouterr().err
    assert main([*command, "--overwrite", "--images", str(IMAGES), "--tolerance", "0.01"]) == 0
    assert "on 10 images" in capsys.readouterr().out


@pytest.mark.once
def test_the_command_exports_a_run_by_its_folder(tmp_path, capsys, monkeypatch):
    (tmp_path / "run").mkdir()
    normalizing().save(tmp_path / "run" / "classifier.keras")
    monkeypatch.chdir(tmp_path)
    command = ["export", "--format", FORMAT, "--batch-size", "1"]
    assert main([*command, "--run-dir", "run", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    assert path.exists()
    assert main([*command, "run"]) == 2
    assert f"{path} exists" in capsys.readouterr().err, "the same file of the same run"
    for both_or_neither in (["run", "--run-dir", "run"], []):
        with pytest.raises(SystemExit, match="2"):
            main([*command, *both_or_neither])


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cifar11", "--format", "onnx"], "Expected released weights"),
        (["CifarResidualAttention56", "--format", "onnx", "-o", "network.pt2"], "ends in .onnx"),
        (
            ["CifarResidualAttention56", "--format", "tf_saved_model", "-o", "network.pt2"],
            "Expected the path of a folder",
        ),
        (
            ["CifarResidualAttention56", "--format", "onnx", "--batch-size", "0"],
            "Expected --batch-size to be 1 or more",
        ),
        (["CifarResidualAttention56", "--format", sorted(set(FORMATS) - set(WRITABLE))[0]], "Expected the backend"),
    ],
)
def test_errors_of_the_command(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert names_in(tmp_path) == []
