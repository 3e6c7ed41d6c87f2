"""Open labelled images of any supported kind as a `Dataset` or a `BatchStream`."""

import os

from keras_resattn.data import named_datasets
from keras_resattn.data.array_dataset import ArrayDataset
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.image_folder import open_folder
from keras_resattn.data.images import check_resize_mode
from keras_resattn.data.npz_files import CLASS_NAMES, load_npz
from keras_resattn.data.record_dataset import RecordDataset
from keras_resattn.typing import DataLike, PathLike, ResizeMode
from keras_resattn.utils.io import user_path


def open_dataset(
    data: DataLike,
    *,
    split: str = "train",
    data_dir: PathLike | None = None,
    download: bool = True,
    resize_mode: ResizeMode | None = None,
) -> Dataset | BatchStream:
    """Open labelled images.

    Args:
        data: One of

            - `(x, y)`: images `(n, h, w, c)` from 0 to 255, and integer labels `(n,)`; for training, also
              `(x, y, sample_weight)`, with the weight of each image in the loss.
            - The path of an `.npz` file with `x_train` and `y_train`; for the split `"test"`, `x_test` and `y_test`;
              optionally `class_names`, an array of strings.
            - The path of a folder of class folders, or of a folder with subfolders such as `train`, `val` and `test`.
            - The name of a dataset: `"cifar10"`, `"cifar100"`, `"mnist"`, `"fashion_mnist"`, or any image
              classification dataset of TensorFlow Datasets (`pip install "keras-resattn[data]"`).
            - An object with `len()` and `[index]` that holds records `(image, label)`; see `RecordDataset`.
            - Batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader`; see `BatchStream`.
            - A `Dataset` or a `BatchStream`, which is returned as is.
        split: `"train"`, `"test"` or `"validation"`; for a dataset by name, also a TFDS slice such as `"train[:80%]"`.
            If a folder or ImageNet has no labelled `"test"`, its validation images are used. `split` has no effect on
            data that are already a single split (arrays, records, batches).
        data_dir: Folder of TensorFlow Datasets (by default, that of the library). Only for datasets by name.
        download: Whether to download a dataset by name if it is missing. Nothing else is ever downloaded.
        resize_mode: How to resize images of another aspect ratio than the network's: `"crop"` (the largest central
            crop), `"squash"` (the whole image, distorted) or `"pad"` (the whole image with black bars). The default,
            `None`, means `"crop"` for files and records, and requires arrays of the network's size.

    Returns:
        A `Dataset` (images by index) or a `BatchStream` (batches in the order of their own library).

    Raises:
        ValueError: Before any download, if the data have an unsupported type or form, or a name or split is unknown.
        FileNotFoundError: If a path or, with `download=False`, a prepared dataset does not exist.
        ImportError: If the dataset needs a package that is not installed.
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
        return _check_weights(data, split)
    if isinstance(data, (tuple, list)) and len(data) in (2, 3) and hasattr(data[0], "shape"):
        x, y, weights = (*data, None)[:3]
        return _check_weights(ArrayDataset(x, y, weights=weights), split)
    # Keras' PyDataset also has len() and [index], but of batches.
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not hasattr(data, "on_epoch_end"):
        if hasattr(data, "keys"):
            raise ValueError(f"Expected (x, y) or one of the other kinds of data; received: a mapping of {list(data)}.")
        return RecordDataset(data)
    return BatchStream(data)


def _check_weights(dataset, split):
    if split != "train" and getattr(dataset, "weights", None) is not None:
        raise ValueError(
            "Expected sample weights only with training data, because metrics on other data count all images equally; "
            f"received: weights with {split} data. Pass (x, y)."
        )
    return dataset


def open_validation(
    data: DataLike, data_dir: PathLike | None = None, training: Dataset | BatchStream | None = None
) -> Dataset | BatchStream | None:
    """Open validation data by `open_dataset`, with the split `"validation"`.

    Args:
        data: As in `open_dataset`, or `None`, which is returned as is.
        data_dir: As in `open_dataset`; ignored unless `data` is a name, because it may belong to the training data.
        training: The opened training data, whose `resize_mode` is used; `None` if there are none.

    Raises:
        ValueError: If `data` is a `Dataset` with another `resize_mode` than the training data.
    """
    if data is None:
        return None
    dataset = open_dataset(data, split="validation", data_dir=data_dir if named_datasets.is_name(data) else None)
    trained = getattr(training, "resize_mode", None)
    if trained is None or dataset.resize_mode in (None, trained):
        return dataset
    if dataset is data:
        raise ValueError(
            f"Expected validation images to be resized like the training images, resize_mode={trained!r}; "
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
