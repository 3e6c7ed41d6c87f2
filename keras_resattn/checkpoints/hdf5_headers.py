"""The declared length of a text attribute, from the bytes of an HDF5 object header.

HDF5 allocates what a text of variable length declares, up to 4 GiB, before it compares that with what the file holds,
and h5py cannot ask for the length alone. The layouts are those of the HDF5 File Format Specification 3.0, IV.A.
"""

ATTRIBUTE, CONTINUATION = 0x0C, 0x10
MOST_BLOCKS, MOST_BYTES = 64, 2**20


def declared_length(file, address, name):
    """Return how many bytes a text attribute of variable length declares.

    Args:
        file: The open HDF5 file.
        address: Address of the object's header.
        name: Name of the attribute, as bytes.

    Returns:
        The number of bytes, or `None` where the header has no such attribute, as when it is stored elsewhere.

    Raises:
        ValueError: if the header has attributes of a kind that Keras does not write.
    """
    lengths = []
    for kind, shared, body in _messages(file, address):
        if kind != ATTRIBUTE:
            continue
        version, sizes = body[0], [_number(body[i : i + 2]) for i in (2, 4, 6)]  # of name, datatype and data space
        if shared or version not in (1, 2, 3) or (version > 1 and body[1]):
            raise ValueError("an attribute is shared or of an unknown version")
        padded = [-(-size // 8) * 8 for size in sizes] if version == 1 else sizes
        start = 9 if version == 3 else 8
        if body[start : start + sizes[0]].split(b"\0")[0] == name:
            data = start + sum(padded)
            lengths.append(_number(body[data : data + 4]))
    return max(lengths, default=None)


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


def _read(file, offset, length):
    if length > MOST_BYTES or offset >= 2**63:
        raise ValueError("an object header is larger than any that Keras writes")
    file.seek(offset)
    return file.read(length)


def _number(data):
    return int.from_bytes(data, "little")
