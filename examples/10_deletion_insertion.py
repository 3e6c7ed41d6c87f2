"""Deletion and insertion: do attention masks rank the pixels of an image by their importance for the prediction?

    python examples/10_deletion_insertion.py cifar10.npz results/deletion_insertion.csv
    python examples/10_deletion_insertion.py cifar10.npz results/deletion_insertion.csv --plot deletion_insertion.png

Deletion replaces pixels by the mean colour of the training images, the highest-ranked first, and insertion restores
them in the same order on a blurred copy of the image. Both follow the probability of the class that the network
predicts for the complete image. A good ranking has a small area under the deletion curve and a large one under the
insertion curve (Petsiuk et al., "RISE", BMVC 2018). Pixels are ranked by each stage's mask in four ways, by the trunk
without the mask, and by three baselines that ignore the network: random pixels, random blobs (a random 4 x 4 map,
resized), and the distance from the centre. Each ranking is a row of the CSV file, with the mean area over the images
and its standard error. Settings that the file has already are not measured again.
"""

import argparse
import os
import re
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from keras_resattn import attention_relevance, optimize_for_inference, upsample_maps
from keras_resattn.data import load_npz, network_input, open_dataset
from keras_resattn.evaluation import load_checkpoint
from keras_resattn.pretrained import find
from keras_resattn.recipes.report import environment
from keras_resattn.utils.io import append_row, read_rows

