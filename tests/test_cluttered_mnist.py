"""Cluttered Translated MNIST: the images, against a plain reading of their rules, and the sets of digits."""

import importlib
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_resattn.data import cluttered_mnist, mnist_splits

pytestmark = pytest.mark.once

# --- Images ------------------------------------------------------------------------------------


def noise_digits(n=7, side=28, low=0, high=256, seed=0):
    """Digits of noise, and their labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(low, high, (n, side, side), dtype="uint8"), rng.integers(0, 10, n)


def plain_reading(digits, labels, count, distractors, seed, size=40, window=8):
    """One image, one distractor, one rule after the other, in [0, 1]; only the random streams are shared."""
    side = digits.shape[1]
    values = digits.astype("float64") / digits.max()
    orders, places, clutter = np.random.default_rng(seed).spawn(3)
    rows, x = [], np.zeros((count, size, size))
    for canvas in x:
        if not rows:
            rows = orders.permutation(len(digits)).tolist()
        for _ in range(distractors):
            dataset = clutter.integers(len(digits))
            top, left = (clutter.integers(side - window + 1) for _ in range(2))
            row, column = (clutter.integers(size - window + 1) for _ in range(2))
            canvas[row : row + window, column : column + window] += values[dataset][
                top : top + window, left : left + window
            ]
        canvas[:] = np.minimum(canvas, 1)
        row, column = (places.integers(size - side + 1) for _ in range(2))
        canvas[row : row + side, column : column + side] += values[rows.pop(0)]
        canvas[:] = np.clip(canvas, 0, 1)
    return np.floor(255 * x + 1e-9).astype("uint8")[..., None]


@pytest.mark.parametrize("white", [255, 100])
@pytest.mark.parametrize("distractors", [0, 1, 8])
def test_images_follow_the_rules(distractors, white):
    digits, labels = noise_digits(high=white // 2)
    digits[3, 5, 6] = white
    x, y = cluttered_mnist(digits, labels, 20, distractors, seed=5)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((20, 40, 40, 1), np.uint8, (20,), np.int64)
    np.testing.assert_array_equal(x, plain_reading(digits, labels, 20, distractors, seed=5))


def test_images_of_other_sizes():
    digits, labels = noise_digits(side=6)
    x, _ = cluttered_mnist(digits[..., None], labels[:, None], 20, 3, size=11, distractor_size=6)
    np.testing.assert_array_equal(x, plain_reading(digits, labels, 20, 3, seed=0, size=11, window=6))


def test_digits_are_drawn_without_replacement_and_reshuffled_for_each_pass():
    digits = np.full((50, 28, 28), np.arange(201, 251, dtype="uint8")[:, None, None])
    labels = np.arange(50) % 10
    digits[0] = 255
    x, y = cluttered_mnist(digits, labels, 120, distractors=0)
    drawn = [int(np.flatnonzero(digits[:, 0, 0] == image.max())[0]) for image in x]
    assert sorted(drawn[:50]) == sorted(drawn[50:100]) == list(range(50))
    assert len(set(drawn[100:])) == 20
    assert drawn[:50] != drawn[50:100] != list(range(50))
    np.testing.assert_array_equal(y, labels[drawn])


def test_digits_lie_anywhere_on_the_canvas():
    x, _ = cluttered_mnist(*noise_digits(low=1), 2000, distractors=0)
    rows, columns = ((x[..., 0] > 0).any(axis=axis).argmax(axis=1) for axis in (2, 1))
    for places in (rows, columns):
        counts = np.bincount(places, minlength=13)
        assert len(counts) == 13
        assert np.abs(counts - 2000 / 13).max() < 5 * np.sqrt(2000 / 13)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.1
    assert (np.count_nonzero(x, axis=(1, 2, 3)) == 28 * 28).all()


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_distractors_are_cut_and_pasted_anywhere(transposed):
    ramp = np.broadcast_to(np.arange(20, 260, 20, dtype="uint8")[:, None], (12, 12))  # a pixel tells its row
    digits, labels = (ramp.T if transposed else ramp)[None], [0]
    with_one, without = (cluttered_mnist(digits, labels, 4000, n, distractor_size=4)[0][..., 0] for n in (1, 0))
    beside = ((with_one > 0) & (without == 0)).sum(axis=(1, 2)) == 16  # the distractor touches no digit
    window = np.where(without > 0, 0, with_one)[beside]
    if transposed:
        window = window.transpose(0, 2, 1)
    top = window.any(axis=2).argmax(axis=1)
    cut = np.round(window.max(axis=(1, 2)) / 255 * 12).astype(int) - 4  # its last row, less three
    assert beside.sum() > 1000
    assert (set(top), set(cut)) == (set(range(37)), set(range(9)))
    expected = len(cut) / 9
    assert np.abs(np.bincount(cut) - expected).max() < 5 * np.sqrt(expected)


def test_sums_are_clipped_to_white():
    digits = np.full((2, 28, 28), 200, "uint8")
    x, _ = cluttered_mnist(digits, [0, 1], 10, distractors=300)
    assert set(np.unique(x)) <= {0, 255}
    assert (x[:, 8:32, 8:32] == 255).all()


def test_black_digits_give_black_images():
    x, _ = cluttered_mnist(np.zeros((1, 28, 28), "uint8"), [4], 2)
    assert not x.any()


def test_a_seed_fixes_the_images_whatever_their_number(monkeypatch):
    digits, labels = noise_digits()
    x, y = cluttered_mnist(digits, labels, 30, seed=1)
    monkeypatch.setattr(importlib.import_module("keras_resattn.data.cluttered_mnist"), "CHUNK", 4)
    for count in (30, 11):
        again = cluttered_mnist(digits, labels, count, seed=1)
        np.testing.assert_array_equal(again[0], x[:count])
        np.testing.assert_array_equal(again[1], y[:count])
    assert not np.array_equal(cluttered_mnist(digits, labels, 30, seed=2)[0], x)


def test_distractors_do_not_move_the_digits():
    digits, labels = noise_digits()
    (with_some, y), (without, same) = (cluttered_mnist(digits, labels, 30, n) for n in (8, 0))
    np.testing.assert_array_equal(y, same)
    assert (with_some >= without).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"digits": np.zeros((7, 28, 28))}, r"uint8 array .*; received: shape \(7, 28, 28\), float64"),
        ({"digits": np.zeros((7, 28, 28, 3), "uint8")}, r"received: shape \(7, 28, 28, 3\)"),
        ({"digits": np.zeros((7, 28, 20), "uint8")}, r"received: shape \(7, 28, 20\)"),
        ({"digits": np.zeros((0, 28, 28), "uint8")}, r"received: shape \(0, 28, 28\)"),
        ({"labels": [1, 2]}, r"one integer label for each of 7 images; received: shape \(2,\)"),
        ({"labels": [10] * 7}, "labels from 0 to 9; received: labels from 10 to 10"),
        ({"count": 0}, "count to be an integer of at least 1; received: count=0"),
        ({"distractors": -1}, "received: distractors=-1"),
        ({"seed": -1}, "received: seed=-1"),
        ({"size": 27}, "size to be an integer of at least 28; received: size=27"),
        ({"distractor_size": 0}, "received: distractor_size=0"),
        ({"distractor_size": 29}, "distractor_size of at most 28; received: distractor_size=29"),
    ],
)
def test_arguments_of_the_generator(arguments, message):
    digits, labels = noise_digits()
    with pytest.raises(ValueError, match=message):
        cluttered_mnist(**{"digits": digits, "labels": labels, "count": 3, **arguments})


# --- The three sets of digits --------------------------------------------------------------------


@pytest.fixture
def mnist():
    """Twelve training digits and three test digits, as `.npz` files name them."""
    (x_train, y_train), (x_test, y_test) = noise_digits(12), noise_digits(3, seed=1)
    return {"x_train": x_train, "y_train": y_train.astype("uint8"), "x_test": x_test, "y_test": y_test.astype("uint8")}


def assert_splits(splits, mnist):
    """The last five training digits are the validation set."""
    expected = {
        "train": (mnist["x_train"][:7], mnist["y_train"][:7]),
        "validation": (mnist["x_train"][7:], mnist["y_train"][7:]),
        "test": (mnist["x_test"], mnist["y_test"]),
    }
    assert list(splits) == list(expected)
    for name, (x, y) in splits.items():
        np.testing.assert_array_equal(x, expected[name][0])
        np.testing.assert_array_equal(y, expected[name][1])
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)


def test_splits_of_arrays(mnist):
    assert_splits(mnist_splits(mnist, validation=5), mnist)
    assert_splits(mnist_splits({**mnist, "x_test": mnist["x_test"][..., None]}, validation=5), mnist)


def test_splits_of_a_file(mnist, tmp_path):
    np.savez(tmp_path / "mnist.npz", **mnist)
    for path in (tmp_path / "mnist.npz", str(tmp_path / "mnist.npz")):
        assert_splits(mnist_splits(path, validation=5), mnist)


def test_splits_of_keras(mnist, monkeypatch):
    loaded = (mnist["x_train"], mnist["y_train"]), (mnist["x_test"], mnist["y_test"])
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: loaded)
    assert_splits(mnist_splits(validation=5), mnist)


def test_splits_of_tensorflow_datasets(mnist, monkeypatch):
    def data_source(name, split):
        assert name == "mnist"
        pairs = zip(mnist[f"x_{split}"][..., None], mnist[f"y_{split}"], strict=True)
        return [{"image": image, "label": int(label)} for image, label in pairs]

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", SimpleNamespace(data_source=data_source))
    assert_splits(mnist_splits("tfds", validation=5), mnist)


def test_tensorflow_datasets_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-resattn\[data\]'"):
        mnist_splits("tfds")


def test_default_splits_are_those_of_the_paper():
    digits, labels = np.zeros((60_000, 1, 1), "uint8"), np.zeros(60_000, int)
    arrays = {"x_train": digits, "y_train": labels, "x_test": digits[:10_000], "y_test": labels[:10_000]}
    assert [len(x) for x, _ in mnist_splits(arrays).values()] == [50_000, 10_000, 10_000]


def test_arguments_of_the_splits(mnist, tmp_path):
    with pytest.raises(ValueError, match="received: an object of type int"):
        mnist_splits(3)
    with pytest.raises(FileNotFoundError):
        mnist_splits(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="Expected x_train, y_train, x_test, y_test; received: x_train, y_train"):
        mnist_splits({name: mnist[name] for name in ("x_train", "y_train")})
    with pytest.raises(ValueError, match="less than the 12 training digits; received: validation=12"):
        mnist_splits(mnist, validation=12)
    with pytest.raises(ValueError, match="received: validation=0"):
        mnist_splits(mnist, validation=0)
