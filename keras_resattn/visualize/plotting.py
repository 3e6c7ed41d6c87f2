"""Plot attention masks over images, and feature maps before and after them."""

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.typing import ArrayLike, Rank, ResizeMode
from keras_resattn.utils.validation import check_choice, check_count
from keras_resattn.visualize.attention import BASE, GATES, MASK, find_attention
from keras_resattn.visualize.display import Photos, checked_lengths
from keras_resattn.visualize.layout import Cell, Row, Scale, draw, range_of
from keras_resattn.visualize.relevance import relevance_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = ("energy", "gradient")
SOFT_MASKS, RELEVANCE = "soft masks", "relevance"
SIGNED_CMAP, SIGNED_ALPHA = "coolwarm", 0.9
MAPS_CMAP = "viridis"


def plot_attention(
    model: keras.Model,
    images: ArrayLike,
    display_images: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    masks: Sequence[str] | None = None,
    channels: int = 2,
    cmap: Any = "inferno",
    alpha: float = 0.6,
    rank: Rank = "energy",
    classes: int | Sequence[int] | None = None,
    resize_mode: ResizeMode = "crop",
) -> "Figure":
    """Plot images next to their attention masks, which are drawn over greyscale copies of the images.

    A soft mask has up to hundreds of channels. With `rank="energy"`, the figure shows their mean, and the channels with
    the highest trunk energy (mean square of T over positions), where the mask has the largest effect. With
    `rank="gradient"`, it shows where the mask adds to the score of a class (`attention_relevance`, summed over
    channels) and where it takes away from it, and the channels that add most, with the amount: the sum of their
    relevance over positions. For gated attention, it shows the heads' masks weighted by their gates, or their
    relevance, and the heads with the largest gates, or the highest relevance; the share of a module or of the base is
    its weight in the global gate.

    All soft masks share one colour scale that starts at 0, so a nearly constant mask looks constant, and colours are
    comparable across images, stages and channels. Each module of gated attention has its own scale for all heads and
    images, because the values of a softmax mask depend on the size of the map; so has the relevance of each mask. A
    colour bar below the last row that has a scale shows it, and titles show ranges over the positions of a map: of the
    mask, or of the relevance, whose sum is what the channels or heads add.

    Masks are resized to the resolution of the displayed image with `upsample_maps`, and cover the part of it that the
    network received.

    Args:
        model: A functional or sequential model, as in `attention_maps`.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`. Images that look raw (integers, or
            0 to 255) raise a warning if no layer of the model normalises them.
        display_images: The images to display, 0 to 255, channels last: an array, or a list of arrays `(h, w, c)` of
            any sizes, such as photos at full resolution. Defaults to `images`, rescaled to that range.
        titles: Title of each image, or `None`. Long titles are wrapped.
        masks: Names of the masks to show. Defaults to the last mask of each stage, and to all masks of gated attention.
        channels: Number of channels, or of heads of gated attention, to show besides the mean or relevance; all if
            there are fewer. Channels are numbered from 0, like arrays, and heads from 1, as in the paper.
        cmap: Matplotlib colour map of the masks.
        alpha: Opacity of the masks, 0 to 1.
        rank: How channels and heads are chosen: `"energy"`, or `"gradient"` for what supports a class.
        classes: Index of the class for `rank="gradient"`, or one for each image. Defaults to the predicted classes.
        resize_mode: How display images of another aspect ratio became `images`: `"crop"`, `"squash"` or `"pad"`, as in
            `keras_resattn.data.read_image`.

    Returns:
        A `matplotlib.figure.Figure` with one row for each image, or for a single image, one for each mask. Requires
        the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no attention, a mask name is unknown, `channels` is negative, the lengths of
            `images`, `display_images` and `titles` differ, `rank` or `resize_mode` is unknown, or `classes` is given
            without `rank="gradient"`.
    """
    check_matplotlib("plot_attention")
    check_count("channels", channels, least=0)
    plotted = _Plotted(model, images, display_images, titles, masks, rank, classes, resize_mode)
    rows = []
    for i in range(plotted.count):
        image, by_mask = plotted.image(i), list(plotted.overlays(i, channels, cmap, alpha))
        if plotted.count > 1 or not by_mask:
            by_mask = [list(itertools.chain(*by_mask))]
        rows += [plotted.row(i, [None if number else image, *cells]) for number, cells in enumerate(by_mask)]
    return draw(rows)


