"""Reading weights files: valid ones in every storage format, and files that are damaged or of another kind."""

import contextlib
import os
import socket
import zipfile

import numpy as np
import pytest
from weights_files import NORM, edit, replace, write_good

from keras_resattn.pretrained.tensors import open_layers, read_tensors

pytestmark = pytest.mark.once


@pytest.fixture
def good(tmp_path):
    """Path of a valid weights file."""
    write_good(tmp_path / "good.weights.h5")
    return tmp_path / "good.weights.h5"


# --- Valid files ---------------------------------------------------------------------------------


def test_a_valid_file_is_read(good):
    read = read_tensors(good)
    assert sorted(read) == ["bn", "conv"]
    assert list(read["bn"]) == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(read["conv"]["0"], np.ones((3, 3, 3, 4), "float32"))
    with open_layers(good) as layers:
        assert layers["conv"]["0"].shape == (3, 3, 3, 4)
        assert layers["conv"]["0"].dtype == "float32"


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"])
def test_all_float_types_are_read(good, dtype):
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


# --- Invalid files -------------------------------------------------------------------------------


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
        os.chdir(path.parent)  # socket paths are limited in length
        try:
            server.bind(path.name)
        finally:
            os.chdir(folder)


FILES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("no weights"), "damaged"),
    "a web page": (lambda path: path.write_text("<!doctype html>" * 100), "damaged"),
    "a .keras file": (zipped, r"zip archive.*load_model"),
    "a Git LFS pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
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
def test_a_file_of_another_kind_raises(good, fault):
    change, reason = FILES[fault]
    change(good)
    with pytest.raises(ValueError, match=rf"good\.weights\.h5.*{reason}"):
        read_tensors(good)


def test_a_file_without_read_permission_raises(good, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the tests may run as root, which can read every file
    with pytest.raises(ValueError, match=r"good\.weights\.h5 to be a readable file.*Permission denied"):
        read_tensors(good)


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bytes_raise_or_give_other_numbers(good, seed):
    rng = np.random.default_rng(seed)
    content = bytearray(good.read_bytes())
    for position in rng.integers(0, len(content), 20):
        content[position] ^= int(rng.integers(1, 256))
    good.write_bytes(content)
    with contextlib.suppress(ValueError):
        assert {array.dtype.kind for own in read_tensors(good).values() for array in own.values()} <= {"f"}
