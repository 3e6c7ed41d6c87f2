"""Open `.weights.h5` files as untrusted input: check structure, names, shapes and dtypes before any data is read.

HDF5 files can refer to other files (external links, external storage, virtual datasets), load plug-ins (filters),
declare terabytes in a few bytes (chunks, fill values) and link to one object twice. `keras.Model.save_weights` uses
none of these features, so anything except groups and plain arrays of numbers is rejected. Arrays may be compressed
with the shuffle and gzip filters. This module does not import Keras.
"""

import contextlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s, h5t

from keras_resattn.pretrained.hdf5_chunks import check_chunks, read_chunks
from keras_resattn.pretrained.hdf5_headers import text_attribute
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import open_regular

MAX_OBJECTS = 50_000  # groups and arrays, if the network is unknown
MAX_DEPTH = 32  # nested groups; the networks of this package have 6 levels
MAX_NAME_LENGTH = 255
SPARE_BYTES = 16 * 2**20  # allowed besides the arrays and their metadata
BYTES_PER_OBJECT = 4096  # allowed for the metadata of a group or array

FLOATS = {
    "float16": (h5t.IEEE_F16LE, h5t.IEEE_F16BE),
    "float32": (h5t.IEEE_F32LE, h5t.IEEE_F32BE),
    "float64": (h5t.IEEE_F64LE, h5t.IEEE_F64BE),
}


class InvalidFileError(Exception):
    """Error for an invalid weights file; its message completes a sentence."""


@dataclass(frozen=True)
class Tensor:
    """An array in an open file, not yet read.

    Attributes:
        location: Names of its groups, outermost first, and its own name.
        shape: Shape of the array.
        dtype: `"float16"`, `"float32"`, `"float64"`, `"bfloat16"`, or the name of a NumPy integer type.
        nbytes: Size of the stored array in bytes.
        chunked: Whether the array is stored in chunks, which may be compressed.
    """

    location: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    _id: h5d.DatasetID
    chunked: bool = False

    def read(self) -> np.ndarray:
        """Return the array in its own dtype, except that bfloat16, which NumPy lacks, becomes float32."""
        if self.chunked:
            array = read_chunks(self._id, self.shape, self._id.dtype)
        else:
            array = np.asarray(h5py.Dataset(self._id)[()])
        if self.dtype == "bfloat16":
            return (array.view("uint16").astype("uint32") << 16).view("float32").reshape(self.shape)
        return array


@contextlib.contextmanager
def open_weights(
    path: PathLike, file: BufferedReader | None = None, limit: int = MAX_OBJECTS
) -> Iterator[tuple[Collection[tuple[str, ...]], dict[tuple[str, ...], str | None], list[Tensor]]]:
    """Open a `.weights.h5` file and check its structure, without reading any array.

    Args:
        path: Path of the file, for messages.
        file: The open file; by default `path` is opened.
        limit: Maximum number of groups and arrays; see `object_limit`.

    Yields:
        `(groups, names, tensors)`: the locations of all groups; for groups with variables, `{location: name that Keras
        wrote, or None}`; and a list of all `Tensor`s, including an optimizer's.

    Raises:
        ValueError: if the file cannot be read, is not HDF5, or holds anything except groups and plain arrays.
    """
    with contextlib.ExitStack() as stack:
        file = file or stack.enter_context(open_regular(path))
        with file_errors(path):
            size = _size(file)
            h5 = stack.enter_context(h5py.File(file, "r"))
            if h5.userblock_size or h5.id.get_create_plist().get_sizes() != (8, 8):
                raise InvalidFileError("it has a user block or an unusual address size")
            groups, tensors = _walk(h5.id, file, size, limit)
            _check_sizes(groups, tensors, size)
            names = {
                where[:-1]: _text(group, b"name", file) for where, group in groups.items() if where[-1:] == ("vars",)
            }
        yield groups, names, tensors


def printable(name: str, max_length: int = 80) -> str:
    """Return a name from a file for use in a message, with control characters escaped and the length limited."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= max_length else f"{text[:max_length]}..."


def object_limit(num_variables: int) -> int:
    """Return the maximum number of groups and arrays in a network's file, including an optimizer's and a top's."""
    return 1000 + 10 * num_variables


@contextlib.contextmanager
def file_errors(path: PathLike) -> Iterator[None]:
    """Turn every error in the block into a `ValueError` that names the file."""
    expected = f"Expected {path} to be a .weights.h5 file written by keras.Model.save_weights"
    try:
        yield
    except InvalidFileError as error:
        raise ValueError(f"{expected}; {error}.") from None
    except Exception as error:  # h5py raises errors of many types for damaged files
        raise ValueError(f"{expected}; it is damaged and cannot be read ({printable(str(error), 200)}).") from error


