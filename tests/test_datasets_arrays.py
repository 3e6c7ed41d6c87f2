"""Data by index: arrays and `.npz` files, and how a image of any form is cropped and read."""

import io

import numpy as np
import pytest
from PIL import Image
from sample_images import RNG, X, Y, encoded

from keras_resattn.data import ArrayDataset, open_dataset
from keras_resattn.data.images import central_box, crop_box, load_image

pytestmark = pytest.mark.once

# --- ArrayDataset and .npz files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "y", [Y, Y[:, None], Y.astype("uint8"), np.eye(4)[Y]], ids=["flat", "column", "uint8", "one-hot"]
)
def test_arrays(y):
    dataset = open_dataset((X, y))
    assert (len(dataset), dataset.image_shape, dataset.classes) == (22, (16, 16, 3), None)
    np.testing.assert_array_equal(dataset.labels, Y)
    np.testing.assert_array_equal(dataset.read([3, 0, 3]), X[[3, 0, 3]])
    assert dataset.read([1], size=(8, 4)).shape == (1, 8, 4, 3)
    assert dataset.read([]).shape == (0, 16, 16, 3)


def test_floats_stay_floats():
    dataset = ArrayDataset(X.astype("float64") + 0.25 * (X < 255), Y)
    assert dataset.read([0]).dtype == "float32"
    np.testing.assert_array_equal(dataset.read([0])[0], X[0] + 0.25 * (X[0] < 255))
    resized = dataset.read([0], size=(8, 8))
    assert resized.dtype == "float32"
    np.testing.assert_allclose(resized, ArrayDataset(X, Y).read([0], size=(8, 8)), atol=1)


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    assert len(open_dataset(path)) == 22
    assert len(open_dataset(str(path), split="test")) == 5
    with pytest.raises(
        ValueError, match=r"x_validation and y_validation .* received: x_train, y_train, x_test, y_test"
    ):
        open_dataset(path, split="validation")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*none\.npz"):
        open_dataset(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[0], Y, r"\(n, height, width, channels\).* received: shape \(16, 16, 3\)"),
        (X[:0], Y[:0], r"received: shape \(0, 16, 16, 3\)"),
        (np.moveaxis(X, -1, 1), Y, r"channels last.*received: shape \(22, 3, 16, 16\)"),
        (X / 255.0, Y, r"0 to 255; received: floats that go up to 1\. .*multiply by 255"),
        (X / 127.5 - 1, Y, r"not normalised; received: values from -1.0 to 1.0"),
        (np.where(X > 9, X, np.nan), Y, r"received: values from nan"),
        (X.astype("uint16") * 257, Y, r"received: values from 0 to 65535"),
        (X > 9, Y, r"received: shape .* bool"),
        (X, Y[:5], r"for each of 22 images; received: shape \(5,\)"),
        (X, Y.astype("float32"), r"one integer label.*float32"),
        (X, 0.9 * np.eye(4)[Y] + 0.025, r"integer or one-hot labels; received: soft labels"),
        (X, Y - 1, r"labels of at least 0; received: -1"),
    ],
)
def test_arrays_that_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        open_dataset((x, y))


def test_labels_out_of_range():
    dataset = ArrayDataset(X, Y)
    dataset.check_labels(4)
    with pytest.raises(ValueError, match="from 0 to 2; received: labels from 0 to 3"):
        dataset.check_labels(3)


