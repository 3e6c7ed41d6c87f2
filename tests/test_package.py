"""The package as a whole: what its sources use, and what importing it brings along."""

import re
import subprocess
import sys
from pathlib import Path

import keras_resattn

PACKAGE = Path(keras_resattn.__file__).parent


def test_sources_use_public_keras_and_no_lambda_layer():
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 10
    found = [path for path, text in sources.items() if re.search(r"keras\.src|\bLambda\b|from keras import src", text)]
    assert found == []


def test_import_brings_no_other_backend():
    code = "import sys, keras; before = set(sys.modules); import keras_resattn; print(*(set(sys.modules) - before))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    packages = {module.split(".")[0] for module in printed.split()}
    assert packages.isdisjoint({"tensorflow", "jax", "torch", "matplotlib", "tensorflow_datasets"})
