"""Quantise exported files to int8 with the tools of their runtimes, calibrated on images. Does not need Keras."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_resattn.deployment.files import files_of
from keras_resattn.typing import Quantization
from keras_resattn.utils.validation import check_choice

if TYPE_CHECKING:  # the command line imports this module
    import numpy as np

#: Package that quantises a format, and its extra.
TOOLS = {"openvino": ("nncf", "int8"), "onnx": ("onnxruntime", "export")}
#: Images per calibration step of a file that accepts any number.
BATCH_SIZE = 1


def check_quantization(quantization: Quantization | None, format: str, has_images: bool) -> None:
    """Check the arguments of an export that concern quantisation.

    Args:
        quantization: `"int8"` or `None`.
        format: Format of the file.
        has_images: Whether calibration images were passed.

    Raises:
        ValueError: If the format cannot be quantised, or `quantization` and images are not passed together.
        ImportError: If the tool is not installed.
    """
    check_choice("quantization", quantization, (None, "int8"))
    if quantization is None:
        if has_images:
            raise ValueError("Expected quantization='int8' with calibration_images; received: quantization=None.")
        return
    if format not in TOOLS:
        raise ValueError(
            f"Expected format={' or '.join(map(repr, TOOLS))} with quantization={quantization!r}; "
            f"received: format={format!r}."
        )
    if not has_images:
        raise ValueError(
            "Expected calibration_images with quantization='int8': some 300 training images, as the exported file "
            "takes them; received: none."
        )
    package, extra = TOOLS[format]
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"Expected the package {package} for quantization='int8' with format={format!r}; it is not installed. "
            f'Run: pip install "keras_resattn[{extra}]".'
        )


def quantize(path: Path, format: str, images: "np.ndarray", input_shape: Sequence[int | None]) -> None:
    """Quantise weights and activations of an exported file to int8, in place.

    Args:
        path: The file.
        format: `"onnx"` or `"openvino"`.
        images: Calibration images, as the file takes them.
        input_shape: Shape of the input, with `None` for open sizes.
    """
    # Never written over the original, whose weights OpenVINO maps into memory.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        _TOOLS[format](path, written, list(_batches(images, input_shape[0] or BATCH_SIZE)))
        for source, destination in zip(files_of(written), files_of(path), strict=True):
            source.replace(destination)


def _batches(images: "np.ndarray", size: int) -> Iterator["np.ndarray"]:
    """Yield batches of exactly `size` images; images are repeated to fill the last one."""
    import numpy as np

    count = -(-len(images) // size) * size
    images = np.resize(images, (count, *images.shape[1:]))
    return iter(np.split(images, count // size))


def _openvino(path, written, batches):
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([{model.input().get_any_name(): batch} for batch in batches]),
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations, as behind a sigmoid
    )
    openvino.save_model(quantized, written, compress_to_fp16=False)


def _onnx(path, written, batches):
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    name = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter([{name: batch} for batch in batches])

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    quantize_static(
        path,
        written,
        Reader(),
        op_types_to_quantize=["Conv"],  # sums of residual units in uint8 change 21 % of predictions on CIFAR-10
        per_channel=True,
        activation_type=QuantType.QUInt8,  # with signed weights, the faster combination on x86
        weight_type=QuantType.QInt8,
    )


_TOOLS: dict[str, Callable[[Path, Path, list["np.ndarray"]], None]] = {"openvino": _openvino, "onnx": _onnx}
