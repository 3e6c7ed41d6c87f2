"""Gated attention against clutter: the ablation of "Attend and Rectify", Fig. 4, at a scale that fits a CPU.

    python examples/05_cluttered_mnist.py mnist.npz results/cluttered_mnist.csv
    python examples/05_cluttered_mnist.py mnist.npz results/cluttered_mnist.csv --networks stn --seeds 0 1 2
    python examples/05_cluttered_mnist.py mnist.npz results/cluttered_mnist.csv --plot docs/images/cluttered_mnist.png

`mnist.npz` holds x_train, y_train, x_test and y_test (60,000 and 10,000 digits); pass `keras` or `tfds` to download the
digits instead. Each network trains on images with 8 distractors and is tested once, after the last epoch, on images
with 4 to 64. Each network and seed is a row of the CSV file; existing rows of the same sizes and learning rate are not
computed again.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_resattn import ClutteredMnistCNN
from keras_resattn.data import cluttered_mnist, mnist_splits
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes.optimizers import CoupledSGD
from keras_resattn.reproduce import ABLATION
from keras_resattn.utils.io import append_row, read_rows

TRAIN_DISTRACTORS = 8
TEST_DISTRACTORS = (4, 8, 16, 32, 64)
#: The networks of `keras-resattn reproduce warn/fig4`, which runs them at the paper's length.
NETWORKS = {row.name: row.arguments for row in ABLATION}

#: Learning-rate multiplier of the spatial transformer: the authors' script uses 0.001, and 0.1 for the network.
TRANSFORMER = {"stn": 0.01, "stn_slow": 0.001}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("digits", help=".npz file, 'keras' or 'tfds'")
    parser.add_argument("results", type=Path, help="CSV file to append rows to")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument(
        "--images", type=int, default=40_000, help="training images (paper: 200,000; default: %(default)s)"
    )
    parser.add_argument("--test-images", type=int, default=10_000, help="test images for each number of distractors")
    parser.add_argument("--epochs", type=int, default=12, help="authors' script: 100; default: %(default)s")
    parser.add_argument(
        "--learning-rate", type=float, default=0.1, help="default: %(default)s, as in the authors' script"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="folder in which to save the weights of each network"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the results instead of training")
    args = parser.parse_args()
    if args.plot:
        if not read_rows(args.results):
            parser.error(f"expected {args.results} to hold results to plot; it has no rows")
        return plot(read_rows(args.results), args.plot)

    splits = mnist_splits(args.digits)
    print("composing images ...", flush=True)
    train = cluttered_mnist(*splits["train"], args.images, TRAIN_DISTRACTORS, seed=0)
    validation = cluttered_mnist(*splits["validation"], args.test_images, TRAIN_DISTRACTORS, seed=1)
    tests = {
        distractors: cluttered_mnist(*splits["test"], args.test_images, distractors, seed=2)
        for distractors in TEST_DISTRACTORS
    }
    for seed in args.seeds:
        for network in args.networks:
            key = {
                "network": network,
                "seed": seed,
                "images": args.images,
                "epochs": args.epochs,
                "learning_rate": args.learning_rate,
            }
            if any(all(row[k] == str(v) for k, v in key.items()) for row in read_rows(args.results)):
                print(f"{network}, seed {seed}: already in {args.results}")
                continue
            row = run(key, args, train, validation, tests)
            append_row(args.results, row)
            print(row, flush=True)


def run(key, args, train, validation, tests):
    """Train one network and return its row."""
    started = time.monotonic()
    network, seed = key["network"], key["seed"]
    keras.utils.set_random_seed(seed)
    arguments = NETWORKS[network]
    model = ClutteredMnistCNN(**arguments, classifier_activation=None)
    steps = len(train[0]) // 100 * args.epochs
    # The authors' protocol: divide the learning rate by ten after 60 % of the epochs.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(0.6 * steps)], [args.learning_rate, 0.1 * args.learning_rate]
    )
    attends = arguments["attention_depth"] > 0
    model.compile(
        CoupledSGD(schedule, l2=1e-5, momentum=0.9, lr_multipliers={"transformer_": TRANSFORMER.get(network, 1.0)}),
        NegativeLogLikelihood() if attends else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    validation_data = (scale(validation[0]), validation[1])
    fitted = model.fit(
        scale(train[0]), train[1], batch_size=100, epochs=args.epochs, validation_data=validation_data, verbose=2
    )
    if args.weights:
        args.weights.mkdir(parents=True, exist_ok=True)
        model.save_weights(args.weights / f"{network}-{seed}.weights.h5", overwrite=True)
    return {
        **key,
        "parameters": sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
        "train_error": error_rate(fitted.history["accuracy"][-1]),
        "validation_error": error_rate(fitted.history["val_accuracy"][-1]),
        **{f"test_error_{n}": error_rate(accuracy(model, *images)) for n, images in tests.items()},
        "seconds": round(time.monotonic() - started),
        "versions": f"{keras.backend.backend()}; keras {keras.version()}",
    }


def scale(x):
    x = x.astype("float32") / 255
    return np.moveaxis(x, -1, 1) if keras.config.image_data_format() == "channels_first" else x


def accuracy(model, x, y):
    return float(np.mean(model.predict(scale(x), batch_size=500, verbose=0).argmax(-1) == y))


def error_rate(accuracy):
    """Return the error rate in per cent."""
    return round(100 * (1 - accuracy), 3)


def plot(rows, path):
    """Plot the errors by attention depth, by width, without each part, and against the number of distractors."""
    import matplotlib.pyplot as plt

    def errors(network, column="test_error_8"):
        return [float(row[column]) for row in rows if row["network"] == network]

    panels = {
        "attention depth, width 1": {"0": "baseline", **{str(d): f"depth{d}_width1" for d in (1, 2, 3, 4)}},
        "attention width, depth 4": {"0": "baseline", **{str(w): f"depth4_width{w}" for w in (1, 2, 4)}},
        "depth 4, width 4, without": {
            "-": "depth4_width4",
            "gates": "no_gates",
            "softmax\nmasks": "sigmoid_masks",
            "regulariser": "no_regularizer",
        },
    }
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4), layout="constrained")
    for axis, (title, networks) in zip(axes[:3], panels.items(), strict=True):
        networks = {label: network for label, network in networks.items() if errors(network)}
        axis.bar(list(networks), [np.mean(errors(network)) for network in networks.values()], color="#7a9cc6")
        for i, network in enumerate(networks.values()):
            axis.plot([i] * len(errors(network)), errors(network), "o", color="#22334d", markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("test error, 8 distractors (%)")
    labels = {
        "baseline": "baseline",
        "stn": "spatial transformer",
        "stn_slow": "spatial transformer, slow",
        "depth4_width4": "attention, depth 4, width 4",
    }
    for network, label in labels.items():
        curve = [np.mean(errors(network, f"test_error_{n}")) for n in TEST_DISTRACTORS if errors(network)]
        if curve:
            axes[3].plot(TEST_DISTRACTORS, curve, "o-", label=label)
    axes[3].set_xscale("log", base=2)
    axes[3].set_xticks(TEST_DISTRACTORS, TEST_DISTRACTORS)
    axes[3].set_xlabel("distractors in the test images")
    axes[3].set_ylabel("test error (%)")
    axes[3].legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
