"""Ceil-mode max pooling and align-corners resizing, the geometric layers of the soft mask."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resattn.typing import DataFormat, Shape, Tensor
from keras_resattn.utils.data_format import spatial_axes, standardize_data_format


@keras.saving.register_keras_serializable(package="keras_resattn")
class CeilMaxPooling2D(keras.layers.Layer):
    """3x3 max pooling with stride 2, without padding and with sizes rounded up, as in Caffe.

    A size n becomes `ceil((n - 3) / 2) + 1`, which is `n // 2` for all n >= 2: for even sizes, the last window extends
    one pixel beyond the bottom and right edge. Where the size is dynamic, or only one side is even, TensorFlow and
    JAX add a row and a column of minus infinity.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Source: the authors' prototxt (pooling layers: kernel 3, stride 2, pad 0, ceil).
    """

    def __init__(self, *, data_format: DataFormat | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format: DataFormat = standardize_data_format(data_format)

    def call(self, x: Tensor) -> Tensor:
        if keras.backend.backend() == "torch":
            return self._torch(x)
        axes = spatial_axes(self.data_format)
        remainders = {size % 2 if isinstance(size := x.shape[axis], int) else None for axis in axes}
        if remainders not in ({0}, {1}):
            pads = [(0, 1) if axis in axes else (0, 0) for axis in range(4)]
            x = ops.pad(x, pads, constant_values=-np.inf)
        # For even sizes, "same" padding is one row below and one column on the right.
        padding = "same" if remainders == {0} else "valid"
        return ops.max_pool(x, 3, strides=2, padding=padding, data_format=self.data_format)

    def _torch(self, x):
        """Pool without a copy: Keras would pad, and transpose channels-last maps in memory."""
        import torch
        from torch.nn.functional import max_pool2d

        # For two pixels, a window of two is the same, and OpenVINO refuses windows that are larger than the map. While
        # the network is traced, which is for a fixed size, sizes are tensors.
        sizes = [x.shape[axis] for axis in spatial_axes(self.data_format)]
        window = [2 if isinstance(size, (int, torch.Tensor)) and size == 2 else 3 for size in sizes]
        if self.data_format == "channels_first":
            return max_pool2d(x, window, 2, ceil_mode=True)
        return max_pool2d(x.permute(0, 3, 1, 2), window, 2, ceil_mode=True).permute(0, 2, 3, 1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = list(input_shape)
        for axis in spatial_axes(self.data_format):
            size = shape[axis]
            shape[axis] = None if size is None else size // 2
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable(package="keras_resattn")
class BilinearResize(keras.layers.Layer):
    """Bilinear resizing of a map to the height and width of another, with aligned corners.

    Called on `[x, reference]`; only the size of `reference` is used, never its values. The
    source step is `(size_in - 1) / (size_out - 1)` (`align_corners=True`, Caffe's Interp), which
    neither `keras.layers.UpSampling2D` nor `keras.ops.image.resize` offers. TensorFlow (channels last) and PyTorch have
    an operation for it; otherwise, it is computed as one small matrix product per axis. Sizes may be dynamic.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shapes: `(n, h, w, c)` and `(n, H, W, any)`, or both channels first.
    Output shape: `(n, H, W, c)`, or `(n, c, H, W)`.

    Raises:
        ValueError: if the inputs are not two 4-D tensors.
    """

    def __init__(self, *, data_format: DataFormat | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_format: DataFormat = standardize_data_format(data_format)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 2 or any(np.ndim(shape) != 1 or len(shape) != 4 for shape in input_shape):
            raise ValueError(
                "Expected BilinearResize to be called on [x, reference], two 4-D tensors; "
                f"received shapes: {input_shape}."
            )

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        x, reference = inputs
        x = ops.cast(x, self.compute_dtype)  # Keras casts floats only
        height, width = spatial_axes(self.data_format)
        if keras.backend.backend() == "torch":
            return self._torch(x, [reference.shape[height], reference.shape[width]])
        if (
            keras.backend.backend() == "tensorflow"
            and self.data_format == "channels_last"
            and self.compute_dtype != "float64"
        ):
            return self._tensorflow(x, ops.shape(reference)[1:3])
        sizes_in, sizes_out = ops.shape(x), ops.shape(reference)
        rows = _interpolation_matrix(sizes_in[height], sizes_out[height], self.compute_dtype)
        columns = _interpolation_matrix(sizes_in[width], sizes_out[width], self.compute_dtype)
        if self.data_format == "channels_first":
            return ops.matmul(ops.matmul(rows, x), ops.transpose(columns))
        # Rows first, on (n, h, w * c), while the map is small; then columns, on (n * H, w, c).
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, sizes_in[1], sizes_in[2] * channels))
        x = ops.reshape(ops.matmul(rows, x), (-1, sizes_in[2], channels))
        x = ops.matmul(columns, x)
        return ops.reshape(x, (-1, sizes_out[1], sizes_out[2], channels))

    def _tensorflow(self, x, size):
        import tensorflow as tf

        return ops.cast(tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True), self.compute_dtype)

    def _torch(self, x, size):
        from torch.nn.functional import interpolate

        if self.data_format == "channels_first":
            return interpolate(x, size, mode="bilinear", align_corners=True)
        resized = interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True)
        return resized.permute(0, 2, 3, 1)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        x, reference = input_shape
        shape = list(x)
        for axis in spatial_axes(self.data_format):
            shape[axis] = reference[axis]
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "data_format": self.data_format}


def interpolation_weights(size_in: int, size_out: int) -> np.ndarray:
    """Return the `(size_out, size_in)` matrix of linear interpolation with aligned corners."""
    at = np.arange(size_out) * ((size_in - 1) / max(size_out - 1, 1))
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(size_in)))


def _interpolation_matrix(size_in, size_out, dtype):
    """Return the `(size_out, size_in)` matrix of linear interpolation with aligned corners.

    It is a constant if both sizes are plain integers, and a tensor expression if one is dynamic.
    """
    if isinstance(size_in, int) and isinstance(size_out, int):
        weights = interpolation_weights(size_in, size_out)
        if keras.backend.backend() == "torch":  # `torch.compile` cannot trace Keras' conversion of arrays
            import torch

            weights = torch.from_numpy(weights)
        return ops.convert_to_tensor(weights, dtype=dtype)
    size_in, size_out = (ops.cast(size, "int32") for size in (size_in, size_out))
    step = ops.cast(size_in - 1, "float32") / ops.cast(ops.maximum(size_out - 1, 1), "float32")
    at = ops.cast(ops.arange(size_out), "float32") * step
    source = ops.cast(ops.arange(size_in), "float32")
    return ops.cast(ops.maximum(0.0, 1.0 - ops.abs(at[:, None] - source)), dtype)
