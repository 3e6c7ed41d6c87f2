"""Transfer learning: train a new classifier on frozen features, then fine-tune the last stage.

    python examples/02_transfer_learning.py data.npz
    python examples/02_transfer_learning.py data.npz --fine-tune 10 --run-dir runs/transfer

`data.npz` holds x_train, y_train, x_test and y_test: uint8 images and integer labels. While the network is frozen, its
features are computed once, so the classifier trains in seconds on a CPU. The resulting model expects images that
`preprocess_input` has normalised. With --run-dir, the same command resumes an interrupted run.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from keras_resattn import fine_tune, preprocess_input
from keras_resattn.data import load_npz
from keras_resattn.recipes import get_recipe

WEIGHTS = "CifarResidualAttention56/cifar10"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the classifier (default: %(default)s)")
    parser.add_argument(
        "--fine-tune",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="epochs of fine-tuning the last stage (default: 0, none)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT training images")
    parser.add_argument("--run-dir", help="folder for logs and checkpoints")
    args = parser.parse_args()

    arrays = load_npz(args.data)
    x, y = arrays["x_train"][: args.limit], arrays["y_train"][: args.limit]
    sizes = {"batch_size": args.batch_size}

    keras.utils.set_random_seed(0)
    model, report = fine_tune(
        WEIGHTS,
        (x, y),
        classes=int(max(y.max(), arrays["y_test"].max())) + 1,
        size=x.shape[1:3],
        head_recipe=get_recipe("transfer_head").replace(epochs=args.epochs, **sizes),
        fine_tune_recipe=get_recipe("transfer_fine_tune").replace(epochs=max(args.fine_tune, 1), **sizes),
        unfreeze="last_stage" if args.fine_tune else None,
        run_dir=args.run_dir,
        verbose=2,
    )
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    inputs = preprocess_input(arrays["x_test"], weights=WEIGHTS)
    loss, accuracy = model.evaluate(inputs, arrays["y_test"], batch_size=256, verbose=0)
    trained = "classifier and last stage" if report.unfrozen else "classifier only"
    print(f"{len(x)} training images, {trained}: test accuracy {accuracy:.2%}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
