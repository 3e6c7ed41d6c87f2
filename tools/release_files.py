"""Files of a released checkpoint: record, weights, attention figure, and the layers for Keras."""

import datetime
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn import evaluation
from keras_resattn.data import network_input
from keras_resattn.layers import AttentionHead, SoftMask
from keras_resattn.models.profiling import count_macs
from keras_resattn.pretrained.records import METADATA, RECORD, TENSORS, Checkpoint
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import atomic_write, sha256, write_json
from keras_resattn.visualize import plot_attention
from tools.compress_weights import compress

ATTENTION, LOG = "attention.png", "log.csv"


def new_record(
    report: dict[str, Any],
    network: str,
    tag: str,
    classes: Sequence[str],
    input_shape: Sequence[int],
    mantissa_bits: int,
) -> dict[str, Any]:
    """Return the contents of `config.json` that follow from a run's report, without hash and metrics."""
    return {
        "network": network,
        "tag": tag,
        "license": "apache-2.0",
        "classes": list(classes),
        "preprocessing": {"mean": report["mean"], "std": report["std"]},
        "input_shape": list(input_shape),
        "mantissa_bits": mantissa_bits,
        "training": {
            "training_images": report["training_images"],
            "recipe": report["recipe"],
            "precision": report.get("precision", "float32"),
            "last_epoch": report["metrics"],
            "seconds": report["seconds"],
            "environment": report["environment"],
            "measured_by": f"keras-resattn evaluate --weights {network}/{tag} --data FILE.npz",
        },
    }


def write_weights_and_record(
    folder: Path, weights: PathLike, record: dict[str, Any], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Evaluate the weights in float32 and float16, write float16 weights, and complete and write the record.

    Returns:
        The predictions of the float16 weights, `(n,)`.
    """
    shutil.copy(weights, folder / TENSORS)
    full = _evaluate(folder, record, x, y)
    compress(weights, folder / TENSORS, record["mantissa_bits"])
    half = _evaluate(folder, record, x, y)
    record["metrics"] = {"test_images": half.total}
    for suffix, result in (("", half), ("_float32", full)):
        values = {"test_correct": result.correct, "test_accuracy": result.accuracy, "test_loss": result.loss}
        if result.correct_top5 is not None:
            values |= {"test_correct_top5": result.correct_top5, "test_accuracy_top5": result.top5_accuracy}
        record["metrics"] |= {f"{name}{suffix}": value for name, value in values.items()}
    write_json(folder / RECORD, record)
    return half.predictions


def _evaluate(folder, record, x, y):
    record |= {"sha256": sha256(folder / TENSORS), "metrics": {}}
    write_json(folder / RECORD, record)
    return evaluation.evaluate(Checkpoint.read(folder), x, y)


def write_attention(
    folder: Path,
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray | None,
    caption: str,
    photos: Sequence[np.ndarray] | None = None,
) -> str | None:
    """Plot the attention of the checkpoint in `folder`.

    Args:
        folder: Folder of the checkpoint.
        model: Its network.
        images: Images, `(n, h, w, c)`, 0 to 255.
        labels: Their classes, which are the titles; `None` for the predicted ones.
        caption: Caption of the figure.
        photos: The images to display, in their own resolution; by default, `images`.

    Returns:
        The caption, or `None` for a network without attention.
    """
    if not any(isinstance(layer, (SoftMask, AttentionHead)) for layer in model.layers):
        return None
    tag = Checkpoint.read(folder)
    inputs = network_input(images, tag.mean, tag.std)
    if labels is None:
        labels = np.argmax(model.predict(inputs, verbose=0), axis=1)
    titles = [tag.classes[label] for label in labels]
    shown = images if photos is None else photos
    figure = plot_attention(model, inputs, display_images=shown, titles=titles, channels=1, rank="gradient")
    figure.savefig(folder / ATTENTION, dpi=80)
    return caption


def write_saved_model(folder: Path, record: dict[str, Any], model: keras.Model) -> None:
    """Complete a released folder, so that `keras.saving.load_model` opens it too.

    Keras reads a folder with the model's configuration in `config.json`, and ignores the other keys of that file; the
    weights need no change. The configuration is one line, below the record.
    """
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    record |= {"parameters": parameters, "macs": count_macs(model)}
    layers = keras.saving.serialize_keras_object(model) | {"compile_config": None}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in layers.items()]
    with atomic_write(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=2)[:-2] + ",\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    saved = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S")
    write_json(folder / METADATA, {"keras_version": keras.__version__, "date_saved": saved})
