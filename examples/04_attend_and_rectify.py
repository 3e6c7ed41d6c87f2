"""Add gated attention to a pretrained network, and compare it with a plain classifier.

    python examples/04_attend_and_rectify.py results/birds.csv --data birds.npz --base efficientnet_lite0.keras \\
        --mean 127 --std 128 --taps add_1 add_5 re_lu_32 --cache runs/birds
    python examples/04_attend_and_rectify.py results/birds.csv --data caltech_birds2011 --cache runs/birds

`--data` is an .npz file with x_train, y_train, x_test and y_test (uint8 images), or the name of a TensorFlow Datasets
dataset. `--base` is a pretrained model without its top, saved by Keras, or the name of a `keras.applications` function
(EfficientNetB0 by default, which downloads its ImageNet weights). The base stays frozen: its feature maps are computed
once and kept in `--cache`, and only the layers above it are trained. With `--fine-tune` the base is trained too, at a
tenth of the learning rate.

Choose hyperparameters on training images that are set aside (`--holdout`, per class). Without `--holdout`, the test
images are evaluated once, after the last epoch. Each network, width, learning rate and seed is a row of the CSV file.
"""

import argparse
import hashlib
import itertools
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_resattn import attend_and_rectify, plot_attention
from keras_resattn.data import load_npz
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes.optimizers import CoupledSGD
from keras_resattn.utils.io import append_row, read_rows

MODULES = "attention|global_gate"


def main():
    args = parse()
    data = read_data(args.data, args.limit)
    base = read_base(args.base, data["x_train"].shape[1:])
    inputs = {split: preprocess(data[f"x_{split}"], args) for split in ("train", "test")}
    train, held_out = split_off(data["y_train"], args.holdout)
    if len(train) < args.batch_size:
        raise SystemExit(f"Expected at least {args.batch_size} training images (one batch); received: {len(train)}.")
    features = None if args.fine_tune else extract(base, inputs, args)
    for seed, width, learning_rate in itertools.product(args.seeds, args.widths, args.learning_rates):
        key = {
            **shared_columns(args),
            "network": "attention" if width else "plain",
            "attention_width": width,
            "learning_rate": learning_rate,
            "measured_on": "validation" if args.holdout else "test",
            "seed": seed,
            "images": len(train),
        }
        if any(all(row.get(k) == str(v) for k, v in key.items()) for row in read_rows(args.results)):
            case = f"{key['network']}, width {width}, learning rate {learning_rate}, seed {seed}"
            print(f"{case}: already in {args.results}")
            continue
        started = time.monotonic()
        keras.utils.set_random_seed(seed)
        model, top = build(base, int(data["y_train"].max()) + 1, width, args)
        if args.fine_tune:
            top, top_inputs = model, {split: [x] for split, x in inputs.items()}
        else:
            top_inputs = features if width else {split: maps[-1:] for split, maps in features.items()}
        fit(top, [x[train] for x in top_inputs["train"]], data["y_train"][train], learning_rate, seed, args)
        split, rows = ("train", held_out) if args.holdout else ("test", slice(None))
        row = {
            **key,
            "parameters": sum(int(np.prod(variable.shape)) for variable in top.trainable_variables),
            "accuracy": accuracy(top, [x[rows] for x in top_inputs[split]], data[f"y_{split}"][rows]),
            "seconds": round(time.monotonic() - started),
            "versions": f"{keras.backend.backend()}; keras {keras.version()}",
        }
        append_row(args.results, row)
        print(row, flush=True)
        if args.plot and width:
            plot_attention(model, inputs["test"][:6], data["x_test"][:6]).savefig(args.plot, dpi=120)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="CSV file to append rows to")
    parser.add_argument("--data", default="caltech_birds2011", help=".npz file or TFDS name (default: %(default)s)")
    parser.add_argument("--base", default="EfficientNetB0", help=".keras file or keras.applications function")
    parser.add_argument("--mean", type=float, default=0.0, help="mean subtracted from pixels of 0 to 255 (default: 0)")
    parser.add_argument(
        "--std", type=float, default=1.0, help="standard deviation that centred pixels are divided by (default: 1)"
    )
    parser.add_argument(
        "--taps", nargs="+", help="layers to attend to (default: the last feature map of three resolutions)"
    )
    parser.add_argument(
        "--widths", nargs="+", type=int, default=[0, 4], help="heads per module; 0 means no attention (default: 0 4)"
    )
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[0.1], help="default: 0.1")
    parser.add_argument("--l2", type=float, default=1e-4, help="L2 penalty (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--epochs", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--holdout",
        type=int,
        default=0,
        help="evaluate on this many training images per class instead of the test images",
    )
    parser.add_argument("--fine-tune", action="store_true", help="train the base too, at a tenth of the learning rate")
    parser.add_argument("--cache", type=Path, help="folder for the base's feature maps")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT images of each split")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the attention on six test images")
    return parser.parse_args()


def shared_columns(args):
    """Return the columns that all rows of a call share."""
    return {
        "data": Path(args.data).name,
        "base": Path(args.base).name,
        "trained": "all" if args.fine_tune else "above the base",
        "taps": " ".join(args.taps or ["auto"]),
        "mean": args.mean,
        "std": args.std,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "l2": args.l2,
    }


