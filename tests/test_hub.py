"""Weights from a Hub repository: the real client with a local server, healthy here; see test_hub_faults."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import weights_by_path
from hub_cases import NETWORK, REPOSITORY, TENSORS, WEIGHTS, files, read, record
from hub_faults import closed
from hub_server import HubServer
from huggingface_hub import constants

import keras_resattn
from keras_resattn import pretrained
from keras_resattn.pretrained import hub
from keras_resattn.pretrained.hub import Address
from keras_resattn.recipes import get_recipe

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("hub_cache")]


@pytest.mark.parametrize(
    "address", ["hf://", "hf://owner", "hf://a/b/c", "hf://a/b@", "hf://a/b@/etc", "hf://a/b@c/../d"]
)
def test_invalid_addresses_raise(address):
    with pytest.raises(ValueError, match="Expected hf://owner/repo or hf://owner/repo@revision"):
        Address.parse(address)


def test_addresses_are_parsed():
    assert Address.parse("hf://a/b") == ("a/b", None)
    assert Address.parse("hf://a-b/c.d_e@refs/pr/1") == ("a-b/c.d_e", "refs/pr/1")
    assert str(Address.parse("hf://a/b@c")) == "hf://a/b@c"


def test_a_repository_also_names_its_preprocessing_and_classes(server):
    server.add(REPOSITORY, files(preprocessing={"mean": [5, 7, 9], "std": [2, 2, 2]}))
    image = np.full((1, 2, 2, 3), 7, "uint8")
    np.testing.assert_array_equal(keras_resattn.preprocess_input(image, WEIGHTS)[0, 0, 0], [1, 0, -1])
    assert keras_resattn.class_names_of(WEIGHTS) == ["a", "b", "c"]
    assert keras_resattn.decode_predictions(np.array([[0.1, 0.7, 0.2]]), 1, weights=WEIGHTS) == [[(1, "b", 0.7)]]
    with pytest.raises(OSError, match="someone/missing"):
        keras_resattn.preprocess_input(image, "hf://someone/missing")


def test_a_download_is_cached_for_offline_use(tmp_path, monkeypatch):
    model = keras_resattn.CifarResidualAttention56(weights=None, classes=3)
    model.save_weights(tmp_path / "model.weights.h5")
    with HubServer() as server:
        server.use(monkeypatch)
        server.add(REPOSITORY, files((tmp_path / "model.weights.h5").read_bytes()))
        read()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = keras_resattn.CifarResidualAttention56(weights=WEIGHTS)
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), keras.ops.convert_to_numpy(expected))


def test_a_repository_is_fine_tuned(server, tmp_path, monkeypatch):
    """With record and weights of one commit, although the branch moves between their downloads."""
    released = keras_resattn.CifarResidualAttention56(weights=None, classes=3)
    released.save_weights(tmp_path / "model.weights.h5")
    statistics = {"mean": [5, 7, 9], "std": [2, 2, 2]}
    server.add(REPOSITORY, files((tmp_path / "model.weights.h5").read_bytes(), preprocessing=statistics))
    read_record = hub.read_record

    def read_and_move(address):
        found = read_record(address)
        server.add(REPOSITORY, files(TENSORS, preprocessing={"mean": [0, 0, 0], "std": [1, 1, 1]}))
        monkeypatch.setattr(hub, "read_record", read_record)
        return found

    monkeypatch.setattr(hub, "read_record", read_and_move)
    recipe = get_recipe("transfer_head").replace(epochs=1, batch_size=4)
    data = np.zeros((4, 32, 32, 3), "uint8"), np.arange(4) % 2
    options = {"head_recipe": recipe, "unfreeze": None, "verbose": 0}
    model, report = keras_resattn.fine_tune(WEIGHTS, data, **options)
    assert (report.network, report.mean, report.std) == (f"{NETWORK}/shapes_v1", [5, 7, 9], [2, 2, 2])
    stem = released.weights[0].path
    np.testing.assert_array_equal(weights_by_path(model)[stem], weights_by_path(released)[stem])
    with pytest.raises(OSError, match="someone/missing"):
        keras_resattn.fine_tune("hf://someone/missing", data, **options)


def test_tensors_and_record_are_of_one_commit(server):
    """Although the branch moves between their downloads."""
    source = pretrained.resolve(WEIGHTS, network=NETWORK)
    server.add(REPOSITORY, files(TENSORS[::-1]))
    with source.open() as (_, file):
        file.seek(0)
        assert file.read() == TENSORS
    assert read() == TENSORS[::-1]


def test_a_commit_in_the_cache_needs_no_requests(server):
    weights = f"hf://{REPOSITORY}@{server.commit_of(REPOSITORY, 'main')}"
    read(weights)
    server.requests.clear()
    assert read(weights) == TENSORS
    assert server.requests == []


def test_a_branch_in_the_cache_needs_one_request(server):
    read()
    server.requests.clear()
    read()
    assert [method for method, _ in server.requests] == ["HEAD"]


def test_if_a_new_commit_cannot_be_downloaded_the_error_names_the_old_one(server, monkeypatch):
    old = server.commit_of(REPOSITORY, "main")
    read()
    server.add(REPOSITORY, files(TENSORS[::-1]))
    server.misbehave(closed, methods=["GET"])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(OSError, match=f"other commits of it: hf://{REPOSITORY}@{old}"):
        read()
    assert read(f"hf://{REPOSITORY}@{old}") == TENSORS
    server.heal()
    assert read() == TENSORS[::-1]


def test_weights_of_another_network_raise(server):
    with pytest.raises(ValueError, match=f"holds weights of {NETWORK}"):
        keras_resattn.CifarResidualAttention92(weights=WEIGHTS, classes=3)


def test_two_processes_fill_an_empty_cache(server, hub_cache):
    program = f"from hub_cases import *; assert read() == TENSORS; print({str(hub_cache)!r})"
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_CACHE": str(hub_cache),
        "HF_HUB_DISABLE_XET": "1",
    }
    environment["PYTHONPATH"] = os.path.dirname(__file__)
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not [path for path in hub_cache.rglob("*") if path.name.endswith(".incomplete")]
    assert read() == TENSORS


# --- Released checkpoints ---


@pytest.fixture
def released(server, tmp_path, monkeypatch):
    """A released checkpoint with tensors on the Hub only; its folder is in place of the package's."""

    def release(**repository):
        folder = tmp_path / "weights" / "net-shapes_v1"
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(record())
        (folder.parent / "repositories.json").write_text(json.dumps({NETWORK: {"shapes_v1": repository}}))
        monkeypatch.setattr("keras_resattn.pretrained.records.weights_folder", lambda: folder.parent)
        return folder

    return release


