"""HDF5 features that Keras never writes: each raises a `ValueError` that names the file, before any data is read."""

import os
import re
import zlib

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z
from weights_files import CONV, NORM, add, edit, replace, write_good

from keras_resattn.pretrained.tensors import open_layers, read_tensors

pytestmark = pytest.mark.once

SECRET = "secret.weights.h5"


@pytest.fixture
def good(tmp_path):
    """Path of a valid weights file, with another one beside it."""
    write_good(tmp_path / "good.weights.h5")
    write_good(tmp_path / SECRET)
    return tmp_path / "good.weights.h5"


def low_level(kind, shape, **settings):
    """Return a function that replaces the kernel with an array of an HDF5 type, without writing data."""

    def change(file):
        created = h5p.create(h5p.DATASET_CREATE)
        for name, value in settings.items():
            getattr(created, name)(*value)
        h5d.create(file[CONV].id, b"0", kind, h5s.create_simple(shape), dcpl=created)

    return edit(f"{CONV}/0", change)


def bomb(content):
    """Return a function that replaces the kernel with one gzip chunk of `content`, or of invalid data for `None`."""

    def change(file):
        kernel = file[CONV].create_dataset("0", (3, 3, 3, 4), "float32", chunks=(3, 3, 3, 4), compression="gzip")
        data = b"no gzip" if content is None else zlib.compress(content)
        kernel.id.write_direct_chunk((0, 0, 0, 0), data[:1400])

    return edit(f"{CONV}/0", change)


def odd_float():
    kind = h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    return kind


def virtual(dataset, shape=(4,)):
    def change(file):
        layout = h5py.VirtualLayout(shape=shape, dtype="float32", maxshape=(None,))
        opened = h5py.VirtualSource(dataset, f"{NORM}/0", shape=shape, maxshape=(None,))
        layout[: h5s.UNLIMITED] = opened[: h5s.UNLIMITED]
        file.create_virtual_dataset(f"{NORM}/0", layout)

    return edit(f"{NORM}/0", change)


def pipe_source(path):
    os.mkfifo(path.parent / "pipe")
    virtual(str(path.parent / "pipe"))(path)


def link(where, what):
    return edit(where, lambda file: file.__setitem__(where, what(file)))


def null(file):
    h5d.create(file[CONV].id, b"0", h5t.IEEE_F32LE, h5s.create(h5s.NULL))


def deep(file):
    group = file["layers/conv2d"]
    for _ in range(3000):
        group = group.create_group("a")


def named_type(file):
    file["layers/conv2d/type"] = np.dtype("float32")


def rename(where, value, **options):
    return add(lambda file: file[where].attrs.create("name", value, **options))


def declare(length):
    """Return a function that makes the name of the convolution declare another length than its text has."""

    def change(path):
        rename(CONV, "n" * 203)(path)  # a length that occurs nowhere else in the file
        old, new = (203).to_bytes(4, "little"), length.to_bytes(4, "little")
        content, count = re.subn(
            re.escape(old) + rb"(?!\0{4})", lambda _: new, path.read_bytes()
        )  # the declared length, not the heap object's
        assert count == 1
        path.write_bytes(content)

    return change


def endless_heap(path):
    """Set the length of the first heap object so that HDF5 1.14 loops forever."""
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + 16
    content[start + 8 : start + 16] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)