# --- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        ((1.0, 1.0, 0.3, 0.6), (0, 64), (0, 64)),  # the whole image, wherever
        ((0.25, 1.0, 0.0, 0.0), (0, 32), (0, 32)),
        ((0.25, 1.0, 1.0, 1.0), (32, 64), (32, 64)),
        ((0.25, 1.0, 0.5, 0.0), (16, 48), (0, 32)),
        ((0.125, 2.0, 0.0, 0.0), (0, 16), (0, 32)),  # twice as wide as high
        ((0.5, 8.0, 0.0, 0.0), (0, 16), (0, 64)),  # 16 x 128 does not fit: cut to the image's width
    ],
)
def test_crops_are_of_the_images_own_pixels(crop, rows, columns):
    image = RNG.integers(0, 256, (1, 64, 64, 3), dtype="uint8")
    expected = image[:, slice(*rows), slice(*columns)]
    read = ArrayDataset(image, [0]).read([0], size=expected.shape[1:3], crops=[crop])
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("shape", "size", "central", "box"),
    [
        ((64, 64), (32, 32), 0.5, (16, 16, 48, 48)),
        ((48, 64), (48, 48), 1.0, (8, 0, 56, 48)),
        ((100, 60), (15, 30), 1.0, (0, 35, 60, 65)),  # the box has the size's aspect ratio
        ((256, 341), (224, 224), 0.875, (58.5, 16, 282.5, 240)),  # a short side of 256, cropped to 224
    ],
)
def test_central_crop(shape, size, central, box):
    assert central_box(*shape, size, central) == pytest.approx(box)
    image = RNG.integers(0, 256, (*shape, 3), dtype="uint8")
    left, upper, right, lower = box
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box)
    assert (right - left) / (lower - upper) == pytest.approx(size[1] / size[0])
    np.testing.assert_array_equal(load_image(image, "it", size, central=central), expected)


def test_a_image_of_the_size_is_read_whole():
    np.testing.assert_array_equal(ArrayDataset(X, Y).read([4], size=(16, 16), central=0.5), X[[4]])
    for form in (X[4], encoded(X[4])):
        np.testing.assert_array_equal(load_image(form, "it", (16, 16), central=0.5), X[4])


def test_crop_boxes_stay_inside():
    for crop in np.random.default_rng(1).uniform((0.08, 3 / 4, 0, 0), (1, 4 / 3, 1, 1), (200, 4)):
        left, upper, right, lower = crop_box(31, 47, crop)
        assert 0 <= left < right <= 47
        assert 0 <= upper < lower <= 31


@pytest.mark.parametrize("form", ["array", "image", "bytes", "path", "palette"])
@pytest.mark.parametrize("crop", [None, (0.3, 1.2, 0.1, 0.7)])
def test_every_form_of_a_image_is_read_alike(form, crop, tmp_path):
    image = np.kron(RNG.integers(0, 2, (5, 6, 1), dtype="uint8") * 255, np.ones((4, 4, 3), "uint8"))
    (tmp_path / "it.png").write_bytes(encoded(image))
    forms = {
        "array": image,
        "image": Image.fromarray(image),
        "bytes": encoded(image),
        "path": tmp_path / "it.png",
        "palette": Image.fromarray(image).convert("P"),
    }
    expected = Image.fromarray(image).resize(
        (8, 8),
        box=central_box(20, 24, (8, 8)) if crop is None else crop_box(20, 24, crop),
        resample=Image.Resampling.BILINEAR,
    )
    np.testing.assert_array_equal(load_image(forms[form], "it", (8, 8), crop), expected)
    np.testing.assert_array_equal(load_image(forms[form], "it"), image)


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    smooth = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype="uint8")).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    jpeg = encoded(np.asarray(smooth), "JPEG", quality=95)
    for crop in (None, (0.4, 1.1, 0.2, 0.9)):
        whole = load_image(np.asarray(Image.open(io.BytesIO(jpeg))), "it", (32, 32), crop)
        np.testing.assert_allclose(load_image(jpeg, "it", (32, 32), crop).astype(int), whole, atol=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": [0], "crops": [[1, 1, 0, 0]]}, r"crops of shape \(1, 4\), and size; .* size=None"),
        ({"indices": [0, 1], "crops": [[1, 1, 0, 0]], "size": (8, 8)}, r"crops of shape \(2, 4\)"),
        ({"indices": 0}, r"a list of indices"),
        ({"indices": [0.5]}, r"a list of indices"),
        ({"indices": [0], "central": 0.0}, r"central=0.0"),
    ],
)
def test_reading_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArrayDataset(X, Y).read(**arguments)
