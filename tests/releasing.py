"""Shared by the tests of releases: a finished run for three classes, and its release."""

import json

import keras
import numpy as np
from helpers import randomise

import keras_resattn
from tools.release import release as write_release

CLASSES = ("circle", "square", "triangle")


def release_arguments(root):
    return {
        "classes": CLASSES,
        "data": root / "data.npz",
        "dataset": "shapes",
        "data_name": "Shapes",
        "command": "none",
    }


def write_run(root, model):
    """Write the files of a finished run of a network for three classes, and `data.npz`, its test images."""
    model.save_weights(root / "model.weights.h5")
    (root / "log.csv").write_text("epoch,loss\n1,1.0\n")
    report = {
        "network": model.name,
        "mean": [120.0, 110.0, 100.0],
        "std": [60.0, 50.0, 40.0],
        "training_images": 8,
        "precision": "mixed_bfloat16",
        "recipe": {"seed": 0},
        "metrics": {"loss": 1.0},
        "seconds": 1.0,
        "environment": {
            "processor": "test",
            "device": "an accelerator",
            "processors": 2,
            "backend": keras.backend.backend(),
            "versions": {keras.backend.backend(): "0", "keras": keras.__version__},
            "revision": None,
        },
    }
    (root / "report.json").write_text(json.dumps(report))
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
    np.savez(root / "data.npz", x_test=x, y_test=np.arange(8) % 3)


def write_released_run(root):
    """Write the files of a finished run, and in its subfolder `weights` its release."""
    write_run(root, randomise(keras_resattn.CifarResidualAttention56(weights=None, classes=3)))
    (root / "weights").mkdir()
    write_release(root, root / "weights", tag="shapes_v1", aliases=["shapes", "default"], **release_arguments(root))
