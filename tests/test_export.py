"""Exported files: what they return, what they say about themselves, and what stays as it was."""

import keras
import pytest
from helpers import assert_close, forward, random_array, randomise
from networks import narrow_residual

from keras_resattn import export
from keras_resattn.deployment.formats import FORMATS
from keras_resattn.deployment.runtimes import open_runtime

BACKEND = keras.backend.backend()
WRITABLE = [name for name, format in FORMATS.items() if BACKEND in format.packages]


def target(folder, format):
    return folder / f"network{FORMATS[format].suffix}"


@pytest.mark.skipif(BACKEND == "jax", reason="JAX exports to SavedModel only")
def test_an_onnx_file_returns_what_keras_does(tmp_path):
    model = randomise(narrow_residual())
    report = export(model, target(tmp_path, "onnx"), "onnx")
    assert report.max_difference < 1e-6
    assert report.agreement == 1.0
    assert report.input_shape == (None, 32, 32, 3)
    assert report.size == report.path.stat().st_size
    images = random_array(3, 32, 32, 3)
    [probabilities] = open_runtime(report.path, "onnx")(images)
    assert_close(probabilities, forward(model, images))
