"""The command line as a process: imports, standard error, and exit codes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_resattn.cli import startup

pytestmark = pytest.mark.once

IMAGE = str(Path(__file__).parents[1] / "examples" / "images" / "cat-0000.png")
COMMAND = [sys.executable, "-m", "keras_resattn"]

GOOD = [
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "--json"],
    ["list", "--csv"],
    ["info", "WARN-16-8"],
    ["info", "CifarResidualAttention56/cifar10"],
    ["verify"],
    ["reproduce"],
    ["predict", "--help"],
    ["train", "--help"],
    ["fine-tune", "--help"],
    ["reproduce", "--help"],
]
WRONG = [
    [],
    ["predict"],
    ["nothing"],
    ["predict", IMAGE, "--top", "0"],
    ["predict", IMAGE, "--weights", "cifar01"],
    ["predict", IMAGE, "--weights", "nothing.keras"],
    ["predict", IMAGE, "--weights", "hf://nothing"],
    ["predict", IMAGE, "--run-dir", "nothing"],
    ["predict", IMAGE, "--mean", "0"],
    ["predict", "nothing.png"],
    ["attend", IMAGE, "-o", "masks.txt"],
    ["attend", IMAGE, "-o", "nothing/masks.png"],
    ["attend", IMAGE, "-o", IMAGE],
    ["evaluate", "--data", "cifar10", "--batch-size", "0"],
    ["evaluate", "--data", "cifar10", "--weights", "ResNet164"],
    ["train", "--data", "cifar10", "--run-dir", "run"],
    ["train", "--model", "WARN", "--data", "cifar10", "--run-dir", "run"],
    ["train", "--model", "WARN-16-8", "--recipe", "warn", "--data", "cifar10", "--run-dir", "run"],
    ["train", "--model", "WARN-16-8", "--set", "epoch=3", "--data", "cifar10", "--run-dir", "run"],
    ["train", "--model", "WARN-16-8", "--data", "cifar10", "--run-dir", IMAGE],
    ["train", "--model", "WARN-16-8", "--weights", "CifarResidualAttention56", "--data", "cifar10", "--run-dir", "run"],
    ["fine-tune", "--weights", "cifar01", "--data", "cifar10", "--run-dir", "run"],
    ["fine-tune", "--head-recipe", "warn", "--data", "cifar10", "--run-dir", "run"],
    ["fine-tune", "--data", "cifar10", "--run-dir", "run", "--output", "run.h5"],
    ["reproduce", "resattn/table11"],
    ["reproduce", "resattn/table1", "--row", "nothing"],
]


def test_commands_that_need_no_keras_do_not_import_it(tmp_path):
    code = (
        "import sys\n"
        "from keras_resattn.cli import main\n"
        "for argv, expected in eval(sys.argv[1]):\n"
        "    try:\n"
        "        code = main(argv)\n"
        "    except SystemExit as exit:\n"
        "        code = exit.code\n"
        "    loaded = {'keras', 'tensorflow', 'jax', 'torch', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "    assert (code, loaded) == (expected, set()), (argv, code, loaded)\n"
    )
    calls = [(argv, 0) for argv in GOOD] + [(argv, 2) for argv in WRONG]
    command = [sys.executable, "-c", code, repr(calls)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_list_do_not_import_numpy():
    """Its import would take a third of their time."""
    code = "import sys; from keras_resattn.cli import main; main(['list']); print('numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_messages_of_an_import_are_discarded(capfd):
    with startup._discard_standard_error():
        os.write(2, b"a message of TensorFlow")
    os.write(2, b"an error")
    assert capfd.readouterr().err == "an error"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_tensorflow_prints_nothing_to_standard_error():
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["KERAS_BACKEND"] = "tensorflow"
    result = subprocess.run([*COMMAND, "predict", IMAGE, "--csv"], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].startswith(f"{IMAGE},1,3,cat,0.9")


@pytest.mark.slow
def test_a_seed_that_imports_tensorflow_prints_nothing():
    code = "from keras_resattn.cli import startup; startup.start_keras(); startup.set_random_seed(0)"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["KERAS_BACKEND"] = "torch"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_closed_pipe_ends_quietly_with_code_141():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run([*COMMAND, "list"], stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        result = subprocess.run([*COMMAND, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "No space left" in result.stderr


def test_closed_standard_output_is_no_error():
    result = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "list"], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_backend_that_is_not_installed_is_named():
    environment = {**os.environ, "KERAS_BACKEND": "nothing"}
    result = subprocess.run([*COMMAND, "predict", IMAGE], env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "nothing" in result.stderr
