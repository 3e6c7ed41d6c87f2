"""`pretrained.verify`: missing, damaged and unreadable files, and tags that are not bundled on purpose."""

import json
import os
import shutil

import pytest

from keras_resattn import pretrained
from keras_resattn.pretrained import records
from keras_resattn.utils.io import sha256

pytestmark = pytest.mark.once

IDS = ["Net/a_v1", "Net/b_v1"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Folder of two released checkpoints with hashes and aliases, in place of the bundled ones."""
    for tag in ("a_v1", "b_v1"):
        folder = tmp_path / f"net-{tag}"
        folder.mkdir()
        (folder / "model.weights.h5").write_bytes(tag.encode())
        record = {"network": "Net", "tag": tag, "sha256": sha256(folder / "model.weights.h5"), "classes": ["x"]}
        record |= {"preprocessing": {"mean": [0.0] * 3, "std": [1.0] * 3}, "input_shape": [32, 32, 3]}
        (folder / "config.json").write_text(json.dumps(record | {"metrics": {}, "training": {}}))
        sums = {f"{folder.name}/{path.name}": sha256(path) for path in folder.iterdir()}
        records.write_sums(tmp_path, sums)
    records.move_aliases(tmp_path, "Net", "b_v1", ["default"])
    monkeypatch.setattr(records, "weights_folder", lambda: tmp_path)
    records.forget_tags()
    yield tmp_path
    records.forget_tags()


def replace_by(make):
    def change(path):
        path.unlink()
        make(path)

    return change


def test_intact_files_are_ok(weights):
    assert pretrained.verify() == [*((name, "ok", None) for name in IDS), ("aliases.json", "ok", None)]
    assert not any(result.failed for result in pretrained.verify())


FAULTS = {
    "no tensors": ("net-a_v1/model.weights.h5", os.unlink, "missing"),
    "flipped tensors": ("net-a_v1/model.weights.h5", lambda path: path.write_bytes(b"a_v2"), "damaged"),
    "truncated tensors": ("net-a_v1/model.weights.h5", lambda path: path.write_bytes(b"a_v"), "damaged"),
    "empty tensors": ("net-a_v1/model.weights.h5", lambda path: path.write_bytes(b""), "damaged"),
    "a folder": ("net-a_v1/model.weights.h5", replace_by(os.mkdir), "unreadable"),
    "a pipe": ("net-a_v1/model.weights.h5", replace_by(os.mkfifo), "unreadable"),
    "a dangling link": ("net-a_v1/model.weights.h5", replace_by(lambda path: path.symlink_to("none")), "unreadable"),
    "no record": ("net-a_v1/config.json", os.unlink, "missing"),
    "a changed record": ("net-a_v1/config.json", lambda path: path.write_text(path.read_text() + " "), "damaged"),
    "an invalid record": ("net-a_v1/config.json", lambda path: path.write_text("{}"), "damaged"),
    "no folder": ("net-a_v1", shutil.rmtree, "missing"),
    "no aliases": ("aliases.json", os.unlink, "missing"),
    "a missing alias": ("aliases.json", lambda path: path.write_text("{}"), "damaged"),
    "no hashes": ("SHA256SUMS", os.unlink, "missing"),
    "invalid hashes": ("SHA256SUMS", lambda path: path.write_text("abc  ../x\n"), "unreadable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_its_file(weights, fault):
    name, change, status = FAULTS[fault]
    change(weights / name)
    failed = [result for result in pretrained.verify() if result.failed]
    assert [result.status for result in failed] == [status]
    assert name in failed[0].problem


def test_a_tag_without_listed_hashes_is_a_fault(weights):
    shutil.copytree(weights / "net-a_v1", weights / "net-a_v2")
    assert [result.status for result in pretrained.verify()] == ["ok", "not listed", "ok", "ok"]


def test_weights_outside_the_package_are_not_a_fault(weights):
    records.write_sums(weights, {"net-a_v1/model.weights.h5": None})
    tensors = weights / "net-a_v1" / "model.weights.h5"
    assert pretrained.verify()[0] == (IDS[0], "ok", None)
    content = tensors.read_bytes()
    tensors.write_bytes(b"other")
    assert pretrained.verify()[0].status == "damaged"
    tensors.write_bytes(content)
    tensors.unlink()
    assert pretrained.verify()[0] == (IDS[0], "not bundled", None)


def test_the_list_of_repositories_is_verified(weights):
    records.pin_repository(weights, records.tags()[0], "owner/net", "0" * 40)
    assert ("repositories.json", "ok", None) in pretrained.verify()
    (weights / "repositories.json").write_text("{}")
    assert [(result.name, result.status) for result in pretrained.verify() if result.failed] == [
        ("repositories.json", "damaged")
    ]
    (weights / "repositories.json").unlink()
    assert [result.status for result in pretrained.verify() if result.failed] == ["missing"]
