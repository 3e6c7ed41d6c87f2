"""Soft mask branch and its merge with the trunk (Wang et al., CVPR 2017, Sec. 3)."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_resattn.layers.composite import EPSILON, CompositeLayer
from keras_resattn.layers.residual import UNITS
from keras_resattn.layers.resize import BilinearResize, CeilMaxPooling2D
from keras_resattn.typing import Learning, Mask, MaskActivation, Shape, Tensor, Unit
from keras_resattn.utils.data_format import spatial_axes
from keras_resattn.utils.validation import check_choice, check_count

MASKS = ("encoder_decoder", "local")
MASK_ACTIVATIONS = ("mixed", "channel", "spatial")
LEARNING = ("residual", "naive")


def check_mask_depth(name: str, depth: int, sizes: Sequence[int | None]) -> None:
    """Check that a mask of `depth` poolings fits a map.

    Args:
        name: Name of the mask, for the message.
        depth: Number of poolings, each of which halves the map.
        sizes: Height and width of the map; `None` if unknown.

    Raises:
        ValueError: if the poolings would leave an empty map.
    """
    if any(size is not None and size >> depth < 1 for size in sizes):
        raise ValueError(
            f"Expected a map of at least {2**depth} x {2**depth} pixels for {name}, a mask of depth {depth}; "
            f"received: {sizes[0]} x {sizes[1]}. Use a larger input or a smaller mask depth."
        )


@keras.saving.register_keras_serializable(package="keras_resattn")
class SoftMask(CompositeLayer):
    """Soft mask M(x): an hourglass of residual units that returns a weight for each position and channel.

    `mask="encoder_decoder"` (Fig. 2): each of the `depth` levels has a max pooling and `units` residual units, or
    `bottom_units` at the lowest level. On the way up, each level resizes with aligned corners to the size of the
    encoder's map, adds a residual unit of that map (the skip connection), and applies `units` more. `mask="local"`
    (Table 4): `local_units` units at full size. Both end in BN-ReLU-1x1 twice and the activation; with post-activation
    units in 1x1-BN-ReLU-1x1.

    Args:
        width: Inner width of the residual units.
        depth: Number of poolings L (paper: 3, 2, 1 in stages 1 to 3). Unused by the local mask.
        units: Units between adjacent poolings, the paper's r.
        bottom_units: Units at the smallest map. `None` means `2 * units` (Fig. 2).
        mask: `"encoder_decoder"` or `"local"`.
        local_units: Units of the local mask. With 3 it has the parameters of the encoder-decoder, with 1 its FLOPs.
        activation: `"mixed"` (Eq. 4: sigmoid), `"channel"` (Eq. 5: each position divided by its L2
            norm over channels) or `"spatial"` (Eq. 6: sigmoid after normalising each channel of each image by its
            mean and standard deviation over positions). The last two run in float32.
        unit: The residual unit, a key of `keras_resattn.layers.residual.UNITS`.
        filters: Channels of the input, of every unit and of the output. `None` means the unit's
            `expansion` times `width`: 4, 2 (`"resnext"`) or 8 (`"inception"`).
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.

    Input and output shape: `(n, h, w, filters)`. Sub-layers are named `down{l}_unit{i}`, `bottom_unit{i}`,
    `skip{l}`, `up{l}_unit{i}` (or `local_unit{i}`), `bn1`, `linear1`, `bn2`, `linear2`. With post-activation units
    there is no `bn1`.

    Raises:
        ValueError: if a count is below 1, `mask`, `activation` or `unit` is unknown, the input does not have `filters`
            channels, or `depth` poolings would leave an empty map.
    """

    def __init__(
        self,
        width: int,
        depth: int = 1,
        units: int = 1,
        bottom_units: int | None = None,
        mask: Mask = "encoder_decoder",
        local_units: int = 3,
        activation: MaskActivation = "mixed",
        unit: Unit = "preactivation",
        filters: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("mask", mask, MASKS)
        check_choice("unit", unit, UNITS)
        check_choice("activation", activation, MASK_ACTIVATIONS)
        self.width = check_count("width", width)
        self.units = check_count("units", units)
        self.bottom_units = check_count("bottom_units", 2 * self.units if bottom_units is None else bottom_units)
        self.local_units = check_count("local_units", local_units)
        self.depth = check_count("depth", depth) if mask == "encoder_decoder" else depth
        self.mask = mask
        self.activation = activation
        self.unit = unit
        self.filters = check_count("filters", UNITS[unit].expansion * self.width if filters is None else filters)
        self._add_units()
        if UNITS[unit].preactivation:
            self._batch_norm("bn1")
        self._conv("linear1", self.filters, 1)
        self._batch_norm("bn2")
        self._conv("linear2", self.filters, 1)

    def _add_units(self):
        if self.mask == "local":
            names = [f"local_unit{i}" for i in range(1, self.local_units + 1)]
        else:
            self._add(CeilMaxPooling2D(**self._shared("pool")))
            self._add(BilinearResize(**self._shared("resize")))
            levels = range(1, self.depth)
            per_level = range(1, self.units + 1)
            names = [f"down{level}_unit{i}" for level in levels for i in per_level]
            names += [f"bottom_unit{i}" for i in range(1, self.bottom_units + 1)]
            names += [f"skip{level}" for level in levels]
            names += [f"up{level}_unit{i}" for level in levels for i in per_level]
        for name in names:
            self._add(UNITS[self.unit](self.width, filters=self.filters, folded=self.folded, **self._shared(name)))

    def _units(self, prefix, count=None):
        return [getattr(self, f"{prefix}_unit{i}") for i in range(1, (count or self.units) + 1)]

    def build(self, input_shape: Shape) -> None:
        self._check_input(input_shape)
        super().build(input_shape)

    def _check_input(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels != self.filters:
            raise ValueError(
                f"Expected the input of {self.name} to have {self.filters} channels, like its output; "
                f"received: {channels} channels (shape {tuple(input_shape)})."
            )
        if self.mask == "encoder_decoder":
            check_mask_depth(self.name, self.depth, [input_shape[axis] for axis in spatial_axes(self.data_format)])

    def sublayer_calls(self, input_shape: Shape) -> Iterator[tuple[keras.layers.Layer, Any]]:
        shape = tuple(input_shape)
        if self.mask == "local":
            yield from ((unit, shape) for unit in self._units("local", self.local_units))
        else:
            yield from self._hourglass_calls(shape)
        yield from ((layer, shape) for layer in self.sublayers if layer.name in ("bn1", "linear1", "bn2", "linear2"))

    def _hourglass_calls(self, shape):
        shapes = [shape]
        for level in range(1, self.depth + 1):
            yield self.pool, shapes[-1]
            shapes.append(self.pool.compute_output_shape(shapes[-1]))
            down = self._units(f"down{level}") if level < self.depth else self._units("bottom", self.bottom_units)
            yield from ((unit, shapes[level]) for unit in down)
        for level in range(self.depth - 1, -1, -1):
            yield self.resize, [shapes[level + 1], shapes[level]]
            if level > 0:
                yield getattr(self, f"skip{level}"), shapes[level]
                yield from ((unit, shapes[level]) for unit in self._units(f"up{level}"))

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        if self.mask == "local":
            y = _chain(self._units("local", self.local_units), x, training)
        else:
            y = self._hourglass(x, training)
        if UNITS[self.unit].preactivation:
            y = self._normalize("bn1", y, training)
        y = self._normalize("bn2", self.linear1(y), training)
        y = self.linear2(y)
        return self._activate(y)

    def _hourglass(self, x, training):
        encoded = []
        y = x
        for level in range(1, self.depth):
            y = _chain(self._units(f"down{level}"), self.pool(y), training)
            encoded.append(y)
        y = _chain(self._units("bottom", self.bottom_units), self.pool(y), training)
        for level in range(self.depth - 1, 0, -1):
            skip = getattr(self, f"skip{level}")
            y = self.resize([y, encoded[level - 1]]) + skip(encoded[level - 1], training=training)
            y = _chain(self._units(f"up{level}"), y, training)
        return self.resize([y, x])

    def _activate(self, y):
        if self.activation == "mixed":
            return ops.sigmoid(y)
        y = ops.cast(y, "float32")
        if self.activation == "channel":
            norm = ops.sqrt(ops.sum(ops.square(y), axis=self.channel_axis, keepdims=True) + EPSILON)
            return ops.cast(y / norm, self.compute_dtype)
        axes = spatial_axes(self.data_format)
        centred = y - ops.mean(y, axis=axes, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(centred), axis=axes, keepdims=True) + EPSILON)
        return ops.cast(ops.sigmoid(centred / deviation), self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "units": self.units,
            "bottom_units": self.bottom_units,
            "mask": self.mask,
            "local_units": self.local_units,
            "activation": self.activation,
            "unit": self.unit,
            "filters": self.filters,
        }


def _chain(units, x, training):
    for unit in units:
        x = unit(x, training=training)
    return x


@keras.saving.register_keras_serializable(package="keras_resattn")
class AttentionResidual(keras.layers.Layer):
    """Merge of trunk T and mask M, called on `[T, M]`.

    Args:
        learning: `"residual"` for `(1 + M) * T` (Eq. 3, attention residual learning) or `"naive"`
            for `M * T` (Eq. 1, the paper's NAL ablation).

    Input shapes: two tensors of shape `(n, h, w, c)`. Output shape: `(n, h, w, c)`.

    Raises:
        ValueError: if `learning` is unknown, or the input shapes differ.
    """

    def __init__(self, learning: Learning = "residual", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("learning", learning, LEARNING)
        self.learning = learning

    def build(self, input_shape: Sequence[Shape]) -> None:
        if len(input_shape) != 2 or tuple(input_shape[0]) != tuple(input_shape[1]):
            raise ValueError(
                f"Expected {self.name} to be called on [trunk, mask] of equal shapes; received shapes: {input_shape}."
            )

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        trunk, mask = inputs
        return (1 + mask) * trunk if self.learning == "residual" else mask * trunk

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return tuple(input_shape[0])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "learning": self.learning}
