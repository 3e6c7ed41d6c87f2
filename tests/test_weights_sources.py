"""A released checkpoint, with and without top, from each source, without network access."""

import shutil

import keras
import numpy as np
import pytest
from hub_server import HubServer
from huggingface_hub import constants

import keras_resattn
from keras_resattn import pretrained

pytestmark = pytest.mark.slow

NETWORK = "CifarResidualAttention56"


@pytest.fixture(scope="module")
def models():
    """The network with and without top, each with its weights."""
    build = keras_resattn.CifarResidualAttention56
    models = [build(weights="cifar10_v2"), build(include_top=False, weights="cifar10_v2")]
    return [(model, [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]) for model in models]


@pytest.fixture(params=["package", "folder", "cache"])
def offline(request, tmp_path, monkeypatch):
    """No network, and the tensors of the checkpoint in one source only."""
    [tag] = pretrained.find("cifar10_v2")
    if request.param != "package":
        record_only = tmp_path / "package" / tag.folder.name
        record_only.mkdir(parents=True)
        shutil.copy(tag.folder / "config.json", record_only)
        monkeypatch.setattr("keras_resattn.pretrained.records.weights_folder", lambda: record_only.parent)
    if request.param == "folder":
        shutil.copytree(tag.folder, tmp_path / "shared" / tag.folder.name)
        monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(tmp_path / "shared"))
    if request.param == "cache":
        monkeypatch.setenv("KERAS_RESATTN_HUB_OWNER", "someone")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        with HubServer() as server, monkeypatch.context() as patch:
            server.use(patch)
            server.add(f"someone/{tag.folder.name}", tag.folder)
            with pretrained.resolve("cifar10_v2", network=NETWORK).open():
                pass
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_tag_loads_with_and_without_top_offline(offline, models):
    source = pretrained.resolve("cifar10_v2", network=NETWORK)
    for model, weights in models:
        model.set_weights([np.ones_like(weight) for weight in weights])
        pretrained.load(model, source)
        for weight, expected in zip(model.weights, weights, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), expected)
