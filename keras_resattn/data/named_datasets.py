"""Datasets by name: TensorFlow Datasets, and the small ones that Keras knows."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.data.class_matching import KERAS_CLASS_NAMES, detected_class_names
from keras_resattn.data.dataset import ArrayDataset, RecordDataset
from keras_resattn.data.images import load_image
from keras_resattn.data.statistics import in_threads
from keras_resattn.data.tfrecords import RecordStream, require_tensorflow
from keras_resattn.typing import PathLike
from keras_resattn.utils.suggestions import did_you_mean

KERAS_SETS = tuple(KERAS_CLASS_NAMES)
# The papers' own, and small ones to try things with; TensorFlow Datasets knows hundreds more.
KNOWN = (*KERAS_SETS, "stanford_dogs", "cars196", "caltech_birds2011", "imagenet2012", "tf_flowers")
IN_MEMORY = 2 << 30  # bytes of images, up to which a set of images of one shape is read into memory
NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\d.*]+)?", re.IGNORECASE)
INSTALL = 'pip install "keras-resattn[data]"'


def is_name(data: object) -> bool:
    """Whether `data` names a dataset, and no file or folder: `"./mnist"` is a folder, `"mnist"` never is."""
    if not isinstance(data, str):
        return False
    looks_like_one = NAME.fullmatch(data) is not None and not data.endswith(".npz")
    return data in KNOWN or (looks_like_one and not os.path.exists(data))


def is_prepared(path: PathLike) -> bool:
    """Whether a folder is one that TensorFlow Datasets has prepared."""
    return (Path(path) / "dataset_info.json").is_file()


def open_prepared(path: PathLike, split: str) -> ArrayDataset | RecordDataset | RecordStream:
    """Opens a folder that TensorFlow Datasets has prepared: `.../name/version`."""
    return open_builder(_tfds(str(path)).builder_from_directory(path), split)


def open_named(
    name: str, split: str, data_dir: PathLike | None = None, download: bool = True
) -> ArrayDataset | RecordDataset | RecordStream:
    """Opens a dataset by name: as TensorFlow Datasets has prepared it, or else from `keras.datasets`, or downloaded.

    Downloads are prepared as array_record files, which can be read by index and without TensorFlow.

    Args and errors: as in `open_dataset`.
    """
    builder = None
    if name not in KERAS_SETS or _has_tfds():
        builder = _builder(name, data_dir)
        if builder.is_prepared():
            return open_builder(builder, split)
    if not download:
        raise FileNotFoundError(
            f"Expected {name} to be prepared by TensorFlow Datasets in {data_dir or 'its data_dir'}, with "
            "download=False; received: none there. Pass download=True, or the data_dir that holds it."
        )
    if name in KERAS_SETS:
        return _open_keras(name, split)
    builder = _tfds(name).builder(name, data_dir=data_dir, file_format="array_record")
    _keys(builder)
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # TFDS' way to ask for files that have to be fetched by hand
        raise FileNotFoundError(
            f"Expected the files of {name}, which have to be downloaded by hand. {error}"
        ) from error
    except Exception as error:
        raise _not_downloaded(name, error) from error
    return open_builder(builder, split)


def open_builder(builder: Any, split: str) -> ArrayDataset | RecordDataset | RecordStream:
    """Opens a split of what TensorFlow Datasets has prepared.

    Images of one shape, together of up to 2 GiB, become `ArrayDataset`; others `RecordDataset`, or, where the files are
    tfrecords, a `RecordStream`.
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
        # Images stay encoded: they are decoded like those of a folder, and labels can be had without that.
        decoders = {image: tfds.decode.SkipDecoding()}
        records = builder.as_data_source(split=split, decoders=decoders)
        dataset = RecordDataset(records, classes=classes, class_names=names, channels=channels, keys=(image, label))
        return (
            ArrayDataset(dataset.read(range(count)), dataset.labels, classes=classes, class_names=names)
            if small
            else dataset
        )
    require_tensorflow(builder.name)
    if small:
        return ArrayDataset(*_all(builder, split, (image, label), channels), classes=classes, class_names=names)
    return RecordStream(builder, split, (image, label), classes=classes, class_names=names, channels=channels)


def _class_names(builder, label):
    """Names of the classes; `None` where TensorFlow Datasets has none, and numbers them instead."""
    names = builder.info.features[label].names
    if list(names) == [str(number) for number in range(len(names))]:
        names = KERAS_CLASS_NAMES.get(builder.name)
    return detected_class_names(names)


def _all(builder, split, keys, channels):
    """All images, decoded as those of files are, and labels, in the order of the files."""
    decoders, labels = {keys[0]: _tfds(builder.name).decode.SkipDecoding()}, []
    batches = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False, decoders=decoders)

    def encoded():
        for batch in batches.as_numpy_iterator():
            for image, label in zip(batch[keys[0]], batch[keys[1]], strict=True):
                labels.append(label)
                yield len(labels) - 1, image

    def decoded(item):
        return load_image(item[1], f"image {item[0]} of {builder.name}", channels=channels)

    with contextlib.closing(in_threads(decoded, encoded())) as images:
        return np.stack(list(images)), np.array(labels)


def _known_split(builder, split):
    """The split's name, or a slice of a split as TensorFlow Datasets takes it, checked."""
    known = list(builder.info.splits)
    if builder.name == "imagenet2012" and split == "test":  # its "test" has no labels
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
    """The names of image and label among the features."""
    tfds = _tfds(builder.name)
    keys, features = builder.info.supervised_keys, builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if keys is None or len(keys) != 2 or not all(map(isinstance, (features[key] for key in keys), kinds)):
        raise ValueError(
            f"Expected a dataset of images with one class label each; received: {builder.name} with {features}."
        )
    bits = str(np.dtype(getattr(features[keys[0]], "np_dtype", "uint8")))
    if bits not in ("uint8", "uint16"):  # floats are stored in PNG files, byte by byte
        raise ValueError(
            f"Expected images of 8 or 16 bits; received: {builder.name} with images of {bits}, without a fixed range. "
            "Read them yourself, and pass arrays from 0 to 255."
        )
    return keys


def _open_keras(name, split):
    if split not in ("train", "test"):
        raise ValueError(
            f"Expected split to be 'train' or 'test' for {name} of keras.datasets; received: split={split!r}. "
            "Slices are understood where TensorFlow Datasets has prepared the data."
        )
    try:
        splits = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises no other
        raise _not_downloaded(name, error) from error
    x, y = splits[split == "test"]
    return ArrayDataset(x if x.ndim == 4 else x[..., None], y, class_names=KERAS_CLASS_NAMES[name])


def _not_downloaded(name, error):
    return ConnectionError(
        f"Expected {name} to be there, or to be downloaded, which failed: {error}. Without a network, pass the path of "
        "an .npz file or a folder."
    )


def _builder(name, data_dir):
    tfds = _tfds(name)
    known = tfds.core.registered.list_imported_builders()  # tfds.list_builders asks the network, by TensorFlow
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
            f"Expected tensorflow_datasets to be installed, to read {name}; received: {error}. Install it: {INSTALL}."
        ) from error
    return tensorflow_datasets


def _unknown(name, names, more):
    return ValueError(
        f"Expected an existing path, or the name of a dataset such as {', '.join(map(repr, KNOWN))}; "
        f"received: {name!r}.{did_you_mean(name, {*names, *KNOWN})}{more}"
    )
