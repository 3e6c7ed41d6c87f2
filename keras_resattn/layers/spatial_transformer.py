"""Sampling grid and bilinear sampler of a spatial transformer, both without weights."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resattn.typing import DataFormat, Shape, Tensor
from keras_resattn.utils.data_format import spatial_axes, standardize_data_format


@keras.saving.register_keras_serializable(package="keras_resattn")
class AffineGrid(keras.layers.Layer):
    """Sampling grid of an affine transform: the input coordinates for each output pixel.

    Called on `[theta, reference]`; only the size of `reference` is used, never its values. The output pixel at
    `(x, y)` samples the input at `(a x + b y + c, d x + e y + f)` for `theta = (a, b, c, d, e, f)`. Coordinates run
    from -1 to 1 between the centres of the corner pixels (`align_corners=True`). They are float32, also under a mixed
    policy: half precision cannot distinguish neighbouring pixels.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shapes: `(n, 6)` and `(n, H, W, any)`, or `(n, any, H, W)` with channels first.
    Output shape: `(n, H, W, 2)` in both data formats; the last axis is `(x, y)`.

    Raises:
        ValueError: if the inputs do not have these shapes.

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), Eq. 1.
    """

    def __init__(self, *, data_format: DataFormat | None = None, dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.data_format: DataFormat = standardize_data_format(data_format)

    def build(self, input_shape: Sequence[Shape]) -> None:
        if not _are_shapes(input_shape, (2, 4)) or input_shape[0][1] != 6:
            raise ValueError(
                "Expected AffineGrid to be called on [theta, reference], of shape (n, 6) and 4-D; "
                f"received shapes: {input_shape}."
            )

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        theta, reference = inputs
        height, width = (ops.shape(reference)[axis] for axis in spatial_axes(self.data_format))
        y, x = _centred(height, self.compute_dtype)[:, None], _centred(width, self.compute_dtype)
        a, b, c, d, e, f = (theta[:, i, None, None] for i in range(6))
        return ops.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        theta, reference = input_shape
        return (theta[0], *(reference[axis] for axis in spatial_axes(self.data_format)), 2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_resattn")
class BilinearSampler(keras.layers.Layer):
    """Bilinear sampling of an image at the points of a grid.

    Called on `[image, grid]`, with coordinates as returned by `AffineGrid`; points outside the image read zero. The
    result is differentiable with respect to both inputs. Sampling is computed in float32, also under a mixed policy.

    `keras.ops.image.map_coordinates` is not an alternative: it needs a static batch size on TensorFlow, and gathers the
    sixteen neighbours of a point in four dimensions.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shapes: `(n, h, w, c)`, or channels first, and `(n, H, W, 2)`.
    Output shape: `(n, H, W, c)`, or `(n, c, H, W)`.

    Raises:
        ValueError: if the inputs do not have these shapes.

    Source: Jaderberg et al., "Spatial Transformer Networks" (2015), Eq. 5.
    """

    def __init__(self, *, data_format: DataFormat | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.data_format: DataFormat = standardize_data_format(data_format)

    def build(self, input_shape: Sequence[Shape]) -> None:
        if not _are_shapes(input_shape, (4, 4)) or input_shape[1][3] != 2:
            raise ValueError(
                "Expected BilinearSampler to be called on [image, grid], 4-D and of shape (n, H, W, 2); "
                f"received shapes: {input_shape}."
            )

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        image, grid = (ops.cast(x, "float32") for x in inputs)
        if self.data_format == "channels_first":
            image = ops.transpose(image, (0, 2, 3, 1))
        batch, height, width, channels = ops.shape(image)
        columns, right = _neighbour_and_weight(grid[..., 0], width)
        rows, below = _neighbour_and_weight(grid[..., 1], height)

        # A border of zeros covers all points outside. Pixels become the rows of one (n * h * w, c) table.
        pixels = ops.reshape(ops.pad(image, [(0, 0), (1, 1), (1, 1), (0, 0)]), (-1, channels))
        row = width + 2
        first = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1)) * (height + 2) * row + rows * row + columns
        top = ops.take(pixels, first, axis=0) * (1 - right) + ops.take(pixels, first + 1, axis=0) * right
        first = first + row
        bottom = ops.take(pixels, first, axis=0) * (1 - right) + ops.take(pixels, first + 1, axis=0) * right
        sampled = ops.cast(top * (1 - below) + bottom * below, self.compute_dtype)
        return ops.transpose(sampled, (0, 3, 1, 2)) if self.data_format == "channels_first" else sampled

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        image, (batch, height, width, _) = input_shape
        if self.data_format == "channels_first":
            return (batch, image[1], height, width)
        return (batch, height, width, image[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


def _are_shapes(input_shape, ranks):
    if len(input_shape) != len(ranks) or any(np.ndim(shape) != 1 for shape in input_shape):
        return False
    return tuple(map(len, input_shape)) == ranks


def _centred(size, dtype):
    """Return `size` evenly spaced numbers from -1 to 1, or 0 for a size of one."""
    steps = ops.cast(2 * ops.arange(size, dtype="int32") - (size - 1), dtype)
    return steps / ops.cast(ops.maximum(size - 1, 1), dtype)


def _neighbour_and_weight(coordinate, size):
    """Return, for each coordinate, the index of the pixel before it and the interpolation weight of the next pixel.

    Indices count from a border of zeros at either end of the axis.

    Args:
        coordinate: Coordinates of shape `(n, H, W)`, from -1 to 1 inside the image.
        size: Height or width of the image.

    Returns:
        Indices from 0 to `size`, int32 `(n, H, W)`, and weights from 0 to 1, float32 `(n, H, W, 1)`.
    """
    size = ops.cast(size, "float32")
    at = (coordinate * (size - 1) + (size + 1)) / 2
    at = ops.maximum(ops.minimum(at, size + 1), 0)
    before = ops.minimum(ops.floor(ops.stop_gradient(at)), size)
    return ops.cast(before, "int32"), (at - before)[..., None]
