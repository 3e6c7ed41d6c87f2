"""Exports of every kind of network in every format, and the scripts of the documentation that run the files."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from helpers import assert_close, forward, random_array, randomise
from network_cases import NETWORKS
from networks import narrow_residual

from keras_resattn import export, feature_pyramid
from keras_resattn.deployment.formats import FORMATS
from keras_resattn.deployment.runtimes import open_runtime

BACKEND = keras.backend.backend()
WRITABLE = [name for name, format in FORMATS.items() if BACKEND in format.packages]
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "run-exports.md"


def target(folder, format):
    return folder / f"network{FORMATS[format].suffix}"


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_format(name, format, tmp_path):
    model = randomise(NETWORKS[name].build())
    if (name, format, BACKEND) == ("resnext", "onnx", "tensorflow"):
        with pytest.raises(
            ValueError, match=r"Expected the backend torch for an export of grouped convolutions to ONNX"
        ):
            export(model, target(tmp_path, format), format)
        return
    report = export(model, target(tmp_path, format), format)
    assert report.relative_difference < 1e-5
    assert report.agreement == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("name", ["cifar", "warn"])
def test_fixed_and_open_sizes(name, format, tmp_path):
    model = randomise(NETWORKS[name].build(input_shape=(None, None, 3)))
    fixed = export(model, target(tmp_path, format), format, batch_size=3, image_size=(32, 40))
    assert fixed.input_shape == (3, 32, 40, 3)
    [output] = open_runtime(fixed.path, format)(images := random_array(3, 32, 40, 3))
    assert_close(output, forward(model, images))
    if BACKEND == "tensorflow":
        report = export(model, target(tmp_path, format), format, overwrite=True)
        assert report.input_shape == (None, None, None, 3)
        assert report.relative_difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITABLE)
def test_networks_without_top_and_with_several_outputs(format, tmp_path):
    backbone = randomise(narrow_residual(include_top=False, pooling="avg"))
    report = export(backbone, target(tmp_path, format), format)
    assert report.agreement is None
    pyramid = keras.Model(backbone.input, feature_pyramid(backbone))
    report = export(pyramid, target(tmp_path, format), format, overwrite=True)
    assert report.agreement is None
    outputs = open_runtime(report.path, format)(images := random_array(2, 32, 32, 3))
    for level, output in zip(sorted(pyramid.output), outputs, strict=True):
        assert_close(output, forward(pyramid, images)[level])


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITABLE)
def test_channels_first(format, tmp_path):
    keras.config.set_image_data_format("channels_first")
    model = randomise(narrow_residual())
    report = export(model, target(tmp_path, format), format, statistics=([120.0] * 3, [60.0] * 3))
    assert report.input_shape == (None, 3, 32, 32)


SCRIPTS = re.findall(
    r"^    (keras-resattn export [^\n]*)\n\n```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.M
)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize(("command", "script"), [pair for pair in SCRIPTS if "examples/images" in pair[1]])
def test_the_scripts_of_the_documentation_run_without_keras(command, script, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    backend = "torch" if "--format torch" in command else "tensorflow"
    for package in FORMATS[command.split("--format ")[1].split()[0]].packages[backend]:
        assert importlib.util.find_spec(package), f"{package} is not installed"

    def run(*arguments, **environment):
        command = [sys.executable, *arguments]
        environment = {**os.environ, **environment}
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    printed = run("-m", "keras_resattn", *command.split()[1:], KERAS_BACKEND=backend)
    assert "100.0%" in printed
    printed = run("-c", f"import sys\nsys.modules['keras'] = None\n{script}")
    names = [line.split() for line in printed.splitlines()]
    assert len(names) == 10
    assert sum(file.startswith(name) for file, name in names) >= 9
