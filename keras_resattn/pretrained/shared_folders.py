"""The variable `KERAS_RESATTN_WEIGHTS`: folders of released checkpoints outside the package."""

import os
from pathlib import Path

from keras_resattn.utils.io import user_path

VARIABLE = "KERAS_RESATTN_WEIGHTS"


def shared_folders() -> tuple[Path, ...]:
    """Return the folders in `KERAS_RESATTN_WEIGHTS`, in their order.

    The variable names a folder with one subfolder per released checkpoint, such as the `weights/` of a clone or a
    folder that `keras-resattn download` filled. Several folders are separated by `os.pathsep` (`:`, on Windows `;`).

    Raises:
        ValueError: if one of them is not a readable folder, or is itself a checkpoint.
    """
    folders = tuple(user_path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name)
    for folder in folders:
        _check(folder)
    return folders


def _check(folder):
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ValueError(
            f"Expected {VARIABLE} to name folders of released checkpoints, separated by {os.pathsep!r}; received: "
            f"{folder}, which cannot be read ({error.strerror}). Correct the variable, or unset it."
        ) from error
    if "config.json" in names:
        raise ValueError(
            f"Expected {VARIABLE} to name folders with one subfolder per checkpoint; received: {folder}, which is a "
            f"checkpoint. Set the variable to {folder.absolute().parent}."
        )
