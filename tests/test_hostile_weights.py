"""Weights files as untrusted input: whatever is wrong is a `ValueError` that names the file, before data is read."""

import contextlib
import os
import re
import socket
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t, h5z

from keras_resattn.pretrained.tensors import open_layers, read_tensors

pytestmark = pytest.mark.once

SECRET = "secret.weights.h5"
CONV, NORM = "layers/conv2d/vars", "layers/batch_normalization/vars"


def write_good(path):
    """A file as Keras writes it: a convolution and a batch normalisation, with an optimizer."""
    with h5py.File(path, "w") as file:
        for group, name, shapes in ((CONV, "conv", [(3, 3, 3, 4)]), (NORM, "bn", [(4,)] * 4)):
            file.create_group(group).attrs["name"] = name
            for i, shape in enumerate(shapes):
                file[group].create_dataset(str(i), data=np.ones(shape, "float32"))
        file.create_group("layers/activation/vars").attrs["name"] = "relu"
        file.create_group("optimizer/vars").create_dataset("0", data=np.int32(7))
        file.create_group("vars")


@pytest.fixture
def good(tmp_path):
    write_good(tmp_path / "good.weights.h5")
    write_good(tmp_path / SECRET)
    return tmp_path / "good.weights.h5"


def read_nothing(monkeypatch):
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("data was read"))


def test_a_good_file_is_read(good):
    read = read_tensors(good)
    assert sorted(read) == ["bn", "conv"]
    assert list(read["bn"]) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(read["conv"]["0"], np.ones((3, 3, 3, 4), "float32"))
    with open_layers(good) as layers:
        assert layers["conv"]["0"].shape == (3, 3, 3, 4)
        assert layers["conv"]["0"].dtype == "float32"


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_every_plain_float_is_read(good, dtype):
    replace(dtype=dtype)(good)
    np.testing.assert_array_equal(read_tensors(good)["conv"]["0"], np.full((3, 3, 3, 4), 0.5))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("chunks", [(3, 3, 3, 4), (2, 3, 1, 3), True])
@pytest.mark.parametrize("dtype", ["float16", ">f4"])
def test_shuffled_and_compressed_floats_are_read(good, dtype, chunks, compression, shuffle):
    values = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(dtype)
    shuffle = shuffle and compression is not None
    replace(dtype, data=values, chunks=chunks, compression=compression, shuffle=shuffle)(good)
    np.testing.assert_array_equal(read_tensors(good)["conv"]["0"], values)


def test_bfloat16_is_read_as_keras_writes_it(good):
    def change(file):
        bits = (np.float32([1.5, -2, 0, 3e38]).view("uint32") >> 16).astype("uint16")
        file[NORM].create_dataset("0", data=bits.view("V2"))
        file[NORM]["0"].attrs["dtype"] = "bfloat16"

    edit(f"{NORM}/0", change)(good)
    np.testing.assert_allclose(read_tensors(good)["bn"]["0"], [1.5, -2, 0, 3e38], rtol=0.01)


# --- What HDF5 can hold and Keras never writes ------------------------------------------------------


def edit(remove, change):
    """A function that removes `remove` from a file, and calls `change` with it."""

    def apply(path):
        with h5py.File(path, "r+") as file:
            if remove:
                del file[remove]
            change(file)

    return apply


def add(change):
    return edit(None, change)


def replace(dtype="float32", shape=(3, 3, 3, 4), **options):
    """Replaces the kernel by an array of another kind."""
    fill = {} if "data" in options or "external" in options else {"data": np.full(shape, 0.5).astype(dtype)}
    return edit(
        f"{CONV}/0", lambda file: file[CONV].create_dataset("0", **{"dtype": dtype, "shape": shape} | fill | options)
    )


def low_level(kind, shape, **settings):
    """Replaces the kernel by an array that nothing is written into, of a type of HDF5's own."""

    def change(file):
        created = h5p.create(h5p.DATASET_CREATE)
        for name, value in settings.items():
            getattr(created, name)(*value)
        h5d.create(file[CONV].id, b"0", kind, h5s.create_simple(shape), dcpl=created)

    return edit(f"{CONV}/0", change)


def bomb(content):
    """Replaces the kernel by one gzip chunk of other content, which is no gzip at all for `None`."""

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
    """Lets the name of the convolution declare another length than that of its text."""

    def change(path):
        rename(CONV, "n" * 203)(path)  # a length that nothing else in the file has
        old, new = (203).to_bytes(4, "little"), length.to_bytes(4, "little")
        content, count = re.subn(re.escape(old) + rb"(?!\0{4})", lambda _: new, path.read_bytes())  # not the text's own
        assert count == 1
        path.write_bytes(content)

    return change


