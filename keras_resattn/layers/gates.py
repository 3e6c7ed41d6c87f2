"""Gates that weight attention heads and modules, and the layers that combine their outputs.

A module of gated attention (Rodriguez et al., ECCV 2018) consists of an `AttentionHead`, an `OutputHead`, a `HeadGate`
and a `GatedSum`. A `GlobalGate` then weights all modules and the network's own classifier, and `Rectify` combines them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.typing import Aggregation, BaseOutput, GlobalGating, HeadGating, Shape, Tensor
from keras_resattn.utils.validation import check_choice, check_count, check_number

HEAD_GATES = ("softmax", "mean")
GATES = ("softmax", "sigmoid", "linear", "mean", "base")
AGGREGATIONS = ("log_prob", "prob")
BASES = ("logits", "softmax")


@keras.saving.register_keras_serializable(package="keras_resattn")
class HeadGate(keras.layers.Layer):
    """Weights of the heads of a module: the softmax of the tanh of their scores (Eq. 5).

    As tanh is bounded, no head can be switched off: with four heads, each gate is between 0.043 and 0.711.

    Input and output shape: `(n, K)`; the gates of each image sum to one.
    """

    def call(self, scores: Tensor) -> Tensor:
        exponentials = ops.exp(ops.tanh(scores))  # `ops.softmax` warns for a single head
        return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_resattn")
class GatedSum(keras.layers.Layer):
    """Class scores of a module: the sum of its heads' scores, weighted by their gates, or their mean.

    Args:
        gate: `"softmax"` for a weighted sum, called on `[outputs, gates]`; `"mean"` for a mean, called on the outputs.

    Input shapes: `(n, K, N)` and `(n, K)`. Output shape: `(n, N)`.

    Raises:
        ValueError: if `gate` is unknown.
    """

    def __init__(self, gate: HeadGating = "softmax", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("gate", gate, HEAD_GATES)
        self.gate = gate

    def call(self, inputs: Any) -> Tensor:
        if self.gate == "mean":
            return ops.mean(inputs, axis=1)
        outputs, gates = inputs
        return ops.sum(outputs * gates[..., None], axis=1)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        batch, _, classes = input_shape if self.gate == "mean" else input_shape[0]
        return batch, classes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gate": self.gate}


@keras.saving.register_keras_serializable(package="keras_resattn")
class GlobalGate(CompositeLayer):
    """Weights of the attention modules and, last, of the base network's own classifier (Eq. 6-7).

    Args:
        outputs: Number of gates: the number of modules plus one.
        gate: How gates are computed from the base's last features z. `"softmax"`: the softmax of `tanh(BN(W z))`, W
            without bias. `"sigmoid"`: the sigmoid of the same tanh, normalised to sum to one. `"mean"`: equal gates.
            `"linear"`: a learned weight for each output, the same for all images, initialised to the mean (a plain
            linear combination, for the ablation). `"base"`: one for the base and zero for the modules, which are
            computed but have no effect.

    Input shape: `(n, features)`. Output shape: `(n, outputs)`; except with `"linear"`, the gates of each image sum to
    one.

    Raises:
        ValueError: if `outputs` is not a positive integer, or `gate` is unknown.

    Source: the authors' code; Eq. 6 of the paper has no batch normalisation.
    """

    def __init__(self, outputs: int, gate: GlobalGating = "softmax", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        outputs = check_count("outputs", outputs)
        check_choice("gate", gate, GATES)
        self.outputs = outputs
        self.gate = gate
        if gate in ("softmax", "sigmoid"):
            self._add(
                keras.layers.Dense(
                    outputs, use_bias=False, kernel_initializer=HeGaussian(), name="linear", dtype=self.dtype_policy
                )
            )
            self._batch_norm("bn", axis=-1, relu=False)

    def sublayer_calls(self, input_shape: Shape) -> Iterator[tuple[keras.layers.Layer, Shape]]:
        for layer in self.sublayers:
            yield layer, input_shape
            input_shape = layer.compute_output_shape(input_shape)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.gate == "linear":
            start = keras.initializers.Constant(1 / self.outputs)
            self.combination = self.add_weight(shape=(self.outputs,), initializer=start, name="combination")

    def call(self, features: Tensor, training: bool | None = None) -> Tensor:
        if self.gate in ("mean", "base", "linear"):
            constant = np.full(self.outputs, 1 / self.outputs) if self.gate == "mean" else np.eye(self.outputs)[-1]
            weights = self.combination if self.gate == "linear" else ops.convert_to_tensor(constant, self.compute_dtype)
            return ops.ones_like(features[:, :1]) * weights
        scores = ops.tanh(self._normalize("bn", self.linear(features), training))
        if self.gate == "softmax":
            return ops.softmax(scores, axis=-1)
        gates = ops.sigmoid(scores)
        return gates / (1e-6 + ops.sum(gates, axis=-1, keepdims=True))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape[0], self.outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "outputs": self.outputs, "gate": self.gate}


@keras.saving.register_keras_serializable(package="keras_resattn")
class Rectify(keras.layers.Layer):
    """Combine the outputs of modules and base network, weighted by the global gate, into log-probabilities (Eq. 8).

    Called on `[gates, class scores of each module ..., output of the base]`.

    Args:
        aggregation: `"log_prob"`, as in the authors' code: the gate-weighted sum of log-softmaxes. It is the logarithm
            of a weighted geometric mean, whose softmax is a distribution; its negative entry at the label is the
            authors' loss. `"prob"`, as in Eq. 8: the logarithm of the gate-weighted sum of softmaxes. That sum is
            already a distribution, so the softmax of its logarithm leaves it unchanged.
        base: Output of the base network: `"logits"`, or probabilities after a `"softmax"`.
        normalize: Whether to return the log-softmax of the result. Needed for gates that do not sum to one: without
            it, the negative entry at the label has no lower bound.

    Input shapes: `(n, m + 1)`, then m + 1 tensors of shape `(n, N)`. Output shape: `(n, N)`. Logarithms are computed
    in float32, also under a mixed policy.

    Raises:
        ValueError: for an unknown `aggregation` or `base`.
    """

    def __init__(
        self, aggregation: Aggregation = "log_prob", base: BaseOutput = "logits", normalize: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_choice("aggregation", aggregation, AGGREGATIONS)
        check_choice("base", base, BASES)
        self.aggregation = aggregation
        self.base = base
        self.normalize = normalize

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        gates, *modules, base = (ops.cast(x, dtype) for x in inputs)
        logs = [ops.log_softmax(scores, axis=-1) for scores in modules]
        tiny = float(np.finfo("float32").tiny)
        logs.append(ops.log_softmax(base, axis=-1) if self.base == "logits" else ops.log(ops.maximum(base, tiny)))
        logs, gates = ops.stack(logs, axis=1), gates[..., None]
        if self.aggregation == "log_prob":
            rectified = ops.sum(gates * logs, axis=1)
        else:
            rectified = ops.log(ops.maximum(ops.sum(gates * ops.exp(logs), axis=1), tiny))
        rectified = ops.log_softmax(rectified, axis=-1) if self.normalize else rectified
        return ops.cast(rectified, self.compute_dtype)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return tuple(input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "aggregation": self.aggregation,
            "base": self.base,
            "normalize": self.normalize,
        }


@keras.saving.register_keras_serializable(package="keras_resattn")
class GradientScale(keras.layers.Layer):
    """Identity whose gradient is multiplied by `scale`.

    Args:
        scale: Factor on the gradient; 0 blocks it, as in the paper's ablation.

    Input and output shape: any, unchanged.

    Raises:
        ValueError: if `scale` is not a number of at least 0.
    """

    def __init__(self, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("scale", scale)
        self.scale = scale

    def call(self, x: Tensor) -> Tensor:
        still = ops.stop_gradient(x)
        return still + self.scale * (x - still) if self.scale else still

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}
