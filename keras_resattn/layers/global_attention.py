"""Attention on a feature map, from local features and a global vector (Jetley et al., ICLR 2018)."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.typing import Shape, Tensor
from keras_resattn.utils.data_format import spatial_axes


@keras.saving.register_keras_serializable(package="keras_resattn")
class GlobalAttentionMap(CompositeLayer):
    """Attention weights: the softmax over positions of a 1x1 convolution of `[local; global]`.

    The global vector is concatenated to the features of every position. Because the convolution is linear, the vector
    adds the same number to the score of each position, and the softmax cancels it: the map does not depend on the
    vector, whose gradient is zero. The softmax runs in float32.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `[(n, h, w, c), (n, d)]`. Output shape: `(n, h, w, 1)`; the weights of each image are
    positive and sum to one. The convolution is named `score`.

    Source: WRN-att2 in the code of Rodriguez et al., "Attend and Rectify" (ECCV 2018).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._conv("score", 1, 1)

    def sublayer_calls(self, input_shape: Sequence[Shape]) -> Iterator[tuple[keras.layers.Layer, Shape]]:
        local, vector = input_shape
        shape: list[Any] = list(local)
        shape[self.channel_axis] += vector[-1]
        yield self.score, tuple(shape)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        local, vector = inputs
        positions = spatial_axes(self.data_format)
        first_channel = local[..., :1] if self.channel_axis == -1 else local[:, :1]  # ops.take has no ONNX from PyTorch
        tiled = ops.ones_like(first_channel) * ops.expand_dims(vector, positions)
        scores = ops.cast(self.score(ops.concatenate([local, tiled], axis=self.channel_axis)), "float32")
        exponentials = ops.exp(scores - ops.max(scores, axis=positions, keepdims=True))
        weights = exponentials / ops.sum(exponentials, axis=positions, keepdims=True)
        return ops.cast(weights, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        shape = list(input_shape[0])
        shape[self.channel_axis] = 1
        return tuple(shape)


@keras.saving.register_keras_serializable(package="keras_resattn")
class AttendedSum(CompositeLayer):
    """Weighted sum of features over all positions, computed in float32.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `[(n, h, w, c), (n, h, w, 1)]`, features and weights. Output shape: `(n, c)`.
    """

    def sublayer_calls(self, input_shape: Sequence[Shape]) -> Iterator[tuple[keras.layers.Layer, Shape]]:
        return iter(())

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        features, weights = (ops.cast(x, "float32") for x in inputs)
        return ops.cast(ops.sum(features * weights, axis=spatial_axes(self.data_format)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        features, _ = input_shape
        return (features[0], features[self.channel_axis])
