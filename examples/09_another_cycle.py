"""Train published weights further: another cycle, with cutout, from where `cifar10_v2` ended.

    python examples/09_another_cycle.py cifar10.npz runs/cifar56-again

Each cycle that begins at a high rate again leaves a minimum and ends in another one (Loshchilov & Hutter, "SGDR", ICLR
2017), not always in a better one: docs/experiments.md has what came of this one. The data are those of
examples/01_train_cifar10.py, and should be what the weights were trained on: with other classes, or other images,
`keras_resattn.fine_tune` is what you want. Kill it whenever you like: the same command goes on from its last
checkpoint. The test images are not touched: docs/training.md says how to measure a run on them.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from keras_resattn import CifarResidualAttention56, compile_and_fit
from keras_resattn.data import load_npz
from keras_resattn.pretrained import find
from keras_resattn.recipes import get_recipe

RECIPE = get_recipe("cifar_one_cycle").replace(
    epochs=10, warmup_epochs=1, learning_rate=0.1, cutout=8, ema=0.999, label_smoothing=0.1
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("run_dir", help="folder for log, checkpoint, weights and report")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="length of the cycle (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=RECIPE.batch_size, help="images in a step (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="use only the first so many training images")
    args = parser.parse_args()

    (tag,) = find("cifar10_v2", "CifarResidualAttention56")
    warmup = RECIPE.warmup_epochs * args.epochs / RECIPE.epochs
    recipe = RECIPE.replace(epochs=args.epochs, warmup_epochs=warmup, batch_size=args.batch_size)
    arrays = load_npz(args.data)
    data = arrays["x_train"][: args.limit], arrays["y_train"][: args.limit]

    keras.utils.set_random_seed(recipe.seed)
    model = CifarResidualAttention56(weights=tag.tag, classifier_activation=None)
    report = compile_and_fit(model, recipe, data, run_dir=args.run_dir, statistics=(tag.mean, tag.std), verbose=2)
    print(report.metrics)


if __name__ == "__main__":
    main()
