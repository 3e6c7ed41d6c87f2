"""Read text attributes (layer names) from the bytes of an HDF5 file, without the HDF5 library.

The library allocates the declared length of a variable-length string, up to 4 GiB, before comparing it with the file,
and loops forever on some damaged heaps. The layouts follow the HDF5 File Format Specification 3.0, III.E and IV.A,
with 8-byte addresses and lengths.
"""

from io import BufferedReader

ATTRIBUTE, CONTINUATION = 0x0C, 0x10
VARIABLE_LENGTH_STRING = 9, 1  # datatype class, and type within the class
MAX_BLOCKS, MAX_BLOCK_BYTES, MAX_HEAP_BYTES = 64, 2**20, 2**14


def text_attribute(file: BufferedReader, address: int, name: bytes, max_bytes: int) -> str | None:
    """Return an attribute that is a single variable-length string, as h5py writes a Python string.

    Args:
        file: The open HDF5 file.
        address: Address of the object's header.
        name: Name of the attribute, as bytes.
        max_bytes: Maximum length of the string in bytes.

    Returns:
        The string, or `None` if the object has no such attribute.

    Raises:
        ValueError: if the header is damaged, or has attributes of a kind that Keras does not write.
    """
    found = [data for own, data in _attributes(file, address) if own == name]
    if len(found) != 1:
        return None
    datatype, space, data = found[0]
    scalar = len(space) > 1 and space[1] == 0  # dimensions
    if (datatype[0] & 15, datatype[1] & 15) != VARIABLE_LENGTH_STRING or not scalar or len(data) < 16:
        return None
    length, heap, index = _number(data[:4]), _number(data[4:12]), _number(data[12:16])
    return None if length > max_bytes else _heap_object(file, heap, index, length).decode("utf-8", "surrogateescape")


def _attributes(file, address):
    """Yield `(name, (datatype, dataspace, data))` for each attribute in an object header."""
    for kind, shared, body in _messages(file, address):
        if kind != ATTRIBUTE:
            continue
        version, sizes = body[0], [_number(body[i : i + 2]) for i in (2, 4, 6)]
        if shared or version not in (1, 2, 3) or (version > 1 and body[1]):
            raise ValueError("an attribute is shared or of an unknown version")
        offset, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(body[offset : offset + size])
            offset += -(-size // 8) * 8 if version == 1 else size
        yield parts[0].split(b"\0")[0], (*parts[1:], body[offset:])


def _messages(file, address):
    """Yield `(type, shared, body)` for each message in an object header of version 1 or 2."""
    start = _read(file, address, 64)
    second = start[:4] == b"OHDR"
    if second:
        flags = start[5]
        begin = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        first = address + begin + width, _number(start[begin : begin + width])
        prefix = 6 if flags & 4 else 4
    else:
        first, prefix = (address + 16, _number(start[8:12])), 8
    blocks = [first]
    for offset, length in blocks:  # the loop appends to `blocks`
        block = _read(file, offset, length)
        if second and block[:4] == b"OCHK":
            block = block[4:-4]
        while len(block) >= prefix:
            kind, size = (block[0], _number(block[1:3])) if second else (_number(block[:2]), _number(block[2:4]))
            shared = block[3 if second else 4] & 2
            body, block = block[prefix : prefix + size], block[prefix + size :]
            if kind == CONTINUATION and len(body) >= 16 and len(blocks) < MAX_BLOCKS:
                blocks.append((_number(body[:8]), _number(body[8:16])))
            yield kind, shared, body


def _heap_object(file, address, index, length):
    """Return the bytes of an object in a global heap collection."""
    size = _number(_read(file, address, 16)[8:16])
    if size > MAX_HEAP_BYTES:
        raise ValueError("a heap is larger than Keras writes")
    heap, offset = _read(file, address, size), 16
    while heap[:4] == b"GCOL" and offset + 16 <= len(heap):
        own, size = _number(heap[offset : offset + 2]), _number(heap[offset + 8 : offset + 16])
        if own == index and size == length and offset + 16 + length <= len(heap):
            return heap[offset + 16 : offset + 16 + length]
        offset += 16 + -(-size // 8) * 8
    raise ValueError("a layer's name is not at its recorded location, or has another length")


def _read(file, offset, length):
    if length > MAX_BLOCK_BYTES or offset >= 2**63:
        raise ValueError("a header is larger than Keras writes")
    file.seek(offset)
    return file.read(length)


def _number(data):
    return int.from_bytes(data, "little")
