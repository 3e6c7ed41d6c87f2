"""Measure transfer learning: released weights against random ones, with few images of each class.

    python examples/09_measure_transfer.py cifar10.npz results/transfer.csv

A source is a released checkpoint (`network/tag`) or a network with random weights (`network`). From each source, two
classifiers are trained on the same images: a `Dense` layer on frozen features, in plain Keras, and `fine_tune`, which
then trains the last stage, too. Both are tested once, after the last epoch, on the same random test images. Each
source, method, number of images and seed is a row of the CSV file; existing rows are not computed again; `make tables`
writes the table of docs/results/transfer.md from them. Do not measure checkpoints on the dataset that they were trained
on.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_resattn import create_model, fine_tune
from keras_resattn.data import load_npz, open_dataset
from keras_resattn.evaluation import evaluate_model
from keras_resattn.pretrained import find
from keras_resattn.recipes import get_recipe
from keras_resattn.recipes.report import environment
from keras_resattn.utils.io import append_row, read_rows

SOURCES = ("ResidualAttention56/tiny_imagenet_v1", "ResidualAttention56")
METHODS = ("dense", "fine_tune")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("results", type=Path, help="CSV file to append rows to")
    parser.add_argument("--sources", nargs="+", default=SOURCES, metavar="NAME", help=" ".join(SOURCES))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help=" ".join(METHODS))
    parser.add_argument(
        "--images", nargs="+", type=int, default=[20, 100], help="training images of each class (default: 20 100)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--size", type=int, default=64, help="size that images are resized to (default: %(default)s)")
    parser.add_argument(
        "--test-images", type=int, default=2000, help="number of random test images (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the classifiers (default: %(default)s)")
    parser.add_argument(
        "--fine-tune-epochs", type=int, default=10, help="epochs of the last stage (default: %(default)s)"
    )
    args = parser.parse_args()
    arrays = load_npz(args.data)
    scale = {"size": args.size, "epochs": args.epochs, "fine_tune_epochs": args.fine_tune_epochs}
    for seed in args.seeds:
        for count in args.images:
            for source in args.sources:
                for method in args.methods:
                    key = {"source": source, "method": method, "images_per_class": count, "seed": seed, **scale}
                    if any(all(row[k] == str(v) for k, v in key.items()) for row in read_rows(args.results)):
                        continue
                    row = measure(key, arrays, args.test_images)
                    append_row(args.results, row)
                    print(row, flush=True)


def measure(key, arrays, test_images):
    """Train one classifier and return its row."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(key["seed"])
    chosen = few_of_each_class(arrays["y_train"], key["images_per_class"], key["seed"])
    train = open_dataset((arrays["x_train"][chosen], arrays["y_train"][chosen]), resize_mode="crop")
    tested = np.sort(np.random.default_rng(0).permutation(len(arrays["y_test"]))[:test_images])
    test = open_dataset((arrays["x_test"][tested], arrays["y_test"][tested]), resize_mode="crop")
    started, computed = time.perf_counter(), time.process_time()
    model, statistics = {"dense": dense, "fine_tune": tuned}[key["method"]](key, train)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - computed
    result = evaluate_model(model, test, *statistics)
    return {
        **key,
        "test_images": result.total,
        "test_accuracy": round(100 * result.accuracy, 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "device": environment()["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in environment()["versions"].items()),
    }


def few_of_each_class(labels, count, seed):
    """Return the sorted indices of `count` random images of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == label][:count] for label in np.unique(labels)]))


def backbone_of(source, size):
    """Return a network without its top, with released or random weights."""
    network, _, tag = source.partition("/")
    return create_model(network, weights=tag or None, include_top=False, pooling="avg", input_shape=(size, size, 3))


def statistics_of(source, dataset):
    """Return `(mean, std)` that images are normalised with: the checkpoint's, or those of the training images."""
    if "/" not in source:
        pixels = dataset.read(range(len(dataset))).reshape(-1, 3)
        return pixels.mean(0).tolist(), pixels.std(0).tolist()
    (tag,) = find(source)
    return tag.mean, tag.std


def dense(key, train):
    """Train a `Dense` layer on frozen features, computed once. Return the model and its statistics."""
    mean, std = statistics_of(key["source"], train)
    backbone = backbone_of(key["source"], key["size"])
    x = (train.read(range(len(train)), (key["size"], key["size"])).astype("float32") - mean) / std
    features = backbone.predict(x.astype("float32"), verbose=0)
    scaling = keras.layers.Normalization()
    scaling.adapt(features)
    outputs = keras.layers.Dense(int(train.labels.max()) + 1, activation="softmax")
    head = keras.Sequential([keras.Input(features.shape[1:]), scaling, outputs])
    head.compile("adam", "sparse_categorical_crossentropy")
    head.fit(features, train.labels, epochs=key["epochs"], verbose=0)
    return keras.Model(backbone.input, head(backbone.output)), (mean, std)


def tuned(key, train):
    """Train a classifier and the last stage with `fine_tune`. Return the model and its statistics."""
    random, size = "/" not in key["source"], min(32, len(train))
    statistics = statistics_of(key["source"], train) if random else None
    model, report = fine_tune(
        backbone_of(key["source"], key["size"]) if random else key["source"],
        train,
        statistics=statistics,
        size=(key["size"], key["size"]),
        head_recipe=get_recipe("transfer_head").replace(epochs=key["epochs"], batch_size=size, seed=key["seed"]),
        fine_tune_recipe=get_recipe("transfer_fine_tune").replace(
            epochs=key["fine_tune_epochs"], batch_size=size, seed=key["seed"]
        ),
        verbose=0,
    )
    return model, (report.mean, report.std)


if __name__ == "__main__":
    main()
