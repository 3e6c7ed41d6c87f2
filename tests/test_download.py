"""`pretrained.download` and `keras-resattn download`: complete, verified folders for machines without network."""

import os
import shutil

import pytest
from hub_cases import NETWORK, REPOSITORY, TENSORS, WEIGHTS, files, read, record
from hub_faults import closed, flipped
from hub_server import HubServer
from huggingface_hub import constants

from keras_resattn import pretrained
from keras_resattn.cli import main

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("hub_cache")]

TAG = "CifarResidualAttention56/cifar10_v2"


@pytest.fixture
def server(monkeypatch):
    with HubServer() as server:
        server.use(monkeypatch)
        server.add(REPOSITORY, files() | {"folder/file": b"", ".gitattributes": b""})
        yield server


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundled_checkpoint_is_copied_whole(tmp_path, capsys):
    [tag] = pretrained.find(TAG)
    assert main(["download", TAG, "--to", str(tmp_path / "a" / "b")]) == 0
    assert f"KERAS_RESATTN_WEIGHTS={tmp_path / 'a' / 'b'}" in capsys.readouterr().out
    assert contents(tmp_path / "a" / "b" / tag.folder.name) == contents(tag.folder)
    assert os.listdir(tmp_path / "a" / "b") == [tag.folder.name]


def test_the_copy_of_a_repository_works_offline(server, tmp_path, monkeypatch):
    folder = pretrained.download(WEIGHTS, tmp_path / "to")
    assert folder == tmp_path / "to" / "net"
    assert contents(folder) == files()
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(tmp_path / "to"))
    assert read("shapes_v1") == TENSORS


def test_a_released_checkpoint_gets_its_tensors_from_the_hub(server, tmp_path, monkeypatch):
    folder = tmp_path / "package" / "net-shapes_v1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(record())
    (folder.parent / "repositories.json").write_text(
        f'{{"{NETWORK}": {{"shapes_v1": {{"repository": "{REPOSITORY}"}}}}}}'
    )
    (folder / "log.csv").write_bytes(b"epoch")
    monkeypatch.setattr("keras_resattn.pretrained.records.weights_folder", lambda: folder.parent)
    copy = pretrained.download("shapes_v1", tmp_path / "to")
    assert contents(copy) == contents(folder) | {"model.weights.h5": TENSORS}
    assert copy.name == folder.name


def test_a_complete_copy_is_left_as_it_is(server, tmp_path, monkeypatch):
    folder = pretrained.download(WEIGHTS, tmp_path)
    (folder / "notes.txt").write_text("mine")
    before = [path.stat().st_mtime_ns for path in (folder, *sorted(folder.iterdir()))]
    assert pretrained.download(WEIGHTS, tmp_path) == folder
    assert [path.stat().st_mtime_ns for path in (folder, *sorted(folder.iterdir()))] == before


@pytest.mark.parametrize(
    "kind", ["a file", "an empty folder", "another checkpoint", "damaged tensors", "a broken link"]
)
def test_anything_else_is_never_overwritten(server, tmp_path, kind):
    target = tmp_path / "to" / "net"
    target.parent.mkdir()
    if kind == "a file":
        target.write_text("mine")
    elif kind == "a broken link":
        target.symlink_to("nothing")
    else:
        target.mkdir()
        changed = {"an empty folder": {}, "another checkpoint": files(tag="b"), "damaged tensors": files()}[kind]
        for name, content in changed.items():
            (target / name).write_bytes(content[:-1] if name.endswith("h5") else content)
    before = {path: path.lstat().st_mtime_ns for path in (target, *target.rglob("*"))}
    with pytest.raises(ValueError, match=r"It was not changed: move it away"):
        pretrained.download(WEIGHTS, target.parent)
    assert {path: path.lstat().st_mtime_ns for path in (target, *target.rglob("*"))} == before


@pytest.mark.parametrize("fault", [closed, flipped], ids=["closed", "flipped"])
@pytest.mark.parametrize("file", ["config.json", "model.weights.h5", "README.md", None])
def test_a_failed_download_leaves_nothing(server, tmp_path, monkeypatch, file, fault):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.misbehave(fault, file=file, methods=["GET"])
    with pytest.raises((OSError, ValueError), match=f"hf://{REPOSITORY}") as caught:
        pretrained.download(WEIGHTS, tmp_path / "to")
    assert type(caught.value) in (OSError, ValueError)
    assert not (tmp_path / "to").exists()
    server.heal()
    assert contents(pretrained.download(WEIGHTS, tmp_path / "to")) == files()


def test_a_repository_whose_files_cannot_be_listed_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.misbehave(closed, file=server.commit_of(REPOSITORY, "main"))  # the address of the list ends in the commit
    with pytest.raises(OSError, match=f"Expected hf://{REPOSITORY}@.* to list its files"):
        pretrained.download(WEIGHTS, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_full_disk_leaves_nothing(server, tmp_path, monkeypatch):
    read()

    def full(source, target, *args):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match=r"could not be written \(.*No space left"):
            pretrained.download(WEIGHTS, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        pretrained.download(WEIGHTS, tmp_path / "file")


def test_an_unfinished_copy_is_not_listed(tmp_path, monkeypatch):
    """A killed process leaves a hidden folder."""
    (tmp_path / ".partial-0").mkdir()
    (tmp_path / ".partial-0" / "config.json").write_bytes(record())
    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(tmp_path))
    assert pretrained.find("shapes_v1") == []


def test_unknown_names_raise(tmp_path, capsys):
    for name in ("cifar10_v9", "hf://owner", 7):
        with pytest.raises(ValueError, match="Expected"):
            pretrained.download(name, tmp_path / "to")
    assert main(["download", "cifar10_v9", "--to", str(tmp_path / "to")]) == 2
    assert "cifar10_v2" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
