"""Published weights: which there are, where they lie, and loading them strictly by name."""

from typing import TYPE_CHECKING

from keras_resattn import lazy
from keras_resattn.checkpoints.registry import Tag, find, tags
from keras_resattn.checkpoints.source import resolve
from keras_resattn.checkpoints.verification import Verification, verify

if TYPE_CHECKING:
    from keras_resattn.checkpoints.loader import load
    from keras_resattn.checkpoints.tensors import read_tensors

__all__ = ["Tag", "Verification", "find", "load", "read_tensors", "resolve", "tags", "verify"]

__getattr__, __dir__ = lazy.names(__name__, {"load": "loader", "read_tensors": "tensors"})
