"""Base class of layers that consist of other layers."""

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.layers.inference import InferenceBatchNormalization, InferenceConv2D
from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.typing import DataFormat, Tensor
from keras_resattn.utils.data_format import channel_axis, standardize_data_format

BN_MOMENTUM = 0.9
EPSILON = 1e-5


class CompositeLayer(keras.layers.Layer):
    """Layer made of named sub-layers that share its data format and dtype policy.

    A subclass creates its sub-layers in `__init__` or `build` with `self._add(layer)`, which stores each as an
    attribute of its own name. `sublayer_calls` lists them with the shapes that they receive; both building and
    counting multiply-adds use that list.

    `trainable` and the dtype policy of a composite apply to its sub-layers. If they are changed on a single
    sub-layer (frozen batch normalisation, a quantised `Dense`), `get_config` stores the change under
    `"sublayer_settings"`, so that files, `from_config` and `clone_model` restore it. As in Keras, `trainable` of a
    single variable is not stored.

    With `folded=True`, a composite is the inference form of itself that `keras_resattn.optimize_for_inference` makes:
    each convolution contains the batch normalisation that a subclass adds right after it, and the ReLU of that
    normalisation. A subclass calls its normalisations with `self._normalize(name, x, training)`, which is right in both
    forms.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras' default.
        sublayer_settings: Settings of sub-layers that differ from those of this layer, by the name of the sub-layer:
            dictionaries with any of `"trainable"`, `"dtype"`, `"quantization_config"`, and for a composite
            `"sublayer_settings"`. Written by `get_config`; defaults to none.
        folded: Whether this is the inference form, whose weights cannot be trained.
        **kwargs: `name`, `dtype`, `trainable` and the other arguments of `keras.layers.Layer`.

    Raises:
        ValueError: in `build`, if `sublayer_settings` names a sub-layer that does not exist.
    """

    def __init__(
        self,
        *,
        data_format: DataFormat | None = None,
        sublayer_settings: dict[str, Any] | None = None,
        folded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folded = folded
        self._relu_after: dict[str, bool] = {}  # by the name of a batch normalisation
        self.data_format: DataFormat = standardize_data_format(data_format)
        self.channel_axis = channel_axis(self.data_format)
        self._sublayer_names: list[str] = []
        self._pending_settings = sublayer_settings or {}  # for sub-layers that do not exist yet

    @property
    def trainable(self) -> bool:
        """Whether the layer is trained. Setting it also sets it on all sub-layers."""
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Layer.trainable.fset(self, value)
        self._pending_settings = {
            name: _without_trainable(settings) for name, settings in self._pending_settings.items()
        }

    @property
    def sublayers(self) -> list[keras.layers.Layer]:
        """The sub-layers, in the order of their creation."""
        return [getattr(self, name) for name in self._sublayer_names]

    def sublayer_calls(self, input_shape: Any) -> Iterator[tuple[keras.layers.Layer, Any]]:
        """Yield `(sub-layer, input shape or shapes)` in the order of the calls."""
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        for layer, shape in self.sublayer_calls(input_shape):
            if not layer.built:
                layer.build(shape)
        if self._pending_settings:
            raise ValueError(
                f"Expected sublayer_settings of {self.name} to name its sub-layers, "
                f"{', '.join(self._sublayer_names) or 'of which it has none'}; "
                f"received: {', '.join(map(repr, self._pending_settings))}."
            )

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "data_format": self.data_format}
        if self.folded:
            return {**config, "folded": True}
        settings = self._settings()
        return {**config, "sublayer_settings": settings} if settings else config

    def _add(self, layer):
        setattr(self, layer.name, layer)
        self._sublayer_names.append(layer.name)
        if not self.trainable:  # Keras' setter reaches only existing sub-layers
            layer.trainable = False
        self._apply_pending(layer)
        return layer

    def _apply_pending(self, layer):
        _apply(self._pending_settings.get(layer.name, {}), layer)
        self._pending_settings = {
            name: settings for name, settings in self._pending_settings.items() if name != layer.name
        }

    def _settings(self):
        """Return `sublayer_settings`: the settings of sub-layers that differ from those of this layer."""
        settings = {layer.name: _difference(layer, self) for layer in self.sublayers}
        settings = {name: own for name, own in settings.items() if own}
        return {**settings, **{name: dict(own) for name, own in self._pending_settings.items()}}

    def _shared(self, name):
        return {"name": name, "data_format": self.data_format, "dtype": self.dtype_policy}

    def _conv(self, name, filters, kernel_size, strides=1, **options):
        """Add a bias-free convolution; a strided 3x3 expects evenly padded input (`_pad`)."""
        convolution = InferenceConv2D if self.folded else keras.layers.Conv2D
        return self._add(
            convolution(
                filters,
                kernel_size,
                strides=strides,
                padding="same" if strides == 1 else "valid",
                use_bias=False,
                kernel_initializer="zeros" if self.folded else HeGaussian(),
                **options,
                **self._shared(name),
            )
        )

    def _pad(self, name):
        return self._add(keras.layers.ZeroPadding2D(1, **self._shared(name)))

    def _batch_norm(self, name, axis=None, relu=True):
        """Add a batch normalisation, with its ReLU; if folded, the convolution that was added last computes both."""
        self._relu_after[name] = relu
        options = {
            "axis": self.channel_axis if axis is None else axis,
            "momentum": BN_MOMENTUM,
            "epsilon": EPSILON,
            "name": name,
            "dtype": self.dtype_policy,
        }
        if not self.folded:
            return self._add(BatchNormalization(**options))
        before = self.sublayers[-1] if self._sublayer_names else None
        if isinstance(before, InferenceConv2D):
            return before.append_normalization(relu)
        return self._add(InferenceBatchNormalization(relu=relu, **options))

    def _normalize(self, name: str, x: Tensor, training: bool | None = None) -> Tensor:
        """Apply a batch normalisation and its ReLU, as far as the convolution before it has not done so."""
        layer = getattr(self, name, None)
        if self.folded:
            return x if layer is None else layer(x)
        x = getattr(self, name)(x, training=training)
        return ops.relu(x) if self._relu_after[name] else x


