"""Layer names that code outside `models` relies on: the stem and the top of a network."""

import re

#: The first convolution of every network.
STEM = "stem_conv"

#: The layer that computes class scores: `classifier` in networks with gated attention, `predictions` in all others.
CLASSIFIERS = ("predictions", "classifier")

_TOP = re.compile(rf"{'|'.join(CLASSIFIERS)}|global_gate(/.*)?|attention\d+_(mask|outputs)/.*")


def is_top(name: str) -> bool:
    """Return whether a layer with weights belongs to the top, which `include_top=False` leaves out.

    Args:
        name: Name of the layer; for a sub-layer, the names of the layers that contain it come first:
            `"global_gate/bn"`.
    """
    return _TOP.fullmatch(name) is not None
