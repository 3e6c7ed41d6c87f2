"""`python -m tools.publish`: from a released folder to a Hub repository and back, and everything that prevents it."""

import json
import shutil

import keras
import numpy as np
import pytest
from hub_faults import closed, flipped, status
from hub_server import HubServer
from huggingface_hub import constants

import keras_resattn
from keras_resattn import pretrained
from keras_resattn.pretrained import records
from keras_resattn.utils.io import sha256
from tools import publish as tool

REPOSITORY = "someone/net"
FILES = {
    "README.md", "attention.png", "config.json", "log.csv", "metadata.json", "model.weights.h5", "predictions.npy",
}  # fmt: skip


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local Hub with a token and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with HubServer() as server:
        server.use(monkeypatch)
        yield server


@pytest.fixture
def tag(tmp_path, monkeypatch):
    """A copy of the bundled tag `cifar10_v2`, the only released checkpoint."""
    [bundled] = pretrained.find("cifar10_v2")
    folder = tmp_path / "weights"
    shutil.copytree(bundled.folder, folder / bundled.folder.name)
    records.write_sums(
        folder, {f"{bundled.folder.name}/{path.name}": sha256(path) for path in bundled.folder.iterdir()}
    )
    records.move_aliases(folder, bundled.network, bundled.tag, ["cifar10", "default"])
    monkeypatch.setattr(records, "weights_folder", lambda: folder)
    records.forget_tags()
    yield records.tags()[0]
    records.forget_tags()


@pytest.fixture
def trusted(monkeypatch):
    """Skips the check that builds the network."""
    monkeypatch.setattr(tool, "check_predictions", lambda tag: None)


@pytest.mark.slow
def test_published_weights_load_from_the_hub_and_as_a_pinned_tag(server, tag):
    revision = tool.publish(tag, REPOSITORY)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    expected = keras_resattn.CifarResidualAttention56().predict(images, verbose=0)
    pinned = pretrained.find("cifar10_v2")[0]
    assert (pinned.repository, pinned.revision) == (REPOSITORY, revision)
    pinned.tensors.unlink()  # as for a tag that is too large for the package
    models = {
        "hub": keras_resattn.CifarResidualAttention56(weights=f"hf://{REPOSITORY}"),
        "revision": keras_resattn.CifarResidualAttention56(weights=f"hf://{REPOSITORY}@{revision}"),
        "tag": keras_resattn.CifarResidualAttention56(weights="cifar10"),
        "keras": keras.saving.load_model(f"hf://{REPOSITORY}"),
    }
    for name, model in models.items():
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected, err_msg=name)
    backbone = keras_resattn.CifarResidualAttention56(include_top=False, pooling="avg", weights="cifar10")
    assert backbone.output_shape == (None, 256)


@pytest.mark.once
def test_the_repository_is_exactly_the_folder_and_the_commit_is_recorded(server, tag, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in tag.folder.iterdir()}
    monkeypatch.setattr("sys.argv", ["publish", tag.id, "--repo", REPOSITORY])
    tool.main()
    assert server.files(REPOSITORY) == before
    assert set(before) == FILES
    revision = server.commit_of(REPOSITORY, "main")
    out = capsys.readouterr().out
    assert f"model.weights.h5  {len(before['model.weights.h5']):,} bytes" in out
    assert out.endswith(f"Published and verified: hf://{REPOSITORY}@{revision}\n")
    assert {path.name: path.read_bytes() for path in tag.folder.iterdir()} == before
    index = tag.folder.parent / "repositories.json"
    entry = {"repository": REPOSITORY, "revision": revision}
    assert json.loads(index.read_text()) == {tag.network: {tag.tag: entry}}
    assert records.read_sums(index.parent)["repositories.json"] == sha256(index)
    assert [path for _, path in server.requests if "/commit/" in path] == [f"/api/models/{REPOSITORY}/commit/main"]
    assert [(result.name, result.status) for result in pretrained.verify()] == [
        (tag.id, "ok"),
        ("aliases.json", "ok"),
        ("repositories.json", "ok"),
    ]


@pytest.mark.once
def test_a_repeated_command_uploads_nothing_and_another_repository_is_refused(server, tag, trusted):
    revision = tool.publish(tag, REPOSITORY)
    server.requests.clear()
    tag = records.tags()[0]
    assert tool.publish(tag, REPOSITORY) == revision
    assert {method for method, _ in server.requests} == {"GET", "HEAD"}
    with pytest.raises(ValueError, match=f"published in, {REPOSITORY}; received: someone/else"):
        tool.publish(tag, "someone/else")


