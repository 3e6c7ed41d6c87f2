"""Train released weights further: another cycle, with cutout, starting from `cifar10_v2`.

    python examples/07_another_cycle.py cifar10.npz runs/cifar56-again

A cycle that restarts at a high learning rate leaves its minimum and ends in another one (Loshchilov & Hutter, "SGDR",
ICLR 2017), which is not always better: docs/results/experiments.md has the result of this run. The data is that of
examples/03_train_cifar10.py and should be the data that the weights were trained on; for other classes or images, use
`keras_resattn.fine_tune`. The run is safe to interrupt: rerun the same command to resume from the last checkpoint. The
test images are not used here; docs/how-to/training.md explains how to evaluate a run on them.
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
        "--batch-size", type=int, default=RECIPE.batch_size, help="images per step (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, help="use only the first LIMIT training images")
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
