"""Data by index: records of others; and what all datasets know: statistics and fingerprints."""

import keras
import numpy as np
import pytest
from PIL import Image
from sample_images import Batches, MapStyle, X, Y, encoded, import_torch, write_folder

from keras_resattn.data import ArrayDataset, BatchStream, ImageFolder, RecordDataset, open_dataset
from keras_resattn.data.normalization import array_statistics

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "record",
    [
        lambda i: (X[i], Y[i]),
        lambda i: {"image": X[i], "label": int(Y[i]), "id": "x"},
        lambda i: (Image.fromarray(X[i]), Y[i]),
        lambda i: (encoded(X[i]), Y[i]),
        lambda i: (keras.ops.convert_to_tensor(X[i]), keras.ops.convert_to_tensor(Y[i])),
    ],
    ids=["pair", "mapping", "pillow", "bytes", "tensors"],
)
def test_records(record):
    dataset = open_dataset(MapStyle(record))
    assert isinstance(dataset, RecordDataset)
    assert (len(dataset), dataset.image_shape) == (22, (16, 16, 3))
    np.testing.assert_array_equal(dataset.labels, Y)
    np.testing.assert_array_equal(dataset.read([7, 2]), X[[7, 2]])


def test_labels_that_are_known_save_a_pass():
    read = []
    dataset = MapStyle(lambda i: read.append(i) or (X[i], Y[i]), targets=Y.tolist(), classes=["w", "x", "y", "z"])
    dataset = RecordDataset(dataset)
    np.testing.assert_array_equal(dataset.labels, Y)
    assert len(set(read)) < 5
    assert dataset.class_names == ["w", "x", "y", "z"]


def test_targets_that_a_record_changes_are_not_believed():
    dataset = RecordDataset(MapStyle(lambda i: (X[i], Y[i] + 1), targets=Y.tolist()))
    np.testing.assert_array_equal(dataset.labels, Y + 1)


def test_a_list_of_pairs():
    np.testing.assert_array_equal(open_dataset(list(zip(X, Y.tolist(), strict=True))).labels, Y)


def test_pytorchs_data_sets():
    torch = import_torch()
    dataset = open_dataset(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)))
    np.testing.assert_array_equal(dataset.read([3], size=(16, 16)), X[[3]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda i: X[i], r"record 0 to be \(image, label\) or to have keys 'image' and 'label'; received: ndarray"),
        (lambda i: {"x": X[i], "label": 0}, r"received: keys x, label"),
        (lambda i: (X[:4], Y[:4]), r"one image each; received: batches of shape \(4, 16, 16, 3\)\. Pass BatchStream"),
        (lambda i: (np.moveaxis(X[i], -1, 0), Y[i]), r"record 0 with channels last"),
        (lambda i: (X[i] / 255.0, Y[i]), r"record 0 from 0 to 255; received: floats"),
        (lambda i: (X[i], 0.5), r"one integer label for each of 22 images"),
    ],
)
def test_records_that_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(MapStyle(record))


def test_nothing_to_open():
    with pytest.raises(ValueError, match="at least one record; received: an empty list"):
        open_dataset([])
    with pytest.raises(ValueError, match=r"received: a mapping of \['x_train'\]"):
        open_dataset({"x_train": X})
    with pytest.raises(ValueError, match=r"an iterable of .*; received: int"):
        open_dataset(3)
    with pytest.raises(ValueError, match="data_dir only with the name"):
        open_dataset((X, Y), data_dir="somewhere")


# --- Statistics and fingerprints -----------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["channel", "pixel_mean", "unit"])
def test_statistics_are_those_of_arrays(normalization, image_folder):
    expected = array_statistics(X, normalization)
    datasets = (
        open_dataset((X, Y)),
        open_dataset(image_folder),
        RecordDataset(MapStyle(lambda i: (X[i], Y[i]))),
        BatchStream(Batches(5)),
    )
    for dataset in datasets:
        mean, std = dataset.statistics(normalization, (16, 16))
        np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
        np.testing.assert_allclose(std, expected[1], rtol=1e-12)


def test_statistics_of_resized_images():
    dataset = ArrayDataset(X, Y)
    expected = array_statistics(dataset.read(range(22), size=(8, 8)), "channel")
    np.testing.assert_allclose(dataset.statistics("channel", (8, 8)), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["arrays", "folder", "records"])
def test_fingerprints(kind, tmp_path):
    def fingerprint(x, y, name):
        if kind == "folder":
            return ImageFolder(write_folder(tmp_path / name, x, y)).fingerprint()
        dataset = ArrayDataset(x, y) if kind == "arrays" else RecordDataset(list(zip(x, y.tolist(), strict=True)))
        return dataset.fingerprint()

    x, y = X.copy(), Y.copy()
    x[0] = 0
    y[0] = (y[0] + 1) % 4
    assert fingerprint(X, Y, "first") == fingerprint(X.copy(), Y.copy(), "again")
    assert len({fingerprint(X, Y, "first"), fingerprint(x, Y, "image"), fingerprint(X, y, "label")}) == 3
