"""Compressed arrays of an HDF5 file: chunks, byte shuffling and gzip, decompressed within known bounds.

HDF5's own gzip filter allocates whatever a chunk inflates to. Here each chunk is inflated by zlib up to the size that
it should have.
"""

import itertools
import math
import zlib
from typing import Any

import numpy as np
from h5py import h5d, h5z

MOST_CHUNKS = 100_000
SPARE = 1024  # bytes that a compressed chunk may have more than its values


def check_chunks(dataset: h5d.DatasetID, shape: tuple[int, ...], itemsize: int, size: int) -> int:
    """Return the bytes that a chunked dataset takes in its file.

    Args:
        dataset: An `h5py.h5d.DatasetID` of chunked layout.
        shape: Its shape.
        itemsize: Bytes of a value.
        size: Bytes of the file.

    Raises:
        ValueError: for filters other than gzip and shuffling, chunks that are larger than the array, missing, masked,
            larger than their values, or outside the file. The message is the end of a sentence.
    """
    created = dataset.get_create_plist()
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if filters not in ([], [h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]):
        raise ValueError("is stored by other filters than shuffling and gzip")
    chunk = created.get_chunk()
    if len(chunk) != len(shape) or any(part > whole for part, whole in zip(chunk, shape, strict=True)):
        raise ValueError("has chunks that are larger than itself")
    count = math.prod(-(-whole // part) for part, whole in zip(chunk, shape, strict=True))
    if count > MOST_CHUNKS or dataset.get_num_chunks() != count:
        raise ValueError(f"has {dataset.get_num_chunks():,} chunks; expected {count:,}, and at most {MOST_CHUNKS:,}")
    stored, largest = 0, math.prod(chunk) * itemsize + SPARE
    for i in range(count):
        info = dataset.get_chunk_info(i)
        if info.filter_mask or info.size > largest or info.byte_offset is None or info.byte_offset + info.size > size:
            raise ValueError("has a damaged chunk, or one that reaches beyond the end of the file")
        stored += info.size
    return stored


def read_chunks(dataset: h5d.DatasetID, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return the values of a dataset that `check_chunks` let through.

    Args:
        dataset: An `h5py.h5d.DatasetID`.
        shape: Its shape.
        dtype: Its NumPy dtype, of one byte order.

    Raises:
        ValueError: for a chunk that does not inflate to the bytes of its values.
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
            raise ValueError("a chunk has not the size of its values")
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
