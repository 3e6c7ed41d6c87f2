"""Labelled images in class folders."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from keras_resattn.data.dataset import Dataset
from keras_resattn.data.decoding import opened, upright_size
from keras_resattn.data.images import SUFFIXES, load_image
from keras_resattn.data.threaded_reading import common_shape, map_in_threads
from keras_resattn.typing import PathLike, ResizeMode
from keras_resattn.utils.io import user_path
from keras_resattn.utils.validation import check_class_names, some_names

# Names of the folder of each split, in order of preference. As with ImageNet, "test" falls back to validation images;
# "validation" never falls back to test images.
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": ("test", "val", "validation"),
    "validation": ("validation", "val"),
}


class ImageFolder(Dataset):
    """Image files in one folder per class, `root/class name/.../file.jpg`, decoded by Pillow when they are read.

    Classes are numbered in the order of their names. Hidden files and files of other kinds are ignored.

    Args:
        root: The folder.
        class_names: Names of all classes, to number labels as in another folder; by default the class folders' names.
        channels: 3 for RGB, 1 for grey.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If there are no class folders, a class folder has no images, or a class is not in `class_names`.
    """

    resize_mode: ResizeMode | None = "crop"

    def __init__(self, root: PathLike, *, class_names: Sequence[str] | None = None, channels: int = 3) -> None:
        self.root = user_path(root)
        if channels not in (1, 3):
            raise ValueError(f"Expected channels to be 1 or 3; received: channels={channels!r}.")
        folders = class_folders(self.root)
        if not folders:
            raise ValueError(
                f"Expected a folder of images for each class in {root}; received: "
                f"{'images without folders' if _files(self.root) else 'no folders'}."
            )
        names = [folder.name for folder in folders] if class_names is None else check_class_names(class_names)
        unknown = sorted({folder.name for folder in folders} - set(names))
        if unknown:
            raise ValueError(
                f"Expected only the classes {some_names(names)} in {root}; received also: {some_names(unknown)}."
            )
        self.paths, self.file_sizes, labels = [], [], []
        for folder in folders:
            files = _files(folder)
            if not files and class_names is None:
                raise ValueError(f"Expected images ({', '.join(SUFFIXES)}) in {folder}; received: none.")
            self.paths += [path for path, _ in files]
            self.file_sizes += [size for _, size in files]
            labels += [names.index(folder.name)] * len(files)
        if not labels:
            raise ValueError(f"Expected images ({', '.join(SUFFIXES)}) in the folders of {root}; received: none.")
        super().__init__(labels, class_names=names, channels=channels)

    @functools.cached_property
    def image_shape(self) -> tuple[int, ...] | None:
        """`(h, w, c)` if all images have one shape, else `None`. The first access opens files to find out."""

        def shape(path):
            with opened(path, path) as image:
                return upright_size(image)

        with contextlib.closing(map_in_threads(shape, self.paths)) as shapes:
            return common_shape(shapes, self.channels)

    def _image(self, index, size, crop, central):
        path = self.paths[index]
        return load_image(path, path, size, crop, central, self.channels, self.resize_mode)

    def _images_hash(self):
        files = zip(self.paths, self.file_sizes, strict=True)
        described = (f"{os.path.relpath(path, self.root)}\0{size}\n" for path, size in files)
        return hashlib.sha256("".join(described).encode()).hexdigest()


def open_folder(root: PathLike, split: str) -> ImageFolder:
    """Open a split of a folder: `root/train`, `root/test`, `root/val`, or class folders directly in `root`.

    Other splits number their classes like `root/train`. In a folder without split folders, every split is the folder
    itself.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the folder has no such split.
    """
    root = user_path(root)
    folders = {name: _split_folder(root, name) for name in SPLIT_FOLDERS}
    chosen = folders.get(split)
    if chosen is not None:
        train = folders["train"]
        names = None if split == "train" or train is None else [folder.name for folder in class_folders(train)]
        return ImageFolder(chosen, class_names=names)
    if split in folders and not any(folders.values()):
        return ImageFolder(root)
    known = [name for name, folder in folders.items() if folder is not None] or list(SPLIT_FOLDERS)
    raise ValueError(
        f"Expected split to be {' or '.join(map(repr, known))} for {root}; received: split={split!r}. "
        "Pass the folder that holds the class folders of the split itself to use those images."
    )


def class_folders(root: Path) -> list[Path]:
    """Return the subfolders of a folder, sorted by name, except hidden ones."""
    if not root.is_dir():
        raise FileNotFoundError(f"Expected a folder; there is no folder {root}.")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _split_folder(root, split):
    """Return the folder of a split, or `None`. A folder without subfolders is a class of that name, not a split."""
    found = (root / name for name in SPLIT_FOLDERS[split])
    return next((path for path in found if path.is_dir() and class_folders(path)), None)


def _files(folder, parents=()):
    """Return `(path, size in bytes)` of all image files in a folder at any depth, sorted by path."""
    found, real = [], os.path.realpath(folder)
    if real in parents:
        raise ValueError(
            f"Expected folders without cycles; received: {folder}, which leads back to one of its parents."
        )
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _files(entry.path, (*parents, real))
            elif entry.name.lower().endswith(SUFFIXES):
                found.append((entry.path, entry.stat().st_size))
    return sorted(found)
