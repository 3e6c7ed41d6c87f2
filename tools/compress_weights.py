"""Compress a `.weights.h5` file: float16, shortened mantissas, HDF5 shuffle and gzip. Any h5py reads the result.

    python -m tools.compress_weights model.weights.h5 small.weights.h5 --mantissa-bits 5

Choose the number of mantissa bits by the accuracy on held-out images, never on test images.
"""

import argparse

import h5py
import numpy as np

from keras_resattn.typing import PathLike

FLOAT16_MANTISSA = 10  # bits
MIN_COMPRESSED = 4096  # values; chunks of smaller arrays would cost more than they save


def compress(source: PathLike, target: PathLike, mantissa_bits: int = FLOAT16_MANTISSA) -> None:
    """Copy a `.weights.h5` file with its arrays in float16, compressed without loss after rounding.

    Args:
        source: File to read.
        target: File to write.
        mantissa_bits: Mantissa bits that arrays of rank 2 and more keep, 1 to 10. Fewer bits compress better. Vectors
            (biases, batch normalization) keep all ten.

    Raises:
        ValueError: If `mantissa_bits` is out of range, or a value is NaN or infinite, or overflows or vanishes in
            float16.
    """
    check_mantissa_bits(mantissa_bits)
    with h5py.File(source, "r") as full, h5py.File(target, "w") as small:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                small.require_group(name).attrs.update(item.attrs)
                return
            values = np.asarray(item)
            with np.errstate(over="ignore"):
                half = values.astype("float16")
            rounded = round_mantissa(half, mantissa_bits) if values.ndim > 1 else half
            # Next to batch normalisation's epsilon of 1e-5, values below half of float16's smallest step are zero.
            vanished = (half == 0) & (np.abs(values) > 2**-24)
            if not (np.isfinite(half) & np.isfinite(rounded) & ~vanished).all():
                raise ValueError(f"Expected weights within the range of float16; {name} of {source} exceeds it.")
            filters = {"shuffle": True, "compression": 9} if values.size >= MIN_COMPRESSED else {}
            small.create_dataset(name, data=rounded, **filters)

        full.visititems(copy)


def check_mantissa_bits(bits: int) -> None:
    """Raise a `ValueError` for a number of mantissa bits out of range."""
    if not 1 <= bits <= FLOAT16_MANTISSA:
        raise ValueError(f"Expected mantissa_bits from 1 to {FLOAT16_MANTISSA}; received: {bits}.")


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float16 values to the nearest ones with `bits` mantissa bits, ties to even.

    Source: Klöwer et al., "Compressing atmospheric data into its real information content" (2021), "BitRound".
    """
    dropped = FLOAT16_MANTISSA - bits
    if dropped == 0:
        return values
    raw = values.view("uint16")
    half = (1 << (dropped - 1)) - 1 + ((raw >> dropped) & 1)
    keep = 0xFFFF >> dropped << dropped
    return ((raw + half.astype("uint16")) & np.uint16(keep)).view("float16")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help=".weights.h5 file to read")
    parser.add_argument("target", help=".weights.h5 file to write")
    bits = "mantissa bits to keep, 1 to 10 (default: %(default)s)"
    parser.add_argument("--mantissa-bits", type=int, default=FLOAT16_MANTISSA, help=bits)
    arguments = parser.parse_args()
    compress(arguments.source, arguments.target, arguments.mantissa_bits)


if __name__ == "__main__":
    main()
