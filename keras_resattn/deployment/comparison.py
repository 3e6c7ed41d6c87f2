"""Compare an exported file, run in its own runtime, with Keras."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import load_image, to_numpy
from keras_resattn.data.normalization import network_input, nonzero_std
from keras_resattn.deployment.network import DeployedNetwork
from keras_resattn.deployment.runtimes import Runner
from keras_resattn.utils.data_format import channel_axis, image_channels, image_size, spatial_axes

#: Height and width at which a network of open image size is compared.
OPEN_SIZE = 64


@dataclass(frozen=True)
class Comparison:
    """Differences between an exported file and Keras.

    Attributes:
        max_difference: Largest absolute difference of an output.
        relative_difference: The same, divided by the largest absolute value that Keras returns for that output.
        agreement: Fraction of images with the same most probable class; `None` if the network is no classifier.
        images: Number of different images compared.
    """

    max_difference: float
    relative_difference: float
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
        statistics = ([0.0], [1.0]) if network.normalizes else network.statistics
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
    return array.astype(dtype)


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


def batches_of(images: np.ndarray, input_shape: Sequence[int | None]) -> list[np.ndarray]:
    """Return the batches that are compared.

    With a fixed batch size, images are repeated to fill the last batch. With an open one, a second batch holds a single
    image, because some converters fix the size of the first batch without an error. With an open image size, another
    batch has images of another size.
    """
    if input_shape[0] is not None:
        count = -(-len(images) // input_shape[0]) * input_shape[0]
        return np.split(np.resize(images, (count, *images.shape[1:])), count // input_shape[0])
    batches = [images, images[:1]]
    open_axes = [axis for axis in spatial_axes() if input_shape[axis] is None]
    if open_axes:
        padding = [(0, 0)] * 4
        for i, axis in enumerate(open_axes):
            padding[axis] = (0, 5 + 8 * i)
        batches.append(np.pad(images[:2], padding, mode="reflect"))
    return batches


def expected_outputs(network: DeployedNetwork, x: np.ndarray) -> list[np.ndarray]:
    """Return the outputs of Keras for a batch that the exported file takes."""
    if network.normalizes:
        mean, std = (np.asarray(values, "float32") for values in network.statistics)
        if channel_axis() == 1:
            mean, std = mean[:, None, None], std[:, None, None]
        x = (x - mean) / nonzero_std(std)
    return [np.asarray(output) for output in keras.tree.flatten(network.reference.predict_on_batch(x))]


def compare(run: Runner, network: DeployedNetwork, images: np.ndarray) -> Comparison:
    """Run an exported file and Keras on the same images.

    Args:
        run: The exported file in its runtime.
        network: The network in Keras.
        images: Input of the exported file.

    Raises:
        ValueError: If the file returns another number of outputs, or outputs of other shapes, or Keras returns values
            that are not finite.
    """
    differences, relative, agreeing, total = [], [], 0, 0
    for x in batches_of(images, network.input_shape):
        expected, actual = expected_outputs(network, x), run(x)
        _check_outputs(expected, actual)
        for want, got in zip(expected, actual, strict=True):
            difference = np.abs(want.astype("float64") - got).max()
            differences.append(difference)
            relative.append(difference / (np.abs(want).max() or 1.0))
        if network.outputs is not None:
            agreeing += int((expected[0].argmax(-1) == actual[0].argmax(-1)).sum())
            total += len(x)
    agreement = agreeing / total if total else None
    # `max` of Python may skip NaN.
    return Comparison(float(np.max(differences)), float(np.max(relative)), agreement, len(images))


def _check_outputs(expected, actual):
    if not all(np.isfinite(output).all() for output in expected):
        raise ValueError("Expected a model with finite outputs; received: NaN or infinite outputs of Keras.")
    shapes = [[output.shape for output in outputs] for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"Expected the exported file to return outputs of shape {shapes[0]}; received: {shapes[1]}. The file was "
            "deleted. Try a fixed batch_size and image_size, or another format."
        )
