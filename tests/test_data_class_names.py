"""Class names of datasets: where they come from, what is refused, and renumbering labels by name."""

import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from sample_images import Batches, MapStyle, X, Y, write_folder

from keras_resattn.data import ArrayDataset, BatchStream, ImageFolder, RecordDataset, named_datasets, open_dataset
from keras_resattn.data.class_matching import KERAS_CLASS_NAMES, match_classes
from keras_resattn.pretrained import tags
from keras_resattn.recipes.frozen_features import Resized

pytestmark = pytest.mark.once

NAMES = ["ant", "bee", "cat", "dog"]
OTHER = ["dog", "ant", "cat", "bee", "emu"]  # the same in another order, and one more
RENUMBERED = np.array([1, 3, 2, 0])[Y]


def npz(path, **arrays):
    np.savez(path, x_train=X, y_train=Y, **arrays)
    return path


def test_an_npz_file_may_name_its_classes(tmp_path):
    assert open_dataset(npz(tmp_path / "named.npz", class_names=NAMES)).class_names == NAMES
    assert open_dataset(npz(tmp_path / "unnamed.npz")).class_names is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([b"ant", b"bee", b"cat", b"dog"], r"data\.npz: .*non-empty strings; received among them: b'ant'"),
        ([0, 1, 2, 3], r"data\.npz: .*strings.*received among them: 0"),
        (["ant", "ant", "cat", "dog"], r"data\.npz: .*without duplicates; received more than once: 'ant'"),
        (np.array(NAMES, object), r"data\.npz.*class_names holds Python objects"),
        (NAMES[:3], "Expected a class name for each label; received: 3 class names, and labels up to 3"),
    ],
)
def test_names_of_a_file_are_checked(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(npz(tmp_path / "data.npz", class_names=names))


def test_names_are_given_with_arrays_records_and_batches():
    for dataset in (
        ArrayDataset(X, Y, class_names=NAMES),
        RecordDataset(list(zip(X, Y, strict=True)), class_names=tuple(NAMES)),
        BatchStream(Batches(5), class_names=np.array(NAMES)),
    ):
        assert (dataset.class_names, dataset.classes) == (NAMES, 4)
    for make in (lambda **names: ArrayDataset(X, Y, **names), lambda **names: BatchStream(Batches(5), **names)):
        with pytest.raises(ValueError, match="received more than once: 'ant'"):
            make(class_names=["ant"] * 4)
        with pytest.raises(ValueError, match="Expected 5 class names, one for each class; received: 4"):
            make(classes=5, class_names=NAMES)


@pytest.mark.parametrize("names", [["crane", "crane", "cat", "dog"], ["ant", "bee"], [("ant", "emmet")] * 4])
def test_names_of_another_library_that_do_not_name_the_classes_are_left(names):
    """Two of ImageNet's classes are called "crane"; a transformation may make other labels of a dataset's."""
    assert RecordDataset(MapStyle(lambda row: (X[row], Y[row]), targets=list(Y), classes=names)).class_names is None


def test_well_known_names():
    assert {name: len(names) for name, names in KERAS_CLASS_NAMES.items()} == {
        "cifar10": 10,
        "cifar100": 100,
        "mnist": 10,
        "fashion_mnist": 10,
    }
    assert all(len(set(names)) == len(names) for names in KERAS_CLASS_NAMES.values())
    assert sorted(KERAS_CLASS_NAMES["cifar100"]) == KERAS_CLASS_NAMES["cifar100"]
    assert {tag.classes for tag in tags() if tag.tag.startswith("cifar10_")} == {tuple(KERAS_CLASS_NAMES["cifar10"])}


def test_keras_data_sets_have_names(monkeypatch):
    splits = (X[..., 0], Y), (X[..., 0], Y)
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: splits)
    assert named_datasets._open_keras("fashion_mnist", "train").class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("pets", ["cat", "dog"], ["cat", "dog"]),
        ("pets", ["0", "1", "2"], None),
        ("mnist", [str(i) for i in range(10)], [str(i) for i in range(10)]),
        ("cifar10", [str(i) for i in range(10)], KERAS_CLASS_NAMES["cifar10"]),
    ],
)
def test_numbers_that_tfds_counts_classes_by_are_no_names(name, names, expected):
    features = {"label": SimpleNamespace(names=names)}
    builder = SimpleNamespace(name=name, info=SimpleNamespace(features=features))
    assert named_datasets._class_names(builder, "label") == expected