def plot_attention_montage(
    model: keras.Model,
    images: ArrayLike,
    display_images: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    masks: Sequence[str] | None = None,
    cmap: Any = "inferno",
    alpha: float = 0.6,
    rank: Rank = "gradient",
    classes: int | Sequence[int] | None = None,
    resize_mode: ResizeMode = "crop",
) -> "Figure":
    """Plot what soft masks do to feature maps, from shallow to deep, as in Fig. 1 of the paper.

    Each image has three rows, and one column for each attention module: one channel of the trunk's output T, its mask
    over the image, and the same channel of the module's output, `(1 + M) * T`. The channel is the one whose mask adds
    most to the score of a class, or with `rank="energy"` the one with the highest trunk energy, which a model without
    classes has, too. The two maps of a column share one colour scale from their lowest to their highest value, or 0.
    All masks share one colour scale that starts at 0.

    Args:
        model: A functional or sequential model with soft masks (`AttentionResidual` layers), at any depth.
        images: As in `plot_attention`.
        display_images: As in `plot_attention`.
        titles: As in `plot_attention`.
        masks: Names of the masks to show. Defaults to all soft masks.
        cmap: Matplotlib colour map of the masks.
        alpha: Opacity of the masks, 0 to 1.
        rank: How the channel is chosen: `"gradient"` or `"energy"`, as in `plot_attention`.
        classes: As in `plot_attention`.
        resize_mode: As in `plot_attention`.

    Returns:
        A `matplotlib.figure.Figure`. Requires the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model has no soft masks, or an argument is invalid, as in `plot_attention`.

    Source: Wang et al., "Residual Attention Network for Image Classification" (CVPR 2017), Fig. 1.
    """
    check_matplotlib("plot_attention_montage")
    merged = find_attention(model).merged
    if not merged:
        raise ValueError(
            f"Expected a model with soft masks (AttentionResidual layers); {model.name} has gated attention only. Use "
            "plot_attention."
        )
    masks = _checked_masks(list(merged) if masks is None else masks, merged)
    plotted = _Plotted(model, images, display_images, titles, masks, rank, classes, resize_mode)
    rows = []
    for i in range(plotted.count):
        columns = [plotted.before_mask_after(i, name, cmap, alpha) for name in masks]
        for first, cells in zip((plotted.image(i), None, None), zip(*columns, strict=True), strict=True):
            rows.append(plotted.row(i, [first, *cells]))
    return draw(rows)


def check_matplotlib(name: str) -> None:
    """Raise an `ImportError` that says what to install if matplotlib is missing."""
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs matplotlib: pip install 'keras-resattn[viz]'.") from error


