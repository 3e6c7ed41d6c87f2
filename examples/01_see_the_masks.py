"""Classify the sample images, and show where the network looked: as text, arrays and a figure.

python examples/01_see_the_masks.py masks.png
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import numpy as np

from keras_resattn import (
    CifarResidualAttention56,
    attention_maps,
    decode_predictions,
    plot_attention,
    preprocess_input,
)
from keras_resattn.data import read_image


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", nargs="?", default="masks.png", help="figure to write (default: %(default)s)")
    output = parser.parse_args().output
    paths = sorted((Path(__file__).parent / "images").glob("*.png"))[:4]
    images = np.stack([read_image(path, size=(32, 32)) for path in paths])  # uint8, (n, 32, 32, 3)

    model = CifarResidualAttention56()  # the bundled CIFAR-10 weights
    x = preprocess_input(images, weights="cifar10")

    titles = []
    for path, best in zip(paths, decode_predictions(model.predict(x, verbose=0), top=3), strict=True):
        print(f"{path.name:22}", ", ".join(f"{name} {probability:.1%}" for _, name, probability in best))
        titles.append(f"{path.stem}\n{best[0][1]} {best[0][2]:.0%}")

    for name, mask in attention_maps(model, x).items():
        print(f"{name:22} shape {mask.shape}, mean {mask.mean():.3f}, from {mask.min():.3f} to {mask.max():.3f}")

    plot_attention(model, x, display_images=images, titles=titles).savefig(output, dpi=150)
    print("wrote", output)


if __name__ == "__main__":
    main()
