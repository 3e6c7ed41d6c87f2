"""The held-out images of Tiny-ImageNet."""

import sys

import numpy as np
import pytest

from tools.hold_out import hold_out, main

pytestmark = pytest.mark.once


def test_25_images_of_each_class_are_held_out_and_the_others_are_left(tmp_path, monkeypatch):
    labels = np.repeat(np.arange(4, dtype="uint8"), 30)
    images = np.arange(120, dtype="uint8")[:, None, None, None]
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels)
    monkeypatch.setattr(sys, "argv", ["hold_out", str(tmp_path / "data.npz"), str(tmp_path / "held_out.npz")])
    main()
    with np.load(tmp_path / "held_out.npz") as file:
        held_out = file["x_test"].ravel()
        np.testing.assert_array_equal(file["y_test"], labels[held_out])
    assert np.bincount(labels[held_out]).tolist() == [25] * 4
    rest, rows = hold_out(labels)
    np.testing.assert_array_equal(rows, held_out)
    assert sorted([*rest, *held_out]) == list(range(120))


def test_the_split_is_that_of_the_released_weights():
    """Rows of Tiny-ImageNet's training images, which no release has seen."""
    _, rows = hold_out(np.repeat(np.arange(200), 500))
    assert (rows[:3].tolist(), int(rows.sum())) == ([23, 50, 63], 249_998_011)
