"""Datasets by name: keras.datasets, and TensorFlow Datasets where it is installed."""

import io
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resattn import compile_and_fit
from keras_resattn.data import ArrayDataset, RecordDataset, named_datasets, open_dataset
from keras_resattn.recipes import get_recipe

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 28, 28), dtype="uint8")
Y = RNG.integers(0, 10, (12, 1))


class Builder:
    """What is used of a `tfds.core.DatasetBuilder`. It remembers what is asked of it."""

    def __init__(self, name, prepared, log, labelled=True):
        self.name, self.prepared, self.log = name, prepared, log
        features = {"image": ImageFeature((28, 28, 1)), "label": ClassLabel(10) if labelled else object()}
        splits = {"train": SimpleNamespace(num_examples=12), "validation": SimpleNamespace(num_examples=5)}
        if name == "imagenet2012":
            splits["test"] = SimpleNamespace(num_examples=7)
        self.info = SimpleNamespace(
            supervised_keys=("image", "label"), features=features, splits=splits, file_format="array_record"
        )

    def is_prepared(self):
        return self.prepared

    def download_and_prepare(self):
        self.log.append("download")
        if self.name == "imagenet2012":
            raise AssertionError("Manual directory is empty. Create it.")

    def as_data_source(self, split, decoders):
        self.log.append(split)
        return [{"image": X[i][..., None], "label": int(Y[i, 0])} for i in range(self.info.splits[split].num_examples)]


class ImageFeature:
    np_dtype = "uint8"

    def __init__(self, shape):
        self.shape = shape


class ClassLabel:
    def __init__(self, count):
        self.names = [f"class {i}" for i in range(count)]


