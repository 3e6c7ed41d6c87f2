"""The recorded git revision is that of the package's own checkout, never of a repository it is installed in."""

import subprocess

import pytest

import keras_resattn
from keras_resattn.recipes.report import environment
from keras_resattn.utils.provenance import package_revision, revision_of

pytestmark = pytest.mark.once

OWN, OTHER = "[metadata]\nname = keras-resattn\n", "[metadata]\nname = their-project\n"


def git(folder, *arguments):
    command = ["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def package(root, setup):
    """Write a minimal package into `root`."""
    (root / "keras_resattn").mkdir(parents=True)
    (root / "keras_resattn" / "__init__.py").write_text("")
    if setup is not None:
        (root / "setup.cfg").write_text(setup)


def commit(folder):
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "--allow-empty", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path):
    package(tmp_path / "checkout", OWN)
    return tmp_path / "checkout", commit(tmp_path / "checkout")


def test_the_own_checkout_has_its_commit(checkout):
    folder, head = checkout
    assert package_revision(folder) == head
    (folder / "results.csv").write_text("what a run writes is no change of the package")
    assert package_revision(folder) == head


@pytest.mark.parametrize("name", ["__init__.py", "new.py"])
def test_uncommitted_changes_of_the_package_are_dirty(checkout, name):
    folder, head = checkout
    (folder / "keras_resattn" / name).write_text("x = 1")
    assert package_revision(folder) == f"{head}-dirty"


@pytest.mark.parametrize("place", [".", "venv/lib/site-packages"])
@pytest.mark.parametrize(
    ("setup", "tracked"),
    [(None, True), (None, False), (OTHER, True), ("not a configuration", True), (OWN, False)],
)
def test_a_package_inside_another_repository_has_none(tmp_path, setup, place, tracked):
    if not tracked:
        commit(tmp_path)
    package(tmp_path / place, setup)
    if tracked:
        commit(tmp_path)
    assert package_revision(tmp_path / place) is None


def test_a_tracked_copy_in_a_folder_of_another_repository_has_none(tmp_path):
    package(tmp_path / "vendor", OWN)
    commit(tmp_path)
    assert package_revision(tmp_path / "vendor") is None


def test_variables_of_git_hooks_do_not_mislead(checkout, tmp_path, monkeypatch):
    folder, head = checkout
    commit(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert package_revision(folder) == head


def test_without_git_there_is_none(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert package_revision(checkout[0]) is None


def test_the_version_is_always_recorded():
    recorded = environment()
    assert recorded["versions"]["keras-resattn"] == keras_resattn.__version__
    assert revision_of({**recorded, "revision": "abc"}) == "abc"
    assert revision_of({**recorded, "revision": None}) == keras_resattn.__version__
    assert revision_of({"backend": "jax", "revision": None}) == "", "of an older report"
