"""Downloads that go wrong: the right weights or one error, nothing bad stays, and a healthy server heals everything."""

import contextlib
import inspect
import os
import re
import resource
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from hub_cases import NETWORK, REPOSITORY, TENSORS, WEIGHTS, files, read, record
from hub_faults import (
    closed,
    flipped,
    garbage,
    login_page,
    no_http,
    redirect_loop,
    reset,
    reset_in_the_body,
    slow_drip,
    stalled,
    stalled_in_the_body,
    status,
    truncated,
    truncated_with_matching_length,
)
from hub_server import HubServer
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from keras_resattn import pretrained

pytestmark = pytest.mark.once

#: Faults and the methods that they concern.
FAULTS = {
    "truncated": (truncated, ["GET"]),
    "truncated, with matching length": (truncated_with_matching_length, ["GET", "HEAD"]),
    "one bit flipped": (flipped, ["GET"]),
    "other bytes": (garbage, ["GET"]),
    "connection closed": (closed, ["GET", "HEAD"]),
    "connection closed before the body": (closed, ["GET"]),
    "connection reset": (reset, ["GET", "HEAD"]),
    "connection reset in the body": (reset_in_the_body, ["GET"]),
    "stalled": (stalled, ["GET", "HEAD"]),
    "stalled in the body": (stalled_in_the_body, ["GET"]),
    "no HTTP": (no_http, ["GET", "HEAD"]),
    "login page": (login_page, ["GET", "HEAD"]),
    "login page as the body": (login_page, ["GET"]),
    "redirect loop": (redirect_loop, ["GET", "HEAD"]),
    "redirect loop of the body": (redirect_loop, ["GET"]),
    "401": (status(401), ["GET", "HEAD"]),
    "401 for the body": (status(401), ["GET"]),
    "403": (status(403), ["GET", "HEAD"]),
    "gated": (status(403, "GatedRepo"), ["GET", "HEAD"]),
    "404 of the repository": (status(404, "RepoNotFound"), ["GET", "HEAD"]),
    "404 of the revision": (status(404, "RevisionNotFound"), ["GET", "HEAD"]),
    "404 of the file": (status(404, "EntryNotFound"), ["GET", "HEAD"]),
    "404 of anything": (status(404), ["GET", "HEAD"]),
    "429": (status(429), ["GET", "HEAD"]),
    "500": (status(500), ["GET", "HEAD"]),
    "500 for the body": (status(500), ["GET"]),
    "503": (status(503), ["GET", "HEAD"]),
}
ANSWERS = {"404 of the revision", "404 of the file"}  # not failures of the network: the cache is not used