@pytest.mark.once
def test_a_dry_run_uploads_and_records_nothing(server, tag, trusted, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert tool.publish(tag, REPOSITORY, dry_run=True) is None
    assert REPOSITORY not in server.commits
    assert not (tag.folder.parent / "repositories.json").exists()
    assert "would receive these files" in capsys.readouterr().out


@pytest.mark.once
def test_a_new_card_is_published_over_the_old_one(server, tag, trusted):
    old = {path.name: path.read_bytes() for path in tag.folder.iterdir()} | {"README.md": b"old"}
    server.add(REPOSITORY, {**old, ".gitattributes": b""})
    tool.publish(tag, REPOSITORY)
    assert server.files(REPOSITORY)["README.md"] == (tag.folder / "README.md").read_bytes()


@pytest.mark.once
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"README.md": b"", "notes.txt": b""},
            r"new, empty, or to hold .*cifar10_v2; it holds other files: notes\.txt",
        ),
        ({"config.json": b"{}", "model.weights.h5": b"other"}, "other weights, and released tags are immutable"),
    ],
)
def test_a_repository_with_anything_else_is_not_changed(server, tag, trusted, files, message):
    commit = server.add(REPOSITORY, files)
    with pytest.raises(ValueError, match=message):
        tool.publish(tag, REPOSITORY)
    assert server.commit_of(REPOSITORY, "main") == commit


def damage(path):
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "log.csv").unlink(), r"missing: log\.csv; unexpected: none"),
        (lambda folder: (folder / ".DS_Store").touch(), r"missing: none; unexpected: \.DS_Store"),
        (lambda folder: damage(folder / "model.weights.h5"), r"model\.weights\.h5 to have SHA-256 67db"),
        (lambda folder: damage(folder / "config.json"), r"config\.json to have SHA-256"),
        (lambda folder: damage(folder / "predictions.npy"), r"predictions\.npy to have SHA-256"),
    ],
)
def test_an_incomplete_or_damaged_folder_is_not_published(server, tag, change, message):
    change(tag.folder)
    with pytest.raises(ValueError, match=message):
        tool.publish(tag, REPOSITORY)
    assert not server.requests


@pytest.mark.once
def test_an_outdated_card_and_wrong_predictions_are_not_published(server, tag):
    (tag.folder / "README.md").write_text("outdated")
    records.write_sums(tag.folder.parent, {f"{tag.folder.name}/README.md": sha256(tag.folder / "README.md")})
    with pytest.raises(ValueError, match=r"card of .* to match its record. Run: python -m tools\.cards"):
        tool.publish(tag, REPOSITORY)
    labels, predictions = np.load(tag.folder / "predictions.npy")
    np.save(tag.folder / "predictions.npy", np.stack([labels, np.where(labels == 0, 1, predictions)]))
    with pytest.raises(ValueError, match=r"Expected 9196 of 10000 correct predictions .*; predictions\.npy has \d+"):
        tool.check_predictions(tag)


@pytest.mark.once
@pytest.mark.parametrize("name", ["net", "a/b/c", "someone/..", "someone/a--b"])
def test_invalid_repository_names_are_errors(server, tag, name):
    with pytest.raises(ValueError, match="Expected --repo owner/name; received"):
        tool.publish(tag, name)
    assert not server.requests


@pytest.mark.once
def test_without_a_token_nothing_is_done(server, tag, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("sys.argv", ["publish", tag.id, "--repo", REPOSITORY])
    with pytest.raises(SystemExit, match=r"Expected a token for the Hub; received: none\. Log in with `hf auth login`"):
        tool.main()
    assert not server.requests


@pytest.mark.once
@pytest.mark.parametrize(
    ("fault", "file", "message"),
    [
        (
            status(401),
            "whoami-v2",
            r"Expected to read someone/net; it failed: Invalid user token\..*Nothing was uploaded",
        ),
        (status(403), "main", "Expected to upload .* to someone/net; it failed: .*403"),
        (status(500), "main", "Expected to upload .*500"),
        (closed, "create", "Expected to upload "),
        (flipped, "log.csv", r"to hold the uploaded files; \['log\.csv'\] differ"),
    ],
)
def test_a_fault_of_the_hub_is_one_error_and_nothing_is_recorded(
    server, tag, trusted, monkeypatch, fault, file, message
):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    server.misbehave(fault, file=file)
    with pytest.raises(OSError, match=message):
        tool.publish(tag, REPOSITORY)
    assert not (tag.folder.parent / "repositories.json").exists()
    server.heal()
    assert tool.publish(tag, REPOSITORY) == server.commit_of(REPOSITORY, "main")
