"""Gated attention (Rodriguez et al., ECCV 2018): what looks at a feature map, what it says, and how much that counts.

A module is an `AttentionHead` (where to look), an `OutputHead` (what is seen there, and how sure each head is), a
`HeadGate` and a `GatedSum`. A `GlobalGate` then weighs all modules and the network's own classifier, and `Rectify`
joins them. Each is a node of the graph, so that masks and gates can be read by name.
"""

import keras
import numpy as np
from keras import ops

from keras_resattn.layers.composite import CompositeLayer, check_choice, check_count, check_number, spatial_axes

GATED_MASK_ACTIVATIONS = ("softmax", "sigmoid")
HEAD_GATES = ("softmax", "mean")
GATES = ("softmax", "sigmoid", "linear", "mean", "base")
AGGREGATIONS = ("log_prob", "prob")
BASES = ("logits", "softmax")


@keras.saving.register_keras_serializable(package="keras_resattn")
class AttentionHead(CompositeLayer):
    """The masks of a module: for each of `heads` heads, how much each position of a feature map counts (Eq. 1-2).

    A bias-free 3x3 convolution, and the softmax over all positions (in float32), so that a head's mask sums to one.
    While training, heads that look at the same places pay: with A the masks after 2x2 average pooling as rows,
    `regularization * mean((A A^T without its diagonal) ** 2)`, over pictures and pairs of heads, joins the loss.

    Args:
        heads: Number of masks K, the paper's attention width.
        activation: `"softmax"` over positions, or `"sigmoid"` at each (the paper's ablation).
        regularization: Strength of the overlap regulariser; 0 for none.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, h, w, K)`.

    Raises:
        ValueError: if `heads` is not a positive integer, `activation` is unknown, or `regularization` negative.

    Source: the paper's Sec. 3; the regulariser is the authors' code's, as the paper only cites it.
    """

    def __init__(self, heads, activation="softmax", regularization=0.0, **kwargs):
        super().__init__(**kwargs)
        heads = check_count("heads", heads)
        check_choice("activation", activation, GATED_MASK_ACTIVATIONS)
        check_number("regularization", regularization)
        self.heads = heads
        self.activation = activation
        self.regularization = regularization
        self._conv("conv", heads, 3)

    def sublayer_calls(self, input_shape):
        yield self.conv, input_shape

    def call(self, x, training=None):
        scores = ops.cast(self.conv(x), "float32")
        masks = self._softmax(scores) if self.activation == "softmax" else ops.sigmoid(scores)
        if training and self.regularization and self.heads > 1:
            self.add_loss(self.regularization * self._overlap(masks))
        return ops.cast(masks, self.compute_dtype)

    def _softmax(self, scores):
        # Not `ops.softmax` over two axes: on TensorFlow it fails where the batch size is open.
        axes = spatial_axes(self.data_format)
        exponentials = ops.exp(scores - ops.max(scores, axis=axes, keepdims=True))
        return exponentials / ops.sum(exponentials, axis=axes, keepdims=True)

    def _overlap(self, masks):
        if all(size is None or size > 1 for size in (masks.shape[axis] for axis in spatial_axes(self.data_format))):
            masks = ops.average_pool(masks, 2, strides=2, padding="valid", data_format=self.data_format)
        pairs = "nhwj,nhwk->njk" if self.data_format == "channels_last" else "njhw,nkhw->njk"
        gram = ops.einsum(pairs, masks, masks) * (1 - ops.eye(self.heads, dtype="float32"))
        return ops.mean(ops.square(gram))

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self.channel_axis] = self.heads
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "activation": self.activation,
            "regularization": self.regularization,
        }


