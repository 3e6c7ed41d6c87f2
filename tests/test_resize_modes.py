"""Images of another aspect ratio than the network's: crop, squash and pad, alike in training and evaluation."""

import numpy as np
import pytest
from helpers import tiny
from PIL import Image
from sample_images import RNG, Batches, X, Y, encoded, write_folder

from keras_resattn import compile_and_fit
from keras_resattn.data import ArrayDataset, ImageFolder, RecordDataset, open_dataset, read_image
from keras_resattn.data.images import RESIZE_MODES, central_box, load_image
from keras_resattn.data.normalization import normalize
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.evaluation import evaluate_run
from keras_resattn.recipes import get_recipe
from keras_resattn.recipes.frozen_features import resized

pytestmark = pytest.mark.once

WIDE = np.zeros((16, 32, 3), "uint8")  # a white border of 2 pixels around grey
WIDE[:] = 255
WIDE[2:-2, 2:-2] = 100


def resize(image, size, box=None):
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box))


@pytest.mark.parametrize("form", [WIDE, encoded(WIDE), Image.fromarray(WIDE)], ids=["array", "bytes", "pillow"])
def test_modes(form):
    def read(resize_mode, size=(8, 8), **arguments):
        return load_image(form, "it", size, resize_mode=resize_mode, **arguments)

    np.testing.assert_array_equal(read("crop"), resize(WIDE[:, 8:24], (8, 8)))
    np.testing.assert_array_equal(read("squash"), resize(WIDE, (8, 8)))
    padded = read("pad")
    np.testing.assert_array_equal(padded[2:6], resize(WIDE, (4, 8)))
    assert not padded[:2].any()
    assert not padded[6:].any()
    np.testing.assert_array_equal(read("squash", central=0.5), resize(WIDE[4:12, 8:24], (8, 8)))
    np.testing.assert_array_equal(read("pad", central=0.5), resize(WIDE[:, 8:24], (8, 8)))
    for mode in RESIZE_MODES:
        np.testing.assert_array_equal(read(mode, size=(16, 32)), WIDE)
        crop = (0.25, 1.0, 0.0, 0.0)  # random crops are drawn in any mode
        np.testing.assert_array_equal(read(mode, crop=crop), read("crop", crop=crop))


def test_floats_and_tall_images_are_padded():
    tall = np.moveaxis(WIDE, 0, 1).astype("float32") - 0.5
    padded = load_image(tall, "it", (8, 8), resize_mode="pad")
    assert padded.dtype == "float32"
    assert not padded[:, :2].any()
    assert (padded[:, 2:6] > 99).all()
    assert load_image(np.full((1, 200, 3), 255, "uint8"), "it", (8, 8), resize_mode="pad").max() == 255


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(resize_mode):
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 9, 3), dtype="uint8")).resize((640, 480), 3))
    jpeg = encoded(smooth, "JPEG", quality=95)
    read = load_image(jpeg, "it", (32, 32), resize_mode=resize_mode).astype(int)
    np.testing.assert_allclose(read, load_image(smooth, "it", (32, 32), resize_mode=resize_mode), atol=4)


def test_boxes():
    assert central_box(100, 50, (32, 32), resize_mode="squash") == (0, 0, 50, 100)
    assert central_box(100, 50, (32, 32), resize_mode="pad") == (-25, 0, 75, 100)
    assert central_box(100, 50, (32, 64), resize_mode="pad") == (-75, 0, 125, 100)


