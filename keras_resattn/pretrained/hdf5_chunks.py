"""Read chunked HDF5 arrays, shuffled and gzipped or not, within known memory bounds.

HDF5's own gzip filter allocates whatever size a chunk inflates to. Here zlib inflates each chunk up to its expected
size only.
"""

import itertools
import math
import zlib
from typing import Any

import numpy as np
from h5py import h5d, h5z

MAX_CHUNKS = 100_000
SPARE_BYTES = 1024  # by which a compressed chunk may exceed its values


def check_chunks(dataset: h5d.DatasetID, shape: tuple[int, ...], itemsize: int, size: int) -> int:
    """Check the chunks of a dataset and return their total size in the file, in bytes.

    Args:
        dataset: An `h5py.h5d.DatasetID` with chunked layout.
        shape: Shape of the dataset.
        itemsize: Size of a value in bytes.
        size: Size of the file in bytes.

    Raises:
        ValueError: for filters other than shuffle and gzip, and for chunks that are larger than the array, missing,
            masked, larger than their values, or outside the file. The message completes a sentence.
    """
    created = dataset.get_create_plist()
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if filters not in ([], [h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]):
        raise ValueError("uses filters other than shuffle and gzip")
    chunk = created.get_chunk()
    if len(chunk) != len(shape) or any(part > whole for part, whole in zip(chunk, shape, strict=True)):
        raise ValueError("has chunks that are larger than the array")
    count = math.prod(-(-whole // part) for part, whole in zip(chunk, shape, strict=True))
    if count > MAX_CHUNKS or dataset.get_num_chunks() != count:
        raise ValueError(f"has {dataset.get_num_chunks():,} chunks; expected: {count:,}, at most {MAX_CHUNKS:,}")
    stored, largest = 0, math.prod(chunk) * itemsize + SPARE_BYTES
    for i in range(count):
        info = dataset.get_chunk_info(i)
        if info.filter_mask or info.size > largest or info.byte_offset is None or info.byte_offset + info.size > size:
            raise ValueError("has a chunk that is damaged or extends beyond the end of the file")
        stored += info.size
    return stored


def read_chunks(dataset: h5d.DatasetID, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return the values of a dataset that `check_chunks` accepted.

    Args:
        dataset: An `h5py.h5d.DatasetID`.
        shape: Shape of the dataset.
        dtype: NumPy dtype of the dataset.

    Raises:
        ValueError: for a chunk that does not inflate to the size of its values.
    """
    created = dataset.get_create_plist()
    chunk, dtype = created.get_chunk(), np.dtype(dtype)
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    nbytes, array = math.prod(chunk) * dtype.itemsize, np.empty(shape, dtype)
    for corner in itertools.product(*(range(0, whole, part) for whole, part in zip(shape, chunk, strict=True))):
        _, data = dataset.read_direct_chunk(corner)
        if h5z.FILTER_DEFLATE in filters:
            data = _inflated(data, nbytes)
        if len(data) != nbytes:
            raise ValueError("a chunk does not have the size of its values")
        if h5z.FILTER_SHUFFLE in filters:
            data = np.frombuffer(data, "uint8").reshape(dtype.itemsize, -1).T.tobytes()
        values = np.frombuffer(data, dtype).reshape(chunk)
        place = tuple(
            slice(first, min(first + part, whole)) for first, part, whole in zip(corner, chunk, shape, strict=True)
        )
        array[place] = values[tuple(slice(part.stop - part.start) for part in place)]
    return array


def _inflated(data, nbytes):
    stream = zlib.decompressobj()
    inflated = stream.decompress(data, nbytes)
    if len(inflated) != nbytes or stream.decompress(stream.unconsumed_tail, 1) or not stream.eof:
        raise ValueError("a chunk does not inflate to the size of its values")
    return inflated
