"""Accuracy of exported files on a whole test set, in float32 and quantised to int8.

    python benchmarks/int8_accuracy.py DATA [--weights cifar10_v2] [--formats openvino onnx] [--calibration 512]

The network is exported in both precisions and run in its runtime, on the CPU. Int8 is calibrated on training images
that are spread evenly over the training set. A row for each file is appended to results/int8_accuracy.csv. The goal is
a loss of at most 0.3 points.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from _harness import append_result, machine, versions

import keras_resattn
from keras_resattn.data import open_dataset
from keras_resattn.deployment.formats import FORMATS
from keras_resattn.deployment.runtimes import open_runtime

GOAL = 0.3
BATCH_SIZE = 250


def arrays(data, split, count=None):
    """Return images and labels of a split, or of `count` images spread evenly over it."""
    dataset = open_dataset(data, split=split)
    indices = np.arange(len(dataset)) if count is None else np.linspace(0, len(dataset) - 1, count).astype(int)
    return dataset.read(indices), np.asarray(dataset.labels)[indices]


def accuracy(run, x, y):
    """Return the accuracy in percent."""
    right = 0
    for i in range(0, len(x), BATCH_SIZE):
        right += int((run(x[i : i + BATCH_SIZE])[0].argmax(-1) == y[i : i + BATCH_SIZE]).sum())
    return 100 * right / len(x)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="dataset with a test split, as for keras_resattn.data.open_dataset")
    parser.add_argument("--weights", default="cifar10_v2", help="tag (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", choices=("openvino", "onnx"), default=["openvino", "onnx"])
    parser.add_argument("--calibration", type=int, default=512, help="training images (default: %(default)s)")
    arguments = parser.parse_args()
    [tag] = keras_resattn.pretrained.find(arguments.weights)
    model = keras_resattn.create_model(tag.network, weights=tag.tag)

    def prepare(images):
        return keras_resattn.preprocess_input(images, weights=tag.tag)

    x, y = arrays(arguments.data, "test")
    x, calibration = prepare(x), prepare(arrays(arguments.data, "train", arguments.calibration)[0])
    for name in arguments.formats:
        with tempfile.TemporaryDirectory() as folder:
            full = None
            for quantization in (None, "int8"):
                path = Path(folder) / f"{quantization}{FORMATS[name].suffix}"
                options = {"quantization": "int8", "calibration_images": calibration} if quantization else {}
                report = keras_resattn.export(model, path, name, **options)
                points = accuracy(open_runtime(path, name), x, y)
                full = points if full is None else full
                row = {"weights": tag.tag, "format": name, "precision": quantization or "float32"}
                row |= {"calibration_images": len(calibration) if quantization else 0, "test_images": len(x)}
                row |= {"accuracy": f"{points:.2f}", "lost": f"{full - points:.2f}", "bytes": report.size}
                row |= {
                    "agreement": f"{report.agreement:.4f}",
                }
                row |= {**machine(), "versions": versions("keras", "openvino", "nncf", "onnxruntime", "tensorflow")}
                print(row, flush=True)
                append_result("int8_accuracy", row)
            print(f"{name}: {full - points:.2f} points lost; goal: at most {GOAL}")


if __name__ == "__main__":
    main()