@pytest.mark.parametrize("kind", ["folder", "arrays", "records", "part", "resized"])
def test_every_dataset_by_index_takes_a_mode(kind, tmp_path):
    write_folder(tmp_path, WIDE[None], [0])
    data = {
        "folder": tmp_path,
        "arrays": (WIDE[None], np.array([0])),
        "records": [(Image.fromarray(WIDE), 0)],
        "part": ImageFolder(tmp_path).subset([0]),
        "resized": resized(ImageFolder(tmp_path), (8, 8)),
    }[kind]
    prints = set()
    for mode in RESIZE_MODES:
        dataset = open_dataset(data, resize_mode=mode)
        assert dataset.resize_mode == dataset.subset([0]).resize_mode == mode
        for read in (dataset, dataset.subset([0]), dataset.relabelled([1])):
            np.testing.assert_array_equal(read.read([0], (8, 8))[0], load_image(WIDE, "", (8, 8), resize_mode=mode))
        prints.add(dataset.fingerprint())
    assert len(prints) == 3
    assert open_dataset(data).fingerprint() == open_dataset(data, resize_mode="crop").fingerprint()
    assert open_dataset(data).resize_mode == (None if kind == "arrays" else "crop")


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_one_image_is_read_as_those_of_a_folder(resize_mode, folder):
    dataset = open_dataset(folder, resize_mode=resize_mode)
    expected = dataset.read([5], (8, 8))[0]
    np.testing.assert_array_equal(read_image(dataset.paths[5], (8, 8), resize_mode=resize_mode), expected)
    assert read_image(str(dataset.paths[5]), channels=1).shape == (16, 32, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "no.png"}, r"no\.png"),
        ({"size": 8}, "size=8"),
        ({"size": (0, 8)}, r"size=\(0, 8\)"),
        ({"size": (2.5, 8)}, r"size=\(2\.5, 8\)"),
        ({"size": (8, 8, 3)}, r"size=\(8, 8, 3\)"),
        ({"channels": 4}, "channels=4"),
        ({"resize_mode": "fit"}, "resize_mode='fit'"),
        ({"image": WIDE / 255}, "multiply by 255"),
        ({"image": b"no image"}, r"the image \(bytes\)"),
    ],
)
def test_arguments_of_read_image_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        read_image(**{"image": WIDE, **arguments})


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"resize_mode to be 'crop', 'squash' or 'pad'; received: resize_mode='fill'"):
        open_dataset((X, Y), resize_mode="fill")
    with pytest.raises(ValueError, match="no resize_mode for data in batches"):
        open_dataset(Batches(5), resize_mode="pad")


RECIPE = get_recipe("cifar_one_cycle").replace(epochs=1, batch_size=4, warmup_epochs=0, pad=0, flip=False)


@pytest.fixture
def folder(tmp_path):
    """Three classes of wide images, all of one shape."""
    x, y = RNG.integers(0, 256, (12, 16, 32, 3), dtype="uint8"), np.arange(12) % 3
    return write_folder(tmp_path / "wide", x, y)


def test_training_validation_and_evaluation_resize_alike(folder, tmp_path, monkeypatch):
    seen = []
    read = ImageFolder.read
    monkeypatch.setattr(ImageFolder, "read", lambda self, *a, **k: seen.append(self.resize_mode) or read(self, *a, **k))
    model, dataset = tiny(), open_dataset(folder, resize_mode="pad")
    report = compile_and_fit(model, RECIPE, dataset, validation_data=folder, run_dir=tmp_path / "run", verbose=0)
    assert report.resize_mode == "pad"
    first = evaluate_run(tmp_path / "run", folder)
    assert set(seen) == {"pad"}
    assert evaluate_run(tmp_path / "run", dataset).loss == first.loss
    assert evaluate_run(tmp_path / "run", folder, resize_mode="squash").loss != first.loss
    other = ImageFolder(folder)
    with pytest.raises(
        ValueError, match=r"resize_mode='pad'; received: 'crop'\. Pass validation_data\.with_resize_mode"
    ):
        compile_and_fit(model, RECIPE, dataset, validation_data=other, verbose=0)


def test_arrays_of_another_shape_are_resized_where_a_mode_says_how(folder):
    x, y = np.stack([WIDE] * 12), np.arange(12) % 3
    with pytest.raises(ValueError, match=r"received: \(16, 32, 3\)\. To resize them, pass open_dataset"):
        compile_and_fit(tiny(), RECIPE, (x, y), verbose=0)
    for dataset in (
        open_dataset((x, y), resize_mode="squash"),
        ImageFolder(folder),
        RecordDataset(list(zip(x, y, strict=True))),
    ):
        model = tiny()
        compile_and_fit(model, RECIPE, dataset, verbose=0)
        batches = TrainingBatches(dataset, RECIPE, lambda x: normalize(x, [0] * 3, [1] * 3), size=(32, 32), classes=3)
        assert batches[0][0].shape[1:] in ((32, 32, 3), (3, 32, 32))
    with pytest.raises(ValueError, match="Expected images of 3 channels for tiny; received: 1"):
        compile_and_fit(tiny(), RECIPE, open_dataset((x[..., :1], y), resize_mode="squash"), verbose=0)


def test_class_folders_given_directly_serve_any_split(folder, tmp_path):
    for split in ("train", "test", "validation"):
        assert open_dataset(folder, split=split).class_names == ["a", "b", "c"]
    report = compile_and_fit(tiny(), RECIPE, folder, validation_data=folder, run_dir=tmp_path / "run", verbose=0)
    assert "val_accuracy" in report.metrics
    assert evaluate_run(tmp_path / "run", folder).total == 12


def test_arrays_keep_their_checks_in_parts():
    part = ArrayDataset(np.stack([np.zeros((4, 4, 3), "float32"), np.full((4, 4, 3), 9, "float32")]), [0, 1]).subset(
        [0]
    )
    assert part.read([0]).dtype == "float32"
