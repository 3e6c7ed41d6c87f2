"""Suggestions of similar names for an unknown name."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `" Did you mean 'this' or 'that'?"` with up to three similar names, or `""` if none is similar.

    Args:
        name: The unknown name; case is ignored.
        known: The names that exist.
    """
    spelled = {}
    for each in known:
        spelled.setdefault(each.lower(), each)
    close = difflib.get_close_matches(str(name).lower(), spelled, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(spelled[each]) for each in close)}?" if close else ""