@pytest.fixture
def tfds(monkeypatch):
    """A stand-in for the package, that has prepared what is put into `prepared`."""
    module = SimpleNamespace(prepared=set(), log=[], labelled=True)

    def builder(name, data_dir=None, file_format=None):
        module.log.append((name, data_dir, file_format))
        return Builder(name, name in module.prepared, module.log, module.labelled)

    names = ["cifar10", "mnist", "stanford_dogs", "imagenet2012", "oxford_iiit_pet"]
    formats = SimpleNamespace(with_random_access=lambda: {"array_record"})
    module.builder = builder
    module.core = SimpleNamespace(FileFormat=formats, registered=SimpleNamespace(list_imported_builders=lambda: names))
    module.decode = SimpleNamespace(SkipDecoding=object)
    module.features = SimpleNamespace(Image=ImageFeature, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return module


@pytest.fixture
def no_tfds(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


@pytest.fixture
def keras_mnist(monkeypatch):
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((X, Y), (X[:4], Y[:4])))


# --- Where a dataset comes from -----------------------------------------------------------------


@pytest.mark.parametrize(("split", "count"), [("train", 12), ("test", 4)])
def test_small_sets_come_from_keras_without_tfds(no_tfds, keras_mnist, split, count):
    dataset = open_dataset("mnist", split=split)
    assert isinstance(dataset, ArrayDataset)
    assert (len(dataset), dataset.classes, dataset.image_shape) == (count, 10, (28, 28, 1))
    np.testing.assert_array_equal(dataset.labels, Y[:count, 0])


def test_small_sets_come_from_keras_where_tfds_has_not_prepared_them(tfds, keras_mnist):
    assert len(open_dataset("mnist")) == 12
    assert "download" not in tfds.log


def test_what_tfds_has_prepared_is_taken(tfds, tmp_path):
    tfds.prepared.add("mnist")
    dataset = open_dataset("mnist", data_dir=tmp_path)
    assert isinstance(dataset, ArrayDataset)
    assert dataset.class_names == [f"class {i}" for i in range(10)]
    assert tfds.log == [("mnist", tmp_path, None), "train"]
    np.testing.assert_array_equal(dataset.read([2])[0, ..., 0], X[2])


def test_large_sets_are_read_image_by_image(tfds, monkeypatch):
    tfds.prepared.add("mnist")
    monkeypatch.setattr(named_datasets, "IN_MEMORY", 12 * 28 * 28 - 1)
    assert isinstance(open_dataset("mnist"), RecordDataset)
    monkeypatch.setattr(named_datasets, "IN_MEMORY", 12 * 28 * 28)
    assert isinstance(open_dataset("mnist"), ArrayDataset)


def test_a_download_is_prepared_for_random_access(tfds):
    assert len(open_dataset("oxford_iiit_pet")) == 12
    assert tfds.log == [("oxford_iiit_pet", None, None), ("oxford_iiit_pet", None, "array_record"), "download", "train"]


@pytest.mark.parametrize("name", ["mnist", "stanford_dogs"])
def test_nothing_is_downloaded_without_leave(tfds, name):
    with pytest.raises(FileNotFoundError, match=rf"{name} to be prepared .* in /data, with download=False"):
        open_dataset(name, data_dir="/data", download=False)
    assert "download" not in tfds.log


def test_files_that_have_to_be_fetched_by_hand(tfds):
    with pytest.raises(FileNotFoundError, match=r"downloaded manually\. Manual directory is empty"):
        open_dataset("imagenet2012")


def test_a_set_that_is_no_image_classification_is_refused_before_its_download(tfds):
    tfds.labelled = False
    with pytest.raises(ValueError, match="one class label each; received: stanford_dogs with"):
        open_dataset("stanford_dogs")
    assert "download" not in tfds.log


def test_floats_inside_of_png_files_are_refused(tfds, monkeypatch):
    tfds.prepared.add("stanford_dogs")
    monkeypatch.setattr(ImageFeature, "np_dtype", "float32")
    with pytest.raises(ValueError, match="images of 8 or 16 bits; received: stanford_dogs with images of float32"):
        open_dataset("stanford_dogs")


# --- Splits and names ----------------------------------------------------------------------------


def test_splits(tfds, keras_mnist):
    tfds.prepared.add("imagenet2012")
    assert len(open_dataset("imagenet2012", split="test")) == 5  # ImageNet's "test" has no labels
    with pytest.raises(
        ValueError, match=r"'train' or 'validation' or 'test', or a slice of one, .*; received: split='dev'"
    ):
        open_dataset("imagenet2012", split="dev")
    with pytest.raises(ValueError, match=r"'train' or 'test' for mnist .* received: split='validation'"):
        open_dataset("mnist", split="validation")


@pytest.mark.parametrize("name", ["cifar1O", "CIFAR10", "cifar"])
@pytest.mark.parametrize("installed", [True, False])
def test_unknown_names(name, installed, request):
    request.getfixturevalue("tfds" if installed else "no_tfds")
    with pytest.raises(ValueError, match=rf"received: '{name}'\. Did you mean 'cifar10'") as error:
        open_dataset(name)
    assert ("Other names need TensorFlow Datasets" in str(error.value)) != installed


def test_tfds_is_asked_for_by_name(no_tfds):
    with pytest.raises(ImportError, match=r'to read stanford_dogs.*pip install "keras-resattn\[data\]"'):
        open_dataset("stanford_dogs")


def test_a_folder_beside_a_name(no_tfds, keras_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "mine"):
        (tmp_path / name / "a").mkdir(parents=True)
        Image.fromarray(X[0]).save(tmp_path / name / "a" / "0.png")
    assert len(open_dataset("mnist")) == 12
    assert len(open_dataset("./mnist")) == 1
    assert len(open_dataset("mine")) == 1
    with pytest.raises(FileNotFoundError, match="nothing at other"):
        open_dataset("./other")


# --- Training by name ----------------------------------------------------------------------------


def digit_network():
    inputs = keras.Input((28, 28, 1))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))


RECIPE = get_recipe("cifar_one_cycle").replace(epochs=1, batch_size=4, warmup_epochs=0)


@pytest.mark.filterwarnings("ignore:There are no training images")
@pytest.mark.parametrize("validation", ["oxford_iiit_pet", "arrays", None])
def test_a_training_looks_for_names_in_data_dir(tfds, tmp_path, validation):
    """Validation data that are no name do not lie there."""
    tfds.prepared.add("oxford_iiit_pet")
    given = (X[:6, ..., None], Y[:6]) if validation == "arrays" else validation
    report = compile_and_fit(
        digit_network(), RECIPE, "oxford_iiit_pet", validation_data=given, data_dir=tmp_path, verbose=0
    )
    opened = [("oxford_iiit_pet", tmp_path, None), "train"]
    if validation == "oxford_iiit_pet":
        opened += [("oxford_iiit_pet", tmp_path, None), "validation"]
    assert tfds.log == opened
    assert (report.training_images, report.steps, "val_loss" in report.metrics) == (12, 3, validation is not None)


# --- TensorFlow Datasets itself ------------------------------------------------------------------

