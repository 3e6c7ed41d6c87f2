"""Compute a network's attention masks and gates for images."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.layers import AttentionHead, AttentionResidual, GatedSum, GlobalGate, HeadGate, Rectify, SoftMask
from keras_resattn.models.inspection import cached_on_model, replay
from keras_resattn.models.normalization import convolution_on_raw_input
from keras_resattn.preprocessing import warn_if_raw
from keras_resattn.typing import ArrayLike
from keras_resattn.utils.keras_internals import call_inputs, producer
from keras_resattn.utils.validation import check_count

MERGE, MASK, GATES, LOGITS, GLOBAL_GATE = "_merge", "_mask", "_gates", "_logits", "global_gate"
BASE = "base"


def attention_maps(model: keras.Model, images: ArrayLike, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Return all attention masks of a model for a batch of images: soft masks and masks of gated attention.

    Works on any backend, and with models that contain a network as a layer. The first call compiles a function; later
    calls with the same model and image shape reuse it with the current weights.

    Args:
        model: A functional or sequential model with `AttentionResidual` or `AttentionHead` layers at any depth.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`. Images that look raw (integers, or
            0 to 255) raise a warning if no layer of the model normalises them.
        batch_size: Images per step.

    Returns:
        Dictionary from mask names (`"stage1_attention1_mask"`, `"attention1_mask"`) to float32 arrays of shape
        `(n, h, w, c)`, or `(n, c, h, w)` with `channels_first`, in the order of the graph. A soft mask has the
        channels of its trunk, with values between 0 and 1 for mixed attention. A mask of gated attention has one
        channel for each head; softmax masks sum to one over all positions.

    Raises:
        ValueError: if the model has no attention or is neither functional nor sequential, or the images have another
            shape.
    """
    found = find_attention(model)
    return found.predict("masks", found.masks, images, batch_size)


