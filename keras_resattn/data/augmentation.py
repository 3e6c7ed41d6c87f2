"""What happens to training images: drawn for each image, and repeatable from a generator.

All draws of a batch are made first, as `AugmentationParams`, small arrays, and carried out afterwards: here by NumPy, or by
`keras_resattn.data.device_data` where the images lie. The same params gives the same images in both places.

`keras.layers.RandomCrop` draws one place for a whole batch; the other layers of `keras.layers` draw from a state of
their own, so that `keras.layers.MixUp` and `CutMix` could be shared neither with NumPy nor with the device, and would
not mix integer labels: recipes say `mixup` and `cutmix` instead. Layers that change images alone are welcome, see
`keras_resattn.data.augmentation_layers`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_resattn.typing import Size

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe

AREAS = (0.08, 1.0)  # shares of the image's area
LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))  # of width / height
# Values worked on at once: what is in between stays in the processor's cache, and takes no new memory.
AT_ONCE = 2**16


@dataclass(frozen=True)
class AugmentationParams:
    """All that is drawn for a batch of `n` images; `None` for what the recipe does not do.

    Attributes:
        offsets: `(n, 2)`, int32: row and column of the padded image where the crop begins.
        flips: `(n,)`, bool: whether to mirror left to right.
        crops: `(n, 4)`, float32: area share, aspect ratio (width / height), and the shares of the free margin that
            lie above and left, for `Dataset.read`.
        cutout: `(n, 2)`, int32: row and column of the centre of the blanked square.
        partner: `(n,)`, int32: the image of the batch that each is mixed with.
        share: `(n,)`, float32: share of each image's own label; and of its own pixels, with mixup.
        boxes: `(n, 4)`, int32: top, bottom, left and right (bottom and right excluded) of what CutMix pastes; `None`
            with mixup.
    """

    offsets: Any = None  # np.ndarray, like all that follow
    flips: Any = None
    crops: Any = None
    cutout: Any = None
    partner: Any = None
    share: Any = None
    boxes: Any = None

    def take(self, images: np.ndarray | slice) -> AugmentationParams:
        """Returns the params of some images of the batch, by index. `partner` still counts in the whole batch."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return AugmentationParams(**{name: None if value is None else value[images] for name, value in fields.items()})


def draw_params(recipe: Recipe, n: int, size: Size, rng: np.random.Generator) -> AugmentationParams:
    """Draws what happens to a batch.

    Args:
        recipe: A `Recipe`: its fields `crop`, `crop_area`, `pad`, `flip`, `cutout`, `mixup` and `cutmix` count.
        n: Images in the batch.
        size: `(height, width)` of the images that the network takes.
        rng: A `numpy.random.Generator`.

    Returns:
        `AugmentationParams`. Inception-style crops have an area of `crop_area` of the image (8 to 100 % by default) and
        an aspect ratio of 3/4 to 4/3, the logarithm of which is uniform. With both mixup and CutMix, the batch gets one of the
        two.

    Sources: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015); DeVries and Taylor, "Improved Regularization
    of Convolutional Neural Networks with Cutout" (2017); Zhang et al., "mixup: Beyond Empirical Risk Minimization"
    (ICLR 2018); Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019).
    """
    height, width = size
    drawn = {}
    # The order of the draws is part of what a seed means: a run is repeated draw by draw.
    if recipe.crop == "inception":
        drawn["crops"] = draw_crops(n, rng, recipe.crop_area)
    elif recipe.pad:
        drawn["offsets"] = _pairs(rng, n, 2 * recipe.pad + 1, 2 * recipe.pad + 1)
    if recipe.flip:
        drawn["flips"] = rng.random(n) < 0.5
    if recipe.cutout:
        drawn["cutout"] = _pairs(rng, n, height, width)
    mixes = [name for name in ("mixup", "cutmix") if getattr(recipe, name)]
    if mixes:
        name = mixes[rng.integers(len(mixes))]
        alpha = getattr(recipe, name)
        share = rng.beta(alpha, alpha, n)
        drawn["partner"] = rng.permutation(n).astype("int32")
        if name == "cutmix":
            drawn["boxes"], share = _boxes(share, _pairs(rng, n, height, width), height, width)
        drawn["share"] = share.astype("float32")
    return AugmentationParams(**drawn)


def draw_crops(n: int, rng: np.random.Generator, area: tuple[float, ...] = AREAS) -> np.ndarray:
    """Returns `n` Inception crops as in `AugmentationParams`."""
    ratio = np.exp(rng.uniform(*LOG_RATIOS, n))
    return np.stack([rng.uniform(area[0], area[1], n), ratio, rng.random(n), rng.random(n)], 1).astype("float32")


def _pairs(rng, n, rows, columns):
    return np.stack([rng.integers(0, rows, n), rng.integers(0, columns, n)], 1).astype("int32")