@keras.saving.register_keras_serializable(package="keras_resattn")
class OutputHead(CompositeLayer):
    """What each head of a module sees: class scores, and a score of how much the head should count (Eq. 3-4).

    Called on `[x, masks]`. By definition two bias-free 3x3 convolutions of x, `output` with K * N channels (head by
    head) and `score` with K, each summed over positions with the head's mask as weight. As both steps are linear, the
    sum is taken first, of the nine shifted maps that the kernels see, and the kernels are applied to what is left:
    the same numbers without a map of K * N channels. Multiply-adds are counted as the definition has them.

    Args:
        classes: Number of classes N.
        scores: Whether to return scores for a `HeadGate`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shapes: `(n, h, w, c)` and `(n, h, w, K)`.
    Output shape: `(n, K, N)`; with `scores`, two: `(n, K, N)` and `(n, K)`.

    Raises:
        ValueError: if `classes` is not a positive integer, or it is not called on two 4-D maps of equal size.
    """

    def __init__(self, classes, scores=True, **kwargs):
        super().__init__(**kwargs)
        self.classes = check_count("classes", classes)
        self.scores = scores

    def build(self, input_shape):
        shapes = [tuple(shape) if isinstance(shape, (list, tuple)) else (shape,) for shape in input_shape]
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

    def sublayer_calls(self, input_shape):
        yield from ((layer, tuple(input_shape[0])) for layer in self.sublayers)

    def call(self, inputs):
        attended = self._attended(*inputs)
        kernel = ops.cast(self.output_conv.kernel, attended.dtype)
        outputs = ops.einsum("nokc,ockm->nkm", attended, ops.reshape(kernel, (9, -1, self.heads, self.classes)))
        if not self.scores:
            return outputs
        kernel = ops.cast(self.score_conv.kernel, attended.dtype)
        return outputs, ops.einsum("nokc,ock->nk", attended, ops.reshape(kernel, (9, -1, self.heads)))

    def _attended(self, x, masks):
        """Sums of x over positions, weighted by each mask: (n, 9, K, c), for each place of a 3x3 kernel."""
        if self.compute_dtype == "float16":  # sigmoid masks may add up to more than float16 holds
            x, masks = ops.cast(x, "float32"), ops.cast(masks, "float32")
        height, width = spatial_axes(self.data_format)
        pads = [(0, 0)] * 4
        pads[height] = pads[width] = (1, 1)
        padded = ops.pad(masks, pads)
        shifted = []
        for i in range(3):  # the kernel's row i at p reads x at p + i - 1: a position counts by the mask at p - i + 1
            for j in range(3):
                window = [slice(None)] * 4
                window[height], window[width] = slice(2 - i, -i or None), slice(2 - j, -j or None)
                shifted.append(padded[tuple(window)])
        shifted = ops.concatenate(shifted, axis=self.channel_axis)
        sums = "nhwk,nhwc->nkc" if self.data_format == "channels_last" else "nkhw,nchw->nkc"
        attended = ops.einsum(sums, shifted, x)
        return ops.reshape(attended, (-1, 9, self.heads, x.shape[self.channel_axis]))

    def compute_output_shape(self, input_shape):
        batch, heads = input_shape[1][0], input_shape[1][self.channel_axis]
        outputs = (batch, heads, self.classes)
        return (outputs, (batch, heads)) if self.scores else outputs

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "scores": self.scores}


@keras.saving.register_keras_serializable(package="keras_resattn")
class HeadGate(keras.layers.Layer):
    """How much each head of a module counts: the softmax of the tanh of its scores (Eq. 5).

    As tanh is bounded, no head can be switched off: among four, a gate lies between 0.043 and 0.711.

    Input and output shape: `(n, K)`; a picture's gates sum to one.
    """

    def call(self, scores):
        exponentials = ops.exp(ops.tanh(scores))  # not `ops.softmax`: of one head, it warns
        return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_resattn")
class GatedSum(keras.layers.Layer):
    """A module's class scores: the sum of its heads' by their gates, called on `[outputs, gates]`; or the mean.

    Args:
        gate: `"softmax"` to be called on `[outputs, gates]`, `"mean"` to be called on the outputs alone.

    Input shapes: `(n, K, N)` and `(n, K)`. Output shape: `(n, N)`.

    Raises:
        ValueError: if `gate` is unknown.
    """

    def __init__(self, gate="softmax", **kwargs):
        super().__init__(**kwargs)
        check_choice("gate", gate, HEAD_GATES)
        self.gate = gate

    def call(self, inputs):
        if self.gate == "mean":
            return ops.mean(inputs, axis=1)
        outputs, gates = inputs
        return ops.sum(outputs * gates[..., None], axis=1)

    def compute_output_shape(self, input_shape):
        batch, _, classes = input_shape if self.gate == "mean" else input_shape[0]
        return batch, classes

    def get_config(self):
        return {**super().get_config(), "gate": self.gate}