def _size(file):
    """Return the size of a file in bytes; raise for an empty file and for other formats, by their first bytes."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    if not size:
        raise InvalidFileError("it is empty")
    if start.startswith(b"PK"):
        raise InvalidFileError(
            "it is a zip archive. Load a .keras file with keras.saving.load_model, then call its save_weights"
        )
    if start.startswith(b"version https://git-lfs"):
        raise InvalidFileError("it is a Git LFS pointer. Fetch the file with `git lfs pull`")
    return size


# --- Structure -----------------------------------------------------------------------------------


def _walk(root, file, size, limit):
    """Return `({location: group}, [Tensor])`; raise for anything except one hard link to each group or plain array."""
    groups: dict[tuple[str, ...], Any] = {(): root}
    tensors, seen = [], {h5o.get_info(root).addr}
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        location = waiting.pop()
        links = _links(groups[location], location, limit - len(groups) - len(tensors))
        if links is None:
            raise InvalidFileError(f"it has more than {limit:,} groups and arrays")
        for name, address in links:
            child = (*location, name)
            if address in seen:
                raise InvalidFileError(f"{location_name(child)} is a second link to the same object")
            seen.add(address)
            item = h5o.open(groups[location], name.encode("utf-8", "surrogateescape"))
            if isinstance(item, h5g.GroupID):
                if len(child) > MAX_DEPTH:
                    raise InvalidFileError(f"its groups are nested more than {MAX_DEPTH} levels deep")
                groups[child] = item
                waiting.append(child)
            elif isinstance(item, h5d.DatasetID):
                tensors.append(_tensor(item, child, file, size))
            else:
                raise InvalidFileError(f"{location_name(child)} is neither a group nor an array")
    return groups, tensors


def _links(group, location, limit):
    """Return `(name, address)` for each link in a group, or `None` if there are more than `limit`."""
    links = []

    def visit(name, info):
        links.append((name, info.type, info.u))
        return len(links) > limit or None  # anything but None ends the iteration

    if group.get_num_objs() <= limit:
        group.links.iterate(visit, order=h5py.h5.ITER_NATIVE, info=True)
    if group.get_num_objs() > limit or len(links) > limit:
        return None
    for name, kind, _ in links:
        if len(name) > MAX_NAME_LENGTH:
            raise InvalidFileError(f"a name in {location_name(location)} has {len(name):,} characters")
        if kind != h5l.TYPE_HARD:
            kinds = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}
            child = (*location, name.decode("utf-8", "surrogateescape"))
            raise InvalidFileError(
                f"{location_name(child)} is {kinds.get(kind, 'an unknown kind of link')}, which is not followed"
            )
    return [(name.decode("utf-8", "surrogateescape"), address) for name, _, address in links]


def _tensor(dataset, location, file, size):
    """Return the `Tensor` of a plain array; raise for any other dataset.

    The layout is checked before the shape, because HDF5 opens a virtual dataset's files when asked for its shape.
    """
    created = dataset.get_create_plist()
    layout = created.get_layout()
    if layout == h5d.VIRTUAL:
        raise InvalidFileError(f"{location_name(location)} is a virtual dataset, which would read other files")
    if layout == h5d.CONTIGUOUS and created.get_external_count():
        raise InvalidFileError(f"{location_name(location)} has external storage, which would read other files")
    if layout not in (h5d.CONTIGUOUS, h5d.COMPACT, h5d.CHUNKED):
        raise InvalidFileError(f"{location_name(location)} has an unknown layout")
    dtype = _dtype(dataset, location, file)
    space = dataset.get_space()
    if space.get_simple_extent_type() not in (h5s.SIMPLE, h5s.SCALAR):
        raise InvalidFileError(f"{location_name(location)} has no shape")
    shape = tuple(int(length) for length in space.get_simple_extent_dims())
    itemsize = dataset.get_type().get_size()
    nbytes, stored = math.prod(shape) * itemsize, dataset.get_storage_size()
    if layout == h5d.CHUNKED:
        try:
            stored = check_chunks(dataset, shape, itemsize, size)
        except ValueError as error:
            raise InvalidFileError(f"{location_name(location)} {error}") from None
        return Tensor(location, shape, dtype, stored, dataset, chunked=True)
    if stored != nbytes:
        raise InvalidFileError(
            f"{location_name(location)} claims {nbytes:,} bytes, of which {stored:,} are stored in the file"
        )
    if layout == h5d.CONTIGUOUS and nbytes:
        offset = dataset.get_offset()
        if offset is None or offset + nbytes > size:
            raise InvalidFileError(f"{location_name(location)} extends beyond the end of the file, which is truncated")
    return Tensor(location, shape, dtype, nbytes, dataset)


def _dtype(dataset, location, file):
    kind = dataset.get_type()
    for name, types in FLOATS.items():
        if any(kind == each for each in types):
            return name
    if kind.get_class() == h5t.INTEGER and kind.get_size() <= 8:
        return kind.dtype.name
    if kind.get_class() == h5t.OPAQUE and kind.get_size() == 2 and _text(dataset, b"dtype", file) == "bfloat16":
        return "bfloat16"
    raise InvalidFileError(f"{location_name(location)} is not an array of plain numbers")


def _check_sizes(groups, tensors, size):
    """Raise if arrays share bytes, or if the file is much larger than its arrays."""
    total = sum(tensor.nbytes for tensor in tensors)
    if total > size:
        raise InvalidFileError(f"its arrays claim {total:,} bytes, but the file has {size:,}")
    if size > 2 * total + BYTES_PER_OBJECT * (len(groups) + len(tensors)) + SPARE_BYTES:
        raise InvalidFileError(f"the file has {size:,} bytes, but its arrays need {total:,}")


def _text(item, attribute, file):
    return text_attribute(file, h5o.get_info(item).addr, attribute, max_bytes=4 * MAX_NAME_LENGTH)


def location_name(location: tuple[str, ...]) -> str:
    """Return the location of a group or array for use in a message."""
    return printable("/".join(location)) if location else "its root"
