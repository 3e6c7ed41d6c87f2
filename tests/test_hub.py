"""Weights from a Hub repository: the real client with a small local server."""

import contextlib
import hashlib
import http.server
import json
import threading

import keras
import numpy as np
import pytest
from huggingface_hub import constants

import keras_resattn

pytestmark = pytest.mark.once

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "hf://someone/net@main"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    model = keras_resattn.CifarResidualAttention56(weights=None, classes=3)
    model.save_weights(folder / "model.weights.h5")
    record = {
        "network": "CifarResidualAttention56",
        "tag": "shapes_v1",
        "sha256": hashlib.sha256((folder / "model.weights.h5").read_bytes()).hexdigest(),
        "classes": ["a", "b", "c"],
        "preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]},
        "input_shape": [32, 32, 3],
        "metrics": {},
        "training": {},
    }
    (folder / "config.json").write_text(json.dumps(record))
    return folder, keras.ops.convert_to_numpy(model.get_layer("predictions").kernel).copy()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path / "cache"


@contextlib.contextmanager
def hub(folder):
    """Serve a folder with the part of the Hub's protocol that downloads use."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            path = folder / self.path.rsplit("/", 1)[-1]
            found = path.is_file()
            content = path.read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def use_endpoint(endpoint, monkeypatch):
    """Make the Hub client use `endpoint`, as the variable HF_ENDPOINT does when set before its import."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def kernel(model):
    return keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)


def test_a_download_is_cached_for_offline_use(repository, monkeypatch):
    folder, expected = repository
    with hub(folder) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        np.testing.assert_array_equal(
            kernel(keras_resattn.CifarResidualAttention56(weights=WEIGHTS, classes=3)), expected
        )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(kernel(keras_resattn.CifarResidualAttention56(weights=WEIGHTS, classes=3)), expected)


def test_a_damaged_download_raises_and_is_deleted(repository, cache, monkeypatch):
    folder, _ = repository
    content = bytearray((folder / "model.weights.h5").read_bytes())
    content[-1] ^= 1
    (folder / "model.weights.h5").write_bytes(content)
    with hub(folder) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(ValueError, match="SHA-256"):
            keras_resattn.CifarResidualAttention56(weights=WEIGHTS, classes=3)
    assert not list(cache.rglob("model.weights.h5"))


def test_the_repository_of_another_network_raises(repository, monkeypatch):
    folder, _ = repository
    with hub(folder) as endpoint:
        use_endpoint(endpoint, monkeypatch)
        with pytest.raises(ValueError, match="holds weights of CifarResidualAttention56"):
            keras_resattn.CifarResidualAttention92(weights=WEIGHTS, classes=3)


def test_offline_without_cache_raises(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"someone/net|cache"):
        keras_resattn.CifarResidualAttention56(weights=WEIGHTS, classes=3)
