"""Checks of single arguments."""

import numbers
from collections.abc import Collection
from typing import Any


def check_choice(argument: str, value: object, choices: Collection[object]) -> None:
    """Raises `ValueError` if `value` is not one of `choices`."""
    if not isinstance(value, (str, type(None))) or value not in choices:
        expected = ", ".join(map(repr, choices))
        raise ValueError(f"Expected {argument} to be one of {expected}; received: {argument}={value!r}.")


def check_count(argument: str, value: Any, least: int = 1) -> int:
    """Returns `value`, an integer of Python's or NumPy's, as Python's, which JSON and a `get_config` can hold.

    Raises:
        ValueError: if it is not an integer, or less than `least`.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"Expected {argument} to be an integer of at least {least}; received: {argument}={value!r}.")
    return int(value)


def is_integer(value: object) -> bool:
    """Whether `value` is an integer of Python's or NumPy's; `True` and `False` are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(argument: str, value: Any, below: float | None = None) -> None:
    """Raises `ValueError` if `value` is not a number of at least 0 and, where given, below `below`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < (float("inf") if below is None else below):
        limits = "of at least 0" if below is None else f"from 0 up to, but not including, {below}"
        raise ValueError(f"Expected {argument} to be a number {limits}; received: {argument}={value!r}.")
