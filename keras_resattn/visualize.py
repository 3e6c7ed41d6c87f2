"""Seeing the masks: as arrays, and as pictures."""

import re

import keras
import numpy as np

from keras_resattn.layers import AttentionResidual, SoftMask
from keras_resattn.layers.composite import check_count
from keras_resattn.models.graph import replay

MERGE, MASK = "_merge", "_mask"


def attention_maps(model, images, batch_size=32):
    """Returns what every soft mask of a model says of some images.

    Works with any backend, and with models that hold a network as one of their layers.

    Args:
        model: A functional or sequential model with `AttentionResidual` layers in it, at any depth.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`.
        batch_size: Images in a step.

    Returns:
        Dictionary from the masks' names (`"stage1_attention1_mask"`) to float32 arrays of shape `(n, h, w, c)`
        (`(n, c, h, w)` under `channels_first`), in the order of the graph. With mixed attention,
        values lie between 0 and 1.

    Raises:
        ValueError: if the model has no attention, or is neither functional nor sequential.
    """
    modules, _ = _trunks_and_masks(model, images, batch_size)
    return {name: mask for name, (_, mask) in modules.items()}


def _trunks_and_masks(model, images, batch_size=32):
    """`{mask name: (trunk, mask)}` for each attention module, as arrays, and their data format."""
    merges, masks = {}, []

    def visit(layer, args, outputs):
        if isinstance(layer, SoftMask):
            masks.append(layer)
        if isinstance(layer, AttentionResidual):
            trunk, mask = args[0]
            merges[layer.name.removesuffix(MERGE) + MASK] = [trunk, mask]

    if len(model.inputs) != 1:
        raise ValueError(f"Expected a model with one input; {model.name} has {len(model.inputs)}.")
    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    replay(model, inputs, visit)
    if not merges:
        raise ValueError(f"Expected a model with AttentionResidual layers; {model.name} has none.")
    arrays = keras.Model(inputs, merges).predict(np.asarray(images), batch_size=batch_size, verbose=0)
    modules = {name: tuple(np.asarray(a, "float32") for a in pair) for name, pair in arrays.items()}
    return modules, masks[0].data_format if masks else keras.config.image_data_format()


def plot_attention(model, images, pictures=None, titles=None, masks=None, channels=2, cmap="inferno", alpha=0.6):
    """Draws where a network looked: each picture, and for each stage the masks laid over it.

    A mask has hundreds of channels. Shown are their mean, and the channels in which this picture's trunk
    carries most energy (the mean square of T over positions), as these are what the mask acts on. Each
    overlay is scaled to its own range, printed above it: a mask is read by where it is high.

    Args:
        model: As in `attention_maps`.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`.
        pictures: The same as they should be seen: 0 to 255, channels last. Defaults to `images`,
            scaled to their range.
        titles: A line above each picture, or `None`.
        masks: Names of the masks to show. Defaults to the last one of each stage.
        channels: Channels of most energy to show beside the mean.
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
    modules, data_format = _trunks_and_masks(model, images)
    masks = _last_of_each_stage(modules) if masks is None else list(masks)
    unknown = [name for name in masks if name not in modules]
    if unknown:
        raise ValueError(f"Expected masks to be among {', '.join(modules)}; received: {', '.join(map(repr, unknown))}.")

    shown = _displayable(images, data_format) if pictures is None else np.asarray(pictures)
    columns = 1 + len(masks) * (1 + channels)
    size = (1.5 * columns, 1.75 * len(images) + 0.3)
    figure, axes = plt.subplots(len(images), columns, figsize=size, layout="constrained", squeeze=False)
    plt.close(figure)  # so that a notebook shows it once, as the value of the cell
    for row, picture in enumerate(shown):
        _show(axes[row, 0], picture, titles[row] if titles is not None else "")
        column = 1
        for name in masks:
            trunk, mask = (array[row] for array in modules[name])
            for label, overlay in _overlays(trunk, mask, channels, data_format):
                heading = f"{_readable(name)}\n{label}" if row == 0 else label
                _show(
                    axes[row, column],
                    picture,
                    f"{heading}\n{overlay.min():.2f} to {overlay.max():.2f}",
                    overlay,
                    cmap,
                    alpha,
                )
                column += 1
    return figure


def _overlays(trunk, mask, channels, data_format):
    """`(label, map)` for the mean over channels and for those of most trunk energy."""
    if data_format == "channels_first":
        trunk, mask = (np.moveaxis(array, 0, -1) for array in (trunk, mask))
    yield "mean", mask.mean(-1)
    energy = np.square(trunk).mean((0, 1))
    for channel in np.argsort(-energy, kind="stable")[:channels]:
        yield f"channel {channel}", mask[..., channel]


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
        last[stage.group(1) if stage else name] = name
    return list(last.values())


def _readable(name):
    parts = re.fullmatch(r"stage(\d+)_attention(\d+)_mask", name)
    return f"stage {parts.group(1)}, module {parts.group(2)}" if parts else name
