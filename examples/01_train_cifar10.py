"""Train a CIFAR network from scratch, in the background or in pieces.

    python examples/01_train_cifar10.py cifar10.npz runs/cifar56

`cifar10.npz` holds x_train, y_train, x_test and y_test as uint8 arrays; `np.savez("cifar10.npz", ...)` on the
arrays of `keras.datasets.cifar10.load_data()` makes one. Kill it whenever you like: the same command goes
on from its last checkpoint. The test images are not touched: docs/training.md says how to measure a run on them.
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
    parser.add_argument("--epochs", type=int, help="length of the schedule (default: the recipe's)")
    parser.add_argument("--batch-size", type=int, help="images in a step (default: the recipe's)")
    parser.add_argument("--limit", type=int, help="use only the first so many training images")
    parser.add_argument("--holdout", type=int, default=0, help="training images held out for validation, from the end")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    recipe = recipes.get_recipe(args.recipe)
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed}
    if args.epochs and recipe.epochs:  # the warm-up keeps its share of the whole
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
