"""Seeing the masks: as arrays, and as pictures."""

import re
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_resattn.layers import AttentionHead, AttentionResidual, GatedSum, GlobalGate, HeadGate, Rectify, SoftMask
from keras_resattn.layers.composite import check_count
from keras_resattn.models.graph import replay

MERGE, MASK, GATES, LOGITS, GLOBAL_GATE = "_merge", "_mask", "_gates", "_logits", "global_gate"
BASE = "base"


def attention_maps(model, images, batch_size=32):
    """Returns what every mask of a model says of some images: soft masks, and the masks of gated attention.

    Works with any backend, and with models that hold a network as one of their layers.

    Args:
        model: A functional or sequential model with `AttentionResidual` or `AttentionHead` layers in it, at any depth.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`.
        batch_size: Images in a step.

    Returns:
        Dictionary from the masks' names (`"stage1_attention1_mask"`, `"attention1_mask"`) to float32 arrays of shape
        `(n, h, w, c)` (`(n, c, h, w)` under `channels_first`), in the order of the graph. A soft mask has the
        channels of its trunk, with values between 0 and 1 for mixed attention. A mask of gated attention has
        a channel for each head; softmax masks sum to one over all positions.

    Raises:
        ValueError: if the model has no attention, or is neither functional nor sequential.
    """
    found = _find(model)
    masks = {name: tensors[-1] for name, tensors in found.modules.items()}
    return found.predict(masks, images, batch_size)


def attention_gates(model, images, batch_size=32):
    """Returns how much each head, each module and the base count for some images, in gated attention.

    Args:
        model: A functional or sequential model with a `GlobalGate` in it, as `attend_and_rectify` and `WARN` return.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`.
        batch_size: Images in a step.

    Returns:
        Dictionary of float32 arrays: `"attention1_gates"` and so on, of shape `(n, heads)`, and `"global_gate"`, of
        shape `(n, modules + 1)`, whose last column is the base's.

    Raises:
        ValueError: if the model has no gated attention, or is neither functional nor sequential.
    """
    found = _find(model)
    if GLOBAL_GATE not in found.gates:
        raise ValueError(f"Expected a model with gated attention; {model.name} has no gates.")
    return found.predict(found.gates, images, batch_size)


@dataclass
class _Attention:
    """The attention of a model, as tensors of a graph on `inputs`.

    `modules` holds `[trunk, mask]` for each soft mask and `[mask]` for each module of gated attention, by mask name;
    `gates` the heads' gates and the global gate, by layer name; `shares` the parts of the modules, and of the
    `"base"`, in the global gate; `taps` the names of the layers that gated modules look at, by mask name.
    """

    inputs: keras.KerasTensor
    modules: dict = field(default_factory=dict)
    gates: dict = field(default_factory=dict)
    shares: dict = field(default_factory=dict)
    taps: dict = field(default_factory=dict)
    data_format: str | None = None

    def predict(self, tensors, images, batch_size=32):
        """The values of a structure of tensors for some images, in float32."""
        images = np.asarray(images)
        if images.ndim != len(self.inputs.shape) or not len(images):
            raise ValueError(
                f"Expected images of shape {self.inputs.shape}; received: shape {images.shape}. "
                "One picture x is a batch of one as x[None]."
            )
        arrays = keras.Model(self.inputs, tensors).predict(np.asarray(images), batch_size=batch_size, verbose=0)
        return keras.tree.map_structure(lambda array: np.asarray(array, "float32"), arrays)


def _find(model):
    if not isinstance(model, (keras.Function, keras.Sequential)) or not getattr(model, "inputs", None):
        raise ValueError(f"Expected a functional or built sequential keras.Model; received: {type(model).__name__}.")
    if len(model.inputs) != 1:
        raise ValueError(f"Expected a model with one input; {model.name} has {len(model.inputs)}.")
    found = _Attention(keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype))
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
    layer, node, _ = tensor._keras_history
    if layer.name.startswith(f"{module}_"):
        return _tapped(layer._inbound_nodes[node].input_tensors[0], module)
    return layer.name


