"""File formats of exports: suffixes, the backends that can write them, and the packages needed. Does not need Keras."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_resattn.utils.validation import check_choice

#: Name of the input in ONNX, OpenVINO and LiteRT files.
INPUT_NAME = "images"


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        title: Name in messages.
        suffix: Suffix of the file; `""` for a folder.
        packages: `{backend: packages}` for each backend that can write the format: the packages that converting and
            running the file need, besides the backend itself.
    """

    title: str
    suffix: str
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


#: Formats by name. Left out: ONNX from JAX, whose files onnxruntime rejects; OpenVINO from JAX and SavedModel from
#: PyTorch, where Keras' conversion fails.
FORMATS = {
    "onnx": Format(
        "ONNX",
        ".onnx",
        {"tensorflow": ("tf2onnx", "onnx", "onnxruntime"), "torch": ("onnx", "onnxscript", "onnxruntime")},
    ),
    "openvino": Format("OpenVINO", ".xml", {"tensorflow": ("openvino", "scipy"), "torch": ("openvino",)}),
    "litert": Format("LiteRT", ".tflite", {"tensorflow": ()}),
    "tf_saved_model": Format("a TensorFlow SavedModel", "", {"tensorflow": (), "jax": ("tensorflow",)}),
    "torch": Format("a PyTorch ExportedProgram", ".pt2", {"torch": ()}),
}


def check_format(format: str, backend: str) -> Format:
    """Return the `Format` of a name.

    Raises:
        ValueError: If the name is unknown, or the backend cannot write the format; the message names those that can.
        ImportError: If a package is missing.
    """
    check_choice("format", format, tuple(FORMATS))
    found = FORMATS[format]
    if backend not in found.packages:
        able = [name for name, each in FORMATS.items() if backend in each.packages]
        raise ValueError(
            f"Expected the backend {' or '.join(found.packages)} for an export to {found.title}; received: {backend}, "
            f"which exports to {', '.join(able) or 'no format'}. Set KERAS_BACKEND before Keras is imported, and load "
            "the same weights."
        )
    missing = [name for name in found.packages[backend] if importlib.util.find_spec(name) is None]
    if missing:
        package = "tensorflow" if "tensorflow" in missing else '"keras-resattn[export]"'
        raise ImportError(
            f"Expected {', '.join(missing)} to be installed, for an export to {found.title} on {backend}. "
            f"Run: pip install {package}."
        )
    return found
