"""The local Hub of the tests: uploads and downloads with the real client."""

import json
import urllib.error
import urllib.request

import pytest
from hub_faults import status
from hub_server import HubServer
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

pytestmark = pytest.mark.once


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer() as server:
        server.use(monkeypatch)
        yield server


def test_uploaded_files_are_downloaded_again(server, tmp_path):
    (tmp_path / "folder").mkdir()
    files = {"README.md": b"---\nlicense: mit\n---\n", "config.json": b"{}", "model.weights.h5": bytes(range(256)) * 99}
    for name, content in files.items():
        (tmp_path / "folder" / name).write_bytes(content)
    api = HfApi(token="hf_any")
    api.create_repo("owner/net", exist_ok=True)
    commit = api.upload_folder(repo_id="owner/net", folder_path=tmp_path / "folder").oid
    assert server.files("owner/net") == server.files("owner/net", commit) == files
    [upload] = [path for method, path in server.requests if method == "PUT"]
    assert upload.startswith("/lfs/")  # the tensors went through Git LFS
    assert sorted(api.list_repo_files("owner/net")) == sorted(files)
    assert api.model_info("owner/net").sha == commit
    snapshot = snapshot_download("owner/net", revision=commit)
    for name, content in files.items():
        with open(f"{snapshot}/{name}", "rb") as file:
            assert file.read() == content


def test_what_does_not_exist_raises_the_errors_of_the_hub(server):
    server.add("owner/net", {"config.json": b"{}"})
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("owner/other", "config.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("owner/net", "config.json", revision="other")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("owner/net", "other.json")


def test_faults_end(server):
    server.add("owner/net", {"config.json": b"{}"})
    server.misbehave(status(503), times=1)
    with pytest.raises(urllib.error.HTTPError, match="503") as caught:
        urllib.request.urlopen(f"{server.endpoint}/owner/net/resolve/main/config.json")
    caught.value.close()
    with urllib.request.urlopen(f"{server.endpoint}/owner/net/resolve/main/config.json") as answer:
        assert json.loads(answer.read()) == {}
