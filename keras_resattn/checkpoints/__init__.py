"""Published weights: which there are, where they lie, and loading them strictly by name."""

from keras_resattn.checkpoints.loader import load, read_tensors
from keras_resattn.checkpoints.registry import Tag, find, tags, verify
from keras_resattn.checkpoints.source import resolve

__all__ = ["Tag", "find", "load", "read_tensors", "resolve", "tags", "verify"]
