"""Label noise: Table 5 of the Residual Attention Network paper, at a scale that fits a CPU.

    python examples/06_label_noise.py cifar10.npz results/label_noise.csv runs/label_noise
    python examples/06_label_noise.py cifar10.npz results/label_noise.csv runs/label_noise --plot label_noise.png

Each network trains on noisy labels (Eq. 7) with the one-cycle schedule and is tested once, after the last epoch, on
clean labels. All networks of a seed share the same noisy labels. Each network, noise rate and seed is a run in its own
folder, which resumes if it was interrupted, and a row of the CSV file; existing rows of the same scale are not computed
again. The networks are ResNet-164 and Attention-56; for the paper's Attention-92 pass
`--networks ResNet164 CifarResidualAttention92`. `keras-resattn reproduce resattn/table5` runs the full protocol.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_resattn import compile_and_fit
from keras_resattn.data import load_npz
from keras_resattn.evaluation import evaluate_run
from keras_resattn.models import registry
from keras_resattn.recipes import get_recipe
from keras_resattn.reproduce import get_table
from keras_resattn.utils.io import append_row, read_rows

NETWORKS = ("ResNet164", "CifarResidualAttention56")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("results", type=Path, help="CSV file to append rows to")
    parser.add_argument("run_dir", type=Path, help="folder for the runs")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help=" ".join(NETWORKS))
    parser.add_argument(
        "--rates",
        nargs="+",
        type=float,
        default=[0.1, 0.3, 0.5, 0.7],
        help="fractions of noisy labels (default: 0.1 0.3 0.5 0.7)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument(
        "--images",
        type=int,
        default=10_000,
        help="use only the first IMAGES training images (paper: 50,000; default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=int, default=8, help="epochs; must exceed the 3 of warm-up (paper: 205; default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="images per step (paper: 64, the default); the learning rate scales with it",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the results instead of training")
    args = parser.parse_args()
    if args.plot:
        rows = read_rows(args.results)
        if len({(row["images"], row["epochs"], row["batch_size"]) for row in rows}) != 1:
            parser.error(f"expected all rows of {args.results} to have the same images, epochs and batch_size")
        return plot(rows, args.plot)

    arrays = load_npz(args.data)
    missing = [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]
    if missing:
        parser.error(f"expected {args.data} to hold {', '.join(missing)}")
    if not 0 < args.images <= len(arrays["x_train"]):
        parser.error(f"expected --images to be from 1 to {len(arrays['x_train'])}; received: {args.images}")
    for network in args.networks:  # fails on an unknown name before hours go into the first network
        registry.create_model(network, weights=None)
    scale = {"images": args.images, "epochs": args.epochs, "batch_size": args.batch_size}
    for rate in args.rates:
        recipe_of({"rate": rate, "seed": 0, **scale})
    for seed in args.seeds:
        for rate in args.rates:
            for network in args.networks:
                key = {"network": network, "rate": rate, "seed": seed, **scale}
                if any(all(row[k] == str(v) for k, v in key.items()) for row in read_rows(args.results)):
                    print(f"{network}, {rate:.0%} noise, seed {seed}: already in {args.results}")
                    continue
                row = run(key, arrays, args.run_dir)
                append_row(args.results, row)
                print(row, flush=True)


def recipe_of(key):
    """Return the one-cycle recipe of a row; its learning rate is proportional to the batch size."""
    cycle, size = get_recipe("cifar_one_cycle"), key["batch_size"]
    learning_rate = cycle.learning_rate * size / cycle.batch_size
    changes = {"epochs": key["epochs"], "label_noise": key["rate"], "seed": key["seed"]}
    return cycle.replace(batch_size=size, learning_rate=learning_rate, **changes)


def run(key, arrays, run_dir):
    """Train one network and return its row."""
    recipe = recipe_of(key)
    x, y = arrays["x_train"][: key["images"]], arrays["y_train"][: key["images"]]
    keras.utils.clear_session()
    keras.utils.set_random_seed(key["seed"])
    model = registry.create_model(key["network"], weights=None, classes=int(y.max()) + 1, classifier_activation=None)
    folder = "-".join(map(str, key.values()))
    report = compile_and_fit(model, recipe, (x, y), run_dir=run_dir / folder, verbose=2)
    result = evaluate_run(run_dir / folder, (arrays["x_test"], arrays["y_test"]))
    return {
        **key,
        "test_images": result.total,
        "test_error": percent(1 - result.accuracy),
        "train_error": percent(1 - report.metrics["accuracy"]),
        "seconds": round(report.seconds),
        "device": report.environment["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in report.environment["versions"].items()),
    }


def percent(fraction):
    return round(100 * float(fraction), 3)


def plot(rows, path):
    """Plot the test errors against the noise rate, next to those of the paper."""
    import matplotlib.pyplot as plt

    figure, (here, paper) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        rates = sorted({float(row["rate"]) for row in own})
        errors = [[float(row["test_error"]) for row in own if float(row["rate"]) == rate] for rate in rates]
        here.plot([100 * rate for rate in rates], [np.mean(runs) for runs in errors], "o-", label=network)
    here.set_title(f"here: {rows[0]['images']} images, {rows[0]['epochs']} epochs", fontsize=10)
    table = get_table("resattn/table5")
    for network in dict.fromkeys(row.network for row in table.rows):
        own = [row for row in table.rows if row.network == network]
        rates = [100 * row.changes["label_noise"] for row in own]
        paper.plot(rates, [row.published for row in own], "o-", label=network)
    paper.set_title("Table 5 of the paper", fontsize=10)
    for axis in (here, paper):
        axis.set_xlabel("noisy training labels (%)")
        axis.set_ylabel("test error (%)")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
