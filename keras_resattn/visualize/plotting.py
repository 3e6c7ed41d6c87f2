"""Plot attention masks over images."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resattn.data.images import as_pixels, to_numpy
from keras_resattn.typing import ArrayLike
from keras_resattn.utils.validation import check_count
from keras_resattn.visualize.attention import BASE, GATES, MASK, find_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Sizes in inches, except for the font size in points.
COLUMN, IMAGE = 1.5, 1.42
LINE = 0.125
BAR, ABOVE_BARS, BELOW_BARS = 0.08, 0.06, 0.28
FONT_SIZE = 7

SOFT_MASKS = "soft masks"


def plot_attention(
    model: keras.Model,
    images: ArrayLike,
    display_images: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    masks: Sequence[str] | None = None,
    channels: int = 2,
    cmap: Any = "inferno",
    alpha: float = 0.6,
) -> "Figure":
    """Plot images next to their attention masks, which are drawn over greyscale copies of the images.

    A soft mask has up to hundreds of channels. The figure shows their mean, and the channels with the highest trunk
    energy (mean square of T over positions), where the mask has the largest effect. For gated attention, it shows the
    heads' masks weighted by their gates, and the heads with the largest gates; the share of a module or of the base is
    its weight in the global gate.

    All soft masks share one colour scale that starts at 0, so a nearly constant mask looks constant, and colours are
    comparable across images, stages and channels. Each module of gated attention has its own scale for all heads and
    images, because the values of a softmax mask depend on the size of the map. A colour bar below the columns shows
    each scale, and the title of each overlay shows its range.

    Args:
        model: A functional or sequential model, as in `attention_maps`.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`. Images that look raw (integers, or
            0 to 255) raise a warning if no layer of the model normalises them.
        display_images: The images to display, 0 to 255, channels last. Defaults to `images`, rescaled to that range.
        titles: Title of each image, or `None`. Long titles are wrapped.
        masks: Names of the masks to show. Defaults to the last mask of each stage, and to all masks of gated attention.
        channels: Number of channels with the highest energy, or of heads with the largest gates, to show besides the
            mean; all if there are fewer. Channels are numbered from 0, like arrays, and heads from 1, as in the paper.
        cmap: Matplotlib colour map of the overlays.
        alpha: Opacity of the overlays, 0 to 1.

    Returns:
        A `matplotlib.figure.Figure` with one row for each image. Requires the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no attention, a mask name is unknown, `channels` is negative, or the lengths of
            `images`, `display_images` and `titles` differ.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plot_attention needs matplotlib: pip install 'keras-resattn[viz]'.") from error
    images = to_numpy(images)
    display_images = _checked_images(images, display_images, titles)
    check_count("channels", channels, least=0)
    found = find_attention(model)
    masks = _checked_masks(masks, found)
    shown = {name: found.modules[name] for name in masks}
    tensors = {"modules": shown, "gates": found.gates, "module_weights": found.module_weights}
    arrays = found.predict(("plot", *masks), tensors, images)
    seen = _displayable(images, found.data_format) if display_images is None else display_images
    rows = [_row(found, arrays, i, masks, channels, titles) for i in range(len(images))]

    columns = max(map(len, rows))
    heights = [IMAGE + LINE * (1.8 + max(cell.title.count("\n") for cell in row)) for row in rows]
    below = BELOW_BARS + BAR + ABOVE_BARS
    figure = plt.figure(figsize=(COLUMN * columns, sum(heights) + below))
    plt.close(figure)  # a notebook then shows it only once, as the value of the cell
    scales, drawn = _scales(rows), {}
    for i, row in enumerate(rows):
        bottom = below + sum(heights[i + 1 :])
        for column, cell in enumerate(row):
            axis = figure.add_axes(_place(figure, column * COLUMN, bottom, IMAGE, IMAGE))
            axis.set_axis_off()
            image = _show(axis, seen[i], cell, scales, cmap, alpha)
            drawn.setdefault(cell.scale, []).append((column, image))
    for name in scales:
        _draw_bar(figure, *zip(*drawn[name], strict=True))
    return figure


def _place(figure, left, bottom, width, height):
    """Convert a rectangle from inches to fractions of the figure, and centre it in its column."""
    whole_width, whole_height = figure.get_size_inches()
    left += (COLUMN - IMAGE) / 2
    return left / whole_width, bottom / whole_height, width / whole_width, height / whole_height


def _draw_bar(figure, columns, images):
    """Draw the colour bar of a scale below its columns."""
    from matplotlib.ticker import MaxNLocator

    first = min(columns)
    count = next(n for n in range(1, len(columns) + 1) if first + n not in columns)  # masks may be in any order
    inset = 0.12  # half the width of a tick label
    width = (count - 1) * COLUMN + IMAGE - 2 * inset
    axis = figure.add_axes(_place(figure, first * COLUMN + inset, BELOW_BARS, width, BAR))
    ticks = MaxNLocator(min(3 * count, 10))
    bar = figure.colorbar(images[0], cax=axis, orientation="horizontal", ticks=ticks, format="%.3g")
    bar.ax.tick_params(labelsize=FONT_SIZE)


def _checked_images(images, display_images, titles):
    lengths = [len(values) for values in (images, display_images, titles) if values is not None]
    if len(set(lengths)) > 1 or not len(images):
        raise ValueError(
            f"Expected at least one image, and as many display_images and titles; received lengths: {lengths}."
        )
    if display_images is None:
        return None
    display_images = to_numpy(display_images)
    if display_images.ndim != 4 or display_images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"Expected display_images of shape (n, h, w, 1, 3 or 4), 0 to 255; received: shape {display_images.shape}."
        )
    return as_pixels(display_images, "display_images").astype("uint8")  # matplotlib shows floats above 1 as white


def _checked_masks(masks, found):
    masks = [masks] if isinstance(masks, str) else masks
    masks = _last_of_each_stage(found.modules) if masks is None else list(dict.fromkeys(masks))
    unknown = [name for name in masks if name not in found.modules]
    if unknown:
        known = ", ".join(found.modules)
        raise ValueError(f"Expected masks to be among {known}; received: {', '.join(map(repr, unknown))}.")
    return masks


class _Cell:
    """A cell of the figure: title lines, and an overlay with the name of its colour scale, or `None` for neither."""

    def __init__(self, title, overlay=None, scale=None):
        self.title = "\n".join(_wrapped(line) for line in title if line)
        self.overlay = overlay
        self.scale = scale


def _row(found, arrays, i, masks, channels, titles):
    """Return the cells of one image: the image itself, then the overlays of each mask."""
    title = [] if titles is None else str(titles[i]).split("\n")
    if BASE in found.module_weights:
        title.append(f"base's share {arrays['module_weights'][BASE][i]:.2f}")
    cells = [_Cell(title)]
    for name in masks:
        module = [array[i] for array in arrays["modules"][name]]
        if found.data_format == "channels_first":
            module = [np.moveaxis(array, 0, -1) for array in module]
        if len(module) == 2:
            trunk, mask = module
            overlays = _channels(trunk, mask, channels)
        else:
            prefix = name.removesuffix(MASK)
            gates, share = (
                arrays[kind].get(key) for kind, key in (("gates", prefix + GATES), ("module_weights", prefix))
            )
            gates, share = (value if value is None else value[i] for value in (gates, share))
            overlays = _heads(module[0], gates, share, channels)
        heading = [_readable(name), found.taps.get(name)] if i == 0 else []
        for label, overlay in overlays:
            limits = f"{_number(overlay.min())} to {_number(overlay.max())}"
            cells.append(_Cell([*heading, label, limits], overlay, SOFT_MASKS if len(module) == 2 else name))
    return cells


def _channels(trunk, mask, count):
    """Yield `(label, map)` for a soft mask's mean over channels, and for the channels with the highest trunk energy."""
    yield "mean", mask.mean(-1)
    energy = np.square(trunk).mean((0, 1))
    for channel in np.argsort(-energy, kind="stable")[:count]:
        yield f"channel {channel}", mask[..., channel]


def _heads(mask, gates, share, count):
    """Yield `(label, map)` for a module's masks weighted by their gates, and for the heads with the largest gates."""
    heads = mask.shape[-1]
    weights = np.full(heads, 1 / heads) if gates is None else gates
    yield "all heads" if share is None else f"module's share {share:.2f}", mask @ weights
    for head in np.argsort(-weights, kind="stable")[:count]:
        yield f"head {head + 1}" if gates is None else f"head {head + 1}, gate {gates[head]:.2f}", mask[..., head]


def _scales(rows):
    """Return `{name: (low, high)}` for the colour scales, from 0 or the lowest negative value to the highest value."""
    overlays = {}
    for cell in (cell for row in rows for cell in row if cell.scale):
        overlays.setdefault(cell.scale, []).append(cell.overlay)
    limits = {name: (min(0.0, *map(np.min, maps)), max(0.0, *map(np.max, maps))) for name, maps in overlays.items()}
    return {name: (low, high if low < high else 1.0) for name, (low, high) in limits.items()}


def _show(axis, image, cell, scales, cmap, alpha):
    image = np.squeeze(image)
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255}
    axis.set_title(cell.title, fontsize=FONT_SIZE, parse_math=False)
    if cell.overlay is None:
        return axis.imshow(image, extent=extent, interpolation="nearest", **(gray if image.ndim == 2 else {}))
    axis.imshow(image if image.ndim == 2 else image.mean(-1), extent=extent, interpolation="nearest", **gray)
    low, high = scales[cell.scale]
    options = {"interpolation": "bicubic", "cmap": cmap, "alpha": alpha, "vmin": low, "vmax": high}
    return axis.imshow(cell.overlay, extent=extent, **options)


def _wrapped(text):
    """Wrap a line to the width of a column, after a space, `_`, `/`, `-` or `.` if there is one."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font, limit = FontProperties(size=FONT_SIZE), 72 * IMAGE

    def fits(line):
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= limit

    lines, line = [], ""
    for piece in re.findall(r"[^\s_/.\-]*[\s_/.\-]?", text):
        if line and not fits((line + piece).rstrip()):
            lines.append(line.rstrip())
            line = ""
        line += piece
        while not fits(line.rstrip()):
            length = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or fits(line[:n]))
            lines.append(line[:length])
            line = line[length:]
    return "\n".join([*lines, line.rstrip()])


def _displayable(images, data_format):
    if data_format == "channels_first":
        images = np.moveaxis(images, 1, -1)
    if images.dtype == "uint8":
        return images
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