def test_a_released_checkpoint_is_downloaded_at_its_pinned_commit(released, server):
    released(repository=REPOSITORY, revision=server.commit_of(REPOSITORY, "main"))
    server.add(REPOSITORY, files(TENSORS[::-1]))
    assert read("shapes_v1") == TENSORS
    assert not [path for _, path in server.requests if path.endswith("config.json")]


def test_a_repository_that_changed_is_not_used_for_a_released_checkpoint(released, server):
    released(repository=REPOSITORY)
    server.add(REPOSITORY, files(TENSORS[::-1]))
    for _ in range(2):
        with pytest.raises(ValueError, match="SHA-256"):
            read("shapes_v1")
    downloads = [path for method, path in server.requests if method == "GET"]
    assert len(downloads) == 1  # the second call finds the file as it is on the Hub


def test_without_a_repository_the_error_says_where_tensors_can_come_from(released):
    folder = released()
    for weights in ("shapes_v1", folder):
        with pytest.raises(
            ValueError, match=r"pip install -e \.(?s:.*)KERAS_RESATTN_WEIGHTS(?s:.*)hf://owner/net-shapes_v1"
        ):
            read(weights)


@pytest.mark.parametrize("repository", [{"repository": "../x"}, {"repository": 7}, {"revision": "main"}, ["owner/net"]])
def test_a_damaged_list_of_repositories_raises(released, repository):
    folder = released()
    (folder.parent / "repositories.json").write_text(json.dumps({NETWORK: {"shapes_v1": repository}}))
    with pytest.raises(ValueError, match=r"repositories\.json"):
        read("shapes_v1")


def test_the_owner_of_the_repositories_is_a_setting(released, server, monkeypatch):
    released(repository=REPOSITORY, revision="0" * 40)
    server.add("mirror/net", files())
    monkeypatch.setenv("KERAS_RESATTN_HUB_OWNER", "mirror")
    assert read("shapes_v1") == TENSORS
    monkeypatch.setenv("KERAS_RESATTN_HUB_OWNER", "no/owner")
    with pytest.raises(ValueError, match="KERAS_RESATTN_HUB_OWNER"):
        read("shapes_v1")


def test_the_name_of_a_repository_defaults_to_that_of_the_folder(released, server, monkeypatch):
    released()
    server.add("mirror/net-shapes_v1", files())
    monkeypatch.setenv("KERAS_RESATTN_HUB_OWNER", "mirror")
    assert read("shapes_v1") == TENSORS