def _boxes(share, centres, height, width):
    """CutMix' boxes, clipped to the image, and the share of it that they really leave."""
    side = np.sqrt(1 - share)
    edges = []
    for centre, length in zip(centres.T, (height, width), strict=True):
        size = np.rint(side * length).astype("int32")
        first = centre - size // 2
        edges += [np.clip(first, 0, length), np.clip(first + size, 0, length)]
    boxes = np.stack(edges, 1).astype("int32")
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return boxes, 1 - area / (height * width)


def crop_and_flip(x: np.ndarray, params: AugmentationParams, pad: int = 0, pad_mode: str = "zeros") -> np.ndarray:
    """Crops each padded image back to its size, and mirrors it, as the params says: gathers of pixels.

    Args:
        x: Images, `(n, h, w, c)`. Never changed; returned as they are where there is nothing to do.
        params: A `AugmentationParams` for these images.
        pad: Pixels of padding on each side.
        pad_mode: `"zeros"`, or `"reflect"` for the image's own mirror image.
    """
    if params.offsets is None and params.flips is None:
        return x
    cropped = np.empty_like(x, order="C")
    for some in pieces(len(x), x.shape[1:]):
        cropped[some] = _gathered(x[some], params.take(some), pad, pad_mode)
    return cropped


def pieces(n: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """Yields slices of `n` images of a shape, some at a time."""
    step = max(1, AT_ONCE // math.prod(shape))
    yield from (slice(first, min(first + step, n)) for first in range(0, n, step))


def _gathered(x, params, pad, pad_mode):
    n, height, width, channels = x.shape
    pad = 0 if params.offsets is None else pad
    rows = np.broadcast_to(np.arange(height) - pad, (n, height))
    columns = np.broadcast_to(np.arange(width) - pad, (n, width))
    if params.offsets is not None:
        rows, columns = rows + params.offsets[:, :1], columns + params.offsets[:, 1:]
    if params.flips is not None:
        columns = np.where(params.flips[:, None], columns[:, ::-1], columns)
    if pad and pad_mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    elif pad:
        padded = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), x.dtype)
        padded[:, pad:-pad, pad:-pad] = x
        x, rows, columns = padded, rows + pad, columns + pad
    lines = np.arange(n)[:, None] * x.shape[1] + rows
    # All are inside; "clip" spares NumPy a pass that checks it.
    return x.reshape(-1, channels).take((lines * x.shape[2])[:, :, None] + columns[:, None, :], axis=0, mode="clip")


def _reflected(positions, length):
    period = max(2 * length - 2, 1)
    positions = positions % period
    return np.minimum(positions, 2 * length - 2 - positions)


def cutout(x: np.ndarray, centres: np.ndarray, size: int) -> None:
    """Sets a square of each image to zero, the mean of normalised images, in place.

    Args:
        x: Normalised images, `(n, h, w, c)`.
        centres: Row and column of the squares' centres, `(n, 2)`; a square may reach over the edge.
        size: Side of the square in pixels.
    """
    first = centres - size // 2
    # A loop over images writes the squares alone: some ten times faster than a mask over all pixels.
    for image, top, bottom, left, right in zip(x, *_ends(first[:, 0], size), *_ends(first[:, 1], size), strict=True):
        image[top:bottom, left:right] = 0


def _ends(first, size):
    return np.maximum(first, 0).tolist(), np.maximum(first + size, 0).tolist()


def mix(
    images: Callable[[Any], np.ndarray],
    own: np.ndarray,
    other: np.ndarray,
    params: AugmentationParams,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Mixes images with their partners: by share (mixup), or by box (CutMix).

    Args:
        images: A function from indices to images, a new array `(n, h, w, c)`, normalised, float32.
        own: Which of them are mixed, `(n,)`.
        other: Their partners, `(n,)`.
        params: A `AugmentationParams` for the `n` images.
        shape: `(h, w, c)`.
    """
    mixed = np.empty((len(own), *shape), "float32")
    for some in pieces(len(own), shape):
        x, partners = images(own[some]), images(other[some])
        if params.boxes is None:
            share = params.share[some, None, None, None]
            x *= share
            partners *= 1 - share
            x += partners
        else:
            for image, partner, (top, bottom, left, right) in zip(
                x, partners, params.boxes[some].tolist(), strict=True
            ):
                image[top:bottom, left:right] = partner[top:bottom, left:right]
        mixed[some] = x
    return mixed


def mixed_labels(y: np.ndarray, params: AugmentationParams) -> np.ndarray:
    """Mixes labels as shares, `(n, classes)` float32, of a whole batch by its params."""
    if params.partner is None:
        return y
    share = params.share[:, None]
    return share * y + (1 - share) * y[params.partner]
