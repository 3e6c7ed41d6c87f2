"""Images behind attention maps: their checks, the part that the network received, and maps at their resolution."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resattn.data.images import as_pixels, central_box, check_resize_mode, to_numpy
from keras_resattn.layers.resize import interpolation_weights
from keras_resattn.typing import ArrayLike, ResizeMode, Size
from keras_resattn.utils.data_format import spatial_axes


def upsample_maps(maps: ArrayLike, size: Size) -> np.ndarray:
    """Resize maps to the resolution of an image, bilinearly and with aligned corners, as the network itself does.

    Feature maps of a convolutional network do not say exactly where in the image a value belongs. Positions are
    accurate to about one position of the map.

    Args:
        maps: Array of shape `(..., h, w)`, such as `masks[..., channel]` or `masks.mean(-1)` for masks
            `(n, h, w, c)` of `attention_maps`.
        size: Height and width to resize to, in pixels.

    Returns:
        Array of shape `(..., *size)`.
    """
    maps = to_numpy(maps)
    rows, columns = (interpolation_weights(*sides) for sides in zip(maps.shape[-2:], size, strict=True))
    return rows @ maps @ columns.T


def checked_lengths(images: Any, display_images: Any, titles: Sequence[str] | None) -> None:
    """Raise a `ValueError` unless there is at least one image, and as many display images and titles."""
    lengths = [len(values) for values in (images, display_images, titles) if values is not None]
    if len(set(lengths)) > 1 or not len(images):
        raise ValueError(
            f"Expected at least one image, and as many display_images and titles; received lengths: {lengths}."
        )


class Photos:
    """Images that are displayed, uint8, and the box of each that the network received.

    Args:
        images: Inputs of the network, in its data format.
        data_format: Data format of `images`.
        display_images: An array `(n, h, w, c)` or a list of arrays `(h, w, c)`, 0 to 255, or `None` for `images`.
        resize_mode: How display images of another aspect ratio became inputs of the network; see `central_box`.

    Attributes:
        pixels: List of arrays `(h, w, c)`, uint8.
        boxes: List of boxes `(left, upper, right, lower)` in pixels.

    Raises:
        ValueError: if the shape or range of `display_images` is wrong, or `resize_mode` is unknown.
    """

    def __init__(
        self, images: np.ndarray, data_format: Any, display_images: ArrayLike | None, resize_mode: ResizeMode
    ) -> None:
        check_resize_mode(resize_mode)
        if display_images is None:
            self.pixels = list(_rescaled(images, data_format))
        else:
            self.pixels = _checked(display_images)
        size = tuple(images.shape[axis] for axis in spatial_axes(data_format))
        sides = [image.shape[:2] for image in self.pixels]
        self.boxes = [central_box(height, width, size, resize_mode=resize_mode) for height, width in sides]


def _checked(display_images):
    """Return display images as a list of uint8 arrays; matplotlib would show floats above 1 as white."""
    several = isinstance(display_images, (list, tuple))
    arrays = [to_numpy(image) for image in display_images] if several else [to_numpy(display_images)]
    for array in arrays:
        if array.ndim != (3 if several else 4) or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
            raise ValueError(
                "Expected display_images of shape (n, h, w, 1, 3 or 4), 0 to 255, or a list of images (h, w, 1, 3 or "
                f"4); received: shape {array.shape}."
            )
    if several:
        same = len({array.shape for array in arrays}) == 1
        arrays = [np.stack(arrays)] if same else [array[None] for array in arrays]
    return [image for array in arrays for image in as_pixels(array, "display_images").astype("uint8")]


def _rescaled(images, data_format):
    if data_format == "channels_first":
        images = np.moveaxis(images, 1, -1)
    if images.dtype == "uint8":
        return images
    low, high = images.min(), images.max()
    return ((images - low) * (255.0 / max(high - low, 1e-12))).astype("uint8")
