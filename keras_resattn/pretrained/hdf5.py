"""Reading `.weights.h5` files as untrusted input: structure, names, shapes and dtypes first, data last. Needs no Keras.

HDF5 can refer to other files (external links and storage, virtual datasets), load plug-ins (filters), claim terabytes
in a few bytes (chunks, fill values) and refer to one object twice. `keras.Model.save_weights` uses none of that, so
everything except groups and arrays of numbers is refused, before any array is read. Arrays may be compressed by
shuffling and gzip.
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

MOST_OBJECTS = 50_000  # groups and arrays, where the network is not known
MOST_LEVELS = 32  # the networks of this package have 6
LONGEST_NAME = 255
SPARE_BYTES = 16 * 2**20  # of a file, besides its arrays and what describes them
BYTES_PER_OBJECT = 4096

FLOATS = {
    "float16": (h5t.IEEE_F16LE, h5t.IEEE_F16BE),
    "float32": (h5t.IEEE_F32LE, h5t.IEEE_F32BE),
    "float64": (h5t.IEEE_F64LE, h5t.IEEE_F64BE),
}


class Refused(Exception):
    """What is wrong with a file, as the end of a sentence."""


@dataclass(frozen=True)
class Tensor:
    """An array of an open file, not yet read.

    Attributes:
        location: Names of the groups and of the array itself, outermost first.
        shape: Its shape.
        dtype: `"float16"`, `"float32"`, `"float64"`, `"bfloat16"`, or the name of a NumPy integer.
        nbytes: Bytes that it takes in the file.
        chunked: Whether it is stored in chunks, which may be compressed.
    """

    location: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    _id: h5d.DatasetID
    chunked: bool = False

    def read(self) -> np.ndarray:
        """Return the array in the file's dtype; bfloat16, which NumPy lacks, as float32."""
        if self.chunked:
            array = read_chunks(self._id, self.shape, self._id.dtype)
        else:
            array = np.asarray(h5py.Dataset(self._id)[()])
        if self.dtype == "bfloat16":
            return (array.view("uint16").astype("uint32") << 16).view("float32").reshape(self.shape)
        return array


@contextlib.contextmanager
def open_weights(
    path: PathLike, file: BufferedReader | None = None, most: int = MOST_OBJECTS
) -> Iterator[tuple[Collection[tuple[str, ...]], dict[tuple[str, ...], str | None], list[Tensor]]]:
    """Open a `.weights.h5` file and check its structure, without reading any array.

    Args:
        path: Path of the file; messages name it.
        file: The open file, where the caller has it already.
        most: Number of groups and arrays that the file may have; see `most_objects`.

    Yields:
        `(groups, names, tensors)`: the locations of all groups; of those that are layers or the like, the name that
        Keras wrote, or `None`; and a list of every `Tensor`, an optimizer's included.

    Raises:
        ValueError: if the file cannot be read, is not HDF5, or has anything except groups and plain arrays.
    """
    with contextlib.ExitStack() as stack:
        file = file or stack.enter_context(open_regular(path))
        with naming_file(path):
            size = _size(file)
            h5 = stack.enter_context(h5py.File(file, "r"))
            if h5.userblock_size or h5.id.get_create_plist().get_sizes() != (8, 8):
                raise Refused("it begins with other data or has addresses of another size")
            groups, tensors = _walk(h5.id, file, size, most)
            _check_sizes(groups, tensors, size)
            names = {
                where[:-1]: _text(group, b"name", file) for where, group in groups.items() if where[-1:] == ("vars",)
            }
        yield groups, names, tensors


def shown(name: str, longest: int = 80) -> str:
    """Return a name from a file as a message may show it: control characters escaped, and not too long."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= longest else f"{text[:longest]}..."


def most_objects(variables: int) -> int:
    """Return how many groups and arrays a file of a network may have, an optimizer's and a top's included."""
    return 1000 + 10 * variables


@contextlib.contextmanager
def naming_file(path: PathLike) -> Iterator[None]:
    """Turn whatever goes wrong in reading a file into a `ValueError` that names it."""
    expected = f"Expected {path} to be a .weights.h5 file, as keras.Model.save_weights writes it"
    try:
        yield
    except Refused as error:
        raise ValueError(f"{expected}; {error}.") from None
    except Exception as error:  # of every kind, by h5py for damaged files
        raise ValueError(f"{expected}; it is damaged and cannot be read ({shown(str(error), 200)}).") from error


def _size(file):
    """The bytes of a file; other formats are refused by what they begin with."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    if not size:
        raise Refused("it is empty")
    if start.startswith(b"PK"):
        raise Refused("it is a zip archive. Load a .keras file by keras.saving.load_model, and save_weights from there")
    if start.startswith(b"version https://git-lfs"):
        raise Refused("it is a pointer of Git LFS. Fetch the file itself by `git lfs pull`")
    return size


