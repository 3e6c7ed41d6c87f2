"""Random augmentation of training images, reproducible from a generator.

All random parameters of a batch are drawn first, as small arrays in `AugmentationParams`, and applied afterwards: here
by NumPy, or on the device by `keras_resattn.data.device_data`. Both give the same images.

`keras.layers.RandomCrop` draws one position for a whole batch. `keras.layers.MixUp` and `CutMix` have their own random
state, which NumPy and the device could not share, and do not mix integer labels. Use the recipe's `mixup` and `cutmix`
instead. Keras layers that change single images are supported; see `keras_resattn.data.augmentation_layers`.
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

CROP_AREA = (0.08, 1.0)  # fractions of the image's area
LOG_ASPECT_RATIO = (math.log(3 / 4), math.log(4 / 3))  # of width / height
CHUNK_VALUES = 2**16  # values processed at once: intermediate results stay in the processor's cache


@dataclass(frozen=True)
class AugmentationParams:
    """Random parameters for a batch of `n` images; `None` for augmentations that the recipe does not use.

    Attributes:
        offsets: `(n, 2)` int32, row and column of the padded image where the crop starts.
        flips: `(n,)` bool, whether to flip left to right.
        crops: `(n, 4)` float32, area fraction, aspect ratio (width / height), and the fractions of the free margin
            above and to the left of the crop, for `Dataset.read`.
        cutout: `(n, 2)` int32, row and column of the centre of the square that is set to zero.
        partner: `(n,)` int32, position in the batch of the image that each image is mixed with.
        mix_weight: `(n,)` float32, weight of each image's own label and, with mixup, of its own pixels.
        boxes: `(n, 4)` int32, top, bottom, left and right (bottom and right excluded) of the box that CutMix pastes;
            `None` with mixup.
    """

    offsets: Any = None  # an np.ndarray, like the other fields
    flips: Any = None
    crops: Any = None
    cutout: Any = None
    partner: Any = None
    mix_weight: Any = None
    boxes: Any = None

    def take(self, positions: np.ndarray | slice) -> AugmentationParams:
        """Return the parameters of some images of the batch. `partner` still refers to the whole batch."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return AugmentationParams(
            **{name: None if value is None else value[positions] for name, value in fields.items()}
        )


def draw_params(recipe: Recipe, n: int, size: Size, rng: np.random.Generator) -> AugmentationParams:
    """Draw the random parameters of a batch.

    Inception-style crops cover an area fraction uniform in `crop_area`, by default from 8 to 100 %, with an aspect
    ratio that is log-uniform from 3/4 to 4/3. If the recipe has both mixup and CutMix, one of the two is drawn for the
    batch.

    Args:
        recipe: A `Recipe` with the fields `crop`, `crop_area`, `pad`, `flip`, `cutout`, `mixup` and `cutmix`.
        n: Number of images in the batch.
        size: `(height, width)` of the network's input.
        rng: A `numpy.random.Generator`.

    Returns:
        `AugmentationParams`.

    Sources: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015); DeVries and Taylor, "Improved Regularization
    of Convolutional Neural Networks with Cutout" (2017); Zhang et al., "mixup: Beyond Empirical Risk Minimization"
    (ICLR 2018); Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019).
    """
    height, width = size
    drawn = {}
    # The order of the draws must not change: runs with the same seed, and resumed runs, depend on it.
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
        mix_weight = rng.beta(alpha, alpha, n)
        drawn["partner"] = rng.permutation(n).astype("int32")
        if name == "cutmix":
            drawn["boxes"], mix_weight = _boxes(mix_weight, _pairs(rng, n, height, width), height, width)
        drawn["mix_weight"] = mix_weight.astype("float32")
    return AugmentationParams(**drawn)


def draw_crops(n: int, rng: np.random.Generator, area: tuple[float, ...] = CROP_AREA) -> np.ndarray:
    """Return `n` Inception-style crops; see `AugmentationParams`."""
    ratio = np.exp(rng.uniform(*LOG_ASPECT_RATIO, n))
    return np.stack([rng.uniform(area[0], area[1], n), ratio, rng.random(n), rng.random(n)], 1).astype("float32")


def _pairs(rng, n, rows, columns):
    return np.stack([rng.integers(0, rows, n), rng.integers(0, columns, n)], 1).astype("int32")


def _boxes(mix_weight, centres, height, width):
    """Return CutMix boxes, clipped to the image, and the fraction of the image outside them."""
    side = np.sqrt(1 - mix_weight)
    edges = []
    for centre, length in zip(centres.T, (height, width), strict=True):
        size = np.rint(side * length).astype("int32")
        first = centre - size // 2
        edges += [np.clip(first, 0, length), np.clip(first + size, 0, length)]
    boxes = np.stack(edges, 1).astype("int32")
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return boxes, 1 - area / (height * width)


