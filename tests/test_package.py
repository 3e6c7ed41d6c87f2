"""The package as a whole: which APIs its source code uses, and what importing it imports."""

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_resattn
from keras_resattn import pretrained, recipes

pytestmark = pytest.mark.once

PACKAGE = Path(keras_resattn.__file__).parent


def test_sources_use_public_keras_and_no_lambda_layer():
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 10
    found = [path for path, text in sources.items() if re.search(r"keras\.src|\bLambda\b|from keras import src", text)]
    assert found == []


def test_the_metadata_lists_every_package():
    """A package that is missing there is missing in the wheel, and nowhere else."""
    metadata = configparser.ConfigParser()
    metadata.read(PACKAGE.parent / "setup.cfg")
    folders = [path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("__init__.py")]
    packages = {".".join(folder.parts) for folder in folders} | {"keras_resattn.sample_images", "keras_resattn.weights"}
    assert set(metadata["options"]["packages"].split()) == packages


def run(code):
    """Run code in a new Python process on JAX, which imports fastest, and return what it prints."""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_import_brings_no_other_backend():
    code = (
        "import sys, keras; before = set(sys.modules); from keras_resattn import *; print(*set(sys.modules) - before)"
    )
    packages = {module.split(".")[0] for module in run(code).split()}
    assert packages.isdisjoint({"tensorflow", "jax", "torch", "keras_cv", "keras_hub", "tensorflow_datasets"})
    assert packages.isdisjoint({"matplotlib", "PIL", "rich", "huggingface_hub", "onnx", "onnxruntime", "openvino"})


def test_import_does_not_import_keras_but_registers_all_classes_after_it():
    """Saved models load after `import keras_resattn`, whether Keras is imported before or after it."""
    printed = run(
        "import sys, keras_resattn\n"
        "from keras_resattn import pretrained, recipes\n"
        "from keras_resattn.models.registry import NETWORKS\n"
        "assert pretrained.tags() and recipes.RECIPES and NETWORKS\n"
        "print('keras' in sys.modules)\n"
        "import keras\n"
        "names = set(keras.saving.get_custom_objects())\n"
        "from keras_resattn import *\n"
        "print(len(names) > 15, set(keras.saving.get_custom_objects()) - names)"
    )
    assert printed.splitlines() == ["False", "True set()"]


@pytest.mark.parametrize("package", [keras_resattn, pretrained, recipes])
def test_type_checkers_see_lazily_imported_names(package):
    tree = ast.parse(Path(package.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen <= set(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
