"""Export a network to a file of another runtime, and compare the file with Keras."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_resattn.deployment.comparison import compare, comparison_images
from keras_resattn.deployment.converters import convert
from keras_resattn.deployment.files import bytes_of, check_path, replaced
from keras_resattn.deployment.formats import check_format
from keras_resattn.deployment.inference import optimize_for_inference
from keras_resattn.deployment.metadata import write_metadata
from keras_resattn.deployment.network import check_groups, check_open_size, deployed_network
from keras_resattn.deployment.quantization import check_quantization, quantize
from keras_resattn.typing import ArrayLike, ExportFormat, PathLike, Quantization, Statistics
from keras_resattn.utils.validation import check_number


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes:
        path: The file; for OpenVINO the `.xml` file, with the weights in the `.bin` file beside it; for a SavedModel
            the folder.
        format: Format of the file.
        backend: Keras backend that it was exported from.
        input_shape: Shape of its input, with `None` for open sizes.
        max_difference: Largest absolute difference between its outputs and those of Keras.
        relative_difference: The same, divided by the largest absolute value that Keras returns for that output.
        agreement: Fraction of images with the same most probable class; `None` if the network is no classifier.
        images: Number of different images that were compared.
        size: Bytes of the file or files.
        seconds: Duration of the conversion, without the comparison.
        quantization: `"int8"`, or `None` for a file in float32.
    """

    path: Path
    format: str
    backend: str
    input_shape: tuple[int | None, ...]
    max_difference: float
    relative_difference: float
    agreement: float | None
    images: int
    size: int
    seconds: float
    quantization: Quantization | None = None


#: Default of `tolerance` by quantisation.
TOLERANCES = {None: 1e-4, "int8": 0.05}


def export(
    model: keras.Model,
    path: PathLike,
    format: ExportFormat,
    *,
    batch_size: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    statistics: Statistics | None = None,
    include_preprocessing: bool = False,
    class_names: Sequence[str] | None = None,
    images: ArrayLike | None = None,
    tolerance: float | None = None,
    quantization: Quantization | None = None,
    calibration_images: ArrayLike | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Export a network to a file that other runtimes run without Keras, and compare the file with Keras.

        report = export(model, "network.onnx", "onnx")

    The file is converted by `keras.Model.export`, run in its own runtime on the CPU, and deleted if its outputs differ
    from those of Keras. It replaces an existing file only when this comparison succeeds. The model is not changed.

    Class names, image size and normalisation are stored in the file: as `metadata_props` of ONNX, runtime information
    of OpenVINO (section `keras_resattn`), and `metadata.json` inside a LiteRT file, a SavedModel (in `assets.extra`)
    and a PyTorch ExportedProgram.

    Args:
        model: A functional or built sequential `keras.Model` with one input, images in Keras' image data format. A
            model under a mixed policy is exported in float32.
        path: File to write, with the suffix of the format; for a SavedModel a folder. Its parent folder must exist.
        format: `"onnx"` (`.onnx`), `"openvino"` (`.xml` with a `.bin` file beside it), `"litert"` (`.tflite`),
            `"tf_saved_model"` (a folder) or `"torch"` (`.pt2`). The backend TensorFlow exports to all except
            `"torch"`, JAX to `"tf_saved_model"`, and PyTorch to `"onnx"`, `"openvino"` and `"torch"`.
        batch_size: Fixed number of images per batch; `None` for any number.
        image_size: Fixed height and width, for a model of any input size; `None` for the model's own size.
        statistics: `(mean, std)` of each channel that normalise images from 0 to 255 for the model, stored in the file.
        include_preprocessing: Whether the file normalises images from 0 to 255 itself, with `statistics`.
        class_names: Names of the classes; by default those that the model keeps.
        images: Images for the comparison, as the exported file takes them: from 0 to 255 if it normalises images
            itself. By default, ten sample images of the package, resized.
        tolerance: Largest accepted difference, relative to the largest absolute output of Keras; by default 1e-4. With
            quantization, the largest accepted fraction of images whose most probable class changes (for a network that
            is no classifier, the root mean square of the differences relative to that of the outputs), by default 0.05.
        quantization: `"int8"` quantises weights and activations with the tool of the runtime: NNCF (extra `int8`) for
            `"openvino"`, onnxruntime for `"onnx"`. Batch normalisation is folded first, as by `optimize_for_inference`.
        calibration_images: Images for `quantization`, as the exported file takes them: some 300 training images. They
            also replace the sample images in the comparison.
        overwrite: Whether to replace an existing file.

    Returns:
        An `ExportReport`.

    Raises:
        ValueError: If the backend cannot write the format (the message says which one can), the model or another
            argument is invalid, the conversion fails, or the outputs of the file differ from those of Keras.
        FileExistsError: If `path` exists, without `overwrite`.
        ImportError: If a package of the extra `export` is missing.
        OSError: If the file cannot be written.
    """
    backend = keras.backend.backend()
    target = check_path(path, check_format(format, backend), overwrite)
    check_quantization(quantization, format, calibration_images is not None)
    tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    check_number("tolerance", tolerance)
    network = deployed_network(model, batch_size, image_size, statistics, include_preprocessing, class_names)
    check_open_size(network, format)
    check_groups(network, format)
    calibration = None if calibration_images is None else comparison_images(network, calibration_images)
    samples = comparison_images(network, images) if calibration is None or images is not None else calibration
    with replaced(target) as partial:
        start = time.perf_counter()
        if calibration is None:
            convert(network.model, partial, format, network.input_shape)
        else:
            convert(optimize_for_inference(network.model), partial, format, network.input_shape)
            quantize(partial, format, calibration, network.input_shape)
        write_metadata(partial, format, network.metadata | ({"quantization": quantization} if quantization else {}))
        seconds = time.perf_counter() - start
        found = compare(partial, format, network, samples)
        _check_differences(found, tolerance, quantization)
        size = bytes_of(partial.parent)
    return ExportReport(
        path=target,
        format=format,
        backend=backend,
        input_shape=network.input_shape,
        max_difference=found.max_difference,
        relative_difference=found.relative_difference,
        agreement=found.agreement,
        images=found.images,
        size=size,
        seconds=seconds,
        quantization=quantization,
    )


def _check_differences(found, tolerance, quantization):
    """Raise a `ValueError` if an exported file and Keras differ by more than `tolerance`."""
    if quantization is None:
        if not found.relative_difference <= tolerance:  # also for NaN
            raise ValueError(
                f"Expected outputs of the exported file within {tolerance:g} of Keras' largest output; received: a "
                f"difference of {found.relative_difference:.3g} ({found.max_difference:.3g} absolute) on "
                f"{found.images} images. The file was deleted."
            )
        return
    loss, changed = found.rms_difference, "the outputs (by root mean square)"
    if found.agreement is not None and np.isfinite(loss):
        loss, changed = 1 - found.agreement, "the most probable class of the images"
    if not loss <= tolerance:
        raise ValueError(
            f"Expected {quantization} to change {changed} by at most {tolerance:.1%}; received: {loss:.1%}, on "
            f"{found.images} images. The file was deleted. Use more calibration images, from the training set, or a "
            "larger tolerance."
        )
