"""Attention as arrays: the masks and gates of a network, for some images."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.layers import AttentionHead, AttentionResidual, GatedSum, GlobalGate, HeadGate, Rectify, SoftMask
from keras_resattn.models.inspection import cached_on_model, convolution_on_raw_input, replay
from keras_resattn.preprocessing import warn_of_raw
from keras_resattn.typing import ArrayLike
from keras_resattn.utils.keras_internals import call_inputs, producer
from keras_resattn.utils.validation import check_count

MERGE, MASK, GATES, LOGITS, GLOBAL_GATE = "_merge", "_mask", "_gates", "_logits", "global_gate"
BASE = "base"


def attention_maps(model: keras.Model, images: ArrayLike, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Return every mask of a model for some images: soft masks, and the masks of gated attention.

    Works on any backend, and with models that hold a network as one of their layers. The first call compiles; later
    calls with the same model and shape of images reuse that, with the weights as they are then.

    Args:
        model: A functional or sequential model with `AttentionResidual` or `AttentionHead` layers in it, at any depth.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`. Images that look raw (integers, or
            0 to 255) get a warning if nothing in the model normalises them.
        batch_size: Images in a step.

    Returns:
        Dictionary from the masks' names (`"stage1_attention1_mask"`, `"attention1_mask"`) to float32 arrays of shape
        `(n, h, w, c)` (`(n, c, h, w)` under `channels_first`), in the order of the graph. A soft mask has the
        channels of its trunk, with values between 0 and 1 for mixed attention. A mask of gated attention has
        a channel for each head; softmax masks sum to one over all positions.

    Raises:
        ValueError: if the model has no attention, is neither functional nor sequential, or the images have another
            shape.
    """
    found = find_attention(model)
    return found.predict("masks", {name: tensors[-1] for name, tensors in found.modules.items()}, images, batch_size)


def attention_gates(model: keras.Model, images: ArrayLike, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Return the weight of each head, each module and the base for some images, in gated attention.

    Args:
        model: A functional or sequential model with a `GlobalGate` in it, as `attend_and_rectify` and `WARN` return.
        images: Array of shape `(n, h, w, c)`, as for `attention_maps`.
        batch_size: Images in a step.

    Returns:
        Dictionary of float32 arrays: `"attention1_gates"` and so on, of shape `(n, heads)`, and `"global_gate"`, of
        shape `(n, modules + 1)`, whose last column is the base's.

    Raises:
        ValueError: if the model has no gated attention, is neither functional nor sequential, or the images have
            another shape.
    """
    found = find_attention(model)
    if GLOBAL_GATE not in found.gates:
        raise ValueError(f"Expected a model with gated attention; {model.name} has no gates.")
    return found.predict("gates", found.gates, images, batch_size)


@dataclass
class Attention:
    """The attention of a model, as tensors of a graph on `inputs`.

    `modules` holds `[trunk, mask]` for each soft mask and `[mask]` for each module of gated attention, by mask name;
    `gates` the heads' gates and the global gate, by layer name; `shares` the parts of the modules, and of the
    `"base"`, in the global gate; `taps` the names of the layers that gated modules look at, by mask name.
    `models` holds what was compiled.
    """

    inputs: keras.KerasTensor
    unnormalized: str | None
    modules: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)
    data_format: str | None = None
    models: dict[Any, Any] = field(default_factory=dict)

    def predict(self, key: Hashable, tensors: Any, images: ArrayLike, batch_size: int = 32) -> Any:
        """The values of a structure of tensors, which always belongs to `key`, for some images, in float32."""
        check_count("batch_size", batch_size)
        images = to_numpy(images)
        if images.ndim != len(self.inputs.shape) or not len(images):
            raise ValueError(
                f"Expected images of shape {self.inputs.shape}; received: shape {images.shape}. "
                "One image x is a batch of one as x[None]."
            )
        warn_of_raw(images, self.unnormalized, stacklevel=4)
        if key not in self.models:
            self.models[key] = keras.Model(self.inputs, tensors)
        arrays = self.models[key].predict(images, batch_size=batch_size, verbose=0)
        return keras.tree.map_structure(lambda array: np.asarray(array, "float32"), arrays)


def find_attention(model: keras.Model) -> Attention:
    """Return the `Attention` of a model, read once.

    Raises:
        ValueError: if it has none, or is no functional or sequential model with one input.
    """
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "inputs", None):
        raise ValueError(f"Expected a functional or built sequential keras.Model; received: {type(model).__name__}.")
    if len(model.inputs) != 1:
        raise ValueError(f"Expected a model with one input; {model.name} has {len(model.inputs)}.")
    return cached_on_model(model, "attention", lambda: _read(model))


def _read(model):
    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    found = Attention(inputs, convolution_on_raw_input(model))
    sums = {}

    def visit(layer, args, outputs):
        if isinstance(layer, (SoftMask, AttentionHead)):
            found.data_format = layer.data_format
        if isinstance(layer, AttentionResidual):
            found.modules[layer.name.removesuffix(MERGE) + MASK] = list(args[0])
        if isinstance(layer, AttentionHead):
            found.modules[layer.name] = [outputs]
            found.taps[layer.name] = _tapped(args[0], layer.name.removesuffix(MASK))
        if isinstance(layer, (HeadGate, GlobalGate)):
            found.gates[layer.name] = outputs
        if isinstance(layer, GatedSum):
            sums[id(outputs)] = layer.name.removesuffix(LOGITS)
        if isinstance(layer, Rectify):
            gates, *modules, _ = args[0]
            found.shares |= {sums[id(module)]: gates[:, i] for i, module in enumerate(modules)}
            found.shares[BASE] = gates[:, -1]

    replay(model, found.inputs, visit)
    if not found.modules:
        raise ValueError(f"Expected a model with AttentionResidual or AttentionHead layers; {model.name} has none.")
    found.data_format = found.data_format or keras.config.image_data_format()
    for names, suffix in ((found.modules, MASK), (found.gates, GATES)):  # gated attention: as the global gate has them
        for name in [module + suffix for module in found.shares if module + suffix in names]:
            names[name] = names.pop(name)
    if GLOBAL_GATE in found.gates:
        found.gates[GLOBAL_GATE] = found.gates.pop(GLOBAL_GATE)
    return found


def _tapped(tensor, module):
    """The name of the layer whose map a module looks at, before layers of the module's own."""
    layer, node, _ = producer(tensor)
    if layer.name.startswith(f"{module}_"):
        return _tapped(call_inputs(layer, node)[0], module)
    return layer.name
