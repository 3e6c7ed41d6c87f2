"""Released checkpoints: their records, resolving `weights=`, verifying files, and strict loading by layer name."""

from typing import TYPE_CHECKING

from keras_resattn.pretrained.folder_copy import download
from keras_resattn.pretrained.records import Checkpoint, find, tags
from keras_resattn.pretrained.resolution import resolve
from keras_resattn.pretrained.verification import Verification, verify
from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.pretrained.loading import load
    from keras_resattn.pretrained.tensors import read_tensors

__all__ = ["Checkpoint", "Verification", "download", "find", "load", "read_tensors", "resolve", "tags", "verify"]

__getattr__, __dir__ = lazy.names(__name__, {"load": "loading", "read_tensors": "tensors"})
