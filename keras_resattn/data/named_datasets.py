"""Datasets by name, from TensorFlow Datasets or `keras.datasets`."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.data.array_dataset import ArrayDataset
from keras_resattn.data.class_matching import KERAS_CLASS_NAMES, detected_class_names
from keras_resattn.data.images import load_image
from keras_resattn.data.record_dataset import RecordDataset
from keras_resattn.data.threaded_reading import map_in_threads
from keras_resattn.typing import PathLike
from keras_resattn.utils.suggestions import did_you_mean

KERAS_SETS = tuple(KERAS_CLASS_NAMES)
# Suggested in messages: the papers' datasets, and small ones. TensorFlow Datasets has hundreds more.
KNOWN = (*KERAS_SETS, "stanford_dogs", "cars196", "caltech_birds2011", "imagenet2012", "tf_flowers")
IN_MEMORY = 2 << 30  # bytes; images of one shape are read into memory up to this total size
NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\d.*]+)?", re.IGNORECASE)
INSTALL = 'pip install "keras-resattn[data]"'


def is_name(data: object) -> bool:
    """Return whether `data` is the name of a dataset, not a path: `"./mnist"` is a folder, `"mnist"` never is."""
    if not isinstance(data, str):
        return False
    matches = NAME.fullmatch(data) is not None and not data.endswith(".npz")
    return data in KNOWN or (matches and not os.path.exists(data))


def is_prepared(path: PathLike) -> bool:
    """Return whether TensorFlow Datasets has prepared this folder."""
    return (Path(path) / "dataset_info.json").is_file()


def open_prepared(path: PathLike, split: str) -> ArrayDataset | RecordDataset:
    """Open a folder that TensorFlow Datasets has prepared, `.../name/version`."""
    return open_builder(_tfds(str(path)).builder_from_directory(path), split)


def open_named(
    name: str, split: str, data_dir: PathLike | None = None, download: bool = True
) -> ArrayDataset | RecordDataset:
    """Open a dataset by name: prepared by TensorFlow Datasets, from `keras.datasets`, or downloaded.

    Downloads are prepared as array_record files, which are read by index and without TensorFlow.

    Args:
        name: Name of the dataset.
        split: As in `open_dataset`.
        data_dir: As in `open_dataset`.
        download: As in `open_dataset`.

    Raises:
        ValueError: If the name or split is unknown, or the dataset has no images with one class label each.
        FileNotFoundError: If the dataset is missing and must not or cannot be downloaded.
        ConnectionError: If the download fails.
        ImportError: If TensorFlow Datasets is needed and not installed.
    """
    builder = None
    if name not in KERAS_SETS or _has_tfds():
        builder = _builder(name, data_dir)
        if builder.is_prepared():
            return open_builder(builder, split)
    if not download:
        raise FileNotFoundError(
            f"Expected {name} to be prepared by TensorFlow Datasets in {data_dir or 'its data_dir'}, with "
            "download=False; received: nothing there. Pass download=True, or the data_dir of the dataset."
        )
    if name in KERAS_SETS:
        return _open_keras(name, split)
    builder = _tfds(name).builder(name, data_dir=data_dir, file_format="array_record")
    _keys(builder)
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # raised by TFDS for files that must be downloaded manually
        raise FileNotFoundError(f"Expected the files of {name}, which must be downloaded manually. {error}") from error
    except Exception as error:
        raise _not_downloaded(name, error) from error
    return open_builder(builder, split)


def open_builder(builder: Any, split: str) -> ArrayDataset | RecordDataset:
    """Open a split of a dataset that TensorFlow Datasets has prepared.

    Images of one shape with a total of up to 2 GiB become an `ArrayDataset`. Others become a `RecordDataset`, which
    requires files with random access (array_record).

    Args:
        builder: A prepared `tfds.core.DatasetBuilder`.
        split: A split, or a slice of one.

    Raises:
        ValueError: If the split is unknown, the dataset has no images with one class label each, or it is too large
            for memory and prepared in files without random access (tfrecord).
        ImportError: If files without random access need TensorFlow, and it is not installed.
    """
    split = _known_split(builder, split)
    image, label = _keys(builder)
    classes, names = len(builder.info.features[label].names), _class_names(builder, label)
    shape = builder.info.features[image].shape
    channels = 1 if shape[-1] == 1 else 3  # transparency is composited, as in files
    count = builder.info.splits[split].num_examples
    small = None not in shape and count * int(np.prod(shape)) <= IN_MEMORY
    tfds = _tfds(builder.name)
    if builder.info.file_format in tfds.core.FileFormat.with_random_access():
        # Images stay encoded: they are decoded like files in a folder, and labels are read without decoding.
        decoders = {image: tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split=split, decoders=decoders)
        dataset = RecordDataset(records, classes=classes, class_names=names, channels=channels, keys=(image, label))
        return (
            ArrayDataset(dataset.read(range(count)), dataset.labels, classes=classes, class_names=names)
            if small
            else dataset
        )
    if not small:
        raise ValueError(
            f"Expected {builder.name} prepared as array_record files, because its images differ in shape or exceed "
            f"{IN_MEMORY >> 30} GiB; received: {builder.info.file_format.value} files in {builder.data_dir}. Prepare "
            f"it in another data_dir: tfds.builder({builder.name!r}, data_dir=..., file_format='array_record')"
            ".download_and_prepare(), or pass a tf.data pipeline of your own: BatchStream(batches, steps=...)."
        )
    _require_tensorflow(builder.name)
    return ArrayDataset(*_read_all(builder, split, (image, label), channels), classes=classes, class_names=names)


def _class_names(builder, label):
    """Return the class names, or `None` if TensorFlow Datasets only numbers the classes."""
    names = builder.info.features[label].names
    if list(names) == [str(number) for number in range(len(names))]:
        names = KERAS_CLASS_NAMES.get(builder.name)
    return detected_class_names(names)


def _read_all(builder, split, keys, channels):
    """Return all images, decoded like files, and labels, in the order of the files."""
    decoders, labels = {keys[0]: _tfds(builder.name).decode.SkipDecoding()}, []
    batches = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False, decoders=decoders)

    def encoded():
        for batch in batches.as_numpy_iterator():
            for image, label in zip(batch[keys[0]], batch[keys[1]], strict=True):
                labels.append(label)
                yield len(labels) - 1, image

    def decoded(item):
        return load_image(item[1], f"image {item[0]} of {builder.name}", channels=channels)

    with contextlib.closing(map_in_threads(decoded, encoded())) as images:
        return np.stack(list(images)), np.array(labels)


def _known_split(builder, split):
    """Return the TFDS split, or slice of a split, to read; raise a `ValueError` for an unknown split."""
    known = list(builder.info.splits)
    if builder.name == "imagenet2012" and split == "test":  # its own "test" has no labels
        return "validation"
    if split == "test" and split not in known and "validation" in known:
        return "validation"
    if re.split(r"[\[+]", split)[0] not in known:
        raise ValueError(
            f"Expected a split of {builder.name}, {' or '.join(map(repr, known))}, or a slice of one, "
            f"'{known[0]}[:80%]'; received: split={split!r}."
        )
    return split


def _keys(builder):
    """Return the feature names of image and label."""
    tfds = _tfds(builder.name)
    keys, features = builder.info.supervised_keys, builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if keys is None or len(keys) != 2 or not all(map(isinstance, (features[key] for key in keys), kinds)):
        raise ValueError(
            f"Expected a dataset of images with one class label each; received: {builder.name} with {features}."
        )
    bits = str(np.dtype(getattr(features[keys[0]], "np_dtype", "uint8")))
    if bits not in ("uint8", "uint16"):  # TFDS stores floats byte by byte in PNG files
        raise ValueError(
            f"Expected images of 8 or 16 bits; received: {builder.name} with images of {bits}, without a fixed range. "
            "Scale the images to 0 to 255, and pass arrays."
        )
    return keys


def _open_keras(name, split):
    if split not in ("train", "test"):
        raise ValueError(
            f"Expected split to be 'train' or 'test' for {name} of keras.datasets; received: split={split!r}. "
            "Prepare it with TensorFlow Datasets to use slices."
        )
    try:
        splits = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises no narrower type
        raise _not_downloaded(name, error) from error
    x, y = splits[split == "test"]
    return ArrayDataset(x if x.ndim == 4 else x[..., None], y, class_names=KERAS_CLASS_NAMES[name])


def _not_downloaded(name, error):
    return ConnectionError(
        f"Expected to download {name}, which failed: {error}. Without a network, pass the path of an .npz file or a "
        "folder."
    )


def _builder(name, data_dir):
    tfds = _tfds(name)
    known = tfds.core.registered.list_imported_builders()  # tfds.list_builders uses the network
    if re.split("[/:]", name)[0] not in known:
        raise _unknown(name, known, "")
    return tfds.builder(name, data_dir=data_dir)


def _has_tfds():
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError:
        return False
    return True


def _tfds(name):
    try:
        import tensorflow_datasets
    except ImportError as error:
        if name not in KNOWN and not is_prepared(name):
            raise _unknown(name, KNOWN, f" Other names need TensorFlow Datasets: {INSTALL}.") from error
        raise ImportError(
            f"Expected tensorflow_datasets to be installed to read {name}; received: {error}. Install it: {INSTALL}."
        ) from error
    return tensorflow_datasets


def _unknown(name, names, more):
    return ValueError(
        f"Expected an existing path, or the name of a dataset such as {', '.join(map(repr, KNOWN))}; "
        f"received: {name!r}.{did_you_mean(name, {*names, *KNOWN})}{more}"
    )


def _require_tensorflow(name):
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            f"Expected TensorFlow to read {name}, which is prepared as tfrecord files; received: {error}. Install it "
            '(pip install "keras-resattn[tensorflow]"), or prepare array_record files, which do not need it: '
            "tfds.builder(name, data_dir=..., file_format='array_record').download_and_prepare()."
        ) from error
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # raised if TensorFlow has been used already
            tensorflow.config.set_visible_devices([], "GPU")  # leave device memory to the backend
