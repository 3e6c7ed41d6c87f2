"""Export to int8: what is written, how it is checked, and what is an error."""

import json

import keras
import numpy as np
import pytest
from helpers import random_array, randomise
from networks import narrow_residual

from keras_resattn import export, iter_layers
from keras_resattn.cli import main
from keras_resattn.deployment import comparison, exporting, quantization
from keras_resattn.deployment.runtimes import open_runtime

# NNCF imports PyTorch and OpenVINO, which warn of each other's deprecations.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore")]
BACKEND = keras.backend.backend()
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


@pytest.fixture(scope="module")
def network():
    return randomise(narrow_residual(), seed=3)


@pytest.fixture(scope="module")
def calibration():
    return random_array(24, 32, 32, 3, seed=1)


@pytest.fixture(scope="module")
def exported(network, calibration, tmp_path_factory):
    """An int8 file of each format, written once."""
    folder, reports = tmp_path_factory.mktemp("int8"), {}

    def write(format):
        if format not in reports:
            path = folder / f"int8{SUFFIXES[format]}"
            options = {"quantization": "int8", "calibration_images": calibration, "tolerance": 0.5}
            reports[format] = export(network, path, format, class_names=list("abcde"), **options)
        return reports[format]

    return write


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_int8_file_predicts_nearly_the_same_in_its_runtime(format, exported, network, calibration, tmp_path):
    report = exported(format)
    assert (report.quantization, report.images) == ("int8", 24)
    assert report.agreement > 0.7
    assert 1e-5 < report.max_difference < 0.3
    [actual] = open_runtime(report.path, format)(calibration)
    expected = network.predict(calibration, verbose=0)
    assert np.mean(actual.argmax(-1) == expected.argmax(-1)) == pytest.approx(report.agreement)


def test_an_onnx_file_holds_int8_weights_and_says_so(exported, network):
    import onnx

    model = onnx.load(exported("onnx").path)
    operations = [node.op_type for node in model.graph.node]
    norms = [layer for layer in iter_layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    assert operations.count("BatchNormalization") < len(norms) / 2, "most are folded"
    assert operations.count("DequantizeLinear") > 20
    kernels = [each for each in model.graph.initializer if len(each.dims) == 4]
    assert {each.data_type for each in kernels} == {onnx.TensorProto.INT8}
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["quantization"] == "int8"
    assert json.loads(metadata["class_names"]) == list("abcde")


@pytest.fixture
def unquantized(monkeypatch):
    """Quantisation changes nothing; `unquantized(run)` makes every file run as `run(images)`."""
    copies = {"onnx": lambda source, written, batches: written.write_bytes(source.read_bytes())}
    monkeypatch.setattr(quantization, "_TOOLS", copies)
    return lambda run: monkeypatch.setattr(comparison, "open_runtime", lambda *_: run)


def test_a_file_that_changes_too_many_predictions_is_deleted(network, calibration, tmp_path, unquantized):
    path = tmp_path / "network.onnx"
    path.write_text("kept")
    unquantized(lambda x: [np.eye(5, dtype="float32")[np.arange(len(x)) % 5]])
    with pytest.raises(
        ValueError, match=r"class of the images by at most 5\.0%; received: .*on 24 images\. The file was"
    ):
        export(network, path, "onnx", quantization="int8", calibration_images=calibration, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["network.onnx"]
    assert path.read_text() == "kept"


def test_raw_images_are_an_error_for_a_network_that_takes_normalised_ones(network, tmp_path):
    raw = np.zeros((2, *network.input_shape[1:]), "uint8")
    with pytest.raises(ValueError, match=r"Expected normalised images, .* received: uint8 from 0 to 0"):
        export(network, tmp_path / "network.onnx", "onnx", quantization="int8", calibration_images=raw)
    assert not list(tmp_path.iterdir())
    raw = np.full(raw.shape, 200.0, "float32")
    with pytest.warns(UserWarning, match="The images look raw"):
        export(network, tmp_path / "network.onnx", "onnx", images=raw)


@pytest.mark.slow
def test_other_networks_are_compared_by_the_root_mean_square(calibration, tmp_path, unquantized):
    features = randomise(narrow_residual(include_top=False))
    options = {"quantization": "int8", "calibration_images": calibration}
    unquantized(lambda x: [1.1 * features.predict(x, verbose=0)])
    with pytest.raises(ValueError, match=r"root mean square.* at most 5\.0%; received: 10\.0%"):
        export(features, tmp_path / "network.onnx", "onnx", **options)
    assert export(features, tmp_path / "network.onnx", "onnx", tolerance=0.11, **options).agreement is None
    unquantized(lambda x: [np.nan * features.predict(x, verbose=0)])
    with pytest.raises(ValueError, match="received: nan%"):
        export(features, tmp_path / "other.onnx", "onnx", **options)


@pytest.mark.parametrize("size", [1, 7, 24, 32])
def test_calibration_batches_are_full_and_hold_every_image(size, calibration):
    batches = list(quantization._batches(calibration, size))
    assert {len(batch) for batch in batches} == {size}
    np.testing.assert_array_equal(np.concatenate(batches)[:24], calibration)


def test_arguments_are_checked_first(network, calibration, tmp_path, monkeypatch):
    path = tmp_path / "network.onnx"
    monkeypatch.setattr(exporting, "convert", lambda *_: pytest.fail("converted"))
    with pytest.raises(ValueError, match=r"Expected calibration_images with quantization='int8'"):
        export(network, path, "onnx", quantization="int8")
    with pytest.raises(ValueError, match=r"Expected quantization='int8' with calibration_images; received: .*None"):
        export(network, path, "onnx", calibration_images=calibration)
    with pytest.raises(ValueError, match="Expected quantization to be one of None, 'int8'; received"):
        export(network, path, "onnx", quantization="int4", calibration_images=calibration)
    with pytest.raises(ValueError, match=r"Expected images, finite numbers of shape \(None, 32, 32, 3\)"):
        export(network, path, "onnx", quantization="int8", calibration_images=calibration[:, :16])
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="Expected format='openvino' or 'onnx' with quantization='int8'"):
            export(network, tmp_path / "n.pt2", "torch", quantization="int8", calibration_images=calibration)
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"package nncf .* pip install \"keras_resattn\[int8\]\""):
        quantization.check_quantization("int8", "openvino", True)
    assert list(tmp_path.iterdir()) == []


# --- The command ---------------------------------------------------------------------------------


def test_the_command_calibrates_on_training_data(network, calibration, tmp_path, capsys):
    network.save(tmp_path / "mine.keras")
    pixels = np.clip(128 + 60 * calibration, 0, 255).astype("uint8")
    np.savez(tmp_path / "data.npz", x_train=pixels, y_train=np.arange(24) % 5)
    command = ["export", str(tmp_path / "mine.keras"), "--mean", "128", "--std", "60", "--format", "onnx"]
    command += ["-o", str(tmp_path / "mine.onnx"), "--int8"]
    assert main(command) == 2
    assert "Expected --int8 and --calibration DATA together" in capsys.readouterr().err
    assert main([*command, "--calibration", str(tmp_path / "data.npz"), "--tolerance", "0.5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["quantization"], printed["images"]) == ("int8", 24)
    assert printed["agreement"] > 0.5
