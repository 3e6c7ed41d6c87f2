"""Data files that are damaged, hostile or of another kind: one error that names the file, quickly, and no memory."""

import contextlib
import io
import json
import os
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from sample_images import X, Y, write_folder

from keras_resattn.cli.training_arguments import change_recipe
from keras_resattn.data import ArrayDataset, channel_statistics, load_npz, mnist_splits, open_dataset
from keras_resattn.data.images import as_images
from keras_resattn.data.normalization import array_statistics, normalize
from keras_resattn.recipes import Recipe, get_recipe
from keras_resattn.utils.npz import read_npz

pytestmark = pytest.mark.once


def npz(compressed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape, dtype="|u1"):
    """An `.npy` file that ends after its header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, data in members:
            written.writestr(name, data)
    return file.getvalue()


def claiming(size):
    """An archive whose directory and headers both claim `size` bytes of zeros; there are a thousand."""
    data = bytearray(archive([("x_train.npy", header((size,)) + bytes(1000)), ("y_train.npy", npy(Y))], 8))
    true, claimed = (struct.pack("<I", len(header((size,))) + n) for n in (1000, size))
    return bytes(data.replace(true, claimed))


GOOD = npz(x_train=X, y_train=Y)
# name: (content, what the message says beside the name of the file)
BAD_FILES = {
    "empty": (b"", "cannot be read"),
    "text": (b"x_train, y_train\n", "not a zip file"),
    "npy": (npy(X), "not a zip file"),
    "truncated": (GOOD[: len(GOOD) // 2], "not a zip file"),
    "a flipped bit": (GOOD[:5000] + bytes([GOOD[5000] ^ 1]) + GOOD[5001:], "CRC"),
    "a flipped last bit": (GOOD.replace(X.tobytes()[-9:], X.tobytes()[-9:-1] + bytes([X.flat[-1] ^ 1])), "CRC"),
    "a large header": (
        archive([("x_train.npy", header((10**12,)))]),
        r"x_train claims shape \(1000000000000,\)",
    ),
    "a large header of rows": (archive([("x_train.npy", header((10**6, 10**3, 10**3, 3)))]), "claims shape"),
    "many dimensions": (archive([("x_train.npy", header((10**9,) * 9))]), "claims shape"),
    "a negative header": (
        archive([("x_train.npy", header((-1, -1)) + b"0"), ("y_train.npy", npy(Y))]),
        "cannot be read",
    ),
    "a large claim": (claiming(4 * 10**9), "its arrays claim to be larger than it can hold"),
    "a claim that compression allows": (claiming(60_000), "x_train ends after|CRC|Error -3|cannot be read"),
    "objects": (npz(x_train=np.array([X, None], object), y_train=Y), "x_train holds Python objects"),
    "no array": (archive([("x_train.npy", b"hello"), ("y_train.npy", npy(Y))]), "cannot be read"),
    "other names": (npz(images=X, labels=Y), "Expected x_train and y_train in .*; received: images, labels"),
    "one name": (npz(x_train=X), "Expected x_train and y_train in .*; received: x_train"),
    "no names": (archive([]), "received: nothing"),
    "positional": (npz(arr_0=X, arr_1=Y), "received: arr_0, arr_1"),
    "NaN labels": (npz(x_train=X, y_train=np.where(Y > 1, np.nan, Y)), "one integer label for each .* float64"),
    "float labels": (npz(x_train=X, y_train=Y / 2), "one integer label for each .* float64"),
    "negative labels": (npz(x_train=X, y_train=Y - 1), "labels of at least 0; received: -1"),
    "named labels": (npz(x_train=X, y_train=np.array(["cat"] * 22)), "one integer label for each"),
    "lengths": (npz(x_train=X, y_train=Y[:5]), "each of 22 images"),
    "one label": (npz(x_train=X, y_train=np.int64(3)), "each of 22 images"),
    "floats to 1": (npz(x_train=X / 255, y_train=Y), "multiply by 255"),
    "NaN": (npz(x_train=np.where(X > 9, X, np.nan), y_train=Y), "Remove NaN"),
    "structured": (npz(x_train=np.zeros(22, [("r", "u1")]), y_train=Y), "received: shape"),
    "text for images": (npz(x_train=np.array(["cat.png"] * 22), y_train=Y), "received: shape"),
    "no images": (npz(x_train=X[:0], y_train=Y[:0]), "received: shape"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named(kind, tmp_path):
    content, message = BAD_FILES[kind]
    path = tmp_path / "bad data.npz"
    path.write_bytes(content)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        open_dataset(path)
    assert time.perf_counter() - started < 1
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert "bad data.npz" in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_any_damage_is_told_or_changes_nothing(compressed, tmp_path):
    data, rng = npz(compressed, x_train=X, y_train=Y), np.random.default_rng(0)
    path = tmp_path / "data.npz"
    for _ in range(150):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken[: None if rng.random() < 0.7 else rng.integers(len(data))])
        try:
            dataset = open_dataset(path)
        except ValueError as error:
            told = str(error)
        else:
            np.testing.assert_array_equal(dataset.x, X)
            np.testing.assert_array_equal(dataset.labels, Y)
            told = "data.npz"
        assert "data.npz" in told


def test_what_numpy_writes_is_read(tmp_path):
    arrays = {
        "x_train": np.asfortranarray(X),
        "y_train": Y.astype(">i4"),
        "x_test": X[::-1, ::2].astype("float16"),
        "empty": np.empty((0, 3)),
        "scalar": np.float32(2),
        "text": np.array(["a", "bcd"]),
    }
    for compressed in (False, True):
        (tmp_path / "it.npz").write_bytes(npz(compressed, **arrays))
        read, found = read_npz(tmp_path / "it.npz")
        assert found == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert (read[name].dtype, read[name].flags.writeable) == (array.dtype, True)
    assert list(load_npz(tmp_path / "it.npz")) == ["x_train", "y_train", "x_test"]
    assert len(open_dataset(tmp_path / "it.npz")) == 22


def test_other_splits_are_not_read(tmp_path):
    (tmp_path / "it.npz").write_bytes(npz(x_train=X, y_train=Y, x_test=np.array([None]), y_test=Y))
    assert len(open_dataset(tmp_path / "it.npz")) == 22


def test_two_arrays_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive([("x_train.npy", npy(X)), ("x_train.npy", npy(255 - X)), ("y_train.npy", npy(Y))])
    (tmp_path / "it.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"it\.npz .*two arrays have the same name"):
        open_dataset(tmp_path / "it.npz")


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("folder.npz", "pipe.npz"):
        for read in (open_dataset, load_npz, lambda path: mnist_splits(str(path))):
            with pytest.raises(ValueError, match=name):
                read(tmp_path / name)


# --- Masked arrays and their siblings ----------------------------------------------------------------

MASKED = np.ma.masked_array(X, X > 200)


@pytest.mark.parametrize(
    "read",
    [
        lambda: open_dataset((MASKED, Y)),
        lambda: open_dataset((X, np.ma.masked_array(Y, Y > 2))),
        lambda: open_dataset([(image, 0) for image in MASKED]),
        lambda: channel_statistics(MASKED),
        lambda: array_statistics(MASKED, "pixel_mean"),
        lambda: normalize(MASKED, [0] * 3, [1] * 3),
        lambda: as_images(MASKED),
        lambda: ArrayDataset(X, Y).relabelled(np.ma.masked_array(Y, Y > 2)),
    ],
)
def test_masked_values_are_refused(read):
    with pytest.raises(ValueError, match="without masked values"):
        read()


def test_a_mask_that_masks_nothing_changes_nothing():
    dataset = open_dataset((np.ma.masked_array(X, False), Y))
    assert type(dataset.x) is np.ndarray
    assert dataset.statistics("channel") == open_dataset((X, Y)).statistics("channel")


def test_arrays_of_any_layout_give_the_same_statistics():
    read_only = X.copy()
    read_only.flags.writeable = False
    wide = np.zeros((22, 16, 32, 3), "uint8")
    wide[:, :, ::2] = X
    labels = np.stack([Y, Y], 1)[:, 0]
    expected = ArrayDataset(X, Y)
    for x in (read_only, wide[:, :, ::2], np.asfortranarray(X), X[::-1][::-1], X.astype("int64"), X.astype(">i2")):
        dataset = ArrayDataset(x, labels)
        assert dataset.statistics("channel") == expected.statistics("channel")
        assert dataset.fingerprint() == expected.fingerprint()
        np.testing.assert_array_equal(dataset.read([3], (8, 8)), expected.read([3], (8, 8)))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([X[0], X[0][:4]], [0, 1], "items of different shapes"),
        (X, [[0], [1, 2], *[0] * 20], "items of different shapes"),
        (X, np.array([2**63, *Y[1:]], "uint64"), "labels that fit into int64; received: 9223372036854775808"),
        (X.astype(object), Y, "received: shape .* object"),
    ],
)
def test_other_arrays_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(x, y)


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"without cycles; received: .*a/again.* leads back to one of its parents"):
        open_dataset(tmp_path)


# --- Recipes in files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '"cifar_one_cycle"',
        "3",
        '{"name": "it"',
        "{}",
        '{"name": 1}',
        "[" * 100_000,
        "\ufeff{}",
        "NaN",
    ],
    ids=["empty", "list", "null", "string", "number", "truncated", "no fields", "one", "nested", "BOM", "NaN"],
)
def test_a_file_without_a_recipe_is_named(text, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"recipe\.json"):
        change_recipe(str(path), [])


def test_a_recipe_file_of_other_bytes_is_named(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xff\xfe\0{")
    with pytest.raises(ValueError, match=r"recipe\.json"):
        change_recipe(str(path), [])


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e999, True, [[]], {"": None}, 10**400])
def test_a_wrong_field_of_a_recipe_is_a_value_error(value):
    fields = json.loads(get_recipe("cifar_one_cycle").to_json())
    for field in fields:
        with contextlib.suppress(ValueError):  # some values are right for some fields
            Recipe.from_json(json.dumps({**fields, field: value}))
