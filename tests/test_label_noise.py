"""Noisy labels by Wang et al.'s confusion matrix."""

import numpy as np
import pytest

from keras_resattn.data import ArrayDataset, BatchStream, confusion_matrix, noisy_labels, with_label_noise

pytestmark = pytest.mark.once


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    return ArrayDataset(rng.integers(0, 256, (300, 2, 2, 3), dtype="uint8"), rng.integers(0, 5, 300))


def test_confusion_matrix_of_the_paper():
    """Eq. 7: ten classes, r = 0.7 on the diagonal and (1 - r) / 9 elsewhere."""
    matrix = confusion_matrix(10, 0.3)
    np.testing.assert_allclose(np.diag(matrix), 0.7)
    np.testing.assert_allclose(matrix[~np.eye(10, dtype=bool)], 0.3 / 9)
    np.testing.assert_allclose(matrix.sum(1), 1)


@pytest.mark.parametrize(("classes", "rate"), [(10, 0.3), (2, 0.1), (7, 0.9)])
def test_labels_are_drawn_by_the_matrix(classes, rate):
    """Pearson's test: with k degrees of freedom, the sum of (seen - expected)^2 / expected is k on average."""
    true = np.repeat(np.arange(classes), 4000)
    seen = np.zeros((classes, classes))
    np.add.at(seen, (true, noisy_labels(true, rate, classes, seed=1)), 1)
    expected = 4000 * confusion_matrix(classes, rate)
    freedom = classes * (classes - 1)
    deviations = (((seen - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)
    assert -4 < deviations < 4


def test_labels_repeat_with_the_seed_and_the_true_ones_are_kept():
    true = np.arange(100) % 4
    before = true.copy()
    np.testing.assert_array_equal(noisy_labels(true, 0.5, 4, seed=2), noisy_labels(true, 0.5, 4, seed=2))
    assert (noisy_labels(true, 0.5, 4, seed=2) != noisy_labels(true, 0.5, 4, seed=3)).any()
    np.testing.assert_array_equal(true, before)


def test_more_noise_keeps_the_wrong_labels_of_less():
    true = np.arange(1000) % 4
    less, more = noisy_labels(true, 0.1, 4), noisy_labels(true, 0.5, 4)
    wrong = less != true
    assert 0 < wrong.sum() < (more != true).sum()
    np.testing.assert_array_equal(more[wrong], less[wrong])


def test_a_source_keeps_its_images_and_is_another_data_set(dataset):
    noisy = with_label_noise(dataset, 0.4, 5, seed=3)
    np.testing.assert_array_equal(noisy.labels, noisy_labels(dataset.labels, 0.4, 5, seed=3))
    assert isinstance(noisy, ArrayDataset)
    assert noisy.x is dataset.x
    assert noisy.fingerprint() != dataset.fingerprint()
    assert with_label_noise(dataset, 0.0, 5) is dataset


def test_a_stream_is_refused(dataset):
    stream = BatchStream([(dataset.x, dataset.labels)])
    assert with_label_noise(stream, 0.0, 5) is stream
    with pytest.raises(ValueError, match=r"read by index .* received: a BatchStream"):
        with_label_noise(stream, 0.1, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, r"from 0 to below 1; received: rate=1.0"),
        ({"rate": -0.1}, r"received: rate=-0.1"),
        ({"rate": "0.1"}, r"received: rate='0.1'"),
        ({"classes": 1}, r"at least 2; received: classes=1"),
        ({"classes": 3}, r"from 0 to 2; received: labels from 0 to 3"),
        ({"y": [0.5, 1.0]}, r"one integer label"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        noisy_labels(**{"y": np.arange(4), "rate": 0.1, "classes": 4, **arguments})
