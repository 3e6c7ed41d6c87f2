"""Residual units: what trunks and masks are made of."""

import keras
from keras import ops

from keras_resattn.layers.composite import CompositeLayer, check_count


@keras.saving.register_keras_serializable(package="keras_resattn")
class PreActivationUnit(CompositeLayer):
    """Pre-activation bottleneck unit: 1x1 to `width`, 3x3, 1x1 to `4 * width`, plus shortcut.

    `a = relu(bn1(x))`, then `conv1 - bn2 - relu - conv2 - bn3 - relu - conv3`; the sum is raw. A
    unit that changes neither size nor channels adds `x` itself. Any other projects `a` by a
    strided 1x1 convolution without batch normalisation. The stride sits on the 3x3.

    Args:
        width: Number of channels inside the unit; it returns `4 * width`.
        strides: Stride of the 3x3: 1, or 2 to halve height and width (rounded up).
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, ceil(h / s), ceil(w / s), 4 * width)`.

    Raises:
        ValueError: if `width` or `strides` is not a positive integer.

    Source: He et al., "Identity Mappings in Deep Residual Networks" (2016); stride, shared
    pre-activation and padding as in the authors' prototxt of Residual Attention Networks.
    """

    expansion = 4

    def __init__(self, width, strides=1, **kwargs):
        super().__init__(**kwargs)
        check_count("width", width)
        check_count("strides", strides)
        self.width = width
        self.strides = strides
        self._batch_norm("bn1")
        self._conv("conv1", width, 1)
        self._batch_norm("bn2")
        if strides != 1:
            self._pad("pad2")
        self._conv("conv2", width, 3, strides)
        self._batch_norm("bn3")
        self._conv("conv3", self.expansion * width, 1)
        self.projection = None

    def build(self, input_shape):
        filters = self.expansion * self.width
        if self.projection is None and (self.strides != 1 or input_shape[self.channel_axis] != filters):
            self._conv("projection", filters, 1, self.strides)
        super().build(input_shape)

    def sublayer_calls(self, input_shape):
        yield self.bn1, input_shape
        shape = input_shape
        for layer in self._branch():
            yield layer, shape
            shape = layer.compute_output_shape(shape)
        if self.projection is not None:
            yield self.projection, input_shape

    def _branch(self):
        pad = [self.pad2] if self.strides != 1 else []
        return [self.conv1, self.bn2, *pad, self.conv2, self.bn3, self.conv3]

    def call(self, x, training=None):
        activated = ops.relu(self.bn1(x, training=training))
        y = self.conv1(activated)
        y = ops.relu(self.bn2(y, training=training))
        y = self.conv2(y if self.strides == 1 else self.pad2(y))
        y = ops.relu(self.bn3(y, training=training))
        y = self.conv3(y)
        shortcut = x if self.projection is None else self.projection(activated)
        return y + shortcut

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in self._branch():
            shape = layer.compute_output_shape(shape)
        return tuple(shape)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "strides": self.strides}


#: The residual units that a network can be made of, by the name that builders take.
UNITS = {"preactivation": PreActivationUnit}
