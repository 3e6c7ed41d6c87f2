"""Published weights: which there are, where they lie, and loading them strictly by name."""

from keras_resattn.checkpoints.loader import load, read_tensors
from keras_resattn.checkpoints.registry import Tag, find, tags
from keras_resattn.checkpoints.source import resolve
from keras_resattn.checkpoints.verification import Verification, verify

__all__ = ["Tag", "Verification", "find", "load", "read_tensors", "resolve", "tags", "verify"]
