"""Layers of networks that `keras_resattn.optimize_for_inference` returns."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.typing import Tensor


class _InferenceLayer(keras.layers.Layer):
    """Layer that is never trained, and whose calls on PyTorch skip what `Layer.__call__` does around `call`.

    PyTorch runs layers eagerly, where that takes longer than a small convolution. It is skipped for inputs of the
    compute dtype.
    """

    @property
    def trainable(self) -> bool:
        """Always `False`; setting it has no effect."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, False)

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.trainable = False  # also of the weights, which PyTorch would track otherwise

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer: Any = self
        x: Any = args[0] if len(args) == 1 else None
        if not layer.built or keras.backend.backend() != "torch" or not ops.is_tensor(x):
            return super().__call__(*args, **kwargs)
        if keras.backend.standardize_dtype(x.dtype) == layer.compute_dtype:
            return layer.call(x)
        return super().__call__(*args, **kwargs)


@keras.saving.register_keras_serializable(package="keras_resattn")
class InferenceConv2D(_InferenceLayer, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with its weights stored as the backend reads them.

    Weights have the compute dtype, so that half precision does not cast them in every call. On PyTorch, the kernel lies
    in memory so that its transpose is a channels-last kernel: `keras.layers.Conv2D` transposes and copies it in every
    call. A ReLU is applied in place there. The weights are not trained.

    Args:
        *args: The positional arguments of `keras.layers.Conv2D`.
        **kwargs: Its keyword arguments. Values are expected to be assigned after building, so kernels start at zero if
            no initializer is given.

    Input and output shape: those of `keras.layers.Conv2D`.
    """

    def __init__(self, *args: Any, dtype: Any = None, kernel_initializer: Any = "zeros", **kwargs: Any) -> None:
        compute_dtype = keras.dtype_policies.get(dtype).compute_dtype
        super().__init__(*args, dtype=compute_dtype, kernel_initializer=kernel_initializer, **kwargs)

    def append_normalization(self, relu: bool) -> None:
        """Make the layer, which is not built yet, compute a batch normalisation and perhaps a ReLU after it."""
        self.use_bias = True
        self.activation = keras.activations.relu if relu else self.activation

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if keras.backend.backend() == "torch":
            # (h, w, in, out) stays the shape; the memory becomes (out, h, w, in). Assigning values keeps it.
            parameter: Any = self._kernel.value
            parameter.data = parameter.data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)

    def call(self, inputs: Tensor) -> Tensor:
        padding = self._even_padding()
        if keras.backend.backend() != "torch" or padding is None:
            return super().call(inputs)
        import torch

        last = self.data_format == "channels_last"
        x: Any = inputs.permute(0, 3, 1, 2) if last else inputs
        kernel, bias = self._kernel.value.permute(3, 2, 0, 1), self.bias.value if self.use_bias else None
        y = torch.nn.functional.conv2d(x, kernel, bias, self.strides, padding, self.dilation_rate, self.groups)
        if self.activation is keras.activations.relu:
            y = torch.relu_(y)
        elif self.activation is not keras.activations.linear:
            y = self.activation(y)
        return y.permute(0, 2, 3, 1) if last else y

    def _even_padding(self):
        """Return the padding at both ends of each axis, or `None` if it is uneven or depends on the input size."""
        if self.padding == "valid":
            return (0, 0)
        extents = [rate * (size - 1) for rate, size in zip(self.dilation_rate, self.kernel_size, strict=True)]
        if self.padding != "same" or set(self.strides) != {1} or any(extent % 2 for extent in extents):
            return None
        return tuple(extent // 2 for extent in extents)


@keras.saving.register_keras_serializable(package="keras_resattn")
class InferenceBatchNormalization(_InferenceLayer, BatchNormalization):
    """Batch normalisation by its moving statistics, whatever `training` is, and perhaps a ReLU.

    Args:
        relu: Whether a ReLU follows.
        **kwargs: The arguments of `keras.layers.BatchNormalization`.

    Input and output shape: any, unchanged.
    """

    def __init__(self, relu: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.relu = relu

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        outputs: Any = super().call(inputs, training=False, mask=mask)
        if not self.relu:
            return outputs
        return outputs.relu_() if keras.backend.backend() == "torch" else ops.relu(outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "relu": self.relu}


def scale_and_offset(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Return `(scale, offset)`, float64 of shape `(channels,)`, that a batch normalisation applies in inference."""
    mean, variance = _float64(norm.moving_mean), _float64(norm.moving_variance)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    scale = scale if norm.gamma is None else scale * _float64(norm.gamma)
    offset = -mean * scale
    return scale, offset if norm.beta is None else offset + _float64(norm.beta)


def _float64(variable):
    return ops.convert_to_numpy(variable).astype("float64")
