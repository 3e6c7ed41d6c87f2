"""KERAS_RESATTN_WEIGHTS: folders of released checkpoints outside the package."""

import json
import os
import shutil

import pytest
from hub_cases import NETWORK, TENSORS, files, read

from keras_resattn import list_models, pretrained
from keras_resattn.cli import main

pytestmark = pytest.mark.once


def add(folder, name, content=None):
    """Write a checkpoint into a folder of checkpoints."""
    path = folder / name
    path.mkdir(parents=True)
    for file, bytes_ in (content or files()).items():
        (path / file).write_bytes(bytes_)
    return path


@pytest.fixture
def shared(tmp_path, monkeypatch):
    add(tmp_path / "shared", "net-shapes_v1")
    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of the package's checkpoints, empty."""
    (tmp_path / "package").mkdir()
    monkeypatch.setattr("keras_resattn.pretrained.records.weights_folder", lambda: tmp_path / "package")
    return tmp_path / "package"


def test_their_checkpoints_are_listed_and_found_by_name(shared, capsys):
    assert f"{NETWORK}/shapes_v1" in [tag.id for tag in pretrained.tags()]
    assert read("shapes_v1") == read(f"{NETWORK}/shapes_v1") == TENSORS
    assert main(["list", "--json"]) == 0
    listed = {row["network"]: row["weights"] for row in json.loads(capsys.readouterr().out)}
    assert listed[NETWORK] == ["cifar10_v1", "cifar10_v2", "shapes_v1"]
    add(shared, "warn-c_v1", files(network="WARN-22-4", tag="c_v1"))
    assert main(["list"]) == 0
    assert "WARN-22-4" in capsys.readouterr().out
    assert main(["info", "shapes_v1"]) == 0
    assert str(shared)[:20] in capsys.readouterr().out.replace("\n", "")


def test_networks_of_their_checkpoints_are_listed_as_pretrained(shared):
    assert "WARN-16-8" not in list_models(pretrained=True)
    add(shared, "warn-a_v1", files(network="WARN-16-8", tag="a_v1"))
    assert "WARN-16-8" in list_models(pretrained=True)
    shutil.rmtree(shared / "warn-a_v1")
    assert "WARN-16-8" not in list_models(pretrained=True)


def test_aliases_of_the_package_come_first(shared):
    aliases = {NETWORK: {"cifar10": "shapes_v1", "shapes": "shapes_v1", "gone": "gone_v1"}}
    (shared / "aliases.json").write_text(json.dumps(aliases))
    assert [tag.tag for tag in pretrained.find("cifar10", NETWORK)] == ["cifar10_v2"]
    assert [tag.tag for tag in pretrained.find("shapes")] == ["shapes_v1"]
    assert pretrained.find("gone") == []


def test_the_first_of_several_folders_comes_first(shared, tmp_path, monkeypatch):
    add(tmp_path / "other", "net-shapes_v1", files(TENSORS[::-1]))
    add(tmp_path / "other", "net-b_v1", files(TENSORS[::-1], tag="b_v1"))
    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", os.pathsep.join([str(shared), "", str(tmp_path / "other")]))
    assert read("shapes_v1") == TENSORS
    assert read("b_v1") == TENSORS[::-1]


def test_tensors_that_the_package_lacks_come_from_a_folder(package, shared):
    add(package, "net-shapes_v1")
    (package / "net-shapes_v1" / "model.weights.h5").unlink()
    assert read("shapes_v1") == read(package / "net-shapes_v1") == TENSORS


def test_the_package_decides_the_hash_of_a_checkpoint_that_both_have(package, shared):
    add(package, "net-shapes_v1", files(TENSORS[::-1]))
    assert read("shapes_v1") == TENSORS[::-1]
    (package / "net-shapes_v1" / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match=rf"SHA-256 (?s:.*){shared}"):
        read("shapes_v1")


def test_damaged_tensors_raise(shared):
    (shared / "net-shapes_v1" / "model.weights.h5").write_bytes(TENSORS[:-1])
    with pytest.raises(ValueError, match="SHA-256"):
        read("shapes_v1")
    (shared / "net-shapes_v1" / "model.weights.h5").unlink()
    with pytest.raises(ValueError, match="KERAS_RESATTN_WEIGHTS"):
        read("shapes_v1")


@pytest.mark.parametrize("content", ["{", "[]", '{"Net": []}', '{"Net": {"a": 1}}'])
def test_damaged_aliases_raise(shared, content):
    (shared / "aliases.json").write_text(content)
    with pytest.raises(ValueError, match=r"aliases\.json"):
        pretrained.tags()


def test_bad_values_of_the_variable_raise(shared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for value in ("no/such/folder", tmp_path / "file", f"{shared}{os.pathsep}nothing"):
        monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(value))
        with pytest.raises(ValueError, match="Expected KERAS_RESATTN_WEIGHTS to name folders"):
            pretrained.tags()
        assert main(["list"]) == 2
    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(shared / "net-shapes_v1"))
    with pytest.raises(ValueError, match=rf"Set the variable to {shared}\."):
        pretrained.tags()


def test_an_empty_variable_or_folder_adds_nothing(shared, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for value in ("", str(tmp_path / "empty")):
        monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", value)
        assert pretrained.find("shapes_v1") == []


def test_a_foreign_record_is_named(shared):
    add(shared, "bert", {"config.json": b'{"architectures": ["BertModel"]}'})
    with pytest.raises(ValueError, match=r"bert/config\.json to be the record of a checkpoint"):
        pretrained.tags()


def test_their_files_are_verified(shared, capsys):
    name = f"{NETWORK}/shapes_v1 in {shared}"
    assert (name, "ok", None) in pretrained.verify()
    (shared / "net-shapes_v1" / "model.weights.h5").write_bytes(TENSORS[:-1])
    assert [result.name for result in pretrained.verify() if result.failed] == [name]
    (shared / "net-shapes_v1" / "model.weights.h5").unlink()
    assert [result.status for result in pretrained.verify() if result.failed] == ["missing"]
    assert main(["verify"]) == 1