every_fault = pytest.mark.parametrize("fault", FAULTS)
every_file = pytest.mark.parametrize("file", ["config.json", "model.weights.h5"])


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """An empty cache, and a client that neither waits nor retries for long."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    if "stalled" in request.node.name:
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.3)
    for function in (_http.http_backoff, _http.http_stream_backoff, file_download.http_get):
        defaults = inspect.unwrap(function).__kwdefaults__
        monkeypatch.setitem(defaults, "_nb_retries" if "_nb_retries" in defaults else "max_retries", 1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path / "cache"


def fails(weights=WEIGHTS):
    """Check that reading raises one of the documented errors, which names the repository and says what to do."""
    with pytest.raises((OSError, ValueError)) as caught:
        read(weights)
    assert type(caught.value) in (OSError, ValueError)
    assert f"hf://{REPOSITORY}" in str(caught.value) or "config.json" in str(caught.value)
    assert str(caught.value).count(". ") >= 1
    return str(caught.value)


def cached(cache, file):
    """Return the path of a file in the cache, behind the link to it."""
    [link] = cache.glob(f"*/snapshots/*/{file}")
    return link.resolve()


# --- The network ---


@every_file
@every_fault
def test_an_empty_cache_raises_and_heals(server, cache, fault, file):
    act, methods = FAULTS[fault]
    server.misbehave(act, file=file, methods=methods)
    fails()
    assert not list(cache.glob(f"*/snapshots/*/{file}"))
    server.heal()
    assert read() == TENSORS


@every_fault
def test_a_warm_cache_is_used(server, fault):
    read()
    act, methods = FAULTS[fault]
    server.misbehave(act, methods=methods)
    if fault in ANSWERS:
        fails()
    else:
        assert read() == TENSORS
    server.heal()
    assert read() == TENSORS


@every_file
@every_fault
def test_a_fault_that_happens_once_leaves_nothing_bad(server, fault, file):
    act, methods = FAULTS[fault]
    server.misbehave(act, file=file, methods=methods, times=1)
    with contextlib.suppress(OSError, ValueError):
        assert read() == TENSORS
    assert read() == TENSORS


def test_a_slow_server_is_waited_for(server):
    server.misbehave(slow_drip, methods=["GET"])
    assert read() == TENSORS


def test_no_server_at_all(server, monkeypatch):
    read()
    with HubServer() as gone:
        pass
    gone.use(monkeypatch)
    assert read() == TENSORS
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert "Check the network" in fails()


def test_offline_with_and_without_a_cache(server, cache, monkeypatch):
    read()
    server.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read() == TENSORS
    cached(cache, "model.weights.h5").unlink()
    assert "HF_HUB_OFFLINE is set" in fails()
    shutil.rmtree(cache)
    assert "keras-resattn download" in fails()
    assert server.requests == []


def test_a_failed_download_leaves_the_model_unchanged(server, narrow_network):
    model = narrow_network(weights=None)
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]
    source = pretrained.resolve(WEIGHTS, network=NETWORK)
    for act, kind in ((closed, OSError), (flipped, ValueError), (lambda _, response: response, ValueError)):
        server.heal()
        server.misbehave(act, methods=["GET"])
        with pytest.raises(kind):
            pretrained.load(model, source)
    for weight, expected in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), expected)


# --- The cache ---

DAMAGE = {
    "one bit flipped": lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "other bytes": lambda content: bytes(len(content)),
}


@every_file
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_damaged_cache_heals(server, cache, monkeypatch, damage, file, links):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    read()
    path = cached(cache, file)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    if not links and file == "config.json":  # without links, files have no hash in their names
        fails()
    assert read() == TENSORS


@every_file
def test_a_damaged_cache_is_not_trusted_without_network(server, cache, monkeypatch, file):
    read()
    path = cached(cache, file)
    path.write_bytes(DAMAGE["one bit flipped"](path.read_bytes()))
    server.misbehave(closed)
    assert "its copy in the cache is damaged" in fails()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in fails()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.heal()
    assert read() == TENSORS


@pytest.mark.parametrize("content", [b"", b"0" * 40, b"../../../etc"])
def test_a_damaged_reference_of_a_branch_heals(server, cache, content):
    read()
    [reference] = cache.glob("*/refs/main")
    reference.write_bytes(content)
    server.misbehave(closed)
    fails()
    server.heal()
    assert read() == TENSORS


def test_a_reference_that_the_client_cannot_read_raises(server, cache):
    read()
    [reference] = cache.glob("*/refs/main")
    reference.write_bytes(b"\xff")
    assert f"Delete {reference.parents[1]}" in fails()
    shutil.rmtree(reference.parents[1])
    assert read() == TENSORS


def test_a_cache_that_cannot_be_written_raises(server, cache):
    cache.write_text("a file")
    assert "HF_HOME" in fails()
    cache.unlink()
    assert read() == TENSORS


def test_a_full_disk_raises_and_leaves_nothing(server, cache):
    read()
    shutil.rmtree(cache)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # less than the tensors
    try:
        message = fails()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message
    assert "HF_HOME" in message
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    assert read() == TENSORS


def test_a_warm_cache_can_be_read_only(server, cache):
    read()
    everything = [cache, *cache.rglob("*")]
    before = [path.lstat().st_mtime_ns for path in everything]
    folders = [path for path in everything if path.is_dir()]
    for folder in folders:
        os.chmod(folder, 0o555)
    try:
        assert read() == TENSORS
    finally:
        for folder in folders:
            os.chmod(folder, 0o755)
    assert [path.lstat().st_mtime_ns for path in everything] == before


# --- The record ---

RECORDS = {
    "not JSON": b"{",
    "text": b'"text"',
    "a list": b"[]",
    "nested lists": b"[" * 100_000,
    "nested dictionaries": b'{"a":' * 100_000,
    "empty": b"",
    "too large": b" " * 2**21,
    "no fields": b"{}",
    "another network": record(network="WARN-16-8"),
    "nested fields": record(network={"network": [NETWORK]}, classes=[["a"]]),
    "lists as fields": record(sha256=["0" * 64]),
    "wrong types": record(metrics=[], training="x"),
    "a path outside": record(tag="../../outside"),
    "a path outside as the network": record(network="../../outside"),
    "a hash that is none": record(sha256="../../outside"),
    "terminal commands as classes": record(classes=["\x1b[2J"]),
}


@pytest.mark.parametrize("content", RECORDS)
def test_a_bad_record_raises_and_heals(server, cache, content):
    server.add(REPOSITORY, files() | {"config.json": RECORDS[content]})
    for _ in range(2):
        fails()
    assert not list(cache.glob("*/snapshots/*/model.weights.h5"))
    server.add(REPOSITORY, files())
    assert read() == TENSORS


def test_a_wrong_hash_neither_deletes_nor_repeats_the_download(server, cache):
    server.add(REPOSITORY, files(sha256="0" * 64))
    for _ in range(2):
        assert "the record and the file disagree" in fails()
    assert cached(cache, "model.weights.h5").read_bytes() == TENSORS
    assert len([path for method, path in server.requests if method == "GET" and path.endswith(".h5")]) == 1
    server.add(REPOSITORY, files())
    assert read() == TENSORS


def test_the_documentation_counts_these_faults():
    """Of the cache: damage to two files, with and without links; without network; references; write access."""
    text = (Path(__file__).parents[1] / "docs" / "how-to" / "weights.md").read_text()
    table = re.search(r"\| tested with a local server \|.*?\n\n", text, re.DOTALL).group()
    counted = [int(number) for number in re.findall(r"\| (\d+) \|\n", table)]
    assert counted == [len(FAULTS), 6, len(DAMAGE) * 2 * 2 + 2 + 4 + 3, len(RECORDS) + 1]
