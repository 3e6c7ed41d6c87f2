"""The wheel, installed into a fresh environment: its content, the first program of the README, the commands."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import keras
import pytest

from keras_resattn.pretrained import find, tags
from keras_resattn.pretrained.records import weights_folder
from tools.release import BUNDLED_BELOW

pytestmark = [pytest.mark.slow, pytest.mark.once]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the files that git would commit."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(folder / "source")]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a program of a fresh environment, in a folder away from the checkout."""
    root = tmp_path_factory.mktemp("fresh")
    venv.create(root / "venv", with_pip=True)
    programs = root / "venv" / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(root / "venv"), "platbase": str(root / "venv")})
    # The dependencies are this environment's. Files with paths of its own, such as an editable install's, have no
    # effect there.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    work = root / "work"
    (work / "examples").mkdir(parents=True)
    for folder in ("images", "photos"):
        shutil.copytree(ROOT / "examples" / folder, work / "examples" / folder)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(program, *arguments, **variables):
        command = [str(programs / program), *arguments]
        return subprocess.run(command, cwd=work, env=environment | variables, capture_output=True, text=True)

    run.work, run.site = work, Path(site)
    return run


def modules_of(names):
    return {name for name in names if name.startswith("keras_resattn/") and name.endswith(".py")}


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "keras_resattn").rglob("*.py")}
    assert modules_of(names) == package
    assert "keras_resattn/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"keras_resattn"}


def test_the_wheel_holds_all_tags_but_the_large_ones(wheel):
    with zipfile.ZipFile(wheel) as archive:
        prefix = "keras_resattn/weights/"
        found = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
    expected = {"SHA256SUMS", *(path.name for path in weights_folder().glob("*.json"))}
    for tag in tags():
        files = [path for path in tag.folder.iterdir() if path.is_file()]
        small = sum(path.stat().st_size for path in files) < BUNDLED_BELOW
        expected |= {f"{tag.folder.name}/{path.name}" for path in files if small or path != tag.tensors}
    assert found == expected
    assert wheel.stat().st_size < len(tags()) * BUNDLED_BELOW


def test_the_installed_package_is_the_one_that_runs(installed):
    found = installed("python", "-c", "import keras_resattn; print(keras_resattn.__file__)")
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(installed.site)


def test_the_first_program_of_the_readme_runs_outside_the_checkout(installed):
    """With the folder of weights of a clone, because the wheel has only small ones."""
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    program = program.replace('"tensorflow"', repr(keras.backend.backend()), 1)
    found = installed("python", "-c", program, KERAS_RESATTN_WEIGHTS=str(ROOT / "weights"))
    assert found.returncode == 0, found.stderr
    assert "espresso" in found.stdout
    assert (installed.work / "masks.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_verifies_every_bundled_tag(installed):
    found = installed("keras-resattn", "verify")
    assert found.returncode == 0, found.stderr
    for tag in tags():
        small = sum(path.stat().st_size for path in tag.folder.iterdir()) < BUNDLED_BELOW
        status = "ok" if small else "not bundled"
        assert f"{tag.id}: {status}" in found.stdout


def test_damage_to_an_installed_file_is_found(installed):
    tag = tags()[0]
    path = installed.site / "keras_resattn" / "weights" / tag.folder.name / tag.tensors.name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        found = installed("keras-resattn", "verify")
    finally:
        path.write_bytes(content)
    assert found.returncode == 1
    assert f"{tag.id}: damaged" in found.stdout


NO_NETWORK = {"HF_HUB_OFFLINE": "1"} | dict.fromkeys(["http_proxy", "https_proxy"], "http://127.0.0.1:9")


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_installed_package_predicts_without_network(installed, backend):
    [image] = (installed.work / "examples" / "images").glob("*cat*")
    found = installed("keras-resattn", "predict", str(image), "--json", KERAS_BACKEND=backend, **NO_NETWORK)
    assert found.returncode == 0, found.stderr
    assert "cat" in found.stdout


def test_a_copy_of_the_weights_replaces_those_that_the_wheel_lacks(installed, tmp_path):
    """As for tags that are too large for the wheel."""
    [tag] = find("cifar10_v2")
    copied = installed("keras-resattn", "download", tag.id, "--to", str(tmp_path / "shared"), **NO_NETWORK)
    assert copied.returncode == 0, copied.stderr
    path = installed.site / "keras_resattn" / "weights" / tag.folder.name / tag.tensors.name
    content = path.read_bytes()
    path.unlink()
    arguments = ["keras-resattn", "predict", str(next((installed.work / "examples" / "images").iterdir()))]
    arguments += ["--weights", tag.id]
    try:
        without = installed(*arguments, **NO_NETWORK)
        found = installed(*arguments, KERAS_RESATTN_WEIGHTS=str(tmp_path / "shared"), **NO_NETWORK)
    finally:
        path.write_bytes(content)
    assert (without.returncode, found.returncode) == (2, 0), found.stderr
    assert "KERAS_RESATTN_WEIGHTS" in without.stderr
