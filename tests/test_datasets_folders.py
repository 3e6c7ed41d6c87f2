"""Data by index: a folder for each class."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sample_images import RNG, X, Y, by_class, encoded, write_folder

from keras_resattn.data import ImageFolder, open_dataset

pytestmark = pytest.mark.once


def test_folder(image_folder):
    (image_folder / "b" / "deeper").mkdir()
    last = max((image_folder / "b").glob("*.png"))
    last.rename(image_folder / "b" / "deeper" / last.with_suffix(".PNG").name)
    (image_folder / "a" / "notes.txt").write_text("no image")
    (image_folder / ".hidden").mkdir()
    dataset = open_dataset(str(image_folder))
    x, y = by_class()
    assert isinstance(dataset, ImageFolder)
    assert (dataset.class_names, dataset.classes, dataset.image_shape) == (list("abcd"), 4, (16, 16, 3))
    np.testing.assert_array_equal(dataset.labels, y)
    np.testing.assert_array_equal(dataset.read(np.arange(22)), x)
    crops = np.tile([0.25, 1, 0, 0], (2, 1))
    np.testing.assert_array_equal(dataset.read([5, 9], size=(8, 8), crops=crops), x[[5, 9], :8, :8])


def test_grey_folder(tmp_path):
    write_folder(tmp_path, X[..., 0])
    dataset = ImageFolder(tmp_path, channels=1)
    assert dataset.image_shape == (16, 16, 1)
    np.testing.assert_array_equal(dataset.read([0]), by_class(X[..., :1])[0][:1])


def test_reading_from_many_threads(image_folder):
    dataset = open_dataset(image_folder)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda row: dataset.read([row], size=(12, 12)), range(22)))
    np.testing.assert_array_equal(np.concatenate(read), dataset.read(range(22), size=(12, 12)))


def test_folder_of_different_shapes(image_folder):
    (image_folder / "a" / "wide.png").write_bytes(encoded(RNG.integers(0, 256, (16, 30, 3), dtype="uint8")))
    dataset = ImageFolder(image_folder)
    assert dataset.image_shape is None
    assert dataset.read([0, len(dataset) - 1], size=(8, 8)).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="images differ in shape; received: size=None"):
        dataset.read([0])


@pytest.mark.parametrize(
    ("folders", "split", "opened"),
    [
        (("train", "test"), "train", "train"),
        (("train", "test"), "test", "test"),
        (("train", "val"), "test", "val"),  # as with ImageNet: nothing else is held out
        (("train", "val", "test"), "test", "test"),
        (("train", "val", "test"), "validation", "val"),
        (("train", "validation"), "validation", "validation"),
        (("train", "test"), "validation", None),  # test images are not for choosing
        (("train",), "test", None),
    ],
)
def test_splits_of_a_folder(tmp_path, folders, split, opened):
    for i, name in enumerate(folders):
        write_folder(tmp_path / name, X[: 10 + i], Y[: 10 + i])
    if opened is None:
        with pytest.raises(ValueError, match=rf"Expected split to be 'train'.*; received: split='{split}'"):
            open_dataset(tmp_path, split=split)
    else:
        assert open_dataset(tmp_path, split=split).root == tmp_path / opened


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    write_folder(tmp_path, names=["bus", "plane", "ship", "train"])
    assert open_dataset(tmp_path).class_names == ["bus", "plane", "ship", "train"]


def test_held_out_classes_are_numbered_as_in_training(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", X[:3], np.array([1, 3, 3]))
    np.testing.assert_array_equal(open_dataset(tmp_path, split="test").labels, [1, 3, 3])
    write_folder(tmp_path / "test", X[:1], [0], names=["e"])
    with pytest.raises(ValueError, match=r"the classes 'a', 'b', 'c', 'd' in .*; received also: 'e'"):
        open_dataset(tmp_path, split="test")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"a folder of images for each class.*received: no folders"):
        open_dataset(tmp_path)
    (tmp_path / "0.png").write_bytes(encoded(X[0]))
    with pytest.raises(ValueError, match="received: images without folders"):
        open_dataset(tmp_path)
    write_folder(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"'train' or 'test' or 'validation'.*split='dev'"):
        open_dataset(tmp_path / "flat", split="dev")
    (tmp_path / "flat" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Expected images \(.jpg.*empty; received: none"):
        open_dataset(tmp_path / "flat")
    with pytest.raises(ValueError, match="channels=4"):
        ImageFolder(tmp_path / "flat", channels=4)


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_image_is_named(image_folder, damage):
    dataset = ImageFolder(image_folder)
    path = next((image_folder / "c").iterdir())
    path.write_bytes(damage(path.read_bytes()))
    row = [str(file) for file in dataset.paths].index(str(path))
    with pytest.raises(ValueError, match=rf"Expected .*{path.name} to be an image that can be decoded"):
        dataset.read([row], size=(8, 8))