def crop_and_flip(x: np.ndarray, params: AugmentationParams, pad: int = 0, pad_mode: str = "zeros") -> np.ndarray:
    """Pad images, crop them back to their size, and flip them left to right.

    Args:
        x: Images of shape `(n, h, w, c)`. Not modified; returned unchanged if there is nothing to do.
        params: `AugmentationParams` of these images.
        pad: Pixels of padding on each side.
        pad_mode: `"zeros"`, or `"reflect"` to mirror the image at its border.
    """
    if params.offsets is None and params.flips is None:
        return x
    cropped = np.empty_like(x, order="C")
    for chunk in _chunks(len(x), x.shape[1:]):
        cropped[chunk] = _gather_crops(x[chunk], params.take(chunk), pad, pad_mode)
    return cropped


def _chunks(n: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of `n` images of a shape."""
    step = max(1, CHUNK_VALUES // math.prod(shape))
    yield from (slice(first, min(first + step, n)) for first in range(0, n, step))


def _gather_crops(x, params, pad, pad_mode):
    n, height, width, channels = x.shape
    pad = 0 if params.offsets is None else pad
    rows = np.broadcast_to(np.arange(height) - pad, (n, height))
    columns = np.broadcast_to(np.arange(width) - pad, (n, width))
    if params.offsets is not None:
        rows, columns = rows + params.offsets[:, :1], columns + params.offsets[:, 1:]
    if params.flips is not None:
        columns = np.where(params.flips[:, None], columns[:, ::-1], columns)
    if pad and pad_mode == "reflect":
        rows, columns = _reflect(rows, height), _reflect(columns, width)
    elif pad:
        padded = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), x.dtype)
        padded[:, pad:-pad, pad:-pad] = x
        x, rows, columns = padded, rows + pad, columns + pad
    lines = np.arange(n)[:, None] * x.shape[1] + rows
    # All indices are valid; mode="clip" only skips NumPy's check of them.
    return x.reshape(-1, channels).take((lines * x.shape[2])[:, :, None] + columns[:, None, :], axis=0, mode="clip")


def _reflect(positions, length):
    period = max(2 * length - 2, 1)
    positions = positions % period
    return np.minimum(positions, 2 * length - 2 - positions)


def cutout(x: np.ndarray, centres: np.ndarray, size: int) -> None:
    """Set a square of each image to zero, the mean of normalised images, in place.

    Args:
        x: Normalised images of shape `(n, h, w, c)`.
        centres: Rows and columns of the centres of the squares, `(n, 2)`. Squares are clipped at the edges.
        size: Side of the square in pixels.
    """
    first = centres - size // 2
    # A loop that writes only the squares is about ten times faster than a mask over all pixels.
    for image, top, bottom, left, right in zip(x, *_ends(first[:, 0], size), *_ends(first[:, 1], size), strict=True):
        image[top:bottom, left:right] = 0


def _ends(first, size):
    return np.maximum(first, 0).tolist(), np.maximum(first + size, 0).tolist()


def mix(
    images: Callable[[Any], np.ndarray],
    own: np.ndarray,
    partners: np.ndarray,
    params: AugmentationParams,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return images mixed with their partners: weighted sums (mixup), or with a pasted box (CutMix).

    Args:
        images: Function that returns the images at some positions as a new, normalised float32 array `(n, h, w, c)`.
        own: Positions of the images to mix, `(n,)`.
        partners: Positions of their partners, `(n,)`.
        params: `AugmentationParams` of the `n` images.
        shape: `(h, w, c)`.
    """
    mixed = np.empty((len(own), *shape), "float32")
    for chunk in _chunks(len(own), shape):
        x, y = images(own[chunk]), images(partners[chunk])
        if params.boxes is None:
            weight = params.mix_weight[chunk, None, None, None]
            x *= weight
            y *= 1 - weight
            x += y
        else:
            for image, partner, (top, bottom, left, right) in zip(x, y, params.boxes[chunk].tolist(), strict=True):
                image[top:bottom, left:right] = partner[top:bottom, left:right]
        mixed[chunk] = x
    return mixed


def mix_labels(y: np.ndarray, params: AugmentationParams) -> np.ndarray:
    """Return the soft labels of a whole batch, `(n, classes)` float32, mixed like its images."""
    if params.partner is None:
        return y
    weight = params.mix_weight[:, None]
    return weight * y + (1 - weight) * y[params.partner]
