"""Figures of rows of cells: an image, maps over it, or maps alone, with titles that fit and shared colour scales."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resattn.visualize.display import upsample_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Sizes in inches, except for the font size in points.
COLUMN, IMAGE = 1.5, 1.42
LINE = 0.125
BAR, ABOVE_BARS, BELOW_BARS = 0.08, 0.06, 0.28
FONT_SIZE = 7
OPAQUE_FROM = 3  # signed maps have full opacity from a third of the highest absolute value


@dataclass(frozen=True)
class Scale:
    """A colour scale that cells share, from 0 or the lowest negative value to the highest value.

    Attributes:
        name: Name; cells with the same name share their limits.
        cmap: Matplotlib colour map.
        alpha: Opacity over an image.
        signed: Whether the scale is symmetric about 0, and opacity increases with the absolute value.
        over_image: Whether maps are drawn over a greyscale copy of the image, or alone.
        bar: Whether a colour bar is drawn below the columns.
    """

    name: str
    cmap: Any = field(compare=False)  # colour maps have no hash
    alpha: float = field(default=1.0, compare=False)
    signed: bool = field(default=False, compare=False)
    over_image: bool = field(default=True, compare=False)
    bar: bool = field(default=True, compare=False)


class Cell:
    """A cell of a figure.

    Args:
        title: Lines of the title; empty ones are left out, long ones wrapped.
        values: Map of shape `(h, w)`, or `None` for the image itself.
        scale: `Scale` of the map.
    """

    def __init__(self, title: Sequence[str | None], values: np.ndarray | None = None, scale: Scale | None = None):
        self.title = "\n".join(_wrapped(line) for line in title if line)
        self.values = values
        self.scale = scale


@dataclass
class Row:
    """A row of cells (`None` for an empty one), with its image, and the box of the image that the network received."""

    image: np.ndarray
    box: tuple[float, float, float, float]
    cells: list[Any]

    @property
    def image_height(self) -> float:
        """Height of the images in inches; they are as wide as their column, unless they are upright."""
        return IMAGE * min(1.0, self.image.shape[0] / self.image.shape[1])

    @property
    def height(self) -> float:
        """Height in inches, with titles."""
        return self.image_height + LINE * (1.8 + max(cell.title.count("\n") for cell in self.cells if cell))


def draw(rows: Sequence[Row]) -> "Figure":
    """Draw rows of cells, and below the last row of each scale its colour bar, as a `matplotlib.figure.Figure`."""
    import matplotlib.pyplot as plt

    limits, drawn, bars = _limits(rows), {}, {}
    last_rows = {cell.scale: row for row in rows for cell in row.cells if cell and cell.scale and cell.scale.bar}
    with_bars = BELOW_BARS + BAR + ABOVE_BARS
    below = [with_bars if any(last is row for last in last_rows.values()) else 0.0 for row in rows]
    below[-1] = below[-1] or ABOVE_BARS
    columns = max(len(row.cells) for row in rows)
    bottom = sum(below) + sum(row.height for row in rows)
    figure = plt.figure(figsize=(COLUMN * columns, bottom))
    plt.close(figure)  # a notebook then shows it only once, as the value of the cell
    for row, height in zip(rows, below, strict=True):
        bottom -= row.height
        for column, cell in enumerate(row.cells):
            if cell is None:
                continue
            axis = figure.add_axes(_place(figure, column * COLUMN, bottom, IMAGE, row.image_height))
            axis.set_axis_off()
            axis.set_title(cell.title, fontsize=FONT_SIZE, parse_math=False)
            shown = _show(axis, row, cell, limits)
            drawn.setdefault(cell.scale, []).append((column, shown))
        bottom -= height
        bars |= {scale: bottom + BELOW_BARS for scale, last in last_rows.items() if last is row}
    for scale in limits:
        if scale.bar:
            _draw_bar(figure, bars[scale], *zip(*drawn[scale], strict=True))
    return figure


def range_of(values: np.ndarray) -> str:
    """Return the range of a map, for its title."""
    return f"{_number(values.min())} to {_number(values.max())}"


def _number(value):
    return "<0.001" if 0 < value < 0.001 else f"{value:.3g}"


def _place(figure, left, bottom, width, height):
    """Convert a rectangle from inches to fractions of the figure, and centre it in its column."""
    whole_width, whole_height = figure.get_size_inches()
    left += (COLUMN - IMAGE) / 2
    return left / whole_width, bottom / whole_height, width / whole_width, height / whole_height


def _limits(rows):
    """Return `{scale: (low, high)}`."""
    maps = {}
    for cell in (cell for row in rows for cell in row.cells if cell and cell.scale):
        maps.setdefault(cell.scale, []).append(cell.values)
    limits = {}
    for scale, values in maps.items():
        low, high = min(0.0, *map(np.min, values)), max(0.0, *map(np.max, values))
        high = high if low < high else 1.0
        limits[scale] = (-max(-low, high), max(-low, high)) if scale.signed else (low, high)
    return limits


def _show(axis, row, cell, limits):
    """Draw a cell, and return what was drawn last."""
    image = np.squeeze(row.image)
    height, width = image.shape[:2]
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255}
    if cell.values is None:
        return axis.imshow(image, extent=(0, width, height, 0), **(gray if image.ndim == 2 else {}))
    low, high = limits[cell.scale]
    options = {"cmap": cell.scale.cmap, "vmin": low, "vmax": high}
    if not cell.scale.over_image:
        return axis.imshow(cell.values, interpolation="nearest", **options)
    axis.imshow(image if image.ndim == 2 else image.mean(-1), extent=(0, width, height, 0), **gray)
    left, upper, right, lower = row.box
    values = upsample_maps(cell.values, (max(1, round(lower - upper)), max(1, round(right - left))))
    alpha = (
        cell.scale.alpha * np.minimum(1, OPAQUE_FROM * np.abs(values) / high) if cell.scale.signed else cell.scale.alpha
    )
    shown = axis.imshow(values, extent=(left, right, lower, upper), alpha=alpha, **options)
    axis.set(xlim=(0, width), ylim=(height, 0))  # a box of padded images extends beyond them
    return shown


def _draw_bar(figure, bottom, columns, images):
    """Draw the colour bar of a scale below its columns, at a height of `bottom` inches."""
    from matplotlib.ticker import MaxNLocator

    first = min(columns)
    count = next(n for n in range(1, len(columns) + 1) if first + n not in columns)  # masks may be in any order
    inset = 0.12  # half the width of a tick label
    width = (count - 1) * COLUMN + IMAGE - 2 * inset
    axis = figure.add_axes(_place(figure, first * COLUMN + inset, bottom, width, BAR))
    ticks = MaxNLocator(min(3 * count, 10))
    bar = figure.colorbar(images[0], cax=axis, orientation="horizontal", ticks=ticks, format="%.3g")
    bar.ax.tick_params(labelsize=FONT_SIZE)


def _wrapped(text):
    """Wrap a line to the width of a column, after a space, `_`, `/`, `-` or `.` if there is one, but not in numbers."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Hinted text is wider than its outlines at low resolutions.
    font, limit = FontProperties(size=FONT_SIZE), 0.93 * 72 * IMAGE

    def fits(line):
        return text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= limit

    lines, line = [], ""
    for piece in re.split(r"(?<=[\s_/])|(?<=[.\-])(?=\D)", text):
        if line and not fits((line + piece).rstrip()):
            lines.append(line.rstrip())
            line = ""
        line += piece
        while not fits(line.rstrip()):
            length = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or fits(line[:n]))
            lines.append(line[:length])
            line = line[length:]
    return "\n".join([*lines, line.rstrip()])
