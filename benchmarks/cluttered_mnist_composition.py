"""Speed of composing Cluttered Translated MNIST: vectorised code relative to a loop over images and distractors.

    python benchmarks/cluttered_mnist_composition.py [--images 10000] [--loop 1000] [--distractors 8] [--pairs 5]

Both use the same random draws. They alternate on one thread, so that a change in the machine's load affects both. The
digits are noise, because the time does not depend on their content. A row is appended to
results/cluttered_mnist_composition.csv. Exits with status 1 if the images differ, or if 10,000 images take longer than
the goal.
"""

import argparse
import importlib.metadata
import platform
import statistics
import sys
import time

import numpy as np
from _harness import append_result

from keras_resattn.data import cluttered_mnist

GOAL = 5.0  # seconds for 10,000 images with 8 distractors
SIDE, SIZE, WINDOW = 28, 40, 8


def composed_one_by_one(digits, labels, count, distractors):
    """Compose the images of `cluttered_mnist(..., seed=0)` one window at a time; `count` is at most `len(digits)`."""
    order_rng, place_rng, clutter_rng = np.random.default_rng(0).spawn(3)
    order = order_rng.permutation(len(digits))[:count]
    bounds = (len(digits), *[SIDE - WINDOW + 1] * 2, *[SIZE - WINDOW + 1] * 2)
    x = np.zeros((count, SIZE, SIZE, 1), "uint8")
    for i, row in enumerate(order):
        canvas = np.zeros((SIZE, SIZE), "int64")
        for _ in range(distractors):
            source, top, left, row_to, column_to = clutter_rng.integers(0, bounds)
            window = digits[source, top : top + WINDOW, left : left + WINDOW]
            canvas[row_to : row_to + WINDOW, column_to : column_to + WINDOW] += window
        canvas = np.minimum(canvas, 255)
        row_to, column_to = place_rng.integers(0, SIZE - SIDE + 1, 2)
        canvas[row_to : row_to + SIDE, column_to : column_to + SIDE] += digits[row]
        x[i, :, :, 0] = np.minimum(canvas, 255)
    return x, labels[order]


def images_per_second(function, *arguments):
    """Return the rate of one call, and its images."""
    start = time.perf_counter()
    x, _ = function(*arguments)
    return len(x) / (time.perf_counter() - start), x


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000, help="images, vectorised (default: %(default)s)")
    parser.add_argument("--loop", type=int, default=1_000, help="images, loop (default: %(default)s)")
    parser.add_argument("--distractors", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs of each (default: %(default)s)")
    arguments = parser.parse_args()

    rng = np.random.default_rng(1)
    digits = rng.integers(0, 256, (10_000, SIDE, SIDE), dtype="uint8")
    labels = rng.integers(0, 10, len(digits))
    rates = {"vectorised": [], "loop": []}
    for _ in range(arguments.pairs):
        rate, fast = images_per_second(cluttered_mnist, digits, labels, arguments.images, arguments.distractors)
        rates["vectorised"].append(rate)
        rate, slow = images_per_second(composed_one_by_one, digits, labels, arguments.loop, arguments.distractors)
        rates["loop"].append(rate)
    vectorised, loop = (statistics.median(values) for values in rates.values())
    row = {
        "distractors": arguments.distractors,
        "vectorised_per_s": f"{vectorised:.0f}",
        "loop_per_s": f"{loop:.0f}",
        "ratio": f"{vectorised / loop:.1f}",
        "versions": f"python {platform.python_version()}; numpy {importlib.metadata.version('numpy')}",
    }
    append_result("cluttered_mnist_composition", row)
    print(f"vectorised {vectorised:,.0f} images/s, loop {loop:,.0f} images/s, ratio {vectorised / loop:.1f}")

    common = min(len(fast), len(slow))
    differ = not np.array_equal(fast[:common], slow[:common])
    if differ:
        print("the images differ", file=sys.stderr)
    seconds = 10_000 / vectorised
    if seconds > GOAL:
        print(f"over the goal of {GOAL} s for 10,000 images", file=sys.stderr)
    return int(differ or seconds > GOAL)


if __name__ == "__main__":
    sys.exit(main())