class _Plotted:
    """Images, and everything about their masks that a figure may show."""

    def __init__(self, model, images, display_images, titles, masks, rank, classes, resize_mode):
        images = to_numpy(images)
        checked_lengths(images, display_images, titles)
        check_choice("rank", rank, RANKS)
        if classes is not None and rank != "gradient":
            raise ValueError(f"Expected classes only with rank='gradient'; received: rank={rank!r}.")
        self.found = found = find_attention(model)
        self.masks = _checked_masks(_last_of_each_stage(found.modules) if masks is None else masks, found.modules)
        self.photos = Photos(images, found.data_format, display_images, resize_mode)
        self.titles = titles
        self.count = len(images)
        tensors = {
            "modules": {name: found.modules[name] for name in self.masks},
            "merged": {name: found.merged[name] for name in self.masks if name in found.merged},
            "gates": found.gates,
            "module_weights": found.module_weights,
        }
        self.arrays = found.predict(("plot", *self.masks), tensors, images, stacklevel=5)
        self.relevance = relevance_of(model, images, classes, stacklevel=None) if rank == "gradient" else None

    def row(self, i, cells):
        return Row(self.photos.pixels[i], self.photos.boxes[i], cells)

    def image(self, i):
        title = [] if self.titles is None else str(self.titles[i]).split("\n")
        if BASE in self.found.module_weights:
            title.append(f"base's share {self.arrays['module_weights'][BASE][i]:.2f}")
        return Cell(title)

    def overlays(self, i, count, cmap, alpha):
        """Yield the cells of each mask of one image: mean or relevance, then single channels or heads."""
        for name in self.masks:
            soft = name in self.found.merged
            *trunk, mask = self._module(i, name)
            relevance = self._relevance(i, name)
            scale = Scale(SOFT_MASKS if soft else name, cmap, alpha)
            heading = [_readable(name), self.found.taps.get(name)] if i == 0 else []
            (label, overview), *best = (
                _channels(trunk[0], mask, relevance, count) if soft else self._heads(i, name, mask, relevance, count)
            )
            if relevance is None:
                first = Cell([*heading, label, f"mask: {range_of(overview)}"], overview, scale)
            else:
                total = relevance.sum(-1)
                signed = Scale(f"{RELEVANCE} {name}", SIGNED_CMAP, SIGNED_ALPHA, signed=True)
                first = Cell([*heading, label, f"relevance: {range_of(total)}"], total, signed)
            yield [
                first,
                *(Cell([*heading, label, f"mask: {range_of(values)}"], values, scale) for label, values in best),
            ]

    def before_mask_after(self, i, name, cmap, alpha):
        """Return three cells for the best channel of a soft mask."""
        trunk, mask = self._module(i, name)
        merged = self._channels_last(self.arrays["merged"][name][i])
        _, (label, values) = _channels(trunk, mask, self._relevance(i, name), 1)
        channel = _order(trunk, self._relevance(i, name))[0]
        alone = Scale(f"{i} {name}", MAPS_CMAP, over_image=False, bar=False)
        heading = [_readable(name)] if i == 0 else []
        return (
            Cell([*heading, label, f"before: {range_of(trunk[..., channel])}"], trunk[..., channel], alone),
            Cell([f"mask: {range_of(values)}"], values, Scale(SOFT_MASKS, cmap, alpha)),
            Cell([f"after: {range_of(merged[..., channel])}"], merged[..., channel], alone),
        )

    def _module(self, i, name):
        return [self._channels_last(array[i]) for array in self.arrays["modules"][name]]

    def _relevance(self, i, name):
        return None if self.relevance is None else self._channels_last(self.relevance[name][i])

    def _channels_last(self, array):
        return np.moveaxis(array, 0, -1) if self.found.data_format == "channels_first" else array

    def _heads(self, i, name, mask, relevance, count):
        """Yield `(label, map)` for a module's masks weighted by their gates, and for the best heads."""
        prefix = name.removesuffix(MASK)
        gates = self.arrays["gates"].get(prefix + GATES)
        share = self.arrays["module_weights"].get(prefix)
        heads = mask.shape[-1]
        weights = np.full(heads, 1 / heads) if gates is None else gates[i]
        share = "" if share is None else f"module's share {share[i]:.2f}"
        if relevance is None:
            yield share or "all heads", mask @ weights
        else:
            yield f"all heads add {relevance.sum():+.2f}" + (f", {share}" if share else ""), mask @ weights
        scores = weights if relevance is None else relevance.sum((0, 1))
        for head in np.argsort(-scores, kind="stable")[:count]:
            label = f"head {head + 1}" if relevance is None else f"head {head + 1} adds {scores[head]:+.2f}"
            yield label if gates is None else f"{label}, gate {weights[head]:.2f}", mask[..., head]


def _checked_masks(masks, known):
    masks = [masks] if isinstance(masks, str) else list(dict.fromkeys(masks))
    unknown = [name for name in masks if name not in known]
    if unknown:
        raise ValueError(f"Expected masks to be among {', '.join(known)}; received: {', '.join(map(repr, unknown))}.")
    return masks


def _channels(trunk, mask, relevance, count):
    """Yield `(label, map)` for a soft mask's mean over channels, and for the best channels."""
    yield "mean of channels" if relevance is None else f"all channels add {relevance.sum():+.2f}", mask.mean(-1)
    for channel in _order(trunk, relevance)[:count]:
        label = f"channel {channel}"
        yield label if relevance is None else f"{label} adds {relevance[..., channel].sum():+.2f}", mask[..., channel]


def _order(trunk, relevance):
    """Return the channels of a soft mask, the one with the highest trunk energy or relevance first."""
    scores = np.square(trunk).mean((0, 1)) if relevance is None else relevance.sum((0, 1))
    return np.argsort(-scores, kind="stable")


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