def user_block(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("layers")


STRUCTURES = {
    "an external link to an array": (
        link(f"{CONV}/0", lambda _: h5py.ExternalLink(SECRET, f"{CONV}/0")),
        "another file",
    ),
    "an external link to a group": (link(CONV, lambda _: h5py.ExternalLink(SECRET, CONV)), "another file"),
    "an external link to the layers": (link("layers", lambda _: h5py.ExternalLink(SECRET, "layers")), "another file"),
    "an external link in the optimizer": (
        add(lambda file: file.__setitem__("optimizer/vars/1", h5py.ExternalLink(SECRET, f"{CONV}/0"))),
        "another file",
    ),
    "a dangling external link": (link(f"{CONV}/0", lambda _: h5py.ExternalLink("none.h5", "x")), "another file"),
    "a soft link to an array": (link(f"{NORM}/0", lambda _: h5py.SoftLink(f"/{NORM}/1")), "soft link"),
    "a soft link to itself": (link(f"{NORM}/0", lambda _: h5py.SoftLink(f"/{NORM}/0")), "soft link"),
    "a hard link to another array": (link(f"{NORM}/0", lambda file: file[f"{NORM}/1"]), "second link"),
    "a hard link to another layer": (
        add(lambda file: file.__setitem__("layers/b", file["layers/conv2d"])),
        "second link",
    ),
    "a cycle": (add(lambda file: file.__setitem__("layers/conv2d/again", file["layers"])), "second link"),
    "a link to the root": (add(lambda file: file.__setitem__("layers/root", file["/"])), "second link"),
    "a virtual dataset": (virtual(SECRET), "virtual dataset"),
    "a virtual dataset of a pipe": (pipe_source, "virtual dataset"),
    "external storage": (replace(external=[(SECRET, 0, 432)]), "external storage"),
    "external storage of a device": (replace(external=[("/dev/zero", 0, 432)]), "external storage"),
    "checksums": (replace(chunks=True, fletcher32=True), "filters other than shuffle and gzip"),
    "another compression": (replace(chunks=True, compression="lzf"), "filters other than shuffle and gzip"),
    "chunks that were never written": (low_level(h5t.IEEE_F32LE, (2**40,), set_chunk=[(2**20,)]), "has 0 chunks"),
    "a chunk that is larger than the array": (
        replace(chunks=(2**10, 2**10, 2**6, 4), maxshape=(None,) * 4, data=None, shape=(3, 3, 3, 4)),
        "larger than the array",
    ),
    "a chunk that inflates to more than its values": (bomb(np.zeros(2**24, "uint8").tobytes()), "does not inflate"),
    "a chunk that inflates to less than its values": (bomb(b"1234"), "does not inflate"),
    "a chunk that is no gzip": (bomb(None), "damaged"),
    "a filter that is not installed": (
        low_level(h5t.IEEE_F32LE, (4,), set_chunk=[(4,)], set_filter=(31999, h5z.FLAG_OPTIONAL)),
        "filters other than shuffle and gzip",
    ),
    "an array that was never written": (low_level(h5t.IEEE_F32LE, (2**29,)), "claims 2,147,483,648 bytes, of which 0"),
    "a huge array that was never written": (low_level(h5t.IEEE_F64LE, (2**40, 2**20)), "of which 0"),
    "a compound": (replace(data=np.zeros(3, [("a", "f4"), ("b", "f4")]), dtype=None, shape=None), "plain numbers"),
    "strings": (replace(data=["a", "b"], dtype=None, shape=None), "plain numbers"),
    "fixed strings": (replace(data=np.array([b"abcd"]), dtype=None, shape=None), "plain numbers"),
    "an enumeration": (replace(data=np.array([True]), dtype=None, shape=None), "plain numbers"),
    "object references": (replace(dtype=h5py.ref_dtype, shape=(3,), data=None), "plain numbers"),
    "region references": (replace(dtype=h5py.regionref_dtype, shape=(3,), data=None), "plain numbers"),
    "sequences": (replace(dtype=h5py.vlen_dtype("float32"), shape=(3,), data=None), "plain numbers"),
    "small arrays as elements": (replace(dtype=np.dtype(("f4", (3,))), shape=(3,), data=None), "plain numbers"),
    "complex numbers": (replace(dtype="complex64"), "plain numbers"),
    "floats of another format": (low_level(odd_float(), (3, 3, 3, 4)), "plain numbers"),
    "opaque bytes": (replace(data=np.zeros(4, "V4"), dtype=None, shape=None), "plain numbers"),
    "opaque pairs of bytes": (replace(data=np.zeros(4, "V2"), dtype=None, shape=None), "plain numbers"),
    "integers": (replace(dtype="int32"), "int32, not floating-point"),
    "no data space": (edit(f"{CONV}/0", null), "no shape"),
    "a named type": (add(named_type), "neither a group nor an array"),
    "very deep groups": (add(deep), "nested more than"),
    "a long link name": (add(lambda file: file["layers"].create_group("x" * 60_000)), "60,000 characters"),
    "two layers of one name": (rename(NORM, "conv"), "two layers have the name conv"),
    "two layers of one name, one empty": (rename("layers/activation/vars", "conv"), "two layers have the name conv"),
    "a layer without a name": (
        add(lambda file: file[CONV].attrs.__delitem__("name")),
        "conv2d has no valid layer name",
    ),
    "an empty name": (rename(CONV, ""), "no valid layer name"),
    "a name with a slash": (rename(CONV, "a/b"), "no valid layer name"),
    "a long layer name": (rename(CONV, "n" * 50_000), "no valid layer name"),
    "a name that declares gigabytes": (declare(2**32 - 1), "no valid layer name"),
    "a name that declares more than there is": (declare(900), "damaged"),
    "a heap without an end": (endless_heap, "damaged"),
    "a block before the file": (user_block, "user block"),
    "a name that is a number": (rename(CONV, 7), "no valid layer name"),
    "a name that is an array": (rename(CONV, np.array([b"a", b"b"])), "no valid layer name"),
    "a huge fixed name": (rename(CONV, np.bytes_(b"a" * 60_000)), "no valid layer name"),
    "an empty attribute": (rename(CONV, h5py.Empty("S1")), "no valid layer name"),
    "a stray array at the root": (add(lambda file: file.create_dataset("x", data=[1.0])), "x belongs to no layer"),
    "a stray array of the model": (
        add(lambda file: file["vars"].create_dataset("0", data=[1.0])),
        "belongs to no layer",
    ),
    "a stray array among layers": (add(lambda file: file["layers"].create_dataset("0", data=[1.0])), "no layer"),
    "a stray array in a layer": (add(lambda file: file["layers/conv2d"].create_dataset("0", data=[1.0])), "no layer"),
    "a stray array in a new group": (add(lambda file: file.create_dataset("extra/vars/0", data=[1.0])), "no layer"),
    "a group of variables": (add(lambda file: file.create_group(f"{CONV}/1/vars")), "where only arrays belong"),
    "an array with a name instead of a number": (
        add(lambda file: file[CONV].create_dataset("kernel", data=[1.0])),
        "numbered from 0",
    ),
    "a gap in the numbers": (edit(f"{NORM}/1", lambda file: None), "not numbered from 0"),
    "no layers": (edit("layers", lambda file: None), "no layers"),
    "layers that are an array": (edit("layers", lambda file: file.create_dataset("layers", data=[1.0])), "no layer"),
    "much more than arrays": (lambda path: os.truncate(path, 2**26), "the file has 67,108,864 bytes"),
}


@pytest.mark.parametrize("fault", STRUCTURES)
def test_a_structure_that_keras_never_writes_raises_before_data_is_read(good, monkeypatch, fault):
    change, reason = STRUCTURES[fault]
    change(good)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("data was read"))
    with pytest.raises(ValueError, match=r"Expected .*good\.weights\.h5 to be a \.weights\.h5 file") as error:
        read_tensors(good)
    assert reason in str(error.value)
    assert len(str(error.value)) < 600


def test_more_objects_than_a_network_has_raise(good):
    def wide(file):
        group = file.create_group("layers/many")
        for i in range(2000):
            group[str(i)] = h5py.SoftLink("/")

    add(wide)(good)
    with pytest.raises(ValueError, match="more than 1,050 groups and arrays"), open_layers(good, limit=1050):
        pass


def test_messages_escape_control_characters_in_names(good):
    add(lambda file: file.create_dataset("\x1b[2J\nOK", data=[1.0]))(good)
    with pytest.raises(ValueError, match="belongs to no layer") as error:
        read_tensors(good)
    assert str(error.value).isprintable()
