"""`.npz` files with the arrays of a dataset."""

from typing import Any

from keras_resattn.typing import PathLike
from keras_resattn.utils.io import user_path
from keras_resattn.utils.npz import read_npz
from keras_resattn.utils.validation import check_class_names

NAMES = ("x_train", "y_train", "x_validation", "y_validation", "x_test", "y_test")
CLASS_NAMES = "class_names"


def load_npz(path: PathLike, split: str | None = None) -> dict[str, Any]:
    """Read images `x_*` and labels `y_*` of the splits `train`, `validation` and `test` from an `.npz` file.

    Args:
        path: The file.
        split: The split to read; both of its arrays are required. By default, all arrays in the file are read.

    Returns:
        `{name: array}`. If the file has class names, `"class_names"` is a list of strings.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged or not an `.npz` file, has none of these arrays, or has class names that are
            not distinct, non-empty strings.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected the path of an .npz file; there is nothing at {path}.")
    names = NAMES if split is None else (f"x_{split}", f"y_{split}")
    remedy = "Write it again with numpy.savez(path, x_train=..., y_train=...)."
    arrays: dict[str, Any]
    arrays, found = read_npz(path, (*names, CLASS_NAMES), remedy)
    class_names = arrays.pop(CLASS_NAMES, None)
    if not arrays or (split is not None and len(arrays) < 2):
        wanted = " and ".join(names) if split else f"some of {', '.join(names)}"
        raise ValueError(f"Expected {wanted} in {path}; received: {', '.join(found) or 'nothing'}.")
    if class_names is not None:
        try:
            arrays[CLASS_NAMES] = check_class_names(class_names)
        except ValueError as error:
            raise ValueError(f"{path}: {error} Write them as numpy.array([...]) of strings.") from None
    return arrays
