"""A tiny repository on the local Hub, shared by the tests of downloads."""

import hashlib
import json

import numpy as np

from keras_resattn import pretrained

NETWORK = "CifarResidualAttention56"
REPOSITORY = "someone/net"
WEIGHTS = f"hf://{REPOSITORY}@main"
TENSORS = np.random.default_rng(0).bytes(100_000)  # downloads do not look inside


def record(tensors=TENSORS, **changes):
    """Return the `config.json` of a checkpoint, as bytes."""
    fields = {
        "network": NETWORK,
        "tag": "shapes_v1",
        "sha256": hashlib.sha256(tensors).hexdigest(),
        "classes": ["a", "b", "c"],
        "preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]},
        "input_shape": [32, 32, 3],
        "metrics": {},
        "training": {},
    }
    return json.dumps(fields | changes).encode()


def files(tensors=TENSORS, **changes):
    """Return the files of a repository."""
    return {"config.json": record(tensors, **changes), "model.weights.h5": tensors, "README.md": b"card"}


def read(weights=WEIGHTS):
    """Return the bytes of the weights file that `weights` stands for."""
    with pretrained.resolve(weights, network=NETWORK).open() as (_, file):
        file.seek(0)
        return file.read()