@keras.saving.register_keras_serializable(package="keras_resattn")
class GlobalGate(CompositeLayer):
    """How much each attention module counts, and the base network's own classifier, which is the last (Eq. 6-7).

    Args:
        outputs: Number of modules and one.
        gate: `"softmax"`: of `tanh(BN(W z))`, z being the base's last features, W without bias. `"sigmoid"`: of the
            same, divided by the picture's sum. `"mean"`: all alike. `"linear"`: a learned weight for each output,
            the same for all pictures, which starts at the mean (a plain linear combination, for the ablation).
            `"base"`: wholly on the base, so that modules are computed and do not count.

    Input shape: `(n, features)`. Output shape: `(n, outputs)`; but for `"linear"`, a picture's gates sum to one.

    Raises:
        ValueError: if `outputs` is not a positive integer, or `gate` is unknown.

    Source: the authors' code; the paper's Eq. 6 has no batch normalisation.
    """

    def __init__(self, outputs, gate="softmax", **kwargs):
        super().__init__(**kwargs)
        outputs = check_count("outputs", outputs)
        check_choice("gate", gate, GATES)
        self.outputs = outputs
        self.gate = gate
        if gate in ("softmax", "sigmoid"):
            self._add(
                keras.layers.Dense(
                    outputs, use_bias=False, kernel_initializer="he_normal", name="linear", dtype=self.dtype_policy
                )
            )
            self._batch_norm("bn", axis=-1)

    def sublayer_calls(self, input_shape):
        for layer in self.sublayers:
            yield layer, input_shape
            input_shape = layer.compute_output_shape(input_shape)

    def build(self, input_shape):
        super().build(input_shape)
        if self.gate == "linear":
            start = keras.initializers.Constant(1 / self.outputs)
            self.combination = self.add_weight(shape=(self.outputs,), initializer=start, name="combination")

    def call(self, features, training=None):
        if self.gate in ("mean", "base", "linear"):
            constant = np.full(self.outputs, 1 / self.outputs) if self.gate == "mean" else np.eye(self.outputs)[-1]
            weights = self.combination if self.gate == "linear" else ops.convert_to_tensor(constant, self.compute_dtype)
            return ops.ones_like(features[:, :1]) * weights
        scores = ops.tanh(self.bn(self.linear(features), training=training))
        if self.gate == "softmax":
            return ops.softmax(scores, axis=-1)
        gates = ops.sigmoid(scores)
        return gates / (1e-6 + ops.sum(gates, axis=-1, keepdims=True))

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.outputs

    def get_config(self):
        return {**super().get_config(), "outputs": self.outputs, "gate": self.gate}


@keras.saving.register_keras_serializable(package="keras_resattn")
class Rectify(keras.layers.Layer):
    """Joins what modules and base say, by the global gate: log-probabilities out of class scores (Eq. 8).

    Called on `[gates, scores of each module ..., the base's output]`.

    Args:
        aggregation: `"log_prob"`, as the authors' code: the sum of the log-softmaxes, each times its gate. It is the
            logarithm of a weighted geometric mean, whose softmax is a distribution; its negative entry at the label
            is the authors' loss. `"prob"`, as Eq. 8: the logarithm of the sum of the softmaxes, each times its gate.
            That sum is a distribution already, and the softmax of its logarithm returns it unchanged.
        base: What the base's output is: `"logits"`, or probabilities after a `"softmax"`.
        normalize: Whether to return the log-softmax of the result, for gates that do not sum to one: of such, the
            negative entry at the label has no lower bound.

    Input shapes: `(n, m + 1)`, and m + 1 times `(n, N)`. Output shape: `(n, N)`.

    Raises:
        ValueError: for an unknown `aggregation` or `base`.
    """

    def __init__(self, aggregation="log_prob", base="logits", normalize=False, **kwargs):
        super().__init__(**kwargs)
        check_choice("aggregation", aggregation, AGGREGATIONS)
        check_choice("base", base, BASES)
        self.aggregation = aggregation
        self.base = base
        self.normalize = normalize

    def call(self, inputs):
        gates, *modules, base = inputs
        logs = [ops.log_softmax(scores, axis=-1) for scores in modules]
        tiny = np.finfo("float32").tiny
        logs.append(ops.log_softmax(base, axis=-1) if self.base == "logits" else ops.log(ops.maximum(base, tiny)))
        logs, gates = ops.stack(logs, axis=1), gates[..., None]
        if self.aggregation == "log_prob":
            rectified = ops.sum(gates * logs, axis=1)
        else:
            rectified = ops.log(ops.maximum(ops.sum(gates * ops.exp(logs), axis=1), tiny))
        return ops.log_softmax(rectified, axis=-1) if self.normalize else rectified

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "aggregation": self.aggregation,
            "base": self.base,
            "normalize": self.normalize,
        }


@keras.saving.register_keras_serializable(package="keras_resattn")
class GradientScale(keras.layers.Layer):
    """Passes its input on unchanged, and its gradient back multiplied by `scale`.

    Args:
        scale: 1 changes nothing, 0 lets no gradient through (the paper's ablation that blocks it).

    Input and output shape: any, the same.

    Raises:
        ValueError: if `scale` is not a number of at least 0.
    """

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        check_number("scale", scale)
        self.scale = scale

    def call(self, x):
        still = ops.stop_gradient(x)
        return still + self.scale * (x - still) if self.scale else still

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