def read_data(name, limit):
    if Path(name).suffix == ".npz":
        arrays = load_npz(name)
    else:
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise SystemExit(
                f"Reading {name} requires TensorFlow Datasets: pip install 'keras-resattn[data]'."
            ) from error
        arrays = {}
        for split in ("train", "test"):
            examples = list(tfds.data_source(name, split=split))
            squares = [square(example["image"], 224) for example in examples]
            arrays[f"x_{split}"] = np.stack(squares)
            arrays[f"y_{split}"] = np.array([example["label"] for example in examples])
    return {key: array[:limit] for key, array in arrays.items()}


def square(image, size):
    """Return the largest central square of an image, resized."""
    from PIL import Image

    image = Image.fromarray(image)
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, upper, left + side, upper + side)))


def read_base(name, shape):
    if Path(name).suffix == ".keras":
        return keras.models.load_model(name, compile=False)
    if not hasattr(keras.applications, name):
        raise SystemExit(f"Expected --base to be a .keras file or a function of keras.applications; received: {name}.")
    return getattr(keras.applications, name)(include_top=False, input_shape=shape)


def preprocess(x, args):
    return (x.astype("float32") - np.float32(args.mean)) / np.float32(args.std)


def split_off(labels, holdout):
    """Return the indices of the training images, and of the last `holdout` images of each class."""
    rank = np.zeros(len(labels), int)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        rank[own] = np.arange(len(own))[::-1]
    return np.flatnonzero(rank >= holdout), np.flatnonzero(rank < holdout)


def build(base, classes, width, args):
    """Return the network built on the base, and the part of it above the feature maps."""
    x = keras.layers.GlobalAveragePooling2D(name="pooled")(base.output)
    logits = keras.layers.Dense(classes, name="classifier")(x)
    plain = keras.Model(base.input, logits, name="plain")
    if width == 0:
        return plain, keras.Model(base.output, logits)
    model = attend_and_rectify(
        plain, args.taps or "auto", attention_width=width, classifier_activation=None, name="attended"
    )
    return model, keras.Model(tapped_maps(model), model.output)


def tapped_maps(model):
    """Return the feature maps that the attention modules of a network read."""
    masks = [layer.name for layer in model.layers if layer.name.endswith("_mask")]
    return [model.get_layer(name).input for name in masks]


def extract(base, inputs, args):
    """Return `{split: [maps of each tap]}` in half precision, from the cache if possible."""
    model = keras.Model(base.input, tapped_maps(build(base, 2, 1, args)[0]))
    features = {}
    for split, x in inputs.items():
        folder = args.cache and args.cache / fingerprint(x, model)
        paths = [folder / f"{split}-{i}.npy" for i in range(len(model.outputs))] if folder else []
        if not paths or not all(path.exists() for path in paths):
            print(f"computing the feature maps of {len(x)} {split} images ...", flush=True)
            parts = [model.predict(x[i : i + 256], batch_size=32, verbose=0) for i in range(0, len(x), 256)]
            features[split] = [np.concatenate(maps).astype("float16") for maps in zip(*parts, strict=True)]
            for path, maps in zip(paths, features[split], strict=bool(paths)):
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, maps)
        else:
            features[split] = [np.load(path) for path in paths]
    return features


def fingerprint(x, model):
    """Return a hash of preprocessed images and of a model: its output layers and weights."""
    digest = hashlib.sha256(np.ascontiguousarray(x))
    digest.update(" ".join(output._keras_history[0].name for output in model.outputs).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:16]


def fit(model, x, y, learning_rate, seed, args):
    attends = any(layer.name == "rectify" for layer in model.layers)
    steps = len(y) // args.batch_size * args.epochs
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    lr_multipliers = {MODULES: 1.0, "classifier": 1.0, "": 0.1} if args.fine_tune else None
    model.compile(
        CoupledSGD(schedule, l2=args.l2, momentum=0.9, nesterov=True, lr_multipliers=lr_multipliers),
        NegativeLogLikelihood() if attends else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    batches = Batches(x, y, args.batch_size, seed, flip=args.fine_tune)
    model.fit(batches, epochs=args.epochs, shuffle=False, verbose=2)


class Batches(keras.utils.PyDataset):
    """Batches in an order determined by the seed; the last, smaller batch of an epoch is dropped."""

    def __init__(self, x, y, batch_size, seed, flip):
        super().__init__()
        self.x, self.y, self.batch_size, self.flip = x, y, batch_size, flip
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return len(self.y) // self.batch_size

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        x = [array[rows].astype("float32") for array in self.x]
        if self.flip:
            x = [np.where(self.mirrored[rows][:, None, None, None], array[:, :, ::-1], array) for array in x]
        return tuple(x) if len(x) > 1 else x[0], self.y[rows]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.y))
        self.mirrored = self.rng.random(len(self.y)) < 0.5


def accuracy(model, x, y):
    x = [array.astype("float32") for array in x]
    outputs = model.predict(x if len(x) > 1 else x[0], batch_size=64, verbose=0)
    return round(float(np.mean(outputs.argmax(-1) == np.reshape(y, -1))), 4)


if __name__ == "__main__":
    main()
