"""What happens to training pictures, drawn for each of them."""

import numpy as np
import pytest

from keras_resattn.data import TrainingBatches, arrays, augmentation
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)


def test_crops_are_drawn_per_picture_from_the_zero_padded_one():
    x = RNG.integers(1, 256, (64, 8, 8, 3), dtype="uint8")
    cropped = augmentation.random_crop(x, 2, np.random.default_rng(0))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = set()
    for one, source in zip(cropped, padded, strict=True):
        fits = [(i, j) for i in range(5) for j in range(5) if np.array_equal(one, source[i : i + 8, j : j + 8])]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) > 12, "64 draws from 25 places"
    assert augmentation.random_crop(x, 0, None) is x


def test_half_of_the_pictures_are_mirrored():
    x = RNG.integers(0, 256, (400, 4, 4, 3), dtype="uint8")
    flipped = augmentation.random_flip(x, np.random.default_rng(0))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, x, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, x, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 160 < sum(mirrored) < 240


def test_crops_from_the_reflected_picture_have_no_black_border():
    x = RNG.integers(1, 256, (64, 8, 8, 3), dtype="uint8")
    cropped = augmentation.random_crop(x, 4, np.random.default_rng(0), "reflect")
    padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)), "reflect")
    assert cropped.min() > 0
    for one, source in zip(cropped, padded, strict=True):
        assert any(np.array_equal(one, source[i : i + 8, j : j + 8]) for i in range(9) for j in range(9))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_blanks_a_square_around_any_pixel(size):
    x = np.ones((500, 8, 8, 3), "float32")
    blank = augmentation.cutout(x, size, np.random.default_rng(0)) == 0
    assert (blank.all(-1) == blank.any(-1)).all(), "all channels alike"
    rows, columns = blank[..., 0].any(2), blank[..., 0].any(1)
    assert (blank[..., 0] == rows[:, :, None] & columns[:, None, :]).all(), "a rectangle"
    for sides in (rows.sum(1), columns.sum(1)):
        assert sides.max() == size
        assert sides.min() == size - size // 2, "where half of it reaches over the edge"
    assert augmentation.cutout(x, 0, None) is x


def one_hot(n, classes=4):
    return np.eye(classes, dtype="float32")[np.arange(n) % classes]


def test_mixup_averages_pictures_and_labels_by_the_same_shares():
    y = one_hot(64)
    x = np.broadcast_to(y[:, None, None, :], (64, 5, 5, 4)).astype("float32")
    mixed, labels = augmentation.mixup(x, y, 0.4, np.random.default_rng(0))
    np.testing.assert_allclose(mixed, np.broadcast_to(labels[:, None, None, :], mixed.shape), atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), np.ones(64), atol=1e-6)
    shares = labels[np.arange(64), np.arange(64) % 4]
    assert len(np.unique(shares.round(4))) > 32, "a share for each picture"
    assert (mixed.dtype, labels.dtype) == (np.float32, np.float32)


def test_cutmix_labels_are_the_areas():
    y = one_hot(64)
    x = np.broadcast_to(y[:, None, None, :], (64, 10, 10, 4)).astype("float32")
    mixed, labels = augmentation.cutmix(x, y, 1.0, np.random.default_rng(0))
    assert set(np.unique(mixed)) == {0.0, 1.0}, "pixels come from one picture or the other"
    np.testing.assert_allclose(labels, mixed.mean((1, 2)), atol=1e-6)
    assert np.mean(labels[np.arange(64), np.arange(64) % 4] < 0.99) > 0.2, "most are mixed"


def test_each_batch_gets_one_of_two_mixes_and_depends_on_its_place_alone():
    x = RNG.integers(0, 256, (32, 8, 8, 3), dtype="uint8")
    recipe = get_recipe("cifar_one_cycle").replace(epochs=4, batch_size=8, mixup=1.0, cutmix=1.0, cutout=2)
    streams = [TrainingBatches(x, np.arange(32) % 3, recipe, lambda x: np.float32(x), classes=3) for _ in range(2)]
    for i in (5, 2):
        for a, b in zip(streams[0][i], streams[1][i], strict=True):
            np.testing.assert_array_equal(a, b)
    assert streams[0][0][1].shape == (8, 3)


def test_smoothing_spreads_a_share_over_all_classes():
    np.testing.assert_allclose(
        arrays.smoothed(np.array([2, 0]), 4, 0.2), [[0.05, 0.05, 0.85, 0.05], [0.85] + [0.05] * 3]
    )


@pytest.mark.parametrize("normalization", ["channel", "pixel_mean", "unit"])
def test_normalizations(normalization):
    x = RNG.integers(0, 256, (50, 6, 6, 3), dtype="uint8")
    mean, std = arrays.statistics(x, normalization)
    normalized = arrays.normalize(x, mean, std)
    expected = {
        "channel": (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)),
        "pixel_mean": x - x.mean(0),
        "unit": x / 255,
    }[normalization]
    np.testing.assert_allclose(normalized, expected, atol=1e-4)
    assert normalized.dtype == np.float32
