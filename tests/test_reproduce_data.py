"""Data of the papers' tables: complete datasets, subsets for scaled-down runs, and Cluttered MNIST."""

import numpy as np
import pytest
from helpers import random_array
from PIL import Image

from keras_resattn.data import ArrayDataset, ImageFolder
from keras_resattn.reproduce.datasets import open_splits, subsample

pytestmark = pytest.mark.once


def test_data_with_another_number_of_classes_raise(tmp_path):
    x, y = np.zeros((20, 8, 8, 3), "uint8"), np.arange(20) % 10
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(
        ValueError, match=r"Expected the 100 classes of cifar100 in .*; received: training labels of 10"
    ):
        open_splits("cifar100", tmp_path / "data.npz", 1, 1)


def test_class_folders_without_splits_raise(tmp_path):
    for name in map(str, range(10)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"Expected folders train and test in .*; received: class folders only"):
        open_splits("cifar10", tmp_path, 1, 1)


def test_a_subsample_is_fixed_and_covers_all_classes(tmp_path):
    x, y = random_array(1000, 1, 1, 3) ** 2 + 1, np.repeat(np.arange(10), 100)
    part = subsample(ArrayDataset(x.clip(0, 255), y), 0.1, 1)
    assert len(part) == 100
    assert len(np.unique(part.labels)) == 10, "labels are sorted, so the first tenth is one class"
    assert np.array_equal(part.x, subsample(ArrayDataset(x.clip(0, 255), y), 0.1, 1).x)
    assert len(subsample(part, 0.01, 64)) == 64


@pytest.mark.parametrize(("images", "tested"), [(1000, 10), (10, 10), (7, 7)])
def test_a_scaled_down_run_has_at_least_ten_test_images_if_there_are_as_many(images, tested, tmp_path):
    x, y = np.zeros((1000, 2, 2, 3), "uint8"), np.arange(1000) % 10
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:images], y_test=y[:images])
    splits = open_splits("cifar10", tmp_path / "data.npz", 0.001, 64)
    assert (len(splits.train), len(splits.tests["error"])) == (64, tested)


def test_a_subset_of_a_folder_reads_the_same_images(tmp_path):
    for name, value in (("ant", 10), ("bee", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 4), (value + i, 0, 0)).save(tmp_path / name / f"{i}.png")
    dataset = ImageFolder(tmp_path)
    part = dataset.subset(np.array([4, 1]))
    assert part.labels.tolist() == [1, 0]
    assert np.array_equal(part.read([0, 1]), dataset.read([4, 1]))
    assert part.fingerprint() != dataset.fingerprint()


def test_cluttered_mnist_is_composed_from_mnist(tmp_path):
    rng = np.random.default_rng(0)
    digits, labels = rng.integers(0, 256, (10_010, 28, 28), dtype="uint8"), np.arange(10_010) % 10
    arrays = {"x_train": digits, "y_train": labels, "x_test": digits[:50], "y_test": labels[:50]}
    np.savez(tmp_path / "mnist.npz", **arrays)
    splits = open_splits("cluttered_mnist", str(tmp_path / "mnist.npz"), 0.0005, 10)
    assert splits.train.x.shape == (100, 40, 40, 1)
    assert list(splits.tests) == ["error", "error_4", "error_16", "error_32", "error_64"]
    assert all(len(dataset) == 50 for dataset in splits.tests.values())
    assert splits.tests["error_64"].x.mean() > splits.tests["error"].x.mean()