def plot_attention(model, images, pictures=None, titles=None, masks=None, channels=2, cmap="inferno", alpha=0.6):
    """Draws where a network looked: each picture, and for each stage or module the masks laid over it.

    A soft mask has hundreds of channels. Shown are their mean, and the channels in which this picture's trunk
    carries most energy (the mean square of T over positions), as these are what the mask acts on. Of gated
    attention, shown are the heads' masks summed by their gates, and the heads with the largest gates; a module's
    share, and the base's, are their parts in the global gate. Each overlay is scaled to its own range, printed above
    it: a mask is read by where it is high.

    Args:
        model: As in `attention_maps`.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`.
        pictures: The same as they should be seen: 0 to 255, channels last. Defaults to `images`,
            scaled to their range.
        titles: A line above each picture, or `None`.
        masks: Names of the masks to show. Defaults to the last one of each stage, and to all of gated attention.
        channels: Channels of most energy, or heads of largest gate, to show beside the mean; all where there are
            fewer. Channel 0 is the first, as in an array; of heads it is head 1, as in the paper.
        cmap: Matplotlib colour map of the overlays.
        alpha: Opacity of the overlays, 0 to 1.

    Returns:
        A `matplotlib.figure.Figure` with one row for each picture. Needs the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no attention, a name is unknown, `channels` is negative, or lengths differ.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plot_attention needs matplotlib: pip install 'keras-resattn[viz]'.") from error
    images = np.asarray(images)
    lengths = [len(values) for values in (images, pictures, titles) if values is not None]
    if len(set(lengths)) > 1 or not len(images):
        raise ValueError(
            f"Expected as many pictures and titles as images, and at least one; received lengths: {lengths}."
        )
    check_count("channels", channels, least=0)
    if pictures is not None:
        pictures = np.asarray(pictures)
        if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3, 4):
            raise ValueError(f"Expected pictures (n, h, w, channels), 0 to 255; received: shape {pictures.shape}.")
        pictures = np.clip(pictures, 0, 255).astype("uint8")  # floats above 1 are white to matplotlib
    found = _find(model)
    masks = [masks] if isinstance(masks, str) else masks
    masks = _last_of_each_stage(found.modules) if masks is None else list(masks)
    unknown = [name for name in masks if name not in found.modules]
    if unknown:
        known = ", ".join(found.modules)
        raise ValueError(f"Expected masks to be among {known}; received: {', '.join(map(repr, unknown))}.")
    shown = {name: found.modules[name] for name in masks}
    arrays = found.predict({"modules": shown, "gates": found.gates, "shares": found.shares}, images)

    pictures = _displayable(images, found.data_format) if pictures is None else pictures
    axis = 1 if found.data_format == "channels_first" else -1
    channels = min(channels, max((arrays["modules"][name][-1].shape[axis] for name in masks), default=0))
    columns = 1 + len(masks) * (1 + channels)
    size = (1.5 * columns, 1.75 * len(images) + 0.3)
    figure, axes = plt.subplots(len(images), columns, figsize=size, layout="constrained", squeeze=False)
    plt.close(figure)  # so that a notebook shows it once, as the value of the cell
    for row, picture in enumerate(pictures):
        title = [titles[row]] if titles is not None else []
        if BASE in found.shares:
            title.append(f"base's share {arrays['shares'][BASE][row]:.2f}")
        _show(axes[row, 0], picture, "\n".join(title))
        column = 1
        for name in masks:
            module = [array[row] for array in arrays["modules"][name]]
            if found.data_format == "channels_first":
                module = [np.moveaxis(array, 0, -1) for array in module]
            if len(module) == 2:
                overlays = _channels(*module, channels)
            else:
                prefix = name.removesuffix(MASK)
                gates, shares = arrays["gates"].get(prefix + GATES), arrays["shares"].get(prefix)
                overlays = _heads(*module, *(a if a is None else a[row] for a in (gates, shares)), channels)
            for label, overlay in overlays:
                of = f"\n{found.taps[name]}" if name in found.taps else ""
                heading = f"{_readable(name)}{of}\n{label}" if row == 0 else label
                limits = f"{_number(overlay.min())} to {_number(overlay.max())}"
                _show(axes[row, column], picture, f"{heading}\n{limits}", overlay, cmap, alpha)
                column += 1
            column = 1 + (masks.index(name) + 1) * (1 + channels)  # a mask may have fewer channels than others
    for axis in axes.flat:
        axis.set_axis_off()
    return figure


def _channels(trunk, mask, count):
    """`(label, map)` for a soft mask's mean over channels, and for the channels of most trunk energy."""
    yield "mean", mask.mean(-1)
    energy = np.square(trunk).mean((0, 1))
    for channel in np.argsort(-energy, kind="stable")[:count]:
        yield f"channel {channel}", mask[..., channel]


def _heads(mask, gates, share, count):
    """`(label, map)` for a module's masks summed by their gates, and for the heads with the largest gates."""
    heads = mask.shape[-1]
    weights = np.full(heads, 1 / heads) if gates is None else gates
    yield "all heads" if share is None else f"module's share {share:.2f}", mask @ weights
    for head in np.argsort(-weights, kind="stable")[:count]:
        yield f"head {head + 1}" if gates is None else f"head {head + 1}, gate {gates[head]:.2f}", mask[..., head]


def _show(axis, picture, title, overlay=None, cmap=None, alpha=None):
    picture = np.squeeze(picture)
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)
    gray = {"cmap": "gray"} if picture.ndim == 2 else {}
    if overlay is None:
        axis.imshow(picture, extent=extent, interpolation="nearest", **gray)
    else:
        axis.imshow(
            picture if picture.ndim == 2 else picture.mean(-1), extent=extent, interpolation="nearest", cmap="gray"
        )
        axis.imshow(overlay, extent=extent, interpolation="bicubic", cmap=cmap, alpha=alpha)
    axis.set_title(title, fontsize=7)
    axis.set_axis_off()


def _displayable(images, data_format):
    if data_format == "channels_first":
        images = np.moveaxis(images, 1, -1)
    low, high = images.min(), images.max()
    return ((images - low) * (255.0 / max(high - low, 1e-12))).astype("uint8")


def _last_of_each_stage(names):
    last = {}
    for name in names:
        stage = re.match(r"stage(\d+)_", name)
        last[stage[1] if stage else name] = name
    return list(last.values())


def _readable(name):
    parts = re.fullmatch(r"(?:stage(\d+)_)?attention(\d+)_mask", name)
    if not parts:
        return name
    return f"stage {parts[1]}, module {parts[2]}" if parts[1] else f"attention {parts[2]}"


def _number(value):
    return "<0.001" if 0 < value < 0.001 else f"{value:.3g}"