def endless_heap(path):
    """Gives the first name in the heap no length, which HDF5 1.14 never gets past."""
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
    "a hard link to another array": (link(f"{NORM}/0", lambda file: file[f"{NORM}/1"]), "another name"),
    "a hard link to another layer": (add(lambda file: file.__setitem__("layers/b", file["layers/conv2d"])), "another"),
    "a cycle": (add(lambda file: file.__setitem__("layers/conv2d/again", file["layers"])), "another name"),
    "a link to the root": (add(lambda file: file.__setitem__("layers/root", file["/"])), "another name"),
    "a virtual dataset": (virtual(SECRET), "virtual dataset"),
    "a virtual dataset of a pipe": (pipe_source, "virtual dataset"),
    "external storage": (replace(external=[(SECRET, 0, 432)]), "external storage"),
    "external storage of a device": (replace(external=[("/dev/zero", 0, 432)]), "external storage"),
    "checksums": (replace(chunks=True, fletcher32=True), "other filters"),
    "another compression": (replace(chunks=True, compression="lzf"), "other filters"),
    "chunks that were never written": (low_level(h5t.IEEE_F32LE, (2**40,), set_chunk=[(2**20,)]), "has 0 chunks"),
    "a chunk that is larger than the array": (
        replace(chunks=(2**10, 2**10, 2**6, 4), maxshape=(None,) * 4, data=None, shape=(3, 3, 3, 4)),
        "larger than itself",
    ),
    "a chunk that inflates to more than its values": (bomb(np.zeros(2**24, "uint8").tobytes()), "does not inflate"),
    "a chunk that inflates to less than its values": (bomb(b"1234"), "does not inflate"),
    "a chunk that is no gzip": (bomb(None), "damaged"),
    "a filter that is not there": (
        low_level(h5t.IEEE_F32LE, (4,), set_chunk=[(4,)], set_filter=(31999, h5z.FLAG_OPTIONAL)),
        "other filters",
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
    "a block before the file": (user_block, "begins with other data"),
    "a name that is a number": (rename(CONV, 7), "no valid layer name"),
    "a name that is many": (rename(CONV, np.array([b"a", b"b"])), "no valid layer name"),
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
    "an array that is no number": (
        add(lambda file: file[CONV].create_dataset("kernel", data=[1.0])),
        "numbered from 0",
    ),
    "a gap in the numbers": (edit(f"{NORM}/1", lambda file: None), "not numbered from 0"),
    "no layers": (edit("layers", lambda file: None), "no layers"),
    "layers that are an array": (edit("layers", lambda file: file.create_dataset("layers", data=[1.0])), "no layer"),
    "much besides arrays": (lambda path: os.truncate(path, 2**26), "the file has 67,108,864 bytes"),
}


@pytest.mark.parametrize("fault", STRUCTURES)
def test_what_keras_never_writes_is_refused_before_data_is_read(good, monkeypatch, fault):
    change, reason = STRUCTURES[fault]
    change(good)
    read_nothing(monkeypatch)
    with pytest.raises(ValueError, match=r"Expected .*good\.weights\.h5 to be a \.weights\.h5 file") as error:
        read_tensors(good)
    assert reason in str(error.value)
    assert len(str(error.value)) < 600


def test_more_objects_than_a_network_has_are_refused(good):
    def wide(file):
        group = file.create_group("layers/many")
        for i in range(2000):
            group[str(i)] = h5py.SoftLink("/")

    add(wide)(good)
    with pytest.raises(ValueError, match="more than 1,050 groups and arrays"), open_layers(good, most=1050):
        pass


def test_names_cannot_write_to_the_terminal(good):
    add(lambda file: file.create_dataset("\x1b[2J\nOK", data=[1.0]))(good)
    with pytest.raises(ValueError, match="belongs to no layer") as error:
        read_tensors(good)
    assert str(error.value).isprintable()


# --- What is no HDF5 file at all --------------------------------------------------------------------


def truncate(share):
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")


def other(make):
    def change(path):
        path.unlink()
        make(path)

    return change


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            server.bind(path.name)
        finally:
            os.chdir(folder)


FILES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("no weights"), "damaged"),
    "a web page": (lambda path: path.write_text("<!doctype html>" * 100), "damaged"),
    "a .keras file": (zipped, r"zip archive.*load_model"),
    "a pointer of Git LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
    "a signature alone": (lambda path: path.write_bytes(path.read_bytes()[:8]), "damaged"),
    "the first tenth": (truncate(0.1), "damaged"),
    "half a file": (truncate(0.5), "damaged"),
    "all but a byte": (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged"),
    "a folder": (other(os.mkdir), "it is a folder"),
    "a named pipe": (other(os.mkfifo), "it is a named pipe"),
    "a socket": (other(bound_socket), "it is a socket"),
    "a device": (other(lambda path: path.symlink_to("/dev/zero")), "it is a device"),
    "nothing": (other(lambda path: None), "No such file"),
    "a link to itself": (other(lambda path: path.symlink_to(path.name)), "symbolic links"),
}


@pytest.mark.parametrize("fault", FILES)
def test_what_is_no_weights_file_is_refused(good, fault):
    change, reason = FILES[fault]
    change(good)
    with pytest.raises(ValueError, match=rf"good\.weights\.h5.*{reason}"):
        read_tensors(good)


def test_a_file_that_may_not_be_read_is_refused(good, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the tests may run as root, who may read everything
    with pytest.raises(ValueError, match=r"good\.weights\.h5 to be a readable file.*Permission denied"):
        read_tensors(good)


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bytes_are_a_value_error_or_other_numbers(good, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(good.read_bytes())
    for position in rng.integers(0, len(content), 20):
        content[position] ^= int(rng.integers(1, 256))
    good.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert {array.dtype.kind for own in read_tensors(good).values() for array in own.values()} <= {"f"}
