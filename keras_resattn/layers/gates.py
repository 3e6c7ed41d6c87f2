"""How much of gated attention counts (Rodriguez et al., ECCV 2018): gates of heads and modules, and what they join.

A module is an `AttentionHead`, an `OutputHead`, a `HeadGate` and a `GatedSum`. A `GlobalGate` then weighs all modules
and the network's own classifier, and `Rectify` joins them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.typing import Aggregation, BaseOutput, GlobalGating, HeadGating, Shape, Tensor
from keras_resattn.utils.validation import check_choice, check_count, check_number

HEAD_GATES = ("softmax", "mean")
GATES = ("softmax", "sigmoid", "linear", "mean", "base")
AGGREGATIONS = ("log_prob", "prob")
BASES = ("logits", "softmax")


@keras.saving.register_keras_serializable(package="keras_resattn")
class HeadGate(keras.layers.Layer):
    """How much each head of a module counts: the softmax of the tanh of its scores (Eq. 5).

    As tanh is bounded, no head can be switched off: among four, a gate lies between 0.043 and 0.711.

    Input and output shape: `(n, K)`; a image's gates sum to one.
    """

    def call(self, scores: Tensor) -> Tensor:
        exponentials = ops.exp(ops.tanh(scores))  # not `ops.softmax`: of one head, it warns
        return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
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
    """How much each attention module counts, and the base network's own classifier, which is the last (Eq. 6-7).

    Args:
        outputs: Number of modules and one.
        gate: `"softmax"`: of `tanh(BN(W z))`, z being the base's last features, W without bias. `"sigmoid"`: of the
            same, divided by the image's sum. `"mean"`: all alike. `"linear"`: a learned weight for each output,
            the same for all images, which starts at the mean (a plain linear combination, for the ablation).
            `"base"`: wholly on the base, so that modules are computed and do not count.

    Input shape: `(n, features)`. Output shape: `(n, outputs)`; but for `"linear"`, a image's gates sum to one.

    Raises:
        ValueError: if `outputs` is not a positive integer, or `gate` is unknown.

    Source: the authors' code; the paper's Eq. 6 has no batch normalisation.
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
                    outputs, use_bias=False, kernel_initializer="he_normal", name="linear", dtype=self.dtype_policy
                )
            )
            self._batch_norm("bn", axis=-1)

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
        scores = ops.tanh(self.bn(self.linear(features), training=training))
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

    Input shapes: `(n, m + 1)`, and m + 1 times `(n, N)`. Output shape: `(n, N)`. Logarithms are computed in float32
    under a mixed policy too.

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
    """Passes its input on unchanged, and its gradient back multiplied by `scale`.

    Args:
        scale: 1 changes nothing, 0 lets no gradient through (the paper's ablation that blocks it).

    Input and output shape: any, the same.

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