SOURCES = {
    "arrays": lambda folder: ArrayDataset(X, Y, class_names=NAMES),
    "records": lambda folder: RecordDataset(list(zip(X, Y, strict=True)), class_names=NAMES),
    "part": lambda folder: (
        ArrayDataset(X, Y, class_names=NAMES).subset(np.arange(22)[::-1]).subset(np.arange(22)[::-1])
    ),
    "resized": lambda folder: Resized(ArrayDataset(X, Y, class_names=NAMES), (8, 8)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_labels_are_renumbered_by_name(kind, tmp_path, caplog):
    dataset = SOURCES[kind](tmp_path)
    with caplog.at_level(logging.INFO, "keras_resattn"):
        other = match_classes(dataset, OTHER, "the run")
    assert "Renumbering labels by class name, as in the run" in caplog.text
    np.testing.assert_array_equal(other.labels, RENUMBERED)
    assert (other.class_names, other.classes) == (OTHER, 5)
    np.testing.assert_array_equal(dataset.labels, Y, err_msg="the data that were given stay as they are")
    np.testing.assert_array_equal(other.read([3, 1], (16, 16)), dataset.read([3, 1], (16, 16)))
    assert other.fingerprint() != dataset.fingerprint()
    other.check_labels(5)


def test_labels_of_a_folder_are_renumbered_by_name(tmp_path):
    dataset = ImageFolder(write_folder(tmp_path, names=NAMES))
    other = match_classes(dataset, OTHER, "the run")
    np.testing.assert_array_equal(np.array(NAMES)[dataset.labels], np.array(OTHER)[other.labels])


def test_labels_of_a_stream_are_renumbered_by_name():
    dataset = BatchStream(Batches(5), class_names=NAMES)
    dataset._first_batch  # noqa: B018  (read before)
    other = match_classes(dataset, OTHER, "the run")
    again = match_classes(other, [*OTHER[::-1], "fox"], "another")
    assert (other.class_names, other.classes) == (OTHER, 5)
    for stream, expected in ((dataset, Y), (other, RENUMBERED), (again, 4 - RENUMBERED)):
        prepared = stream.prepared(5, train=False)
        prepared.check_labels(6)
        np.testing.assert_array_equal(np.concatenate([y for _, y in prepared.epoch(0)]), expected)
    wrong = BatchStream(Batches(5, lambda x, y: (x, y + 1)), class_names=NAMES)
    with pytest.raises(ValueError, match="Expected labels from 0 to 3; received: labels from"):
        match_classes(wrong, OTHER, "the run").check_labels(5)


def test_other_classes_are_refused_with_the_difference():
    dataset = ArrayDataset(X, Y, class_names=["ant", "bees", "cat", "dog"])
    with pytest.raises(
        ValueError, match=r"the run, 'ant', .*other classes: 'bees'\. Did you mean 'bee'\? It lacks 'bee'"
    ):
        match_classes(dataset, NAMES, "the run")


def test_without_names_nothing_is_compared():
    unnamed, with_names = ArrayDataset(X, Y), ArrayDataset(X, Y, class_names=NAMES)
    assert match_classes(unnamed, NAMES, "the run") is unnamed
    assert match_classes(with_names, None, "the run") is with_names
    assert match_classes(with_names, tuple(NAMES), "the run") is with_names
    assert match_classes(None, NAMES, "the run") is None