# --- Structure -----------------------------------------------------------------------------------


def _walk(root, file, size, most):
    """`({location: group}, [Tensor])` of a whole file; nothing but hard links to new groups and plain arrays."""
    groups: dict[tuple[str, ...], Any] = {(): root}
    tensors, seen = [], {h5o.get_info(root).addr}
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        location = waiting.pop()
        links = _links(groups[location], location, most - len(groups) - len(tensors))
        if links is None:
            raise Refused(f"it has more than {most:,} groups and arrays")
        for name, address in links:
            child = (*location, name)
            if address in seen:
                raise Refused(f"{at(child)} is another name of an object that has one already")
            seen.add(address)
            item = h5o.open(groups[location], name.encode("utf-8", "surrogateescape"))
            if isinstance(item, h5g.GroupID):
                if len(child) > MOST_LEVELS:
                    raise Refused(f"its groups are nested more than {MOST_LEVELS} deep")
                groups[child] = item
                waiting.append(child)
            elif isinstance(item, h5d.DatasetID):
                tensors.append(_tensor(item, child, file, size))
            else:
                raise Refused(f"{at(child)} is neither a group nor an array")
    return groups, tensors


def _links(group, location, most):
    """Pairs of name and address of what a group links to; `None` if there are more than `most`."""
    links = []

    def visit(name, info):
        links.append((name, info.type, info.u))
        return len(links) > most or None  # anything but None ends the iteration

    if group.get_num_objs() <= most:
        group.links.iterate(visit, order=h5py.h5.ITER_NATIVE, info=True)
    if group.get_num_objs() > most or len(links) > most:
        return None
    for name, kind, _ in links:
        if len(name) > LONGEST_NAME:
            raise Refused(f"a name in {at(location)} has {len(name):,} characters")
        if kind != h5l.TYPE_HARD:
            kinds = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "a link to another file"}
            child = (*location, name.decode("utf-8", "surrogateescape"))
            raise Refused(f"{at(child)} is {kinds.get(kind, 'an unknown kind of link')}, which is not followed")
    return [(name.decode("utf-8", "surrogateescape"), address) for name, _, address in links]


def _tensor(dataset, location, file, size):
    """The `Tensor` of a plain array: numbers that lie in the file as they are. Its data space comes last.

    HDF5 opens the files of a virtual dataset as soon as it is asked for its shape.
    """
    created = dataset.get_create_plist()
    layout = created.get_layout()
    if layout == h5d.VIRTUAL:
        raise Refused(f"{at(location)} is a virtual dataset, which would read other files")
    if layout == h5d.CONTIGUOUS and created.get_external_count():
        raise Refused(f"{at(location)} has external storage, which would read other files")
    if layout not in (h5d.CONTIGUOUS, h5d.COMPACT, h5d.CHUNKED):
        raise Refused(f"{at(location)} has an unknown layout")
    dtype = _dtype(dataset, location, file)
    space = dataset.get_space()
    if space.get_simple_extent_type() not in (h5s.SIMPLE, h5s.SCALAR):
        raise Refused(f"{at(location)} has no shape")
    shape = tuple(int(length) for length in space.get_simple_extent_dims())
    itemsize = dataset.get_type().get_size()
    nbytes, stored = math.prod(shape) * itemsize, dataset.get_storage_size()
    if layout == h5d.CHUNKED:
        try:
            stored = check_chunks(dataset, shape, itemsize, size)
        except ValueError as error:
            raise Refused(f"{at(location)} {error}") from None
        return Tensor(location, shape, dtype, stored, dataset, chunked=True)
    if stored != nbytes:
        raise Refused(f"{at(location)} claims {nbytes:,} bytes, of which {stored:,} are in the file")
    if layout == h5d.CONTIGUOUS and nbytes:
        offset = dataset.get_offset()
        if offset is None or offset + nbytes > size:
            raise Refused(f"{at(location)} reaches beyond the end of the file, which is truncated")
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
    raise Refused(f"{at(location)} is no array of plain numbers")


def _check_sizes(groups, tensors, size):
    """Refuses arrays that share bytes, and files with much more than their arrays."""
    total = sum(tensor.nbytes for tensor in tensors)
    if total > size:
        raise Refused(f"its arrays claim {total:,} bytes, and the file has {size:,}")
    if size > 2 * total + BYTES_PER_OBJECT * (len(groups) + len(tensors)) + SPARE_BYTES:
        raise Refused(f"the file has {size:,} bytes, and its arrays need {total:,}")


def _text(item, attribute, file):
    return text_attribute(file, h5o.get_info(item).addr, attribute, longest=4 * LONGEST_NAME)


def at(location: tuple[str, ...]) -> str:
    return shown("/".join(location)) if location else "its root"
