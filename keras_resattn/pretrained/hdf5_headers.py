"""A text attribute, from the bytes of an HDF5 file.

HDF5 allocates what a text of variable length declares, up to 4 GiB, before it compares that with what the file holds,
and never returns from some damaged heaps. So the names of layers are read here. The layouts are those of the HDF5 File
Format Specification 3.0, III.E and IV.A, with addresses and lengths of 8 bytes.
"""

from io import BufferedReader

ATTRIBUTE, CONTINUATION = 0x0C, 0x10
TEXT_OF_VARIABLE_LENGTH = 9, 1  # class, and type within it
MOST_BLOCKS, MOST_BYTES, MOST_HEAP_BYTES = 64, 2**20, 2**14


def text_attribute(file: BufferedReader, address: int, name: bytes, longest: int) -> str | None:
    """Return an attribute that is a single text of variable length, as h5py writes a Python string.

    Args:
        file: The open HDF5 file.
        address: Address of the object's header.
        name: Name of the attribute, as bytes.
        longest: Bytes that the text may have.

    Returns:
        The text, or `None` where the header has no such attribute.

    Raises:
        ValueError: if the header is damaged, or has attributes of a kind that Keras does not write.
    """
    found = [data for own, data in _attributes(file, address) if own == name]
    if len(found) != 1:
        return None
    datatype, space, data = found[0]
    scalar = len(space) > 1 and space[1] == 0  # dimensions
    if (datatype[0] & 15, datatype[1] & 15) != TEXT_OF_VARIABLE_LENGTH or not scalar or len(data) < 16:
        return None
    length, heap, index = _number(data[:4]), _number(data[4:12]), _number(data[12:16])
    return None if length > longest else _heap_object(file, heap, index, length).decode("utf-8", "surrogateescape")


def _attributes(file, address):
    """Yields `(name, (datatype, data space, data))` of each attribute in an object header."""
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
    """Yields `(type, whether shared, body)` of the messages of an object header of version 1 or 2."""
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
    for offset, length in blocks:  # which grows
        block = _read(file, offset, length)
        if second and block[:4] == b"OCHK":
            block = block[4:-4]
        while len(block) >= prefix:
            kind, size = (block[0], _number(block[1:3])) if second else (_number(block[:2]), _number(block[2:4]))
            shared = block[3 if second else 4] & 2
            body, block = block[prefix : prefix + size], block[prefix + size :]
            if kind == CONTINUATION and len(body) >= 16 and len(blocks) < MOST_BLOCKS:
                blocks.append((_number(body[:8]), _number(body[8:16])))
            yield kind, shared, body


def _heap_object(file, address, index, length):
    """The bytes of an object of a collection of the global heap."""
    size = _number(_read(file, address, 16)[8:16])
    if size > MOST_HEAP_BYTES:
        raise ValueError("a heap is larger than any that Keras writes")
    heap, offset = _read(file, address, size), 16
    while heap[:4] == b"GCOL" and offset + 16 <= len(heap):
        own, size = _number(heap[offset : offset + 2]), _number(heap[offset + 8 : offset + 16])
        if own == index and size == length and offset + 16 + length <= len(heap):
            return heap[offset + 16 : offset + 16 + length]
        offset += 16 + -(-size // 8) * 8
    raise ValueError("a name is not where its layer says, or has another length")


def _read(file, offset, length):
    if length > MOST_BYTES or offset >= 2**63:
        raise ValueError("a header is larger than any that Keras writes")
    file.seek(offset)
    return file.read(length)


def _number(data):
    return int.from_bytes(data, "little")