def _difference(layer, parent):
    """Return the settings of a sub-layer that differ from those of its composite."""
    settings = {}
    if layer.trainable != parent.trainable:
        settings["trainable"] = layer.trainable
    if layer.dtype_policy != parent.dtype_policy:
        settings["dtype"] = keras.dtype_policies.serialize(layer.dtype_policy)
    if getattr(layer, "quantization_config", None) is not None:
        settings["quantization_config"] = keras.saving.serialize_keras_object(layer.quantization_config)
    inner = layer._settings() if isinstance(layer, CompositeLayer) else {}
    return {**settings, "sublayer_settings": inner} if inner else settings


def _apply(settings, layer):
    """Apply the result of `_difference` to a new sub-layer that is not built yet."""
    if "trainable" in settings:
        layer.trainable = settings["trainable"]
    if "dtype" in settings:
        _set_policy(keras.dtype_policies.deserialize(settings["dtype"]), layer)
    if "quantization_config" in settings:
        layer.quantization_config = keras.saving.deserialize_keras_object(settings["quantization_config"])
    if isinstance(layer, CompositeLayer):
        layer._pending_settings = settings.get("sublayer_settings", {})
        for part in layer.sublayers:
            layer._apply_pending(part)


def _set_policy(policy, layer):
    layer.dtype_policy = policy
    for part in layer.sublayers if isinstance(layer, CompositeLayer) else ():
        _set_policy(policy, part)


def _without_trainable(settings):
    inner = {name: _without_trainable(own) for name, own in settings.get("sublayer_settings", {}).items()}
    kept = {key: value for key, value in settings.items() if key not in ("trainable", "sublayer_settings")}
    return {**kept, "sublayer_settings": inner} if inner else kept
