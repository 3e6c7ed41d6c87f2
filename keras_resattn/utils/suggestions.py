"""What a name that there is not may have been meant for."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns `" Did you mean 'this' or 'that'?"` of the up to three closest names, or nothing where none is close.

    Args:
        name: What was asked for; upper and lower case count alike.
        known: The names that there are.
    """
    spelled = {}
    for each in known:
        spelled.setdefault(each.lower(), each)
    close = difflib.get_close_matches(str(name).lower(), spelled, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(spelled[each]) for each in close)}?" if close else ""
