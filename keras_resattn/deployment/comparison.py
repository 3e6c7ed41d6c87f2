"""Compare an exported file, run in its own runtime, with Keras."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import load_image, to_numpy
from keras_resattn.data.normalization import network_input, nonzero_std
from keras_resattn.deployment.network import DeployedNetwork
from keras_resattn.deployment.runtimes import open_runtime
from keras_resattn.models.normalization import convolution_on_raw_input
from keras_resattn.preprocessing import warn_if_raw
from keras_resattn.utils.data_format import channel_axis, image_channels, image_size, spatial_axes

#: Height and width at which a network of open image size is compared.
OPEN_SIZE = 64
BATCH = 32  # images in memory at once
REMEDY = "Try a fixed batch_size and image_size, or another format."


@dataclass(frozen=True)
class Comparison:
    """Differences between an exported file and Keras.

    Attributes:
        max_difference: Largest absolute difference of an output.
        relative_difference: The same, divided by the largest absolute value that Keras returns for that output.
        rms_difference: Root mean square of the differences of an output, relative to that of the values of Keras.
        agreement: Fraction of images with the same most probable class; `None` if the network is no classifier.
        images: Number of different images compared.
    """

    max_difference: float
    relative_difference: float
    rms_difference: float
    agreement: float | None
    images: int


def comparison_images(network: DeployedNetwork, images: Any = None) -> np.ndarray:
    """Return images as input of the exported file: checked ones of the caller, or the sample images.

    Args:
        network: The network to export.
        images: Input of the exported file, in the model's shape; `None` for the sample images.

    Raises:
        ValueError: If `images` do not fit the network.
    """
    shape = network.input_shape
    dtype = keras.backend.standardize_dtype(network.model.inputs[0].dtype)
    if images is None:
        size = tuple(OPEN_SIZE if side is None else side for side in image_size(shape))
        samples = sample_images(size, image_channels(shape))
        statistics = ([0.0], [1.0]) if network.normalizes or "int" in dtype else network.statistics
        if statistics is None:  # unknown, so values of the usual range
            statistics = samples.mean((0, 1, 2)), samples.std((0, 1, 2))
        return network_input(samples, *statistics).astype(dtype)
    array = to_numpy(images)
    fits = array.ndim == 4 and all(want in (None, got) for want, got in zip(shape[1:], array.shape[1:], strict=True))
    if not fits or not len(array) or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise ValueError(
            f"Expected images, finite numbers of shape {(None, *shape[1:])}, as the exported file takes them; "
            f"received: shape {array.shape}, {array.dtype}."
        )
    _check_normalized(array, network, dtype)
    return array.astype(dtype)


def _check_normalized(array, network, dtype):
    """Raise a `ValueError` for integers, and warn about floats that look raw, if the file takes normalised images."""
    unnormalized = convolution_on_raw_input(network.reference)
    if "int" in dtype or network.normalizes or unnormalized is None:
        return
    if array.dtype.kind == "f":
        warn_if_raw(array, unnormalized, stacklevel=4)
        return
    raise ValueError(
        f"Expected normalised images, as the exported file takes them; received: {array.dtype} from {array.min()} to "
        f"{array.max()}. Normalise them, for example with preprocess_input(images, weights=...), or export with "
        "include_preprocessing=True."
    )


def sample_images(size: tuple[int, ...], channels: int) -> np.ndarray:
    """Return the ten sample images of the package, resized: `(10, height, width, channels)` uint8.

    Other numbers of channels than 1 and 3 repeat the grey image.
    """
    package = Path(__file__).parents[1]
    installed = package / "sample_images"
    folder = installed if installed.is_dir() else package.parent / "examples" / "images"
    loaded = 3 if channels == 3 else 1
    images = [load_image(file, file.name, size, channels=loaded) for file in sorted(folder.glob("*.png"))]
    return np.repeat(np.stack(images), channels // loaded, axis=-1)


def compare(path: Path, format: str, network: DeployedNetwork, images: np.ndarray) -> Comparison:
    """Run an exported file in its runtime, and the network in Keras, on the same images.

    With an open batch size, a single image is compared too, because some converters fix the size of a batch without an
    error; with an open image size, also images of another size.

    Args:
        path: The file.
        format: Its format.
        network: The network in Keras.
        images: Input of the file.

    Raises:
        ValueError: If the file does not run, or its outputs have other shapes than those of Keras; or if outputs of
            Keras are not finite.
    """
    expected = _keras_outputs(network, images)
    run = _runner(path, format)
    batches = _batches(len(images), network.input_shape)
    pairs = [(run(images[batch]), [output[batch] for output in expected]) for batch in batches]
    agreement = None if network.outputs is None else _agreement(batches, pairs, len(images))
    if None in image_size(network.input_shape):
        other = _other_size(images, network.input_shape)
        pairs.append((run(other), _keras_outputs(network, other)))
    outputs = [pair for actual, wanted in pairs for pair in _outputs(wanted, actual)]
    absolute, relative, rms = np.max([_differences(*pair) for pair in outputs], axis=0)  # NaN if one is
    return Comparison(float(absolute), float(relative), float(rms), agreement, len(images))


def _agreement(batches, pairs, count):
    """Return the fraction of images with the same most probable class in every batch that holds them."""
    agrees = np.ones(count, bool)
    for batch, (actual, wanted) in zip(batches, pairs, strict=True):
        np.logical_and.at(agrees, batch, actual[0].argmax(-1) == wanted[0].argmax(-1))
    return float(agrees.mean())


def _batches(count, input_shape):
    """Return indices of the images of each batch. With a fixed batch size, images are repeated to fill the last one."""
    if input_shape[0] is None:
        return [*np.split(np.arange(count), range(BATCH, count, BATCH)), np.arange(1)]
    steps = -(-count // input_shape[0])
    return list(np.resize(np.arange(count), (steps, input_shape[0])))


def _other_size(images, input_shape):
    padding = [(0, 0)] * 4
    for axis, added in zip(spatial_axes(), (5, 13), strict=True):
        padding[axis] = (0, added if input_shape[axis] is None else 0)
    return np.pad(images[np.resize(np.arange(len(images)), input_shape[0] or 2)], padding, mode="reflect")


def _keras_outputs(network, x):
    """Return the outputs of Keras for the input of an exported file."""
    if network.normalizes:
        mean, std = (np.asarray(values, "float32") for values in network.statistics)
        if channel_axis() == 1:
            mean, std = mean[:, None, None], std[:, None, None]
        x = (x - mean) / nonzero_std(std)
    outputs = keras.tree.flatten(network.reference.predict(x, batch_size=BATCH, verbose=0))
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError(f"Expected finite outputs; {network.reference.name} returns NaN or infinite values.")
    return [np.asarray(output) for output in outputs]


def _runner(path, format):
    """Return a function that runs a file; errors of the runtime, of many types, become `ValueError`."""

    def checked(function, *arguments):
        try:
            return function(*arguments)
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(
                f"Expected the exported {format} file to run in its runtime; it failed ({reason}). The file was "
                f"deleted. {REMEDY}"
            ) from error

    return functools.partial(checked, checked(open_runtime, path, format))


def _outputs(expected, actual):
    """Return pairs of outputs, of Keras and the exported file, after comparing their shapes."""
    shapes = [[output.shape for output in outputs] for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected the exported file to return outputs of shapes {shapes[0]}; received: {shapes[1]}. The file was "
            f"deleted. {REMEDY}"
        )
    return zip(expected, actual, strict=True)


def _differences(expected, actual):
    difference = np.abs(expected.astype("float64") - actual)
    largest, square = difference.max(), np.mean(np.square(difference))
    return largest, largest / (np.abs(expected).max() or 1.0), np.sqrt(square / (np.mean(np.square(expected)) or 1.0))
