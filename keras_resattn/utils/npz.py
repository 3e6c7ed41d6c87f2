"""Strict reader for `.npz` files, which may be damaged or malicious."""

import math
import zipfile
from collections.abc import Collection

import numpy as np

from keras_resattn.typing import PathLike
from keras_resattn.utils.io import open_regular

# The largest expansion factor of deflate, the only compression that NumPy writes.
LARGEST_EXPANSION = 1032
CHUNK = 1 << 20  # bytes per read
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(
    path: PathLike, names: Collection[str] | None = None, remedy: str = "Write it again with numpy.savez."
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of an `.npz` file by name.

    Sizes claimed in headers are checked against the size of the file before any memory is allocated, and checksums are
    verified afterwards. Nothing is unpickled.

    Args:
        path: Path of the file.
        names: Names of the arrays to read; names that the file lacks are skipped. `None` reads all.
        remedy: Sentence for the error message that says what to do about a damaged file.

    Returns:
        `(arrays, found)`: `{name: array}`, and the names of all arrays in the file.

    Raises:
        ValueError: if the file does not exist, is damaged or not an `.npz` file, or holds anything except numbers and
            text.
    """
    with open_regular(path) as file:
        try:
            return _arrays(file, names)
        except Exception as error:  # NumPy and zipfile raise a dozen error types for damaged files
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"Expected {path} to be an .npz file of arrays; it cannot be read ({reason}). {remedy}"
            ) from error


def _arrays(file, names):
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two arrays have the same name")
        wanted = members if names is None else [name for name in names if name in members]
        file_size = file.seek(0, 2)
        if sum(members[name].file_size for name in wanted) > LARGEST_EXPANSION * file_size:
            raise ValueError("its arrays claim to be larger than it can hold")  # zip members may overlap
        return {name: _read(archive, name, members[name], file_size) for name in wanted}, list(members)


def _read(archive, name, member, file_size):
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in READERS:
            raise ValueError(f"{name} has format version {version}, not (1, 0) or (2, 0)")
        shape, in_columns, dtype = READERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, not numbers")
        claimed = stream.tell() + math.prod(shape) * dtype.itemsize
        possible = min(member.compress_size, file_size) * (1 if member.compress_type == 0 else LARGEST_EXPANSION)
        if claimed != member.file_size or claimed > possible:
            raise ValueError(f"{name} claims shape {shape} and dtype {dtype}, which do not match its size in the file")
        data, filled = np.empty(claimed - stream.tell(), "uint8"), 0
        while part := stream.read(CHUNK):  # to the end, where zipfile verifies the checksum
            data[filled : filled + len(part)] = np.frombuffer(part, "uint8")
            filled += len(part)
    if filled != len(data):
        raise ValueError(f"{name} ends after {filled} of {len(data)} bytes")
    return data.view(dtype).reshape(shape, order="F" if in_columns else "C")