CHUNK = 50  # images whose masks are in memory at once
BLUR = 1 / 8  # standard deviation of the blur, as a fraction of the image's size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_test and y_test")
    parser.add_argument("results", type=Path, help="CSV file to append rows to")
    parser.add_argument(
        "--network", default="CifarResidualAttention56/cifar10", help="released checkpoint (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=500, help="random test images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each curve (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of random rankings (default: 0 1 2)")
    parser.add_argument("--batch-size", type=int, default=150, help="images per step (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot the results instead of measuring")
    args = parser.parse_args()
    rows = read_rows(args.results)
    if args.plot:
        return plot(rows, args.plot)
    key = {"network": find(args.network)[0].id, "images": args.images, "steps": args.steps}
    key["seeds"] = " ".join(map(str, args.seeds))
    if not any(all(row[name] == str(value) for name, value in key.items()) for row in rows):
        measure(args, key)


def measure(args, key):
    """Append one row for each ranking."""
    started = time.perf_counter()
    (tag,) = find(args.network)
    model = load_checkpoint(tag)
    fast = optimize_for_inference(model)
    size = model.input_shape[1:3]
    arrays = load_npz(args.data, "test")
    chosen = np.sort(np.random.default_rng(0).permutation(len(arrays["y_test"]))[: args.images])
    dataset = open_dataset((arrays["x_test"][chosen], arrays["y_test"][chosen]), resize_mode="crop")
    images = network_input(dataset.read(range(len(dataset)), size), tag.mean, tag.std)

    def probabilities(x):
        return fast.predict(x, batch_size=args.batch_size, verbose=0)

    chunks = []
    for start in range(0, len(images), CHUNK):
        chunks.append(curves_of(model, probabilities, images[start : start + CHUNK], args.steps, args.seeds, start))
        print(f"{start + len(chunks[-1][0]['full'])} images, {time.perf_counter() - started:.0f} s", flush=True)
    ends = {name: np.mean(np.concatenate([ends[name] for ends, _ in chunks])) for name in ("full", "mean", "blurred")}
    for ranking, mask in chunks[0][1]:
        both = np.concatenate([curves[ranking, mask] for _, curves in chunks], axis=1)
        row = {**key, "ranking": ranking, "mask": mask}
        for name, curves in zip(("deletion", "insertion"), both, strict=True):
            areas = np.trapezoid(curves, dx=1 / args.steps)
            row[name] = round(float(areas.mean()), 4)
            row[f"{name}_error"] = round(float(areas.std(ddof=1) / np.sqrt(len(areas))), 4)
            row[f"{name}_curve"] = " ".join(f"{value:.3f}" for value in curves.mean(0))
        row |= {f"probability_{name}": round(float(value), 4) for name, value in ends.items()}
        row["seconds"] = round(time.perf_counter() - started)
        row["device"] = environment()["device"]
        row["versions"] = ", ".join(f"{name} {version}" for name, version in environment()["versions"].items())
        append_row(args.results, row)


def curves_of(model, probabilities, images, steps, seeds, first):
    """Return the probabilities of complete and empty images, and `{(ranking, mask): (2, n, steps + 1)}`."""
    starts = {"full": images, "mean": np.zeros_like(images), "blurred": blurred(images)}
    outputs = {name: probabilities(x) for name, x in starts.items()}
    classes = outputs["full"].argmax(1)
    every = np.arange(len(images))
    ends = {name: output[every, classes] for name, output in outputs.items()}
    curves = {}
    for ranking, mask, maps in rankings(model, images, classes, seeds, first):
        maps = upsample_maps(maps, images.shape[1:3])
        found = []
        for before, after in (("full", "mean"), ("blurred", "full")):
            steps_between = replaced(starts[before], starts[after], maps, steps)
            inner = probabilities(np.concatenate(steps_between)).reshape(steps - 1, len(images), -1)
            found.append(np.stack([ends[before], *inner[:, every, classes], ends[after]], axis=1))
        curves.setdefault((ranking, mask), []).append(np.stack(found))
    return ends, {key: np.mean(seeds, axis=0) for key, seeds in curves.items()}


def replaced(before, after, maps, steps):
    """Return a list of images whose pixels with the highest values in `maps` are those of `after`, more in each one."""
    ties = np.random.default_rng(0).random(maps.shape)
    flat = maps.reshape(len(maps), -1), ties.reshape(len(maps), -1)
    order = np.lexsort((flat[1], -flat[0]), axis=1)
    ranks = np.argsort(order, axis=1).reshape(maps.shape)
    return [np.where((ranks < step / steps * flat[0].shape[1])[..., None], after, before) for step in range(1, steps)]


def rankings(model, images, classes, seeds, first):
    """Yield `(ranking, mask, maps)`: maps whose highest values are the most important pixels."""
    merges = {}
    for layer in model.layers:
        if match := re.fullmatch(r"(stage\d+)_attention\d+_merge", layer.name):
            merges[match[1]] = layer  # the last one of each stage
    inputs = keras.Model(model.input, {stage: layer.input for stage, layer in merges.items()})
    relevance = attention_relevance(model, images, classes)
    for stage, (trunk, mask) in inputs.predict(images, verbose=0).items():
        relevant = relevance[merges[stage].name.replace("merge", "mask")]
        yield "mean mask", stage, mask.mean(-1)
        yield "channel by energy", stage, channel(mask, np.square(trunk).mean((1, 2)))
        yield "channel by gradient", stage, channel(mask, relevant.sum((1, 2)))
        yield "relevance of the mask", stage, relevant.sum(-1)
        # The gradient times T instead of M * T.
        yield "relevance of the trunk", stage, np.divide(relevant, mask, np.zeros_like(mask), where=mask > 0).sum(-1)
    height, width = images.shape[1:3]
    for seed in seeds:
        rng = np.random.default_rng([seed, first])
        yield "random pixels", "", rng.random((len(images), height, width))
        yield "random blobs", "", rng.random((len(images), 4, 4))
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    yield "centre", "", np.tile(-(x**2) - y**2, (len(images), 1, 1))


def channel(mask, scores):
    """Return the channel of each mask with the highest score."""
    return np.take_along_axis(mask, scores.argmax(1)[:, None, None, None], axis=-1)[..., 0]


def blurred(images):
    """Return images after a Gaussian blur."""
    for axis in (1, 2):
        at = np.arange(images.shape[axis])
        weights = np.exp(-0.5 * ((at[:, None] - at) / (BLUR * len(at))) ** 2)
        weights /= weights.sum(1, keepdims=True)
        images = np.moveaxis(np.tensordot(images, weights, (axis, 1)), -1, axis)
    return images.astype("float32")


def plot(rows, path):
    """Plot the curves of the last stage's masks and of the baselines, one row for each network."""
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = plt.subplots(
        len(networks), 2, figsize=(8, 3.2 * len(networks)), layout="constrained", squeeze=False, sharey="row"
    )
    for network, pair in zip(networks, axes, strict=True):
        own = [row for row in rows if row["network"] == network]
        last = max(row["mask"] for row in own)
        for name, axis in zip(("deletion", "insertion"), pair, strict=True):
            for row in own:
                if row["mask"] in ("", last):
                    curve = [float(value) for value in row[f"{name}_curve"].split()]
                    at = np.linspace(0, 100, len(curve))
                    axis.plot(at, curve, "-" if row["mask"] else "--", label=row["ranking"], linewidth=1.3)
            axis.set(xlabel=f"pixels {'replaced' if name == 'deletion' else 'restored'} (%)", ylim=(0, None))
            axis.set_title(f"{name}, {network}", fontsize=9)
        pair[0].set_ylabel("probability of the class")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
