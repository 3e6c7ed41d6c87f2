"""A new classifier on the frozen, pretrained network: its features once, then a Dense on them.

    python examples/03_transfer_learning.py data.npz

`data.npz` holds x_train, y_train, x_test and y_test: uint8 pictures of 32 x 32 x 3, integer labels. As the base is
frozen, its features are computed once, and the Dense trains in seconds on a CPU. The model that comes out takes
pictures, as any other does.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from keras_resattn import CifarResidualAttention56, preprocess_input
from keras_resattn.data import load_npz


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train, y_train, x_test and y_test")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of the Dense (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="use only the first so many training pictures")
    args = parser.parse_args()

    arrays = load_npz(args.data)
    x, y = arrays["x_train"][: args.limit], arrays["y_train"][: args.limit]
    classes = int(max(y.max(), arrays["y_test"].max())) + 1

    keras.utils.set_random_seed(0)
    backbone = CifarResidualAttention56(include_top=False, pooling="avg")
    backbone.trainable = False
    features = backbone.predict(preprocess_input(x), batch_size=256)

    head = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Dense(classes, activation="softmax")])
    head.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    head.fit(features, y, epochs=args.epochs, verbose=0)

    model = keras.Sequential([backbone, head])
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(preprocess_input(arrays["x_test"]), arrays["y_test"], batch_size=256, verbose=0)
    print(f"{len(x)} training pictures, {args.epochs} epochs: test accuracy {accuracy:.2%}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
