"""Checks of single arguments, with errors of the form "Expected ...; received: ..."."""

import numbers
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any


def check_choice(argument: str, value: object, choices: Collection[object]) -> None:
    """Check that a value, a string or `None`, is one of `choices`.

    Raises:
        ValueError: if it is not; the message lists them.
    """
    if not isinstance(value, (str, type(None))) or value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"Expected {argument} to be one of {expected}; received: {argument}={value!r}.")


def check_count(argument: str, value: Any, least: int = 1) -> int:
    """Return a Python or NumPy integer as a Python integer, which JSON and `get_config` can hold.

    Raises:
        ValueError: if `value` is not an integer, or less than `least`.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"Expected {argument} to be an integer of at least {least}; received: {argument}={value!r}.")
    return int(value)


def is_integer(value: object) -> bool:
    """Return whether `value` is a Python or NumPy integer; `True` and `False` are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(argument: str, value: Any, below: float | None = None) -> None:
    """Check that a value is a number of at least 0 and, if `below` is given, less than that.

    Raises:
        ValueError: if it is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < (float("inf") if below is None else below):
        limits = "of at least 0" if below is None else f"from 0 to below {below}"
        raise ValueError(f"Expected {argument} to be a number {limits}; received: {argument}={value!r}.")


def check_class_names(class_names: Any, classes: int | None = None) -> list[str]:
    """Return class names as a list of Python strings.

    Args:
        class_names: A list, tuple or one-dimensional array of strings.
        classes: Expected number of names, or `None` for any number.

    Raises:
        ValueError: if the names are not different, non-empty strings, or their number is not `classes`.
    """
    names = class_names.tolist() if hasattr(class_names, "tolist") else class_names
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"Expected class_names to be a list of strings; received: {class_names!r}.")
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise ValueError(f"Expected class_names to be non-empty strings; received among them: {some_names(wrong)}.")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"Expected class_names without duplicates; received more than once: {some_names(repeated)}.")
    if classes is not None and len(names) != classes:
        raise ValueError(
            f"Expected {classes} class names, one for each class; received: {len(names)}, {some_names(names)}."
        )
    return [str(name) for name in names]


def some_names(names: Sequence[object], most: int = 10) -> str:
    """Return names for a message: all of them, or the first few and the total number."""
    shown = [repr(name) for name in names]
    return ", ".join(shown if len(shown) <= most else [*shown[: most - 1], f"... ({len(shown)} in all)"])
