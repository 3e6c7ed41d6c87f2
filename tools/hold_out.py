"""Write the held-out training images of Tiny-ImageNet, on which choices are made, as the test images of a file.

    python -m tools.hold_out tiny_imagenet.npz held_out.npz
    keras-resattn evaluate --weights ResidualAttention92/tiny_imagenet_v1 --data held_out.npz

The split is random with a fixed seed. It depends on the order of the images, which docs/results/weights.md describes.
"""

import argparse

import numpy as np

COUNT = 25  # images of each class


def hold_out(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split labels at random (seed 0): return the indices of the training images and of the held-out ones."""
    order = np.random.default_rng(0).permutation(len(y))
    held_out = np.sort(np.concatenate([order[y[order] == label][:COUNT] for label in np.unique(y)]))
    return np.setdiff1d(np.arange(len(y)), held_out), held_out


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("output", help=".npz file to write, with x_test and y_test")
    arguments = parser.parse_args()
    with np.load(arguments.data) as file:
        labels = file["y_train"]
        _, rows = hold_out(labels)
        np.savez(arguments.output, x_test=file["x_train"][rows], y_test=labels[rows])


if __name__ == "__main__":
    main()
