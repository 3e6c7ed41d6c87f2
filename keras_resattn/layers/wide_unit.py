"""Residual unit of Wide ResNets."""

from typing import Any

import keras

from keras_resattn.layers.residual import ResidualUnit
from keras_resattn.typing import Tensor
from keras_resattn.utils.validation import check_count, check_number


@keras.saving.register_keras_serializable(package="keras_resattn")
class WideUnit(ResidualUnit):
    """Basic block of Wide ResNets: BN-ReLU-3x3 twice, to `filters` channels, plus shortcut.

    `bn1 - relu - conv1 - bn2 - relu - [dropout] - conv2`; no activation follows the sum. The shortcut is `x` if the
    unit changes neither size nor channels; otherwise `x` (not its activation) is projected by a strided 1x1
    convolution without batch normalisation. The stride is on the first 3x3 convolution.

    Args:
        filters: Number of channels inside the unit and of its output.
        strides: Stride of the first 3x3 convolution: 1, or 2 to halve height and width (rounded up).
        dropout: Fraction of channels dropped between the convolutions in training.
        preactivated: Whether the unit has no `bn1` and is called on `[x, a]`, where `a = relu(bn(x))` was computed
            outside.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`, or two such maps if preactivated.
    Output shape: `(n, ceil(h / s), ceil(w / s), filters)`.

    Raises:
        ValueError: if `filters` or `strides` is not a positive integer, `dropout` is not in [0, 1), or a preactivated
            unit is not called on two maps of equal shapes.

    Source: Zagoruyko and Komodakis, "Wide Residual Networks" (2016); the projection of the raw
    input follows the code of Rodriguez et al., "Attend and Rectify" (2018).
    """

    expansion = 1
    last = "conv2"

    def __init__(
        self, filters: int, strides: int = 1, dropout: float = 0.0, preactivated: bool = False, **kwargs: Any
    ) -> None:
        check_count("filters", filters)
        super().__init__(filters, strides, **kwargs)
        check_number("dropout", dropout, below=1)
        self.dropout_rate = 0.0 if self.folded else float(dropout)
        self.preactivated = preactivated
        if not preactivated:
            self._batch_norm("bn1")
        self._strided_conv("conv1", "pad1", filters)
        self._batch_norm("bn2")
        if self.dropout_rate:
            self._add(keras.layers.SpatialDropout2D(dropout, **self._shared("dropout")))
        self._conv("conv2", filters, 3)

    def build(self, input_shape: Any) -> None:
        if self.preactivated and (len(input_shape) != 2 or tuple(input_shape[0]) != tuple(input_shape[1])):
            raise ValueError(
                f"Expected {self.name}, a preactivated unit, to be called on [x, relu(bn(x))], two maps of equal "
                f"shapes; received shapes: {input_shape}."
            )
        super().build(input_shape)

    def _raw(self, input_shape):
        return input_shape[0] if self.preactivated else input_shape

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        if self.preactivated:
            x, y = inputs
        else:
            x, y = inputs, self._normalize("bn1", inputs, training)
        y = self.conv1(y if self.strides == 1 else self.pad1(y))
        y = self._normalize("bn2", y, training)
        if self.dropout_rate:
            y = self.dropout(y, training=training)
        y = self.conv2(y)
        shortcut = x if self.projection is None else self.projection(x)
        return y + shortcut

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "dropout": self.dropout_rate, "preactivated": self.preactivated}
        del config["width"]
        return config
