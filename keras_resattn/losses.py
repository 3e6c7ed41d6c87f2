"""Loss of gated attention networks."""

from typing import Any

import keras
from keras import ops

from keras_resattn.typing import Tensor


@keras.saving.register_keras_serializable(package="keras_resattn")
class NegativeLogLikelihood(keras.losses.Loss):
    """Negative of the network's output at the label, the loss of the authors of WARN.

    For networks with `aggregation="log_prob"` and `classifier_activation=None`. As the gates sum to one, the loss is
    the gate-weighted mean of the cross-entropies of all modules and of the base. (The cross-entropy of the softmaxed
    output differs, because it normalises the weighted geometric mean of the distributions again.)

    Args:
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.

    Shapes: labels are integers of shape `(n,)` or `(n, 1)`, or soft labels of shape `(n, classes)`; predictions are
    log-probabilities of shape `(n, classes)`.
    """

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str = "negative_log_likelihood", **kwargs: Any
    ) -> None:
        super().__init__(reduction=reduction, name=name, **kwargs)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1] != 1:
            return -ops.sum(ops.cast(y_true, y_pred.dtype) * y_pred, axis=-1)
        labels = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        return -ops.take_along_axis(y_pred, labels, axis=-1)[:, 0]
