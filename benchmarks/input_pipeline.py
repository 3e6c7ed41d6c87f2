"""Speed of the input pipeline: `TrainingBatches` relative to a tf.data pipeline with the same augmentation.

    python benchmarks/input_pipeline.py [--batch-sizes 128 256] [--seconds 4] [--pairs 5] [--workers 2]

The data has CIFAR's size: 50,000 uint8 images of 32 x 32 in memory. Both pipelines pad by 4 pixels, crop, mirror and
normalise, apply a 16-pixel cutout, and mix images and labels. The tf.data pipeline is written in the usual way: a
parallel map over images, a second map over batches, and prefetching. The two alternate, so that a change in the
machine's load affects both. The result is the ratio of images per second of processor time, which other work on the
machine hardly changes. The goal of 20,000 images per second on two processors is in wall time and assumes an idle
machine; each row records the load. Rows are appended to results/input_pipeline.csv. TensorFlow is required, whatever
the backend.
"""

import argparse
import functools
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np
from _harness import append_result, machine, versions

GOAL = 20_000
PAD, CUTOUT, ALPHA, CLASSES, SIZE = 4, 16, 0.2, 10, 32


def ours(x, y, mean, std, batch_size, workers):
    """Yield the batches of `TrainingBatches`."""
    from keras_resattn.data import ArrayDataset, TrainingBatches
    from keras_resattn.data.normalization import normalize
    from keras_resattn.recipes import get_recipe

    recipe = get_recipe("cifar_one_cycle").replace(
        epochs=1000, batch_size=batch_size, pad=PAD, cutout=CUTOUT, mixup=ALPHA
    )
    prepare = functools.partial(normalize, mean=mean, std=std)
    return iter(
        TrainingBatches(ArrayDataset(x, y), recipe, prepare, size=(SIZE, SIZE), classes=CLASSES, workers=workers)
    )


def tf_data(x, y, mean, std, batch_size):
    """Yield the batches of a tf.data pipeline, as NumPy arrays."""
    import tensorflow as tf

    mean, std = tf.constant(mean, "float32"), tf.constant(std, "float32")

    def augment(image, label):
        image = tf.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
        image = tf.image.random_crop(image, (SIZE, SIZE, 3))
        image = tf.image.random_flip_left_right(image)
        image = (tf.cast(image, "float32") - mean) / std
        first = tf.random.uniform((2,), 0, SIZE, "int32") - CUTOUT // 2
        inside = [(tf.range(SIZE) >= first[i]) & (tf.range(SIZE) < first[i] + CUTOUT) for i in range(2)]
        inside = inside[0][:, None] & inside[1][None, :]
        return tf.where(inside[..., None], 0.0, image), tf.one_hot(label, CLASSES)

    def mix(images, labels):
        gammas = tf.random.gamma((2, batch_size), ALPHA)
        weight = gammas[0] / tf.reduce_sum(gammas, 0)  # follows a beta distribution
        partner = tf.random.shuffle(tf.range(batch_size))
        image_weight, label_weight = weight[:, None, None, None], weight[:, None]
        images = image_weight * images + (1 - image_weight) * tf.gather(images, partner)
        return images, label_weight * labels + (1 - label_weight) * tf.gather(labels, partner)

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).repeat()
    data = data.map(augment, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    data = data.map(mix, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return data.as_numpy_iterator()


def rates(batches, batch_size, seconds):
    """Return images per second of wall time, and of processor time of all threads, measured for some seconds."""
    count, started, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        images, labels = next(batches)
        count += len(images)
    if images.shape != (batch_size, SIZE, SIZE, 3) or labels.shape != (batch_size, CLASSES):
        raise RuntimeError(f"Expected batches of {batch_size}; received: {images.shape}, {labels.shape}.")
    return count / (time.perf_counter() - started), count / (time.process_time() - busy)


def compare(streams, batch_size, seconds, pairs):
    """Return `{name: (images per second, images per processor second)}`, medians of alternating measurements."""
    measured = {name: [] for name in streams}
    for repeat in range(pairs + 1):  # the first is a warm-up
        for name, stream in streams.items():
            found = rates(stream, batch_size, seconds)
            if repeat:
                measured[name].append(found)
    return {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in measured.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 256], help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4, help="length of a measurement (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=5, help="alternating measurements of each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads of TrainingBatches (default: %(default)s)")
    arguments = parser.parse_args()

    from keras_resattn.data import channel_statistics

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50_000, SIZE, SIZE, 3), dtype="uint8")
    y = rng.integers(0, CLASSES, len(x))
    mean, std = channel_statistics(x)
    for batch_size in arguments.batch_sizes:
        streams = {
            "ours": ours(x, y, mean, std, batch_size, arguments.workers),
            "tf_data": tf_data(x, y, mean, std, batch_size),
        }
        found = compare(streams, batch_size, arguments.seconds, arguments.pairs)
        (here, here_busy), (peer, peer_busy) = found["ours"], found["tf_data"]
        ratio = here_busy / peer_busy
        verdict = "" if here >= GOAL else f"   under the goal of {GOAL}, at a load of {os.getloadavg()[0]:.0f}"
        print(f"batch {batch_size}: {here:.0f}/s, {here_busy:.0f} per processor second{verdict}")
        print(f"   tf.data: {peer:.0f}/s, {peer_busy:.0f} per processor second; ratio {ratio:.2f}", flush=True)
        row = {
            "batch_size": batch_size,
            "workers": arguments.workers,
            "pairs": arguments.pairs,
            "ours_per_s": f"{here:.0f}",
            "tf_data_per_s": f"{peer:.0f}",
            "ours_per_cpu_s": f"{here_busy:.0f}",
            "tf_data_per_cpu_s": f"{peer_busy:.0f}",
            "ratio": f"{ratio:.2f}",
            "load": f"{os.getloadavg()[0]:.1f}",
            "processors": os.cpu_count(),
            "processor": machine()["processor"],
            "versions": versions("keras", "numpy", "tensorflow"),
        }
        append_result("input_pipeline", row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