def attention_gates(model: keras.Model, images: ArrayLike, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Return the gates of a model with gated attention for a batch of images: weights of heads, modules and base.

    Args:
        model: A functional or sequential model with a `GlobalGate`, such as `attend_and_rectify` and `WARN` return.
        images: Array of shape `(n, h, w, c)`, as for `attention_maps`.
        batch_size: Images per step.

    Returns:
        Dictionary of float32 arrays: `"attention1_gates"` and so on with shape `(n, heads)`, and `"global_gate"` with
        shape `(n, modules + 1)`, whose last column is the weight of the base.

    Raises:
        ValueError: if the model has no gated attention or is neither functional nor sequential, or the images have
            another shape.
    """
    found = find_attention(model)
    if GLOBAL_GATE not in found.gates:
        raise ValueError(f"Expected a model with gated attention; {model.name} has no gates.")
    return found.predict("gates", found.gates, images, batch_size)


@dataclass
class Attention:
    """Attention tensors of a model, in a graph that starts at `inputs`.

    Attributes:
        inputs: Input of the graph.
        unnormalized: Name of the convolution that receives the input without normalisation, or `None`.
        modules: `{mask name: [trunk, mask]}` for soft masks, `{mask name: [mask]}` for modules of gated attention.
        gates: `{layer name: gates}` for the heads' gates and the global gate.
        module_weights: `{module prefix or "base": weight in the global gate}`.
        taps: `{mask name: name of the layer that a module of gated attention attends to}`.
        merged: `{mask name: output of the merge of trunk and mask}` for soft masks.
        data_format: Image data format of the masks.
        outputs: Outputs of the model.
        models: Compiled models by the key of `predict`.
    """

    inputs: keras.KerasTensor
    unnormalized: str | None
    modules: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    module_weights: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    data_format: str | None = None
    outputs: Any = None
    models: dict[Any, Any] = field(default_factory=dict)

    @property
    def masks(self) -> dict[str, Any]:
        """Return `{mask name: mask}`."""
        return {name: tensors[-1] for name, tensors in self.modules.items()}

    def predict(
        self, key: Hashable, tensors: Any, images: ArrayLike, batch_size: int = 32, stacklevel: int | None = 4
    ) -> Any:
        """Return the float32 values of a structure of tensors for images.

        Args:
            key: Identifies the structure.
            tensors: The structure.
            images: Images for the model.
            batch_size: Images per step.
            stacklevel: As for `warnings.warn`, about images that look raw; `None` for no warning.
        """
        check_count("batch_size", batch_size)
        images = to_numpy(images)
        fits = len(images) and images.ndim == len(self.inputs.shape)
        if not fits or any(want not in (None, got) for want, got in zip(self.inputs.shape, images.shape, strict=True)):
            hint = " Pass a single image x as x[None]." if images.ndim == len(self.inputs.shape) - 1 else ""
            raise ValueError(f"Expected images of shape {self.inputs.shape}; received: shape {images.shape}.{hint}")
        if stacklevel is not None:
            warn_if_raw(images, self.unnormalized, stacklevel)
        if key not in self.models:
            self.models[key] = keras.Model(self.inputs, tensors)
        arrays = self.models[key].predict(images, batch_size=batch_size, verbose=0)
        return keras.tree.map_structure(lambda array: np.asarray(array, "float32"), arrays)


def find_attention(model: keras.Model) -> Attention:
    """Return the `Attention` of a model, which is cached with the model.

    Raises:
        ValueError: if the model has no attention, or is not a functional or sequential model with one input.
    """
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "inputs", None):
        raise ValueError(f"Expected a functional or built sequential keras.Model; received: {type(model).__name__}.")
    if len(model.inputs) != 1:
        raise ValueError(f"Expected a model with one input; {model.name} has {len(model.inputs)}.")
    return cached_on_model(model, "attention", lambda: _collect(model))


def _collect(model):
    """Call the model's layers on a new input and collect the `Attention` tensors."""
    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    found = Attention(inputs, convolution_on_raw_input(model))
    sums = {}

    def visit(layer, args, outputs):
        if isinstance(layer, (SoftMask, AttentionHead)):
            found.data_format = layer.data_format
        if isinstance(layer, AttentionResidual):
            found.modules[layer.name.removesuffix(MERGE) + MASK] = list(args[0])
            found.merged[layer.name.removesuffix(MERGE) + MASK] = outputs
        if isinstance(layer, AttentionHead):
            found.modules[layer.name] = [outputs]
            found.taps[layer.name] = _tapped(args[0], layer.name.removesuffix(MASK))
        if isinstance(layer, (HeadGate, GlobalGate)):
            found.gates[layer.name] = outputs
        if isinstance(layer, GatedSum):
            sums[id(outputs)] = layer.name.removesuffix(LOGITS)
        if isinstance(layer, Rectify):
            gates, *modules, _ = args[0]
            found.module_weights |= {sums[id(module)]: gates[:, i] for i, module in enumerate(modules)}
            found.module_weights[BASE] = gates[:, -1]

    found.outputs = replay(model, found.inputs, visit)
    if not found.modules:
        raise ValueError(
            f"Expected a model with AttentionResidual or AttentionHead layers; {model.name} has none. "
            "(WARN has none without its top; attend_and_rectify adds new ones.)"
        )
    found.data_format = found.data_format or keras.config.image_data_format()
    # Sort gated attention in the order of the global gate.
    for names, suffix in ((found.modules, MASK), (found.gates, GATES)):
        for name in [module + suffix for module in found.module_weights if module + suffix in names]:
            names[name] = names.pop(name)
    if GLOBAL_GATE in found.gates:
        found.gates[GLOBAL_GATE] = found.gates.pop(GLOBAL_GATE)
    return found


def _tapped(tensor, module):
    """Return the name of the layer that a module attends to, skipping the module's own layers."""
    layer, node, _ = producer(tensor)
    if layer.name.startswith(f"{module}_"):
        return _tapped(call_inputs(layer, node)[0], module)
    return layer.name
