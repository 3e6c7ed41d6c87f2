"""Heads of a gated attention module: their masks, class scores and gate scores (Rodriguez et al., ECCV 2018).

The layers that weight and combine heads are in `gates`. Each layer is a node of the graph, so masks and gates can be
read by name.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.typing import GatedMaskActivation, Shape, Tensor
from keras_resattn.utils.data_format import spatial_axes
from keras_resattn.utils.validation import check_choice, check_count, check_number

GATED_MASK_ACTIVATIONS = ("softmax", "sigmoid")


@keras.saving.register_keras_serializable(package="keras_resattn")
class AttentionHead(CompositeLayer):
    """Attention masks of a module: a weight for each position of a feature map and each of K heads (Eq. 1-2).

    A bias-free 3x3 convolution, followed by a softmax over all positions (in float32), so that the mask of each head
    sums to one. In training, a regulariser penalises heads that attend to the same positions: with the masks, after
    2x2 average pooling, as rows of A, it adds `regularization * mean((A A^T without its diagonal) ** 2)` to the loss,
    averaged over images and pairs of heads.

    Args:
        heads: Number of heads K, the paper's attention width.
        activation: `"softmax"` over positions, or `"sigmoid"` at each position (the paper's ablation).
        regularization: Strength of the overlap regulariser; 0 disables it.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, h, w, K)`.

    Raises:
        ValueError: if `heads` is not a positive integer, `activation` is unknown, or `regularization` negative.

    Source: Sec. 3 of the paper; the regulariser follows the authors' code, as the paper only cites it.
    """

    def __init__(
        self, heads: int, activation: GatedMaskActivation = "softmax", regularization: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        heads = check_count("heads", heads)
        check_choice("activation", activation, GATED_MASK_ACTIVATIONS)
        check_number("regularization", regularization)
        self.heads = heads
        self.activation = activation
        self.regularization = regularization
        self._conv("conv", heads, 3)

    def sublayer_calls(self, input_shape: Shape) -> Iterator[tuple[keras.layers.Layer, Shape]]:
        yield self.conv, input_shape

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        scores = ops.cast(self.conv(x), "float32")
        masks = self._softmax(scores) if self.activation == "softmax" else ops.sigmoid(scores)
        if training and self.regularization and self.heads > 1:
            self.add_loss(self.regularization * self._overlap(masks))
        return ops.cast(masks, self.compute_dtype)

    def _softmax(self, scores):
        # `ops.softmax` over two axes fails on TensorFlow if the batch size is unknown.
        axes = spatial_axes(self.data_format)
        exponentials = ops.exp(scores - ops.max(scores, axis=axes, keepdims=True))
        return exponentials / ops.sum(exponentials, axis=axes, keepdims=True)

    def _overlap(self, masks):
        if all(size is None or size > 1 for size in (masks.shape[axis] for axis in spatial_axes(self.data_format))):
            masks = ops.average_pool(masks, 2, strides=2, padding="valid", data_format=self.data_format)
        pairs = "nhwj,nhwk->njk" if self.data_format == "channels_last" else "njhw,nkhw->njk"
        gram = ops.einsum(pairs, masks, masks) * (1 - ops.eye(self.heads, dtype="float32"))
        return ops.mean(ops.square(gram))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = list(input_shape)
        shape[self.channel_axis] = self.heads
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "heads": self.heads,
            "activation": self.activation,
            "regularization": self.regularization,
        }


@keras.saving.register_keras_serializable(package="keras_resattn")
class OutputHead(CompositeLayer):
    """Class scores of each attention head, and a score from which the head's gate is computed (Eq. 3-4).

    Called on `[x, masks]`. The paper defines two bias-free 3x3 convolutions of x, `output` with K * N channels (head
    by head) and `score` with K channels, each summed over positions with the head's mask as weights. Both steps are
    linear, so this layer first sums the nine shifted inputs of the kernels and then applies the kernels to the sums:
    the results are the same, without a map of K * N channels. Multiply-adds are counted as defined in the paper.

    Args:
        classes: Number of classes N.
        scores: Whether to also return gate scores, for a `HeadGate`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shapes: `(n, h, w, c)` and `(n, h, w, K)`.
    Output shape: `(n, K, N)`; with `scores`, two tensors of shapes `(n, K, N)` and `(n, K)`. They have the compute
    dtype, except under `mixed_float16`: float32 there, because sums may exceed the range of float16.

    Raises:
        ValueError: if `classes` is not a positive integer, or the inputs are not two 4-D maps of equal size.
    """

    def __init__(self, classes: int, scores: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = check_count("classes", classes)
        self.scores = scores

    def build(self, input_shape: Sequence[Shape]) -> None:
        shapes: list[Any] = [tuple(shape) if isinstance(shape, (list, tuple)) else (shape,) for shape in input_shape]
        axes = spatial_axes(self.data_format)
        if [len(shape) for shape in shapes] != [4, 4] or any(shapes[0][axis] != shapes[1][axis] for axis in axes):
            raise ValueError(
                f"Expected {self.name} to be called on [x, masks], two 4-D maps of equal height and width; "
                f"received shapes: {shapes}."
            )
        self.heads = shapes[1][self.channel_axis]
        if not self.sublayers:
            self._conv("output_conv", self.heads * self.classes, 3)
            if self.scores:
                self._conv("score_conv", self.heads, 3)
        super().build(input_shape)

    def sublayer_calls(self, input_shape: Sequence[Shape]) -> Iterator[tuple[keras.layers.Layer, Shape]]:
        yield from ((layer, tuple(input_shape[0])) for layer in self.sublayers)

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        attended = self._attend(*inputs)
        outputs = self._apply_kernel(self.output_conv, attended, self.classes)
        return (outputs, self._apply_kernel(self.score_conv, attended, 1)[..., 0]) if self.scores else outputs

    def _apply_kernel(self, conv, attended, channels):
        """Apply a kernel of K * `channels` channels to the attended sums; returns shape (n, K, channels)."""
        kernel = ops.reshape(ops.cast(conv.kernel, attended.dtype), (9, -1, self.heads, channels))
        # Scores use the same equation with one channel, because LiteRT cannot convert "nokc,ock->nk".
        return ops.einsum("nokc,ockm->nkm", attended, kernel)

    def _attend(self, x, masks):
        """Sum x over positions, weighted by each mask, for each entry of a 3x3 kernel: shape (n, 9, K, c)."""
        x, masks = ops.cast(x, self._sum_dtype), ops.cast(masks, self._sum_dtype)
        height, width = spatial_axes(self.data_format)
        pads = [(0, 0)] * 4
        pads[height] = pads[width] = (1, 1)
        padded = ops.pad(masks, pads)
        shifted = []
        # At p, row i of the kernel reads x at p + i - 1, so x at p is weighted by the mask at p - i + 1.
        for i in range(3):
            for j in range(3):
                window = [slice(None)] * 4
                window[height], window[width] = slice(2 - i, -i or None), slice(2 - j, -j or None)
                shifted.append(padded[tuple(window)])
        shifted = ops.concatenate(shifted, axis=self.channel_axis)
        sums = "nhwk,nhwc->nkc" if self.data_format == "channels_last" else "nkhw,nchw->nkc"
        attended = ops.einsum(sums, shifted, x)
        return ops.reshape(attended, (-1, 9, self.heads, x.shape[self.channel_axis]))

    @property
    def _sum_dtype(self):
        """Dtype of sums and outputs. Sums over sigmoid masks may exceed the range of float16."""
        return "float32" if self.compute_dtype == "float16" else self.compute_dtype

    def compute_output_spec(self, inputs: Sequence[Tensor]) -> Any:
        shapes = self.compute_output_shape([x.shape for x in inputs])
        return keras.tree.map_shape_structure(lambda shape: keras.KerasTensor(shape, self._sum_dtype), shapes)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Any:
        batch, heads = input_shape[1][0], input_shape[1][self.channel_axis]
        outputs = (batch, heads, self.classes)
        return (outputs, (batch, heads)) if self.scores else outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes, "scores": self.scores}
