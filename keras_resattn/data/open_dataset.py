"""`open_dataset`: open labelled images of any supported kind as a `Dataset` or a `BatchStream`."""

import os

from keras_resattn.data import named_datasets
from keras_resattn.data.arrays import CLASS_NAMES, load_npz
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import ArrayDataset, Dataset, RecordDataset
from keras_resattn.data.image_folder import ImageFolder, open_folder
from keras_resattn.data.images import check_resize_mode
from keras_resattn.typing import DataLike, PathLike, ResizeMode
from keras_resattn.utils.io import user_path

__all__ = ["ArrayDataset", "BatchStream", "Dataset", "ImageFolder", "RecordDataset", "open_dataset"]


def open_dataset(
    data: DataLike,
    *,
    split: str = "train",
    data_dir: PathLike | None = None,
    download: bool = True,
    resize_mode: ResizeMode | None = None,
) -> Dataset | BatchStream:
    """Opens labelled images, whatever they are given as.

    Args:
        data: One of

            - `(x, y)`: images `(n, h, w, c)`, 0 to 255, and integer labels `(n,)`; for training also
              `(x, y, sample_weight)`, with the weight of each image in the loss.
            - The path of an `.npz` file with `x_train` and `y_train`; for `"test"` `x_test` and `y_test`; and perhaps
              `class_names`, an array of strings.
            - The path of a folder of class folders, or of a folder that holds such as `train`, `test`, `val`.
            - The name of a dataset: `"cifar10"`, `"cifar100"`, `"mnist"`, `"fashion_mnist"`, or any image
              classification set of TensorFlow Datasets (`pip install "keras-resattn[data]"`).
            - Something with `len()` and `[index]` that holds records `(image, label)`: see `RecordDataset`.
            - Batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader`: see `BatchStream`.
            - A `Dataset` or a `BatchStream`, returned as it is.
        split: `"train"`, `"test"` or `"validation"`; a named dataset also takes TFDS slices, `"train[:80%]"`.
            Where a folder or ImageNet has no labelled `"test"`, its validation images are taken for it. Data that
            is one split already (arrays, records, batches) is taken as it is.
        data_dir: Where TensorFlow Datasets keeps its files; by default its own choice. Only for names.
        download: Whether a named dataset that is not there yet is downloaded. Nothing else is ever downloaded.
        resize_mode: How images of another aspect ratio than the network's are resized: `"crop"` (the largest central
            crop), `"squash"` (the whole image, distorted) or `"pad"` (the whole image with black bars). The default,
            `None`, means `"crop"` for files and records; arrays then have to have the network's size.

    Returns:
        A `Dataset` (images by index) or a `BatchStream` (batches in an order of their own).

    Raises:
        ValueError: for data of another kind or form, an unknown name or split; before anything is downloaded.
        FileNotFoundError: if a path, or with `download=False` a prepared dataset, does not exist.
        ImportError: if the dataset needs a package that is not installed.
    """
    if resize_mode is not None:
        check_resize_mode(resize_mode)
    dataset = _open(data, split, None if data_dir is None else user_path(data_dir), download)
    return dataset if resize_mode is None else dataset.with_resize_mode(resize_mode)


def _open(data, split, data_dir, download):
    named_set = named_datasets.is_name(data)
    if data_dir is not None and not named_set:
        raise ValueError(f"Expected data_dir only with the name of a dataset; received: data_dir={data_dir!r}.")
    if named_set:
        return named_datasets.open_named(data, split, data_dir, download)
    if isinstance(data, (str, os.PathLike)):
        return _open_path(user_path(data), split)
    if isinstance(data, (Dataset, BatchStream)):
        return _of_split(data, split)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3) and hasattr(data[0], "shape"):
        x, y, weights = (*data, None)[:3]
        return _of_split(ArrayDataset(x, y, weights=weights), split)
    # Keras' PyDataset has len() and [index] too, but of batches.
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "on_epoch_end"):
        if hasattr(data, "keys"):
            raise ValueError(f"Expected (x, y) or one of the other kinds of data; received: a mapping of {list(data)}.")
        return RecordDataset(data)
    return BatchStream(data)


def _of_split(dataset, split):
    if split != "train" and getattr(dataset, "weights", None) is not None:
        raise ValueError(
            "Expected sample weights with training data alone, as figures on other data count all images alike; "
            f"received: weights with {split} data. Pass (x, y)."
        )
    return dataset


def open_validation(
    data: DataLike, data_dir: PathLike | None = None, training: Dataset | BatchStream | None = None
) -> Dataset | BatchStream | None:
    """Open the data measured after each epoch: `open_dataset` of the split `"validation"`; `None` stays `None`.

    Args:
        data: As in `open_dataset`, or `None`.
        data_dir: As there; only looked at where `data` is a name, as it may be meant for training data alone.
        training: The training data, opened: validation images are resized in the same way. `None` for no such data.

    Raises:
        ValueError: for a `Dataset` that was opened with another `resize_mode` than the training data.
    """
    if data is None:
        return None
    dataset = open_dataset(data, split="validation", data_dir=data_dir if named_datasets.is_name(data) else None)
    trained = getattr(training, "resize_mode", None)
    if trained is None or dataset.resize_mode in (None, trained):
        return dataset
    if dataset is data:
        raise ValueError(
            f"Expected validation images to be resized as the training images, resize_mode={trained!r}; "
            f"received: {dataset.resize_mode!r}. Pass validation_data.with_resize_mode({trained!r})."
        )
    return dataset.with_resize_mode(trained)


def _open_path(path, split):
    if path.is_dir():
        return (
            named_datasets.open_prepared(path, split) if named_datasets.is_prepared(path) else open_folder(path, split)
        )
    if not path.exists():
        raise FileNotFoundError(f"Expected the path of an .npz file or a folder; there is nothing at {path}.")
    arrays = load_npz(path, split)
    try:
        return ArrayDataset(arrays[f"x_{split}"], arrays[f"y_{split}"], class_names=arrays.get(CLASS_NAMES))
    except ValueError as error:
        raise ValueError(f"{path}, {split}: {error}") from error
