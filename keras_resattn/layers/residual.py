"""Residual units, the building blocks of trunks and soft masks."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_resattn.layers.composite import CompositeLayer
from keras_resattn.typing import Shape, Tensor
from keras_resattn.utils.data_format import spatial_axes
from keras_resattn.utils.validation import check_count

CARDINALITY = 32  # groups of a ResNeXt unit


def check_groups(width: int, groups: int = CARDINALITY) -> int:
    """Check that `width` channels can be convolved in `groups` equal groups, and return `groups`.

    Raises:
        ValueError: if they cannot.
    """
    groups = check_count("groups", groups)
    if width % groups:
        raise ValueError(f"Expected width to be a multiple of groups={groups}; received: width={width}.")
    return groups


class ResidualUnit(CompositeLayer):
    """Base class of residual units: their arguments, the projection of the shortcut, and the output shape.

    Args:
        width: Number of channels inside the unit.
        strides: 1, or 2 to halve height and width (rounded up).
        filters: Number of channels returned. `None` means `expansion * width`.
        **kwargs: `name`, `dtype`, `data_format`.

    Attributes:
        expansion: Ratio of the default `filters` to `width`.
        preactivation: Whether the unit begins with BN-ReLU, so that maps between units are raw sums.
            Otherwise it ends in a ReLU.
        last: Name of the last sub-layer of the residual branch.

    Input shape: `(n, h, w, c)`. Output shape: `(n, ceil(h / s), ceil(w / s), filters)`.

    Raises:
        ValueError: if `width`, `strides` or `filters` is not a positive integer.
    """

    expansion = 4
    preactivation = True
    last = "conv3"

    def __init__(self, width: int, strides: int = 1, filters: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = check_count("width", width)
        self.strides = check_count("strides", strides)
        self.filters = check_count("filters", self.expansion * self.width if filters is None else filters)
        self.projection = None

    def build(self, input_shape: Any) -> None:
        channels = self._raw(input_shape)[self.channel_axis]
        if self.projection is None and (self.strides != 1 or channels != self.filters):
            self._add_projection()
        super().build(input_shape)

    def sublayer_calls(self, input_shape: Any) -> Iterator[tuple[keras.layers.Layer, Any]]:
        shape = self._raw(input_shape)
        shortcut = [layer for layer in self.sublayers if layer.name.startswith("projection")]
        yield from _chained_calls([layer for layer in self.sublayers if layer not in shortcut], shape)
        yield from _chained_calls(shortcut, shape)

    def _raw(self, input_shape):
        """Return the shape of the input that the shortcut starts from."""
        return input_shape

    def _add_projection(self):
        self._conv("projection", self.filters, 1, self.strides)

    def _strided_conv(self, name, pad_name, filters, **options):
        """Add a 3x3 convolution with the stride of the unit, preceded by its padding if it is strided."""
        if self.strides != 1:
            self._pad(pad_name)
        self._conv(name, filters, 3, self.strides, **options)

    def _shape_with(self, channels, input_shape):
        """Return the shape of a map with `channels` channels after the stride."""
        shape = list(self._raw(input_shape))
        for axis in spatial_axes(self.data_format):
            shape[axis] = shape[axis] and -(-shape[axis] // self.strides)
        shape[self.channel_axis] = channels
        return tuple(shape)

    def compute_output_shape(self, input_shape: Any) -> Shape:
        return self._shape_with(self.filters, input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "strides": self.strides, "filters": self.filters}


def _chained_calls(layers, shape):
    """Yield each layer and the shape that it receives from the previous one."""
    for layer in layers:
        yield layer, shape
        shape = layer.compute_output_shape(shape)


@keras.saving.register_keras_serializable(package="keras_resattn")
class PreActivationUnit(ResidualUnit):
    """Pre-activation bottleneck unit: 1x1 to `width`, 3x3, 1x1 to `filters`, plus shortcut.

    `a = relu(bn1(x))`, then `conv1 - bn2 - relu - conv2 - bn3 - relu - conv3`; no activation follows the sum. The
    shortcut is `x` if the unit changes neither size nor channels; otherwise `a` is projected by a strided 1x1
    convolution without batch normalisation. The stride is on the 3x3 convolution.

    Args:
        width: Number of channels inside the unit.
        strides: Stride of the 3x3 convolution: 1, or 2 to halve height and width (rounded up).
        filters: Number of channels returned. `None` means `4 * width`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, ceil(h / s), ceil(w / s), filters)`.

    Raises:
        ValueError: if `width`, `strides` or `filters` is not a positive integer.

    Source: He et al., "Identity Mappings in Deep Residual Networks" (2016); stride, shared
    pre-activation and padding as in the authors' prototxt of Residual Attention Networks.
    """

    def __init__(self, width: int, strides: int = 1, filters: int | None = None, **kwargs: Any) -> None:
        super().__init__(width, strides, filters, **kwargs)
        self._batch_norm("bn1")
        self._conv("conv1", width, 1)
        self._batch_norm("bn2")
        self._strided_conv("conv2", "pad2", width)
        self._batch_norm("bn3")
        self._conv("conv3", self.filters, 1)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        activated = self._normalize("bn1", x, training)
        y = self.conv1(activated)
        y = self._normalize("bn2", y, training)
        y = self.conv2(y if self.strides == 1 else self.pad2(y))
        y = self._normalize("bn3", y, training)
        y = self.conv3(y)
        shortcut = x if self.projection is None else self.projection(activated)
        return y + shortcut


@keras.saving.register_keras_serializable(package="keras_resattn")
class PostActivationUnit(ResidualUnit):
    """Post-activation bottleneck unit of ResNeXt: 1x1 to `width`, grouped 3x3, 1x1 to `filters`, plus shortcut.

    `conv1 - bn1 - relu - conv2 - bn2 - relu - conv3 - bn3`, plus the shortcut, then ReLU. The shortcut is `x` if the
    unit changes neither size nor channels; otherwise `x` is projected by a strided 1x1 convolution with batch
    normalisation. The stride is on the 3x3 convolution.

    Args:
        width: Number of channels inside the unit, a multiple of `groups`.
        strides: Stride of the 3x3 convolution: 1, or 2 to halve height and width (rounded up).
        filters: Number of channels returned. `None` means `2 * width`.
        groups: Groups of the 3x3 convolution, ResNeXt's cardinality; 1 gives the bottleneck unit of ResNet.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, ceil(h / s), ceil(w / s), filters)`.

    Raises:
        ValueError: if an argument is not a positive integer, or `groups` does not divide `width`.

    Source: Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (2017), as used in the
    authors' prototxt of AttentionNeXt.
    """

    expansion = 2
    preactivation = False
    last = "bn3"

    def __init__(
        self, width: int, strides: int = 1, filters: int | None = None, groups: int = CARDINALITY, **kwargs: Any
    ) -> None:
        super().__init__(width, strides, filters, **kwargs)
        self.groups = check_groups(width, groups)
        self._conv("conv1", width, 1)
        self._batch_norm("bn1")
        self._strided_conv("conv2", "pad2", width, groups=groups)
        self._batch_norm("bn2")
        self._conv("conv3", self.filters, 1)
        self._batch_norm("bn3", relu=False)

    def _add_projection(self):
        super()._add_projection()
        self._batch_norm("projection_bn", relu=False)

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        y = self.conv1(x)
        y = self._normalize("bn1", y, training)
        y = self.conv2(y if self.strides == 1 else self.pad2(y))
        y = self._normalize("bn2", y, training)
        y = self.conv3(y)
        y = self._normalize("bn3", y, training)
        shortcut = x if self.projection is None else self._normalize("projection_bn", self.projection(x), training)
        return ops.relu(y + shortcut)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable(package="keras_resattn")
class InceptionUnit(ResidualUnit):
    """Pre-activation residual inception unit: three branches of `width` channels, a 1x1 to `filters`, plus shortcut.

    `a = relu(bn1(x))`. Branch 1 applies a 1x1 convolution to `a`, branch 2 a 1x1 and a 3x3, branch 3 a 1x1 and two 3x3,
    each followed by BN and ReLU. A final 1x1 convolution follows their concatenation; no activation follows the sum.
    The shortcut is `x` if the unit changes neither size nor channels; otherwise `a` is projected by a strided 1x1
    convolution without batch normalisation. The stride is on the last convolution of each branch.

    Sub-layers are named `bn1`, `branch{b}_conv{i}`, `branch{b}_bn{i}`, `conv`, `projection`.

    Args:
        width: Number of channels of each convolution inside the unit.
        strides: 1, or 2 to halve height and width (rounded up).
        filters: Number of channels returned. `None` means `8 * width`.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input shape: `(n, h, w, c)`. Output shape: `(n, ceil(h / s), ceil(w / s), filters)`.

    Raises:
        ValueError: if `width`, `strides` or `filters` is not a positive integer.

    Source: the branches of block A in Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual
    Connections on Learning" (2017). The unit is this package's own definition: the "simplified" Inception unit of the
    Residual Attention paper was neither described in detail nor released.
    """

    expansion = 8
    last = "conv"
    BRANCHES = (1, 2, 3)  # number of convolutions of each branch

    def __init__(self, width: int, strides: int = 1, filters: int | None = None, **kwargs: Any) -> None:
        super().__init__(width, strides, filters, **kwargs)
        self._batch_norm("bn1")
        for branch in self.BRANCHES:
            for i in range(1, branch + 1):
                name = f"branch{branch}_conv{i}"
                if i == 1:
                    self._conv(name, width, 1, strides if branch == 1 else 1)
                elif i == branch:
                    self._strided_conv(name, f"branch{branch}_pad{i}", width)
                else:
                    self._conv(name, width, 3)
                self._batch_norm(f"branch{branch}_bn{i}")
        self._conv("conv", self.filters, 1)

    def _branches(self):
        """Yield the layers of each branch, in the order of their calls."""
        for branch in self.BRANCHES:
            yield [layer for layer in self.sublayers if layer.name.startswith(f"branch{branch}_")]

    def sublayer_calls(self, input_shape: Shape) -> Iterator[tuple[keras.layers.Layer, Any]]:
        yield self.bn1, input_shape
        for branch in self._branches():
            yield from _chained_calls(branch, input_shape)
        yield self.conv, self._shape_with(len(self.BRANCHES) * self.width, input_shape)
        if self.projection is not None:
            yield self.projection, input_shape

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        activated = self._normalize("bn1", x, training)
        outputs = []
        for branch in self._branches():
            y = activated
            for layer in branch:
                is_norm = isinstance(layer, keras.layers.BatchNormalization)
                y = self._normalize(layer.name, y, training) if is_norm else layer(y)
            outputs.append(y)
        y = self.conv(ops.concatenate(outputs, axis=self.channel_axis))
        shortcut = x if self.projection is None else self.projection(activated)
        return y + shortcut


#: Residual units of Residual Attention Networks, by the value of the builders' `unit` argument.
UNITS = {"preactivation": PreActivationUnit, "resnext": PostActivationUnit, "inception": InceptionUnit}