SIZES = [(20 + i, 60 - i) for i in range(40)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A function that prepares forty flowers of different shapes, or digits, and returns the data_dir."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")

    def images(name):
        for i, size in enumerate(SIZES):
            image = X[i % 12][..., None] if name == "mnist" else np.full((*size, 3), 5 * i, "uint8")
            file = io.BytesIO()
            Image.fromarray(image.squeeze()).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": i % 5}

    def prepare(name, file_format):
        data_dir = tmp_path_factory.getbasetemp() / file_format
        builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
        if not builder.is_prepared():
            builder._split_generators = lambda *args, **kwargs: {"train": images(name)}
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=4))
        return data_dir

    return prepare


@pytest.mark.filterwarnings("ignore")  # TFDS' own
def test_both_file_formats_hold_the_same_arrays(prepared):
    datasets = [open_dataset("mnist", data_dir=prepared("mnist", form)) for form in ("tfrecord", "array_record")]
    assert [type(dataset) for dataset in datasets] == [ArrayDataset, ArrayDataset]
    assert datasets[0].fingerprint() == datasets[1].fingerprint()
    assert len(open_dataset("mnist", split="train[:25%]", data_dir=prepared("mnist", "array_record"))) == 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_training_on_what_lies_in_data_dir(prepared, file_format):
    data_dir = prepared("mnist", file_format)
    model, other = digit_network(), digit_network()
    other.set_weights(model.get_weights())
    report = compile_and_fit(model, RECIPE, "mnist", data_dir=data_dir, verbose=0)
    assert (report.training_images, report.steps) == (40, 10)
    again = compile_and_fit(other, RECIPE, open_dataset("mnist", data_dir=data_dir), verbose=0)
    assert again.metrics["loss"] == report.metrics["loss"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file_format", "small"), [("tfrecord", True), ("array_record", True), ("array_record", False)]
)
def test_encoded_images_are_decoded_as_files_are(file_format, small, tmp_path, monkeypatch):
    """16 bits, orientation and transparency, in both formats, in memory or read image by image."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(named_datasets, "IN_MEMORY", 10**6 if small else 0)
    upright = np.full((32, 32, 3), 255, "uint8")
    upright[:8, :20] = 0
    turned, exif = np.ascontiguousarray(np.rot90(upright)), Image.Exif()
    exif[0x0112] = 6
    alpha = np.where(upright[..., :1] == 255, 0, 255).astype("uint8")
    images = [
        (Image.fromarray(turned), {"exif": exif}),
        (Image.fromarray(np.concatenate([upright * 0, alpha], -1)), {}),
        (Image.fromarray(upright[..., 0].astype("uint16") * 257), {}),
    ]

    def records():
        for i, (image, options) in enumerate(images):
            file = io.BytesIO()
            image.save(file, "PNG", **options)
            file.seek(0)
            yield i, {"image": file, "label": i, "id": str(i)}

    builder = tfds.builder("cifar10", data_dir=tmp_path, file_format=file_format)
    builder._split_generators = lambda *args, **kwargs: {"train": records()}
    builder.download_and_prepare()
    dataset = named_datasets.open_builder(builder, "train")
    read = dataset.read(np.argsort(dataset.labels), size=(32, 32))
    np.testing.assert_array_equal(read, [upright] * 3)


@pytest.mark.filterwarnings("ignore")
def test_array_records_are_read_by_index(prepared):
    data_dir = prepared("tf_flowers", "array_record")
    dataset = open_dataset("tf_flowers", data_dir=data_dir)
    assert isinstance(dataset, RecordDataset)
    assert (dataset.classes, dataset.image_shape) == (5, None)
    grey = dataset.read(range(40), size=(16, 16))[:, 8, 8, 0] // 5
    np.testing.assert_array_equal(np.sort(grey), np.arange(40))
    np.testing.assert_array_equal(grey % 5, dataset.labels)
    assert isinstance(open_dataset(next(data_dir.glob("tf_flowers/*"))), RecordDataset)


@pytest.mark.filterwarnings("ignore")
def test_tfrecords_that_exceed_memory_have_to_be_prepared_as_array_records(prepared):
    message = r"tf_flowers prepared as array_record .* received: tfrecord files in .*file_format='array_record'"
    with pytest.raises(ValueError, match=message) as error:
        open_dataset("tf_flowers", data_dir=prepared("tf_flowers", "tfrecord"))
    assert "or pass a tf.data pipeline of your own: BatchStream(batches, steps=...)" in str(error.value)
