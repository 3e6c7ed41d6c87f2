"""Strict reading of `.npz` files, which may be damaged or hostile."""

import math
import zipfile
from collections.abc import Collection

import numpy as np

from keras_resattn.typing import PathLike
from keras_resattn.utils.io import open_regular

# Deflate, the one compression that NumPy writes, cannot expand a byte to more.
LARGEST_EXPANSION = 1032
CHUNK = 1 << 20  # bytes read at once
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(
    path: PathLike, names: Collection[str] | None = None, remedy: str = "Write it again with numpy.savez."
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return arrays of an `.npz` file by name.

    The sizes that headers claim are compared with the file's own before any memory is allocated, and checksums
    afterwards. Nothing is unpickled.

    Args:
        path: The file.
        names: Names of the arrays to read, those of them that the file holds; `None` for all.
        remedy: What to do with a damaged file, a sentence for the message.

    Returns:
        `(arrays, found)`: `{name: array}`, and the names of all arrays in the file.

    Raises:
        ValueError: if there is no such file, or it is no `.npz` file, damaged, or holds something else than numbers
            and text.
    """
    with open_regular(path) as file:
        try:
            return _arrays(file, names)
        except Exception as error:  # a damaged file makes NumPy and zipfile raise errors of a dozen types
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"Expected {path} to be an .npz file of arrays; it cannot be read as one ({reason}). {remedy}"
            ) from error


def _arrays(file, names):
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("two arrays have the same name")
        wanted = members if names is None else [name for name in names if name in members]
        file_size = file.seek(0, 2)
        if sum(members[name].file_size for name in wanted) > LARGEST_EXPANSION * file_size:
            raise ValueError("its arrays claim to be larger than it can hold")  # members may overlap
        return {name: _read(archive, name, members[name], file_size) for name in wanted}, list(members)


def _read(archive, name, member, file_size):
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in READERS:
            raise ValueError(f"{name} is of format {version}, not (1, 0) or (2, 0)")
        shape, in_columns, dtype = READERS[version](stream)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, not numbers")
        claimed = stream.tell() + math.prod(shape) * dtype.itemsize
        possible = min(member.compress_size, file_size) * (1 if member.compress_type == 0 else LARGEST_EXPANSION)
        if claimed != member.file_size or claimed > possible:
            raise ValueError(f"{name} claims to be of shape {shape}, {dtype}, which the file is too small or large for")
        data, filled = np.empty(claimed - stream.tell(), "uint8"), 0
        while part := stream.read(CHUNK):  # up to its end, where zipfile compares the checksum
            data[filled : filled + len(part)] = np.frombuffer(part, "uint8")
            filled += len(part)
    if filled != len(data):
        raise ValueError(f"{name} ends after {filled} of {len(data)} bytes")
    return data.view(dtype).reshape(shape, order="F" if in_columns else "C")
