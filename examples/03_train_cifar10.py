"""Train a CIFAR network from scratch; interrupt and resume at any time.

    python examples/03_train_cifar10.py cifar10.npz runs/cifar56

`cifar10.npz` holds x_train, y_train, x_test and y_test as uint8 arrays; create it with `np.savez("cifar10.npz", ...)`
from the arrays of `keras.datasets.cifar10.load_data()`. The run is safe to interrupt: rerun the same command to resume
from the last checkpoint. The test images are not used here; docs/how-to/training.md explains how to evaluate a
run on them.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

import keras_resattn
from keras_resattn import recipes
from keras_resattn.data import load_npz


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("run_dir", help="folder for log, checkpoint, weights and report")
    parser.add_argument("--network", default="CifarResidualAttention56", help="builder (default: %(default)s)")
    parser.add_argument("--recipe", default="cifar_one_cycle", help="recipe (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="length of the schedule (default: that of the recipe)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: that of the recipe)")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT training images")
    parser.add_argument(
        "--holdout", type=int, default=0, help="number of training images, from the end, held out for validation"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed for weights, order and augmentation")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    recipe = recipes.get_recipe(args.recipe)
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}
    if args.epochs and recipe.epochs:  # scale the warm-up with the schedule
        changes["warmup_epochs"] = recipe.warmup_epochs * args.epochs / recipe.epochs
    recipe = recipe.replace(**{field: value for field, value in changes.items() if value is not None})
    arrays = load_npz(args.data)
    x, y = arrays["x_train"][: args.limit], arrays["y_train"][: args.limit]
    validation = (x[-args.holdout :], y[-args.holdout :]) if args.holdout else None
    kept = len(x) - args.holdout

    model = getattr(keras_resattn, args.network)(weights=None)
    report = recipes.compile_and_fit(
        model, recipe, (x[:kept], y[:kept]), validation_data=validation, run_dir=args.run_dir
    )
    print(report.metrics)


if __name__ == "__main__":
    main()
