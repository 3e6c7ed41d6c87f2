"""Image reading: checks of pixel arrays, and decoding, cropping, padding and resizing of single images."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_resattn.data.decoding import decode, naming, opened, upright_size
from keras_resattn.typing import ResizeMode, Size

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# Resize in two steps, starting with an integer reduction. Pillow documents no visible difference for 3.0 or more.
REDUCING_GAP = 3.0
RESIZE_MODES = ("crop", "squash", "pad")


def crop_box(height: int, width: int, crop: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the box `(left, upper, right, lower)` of an Inception-style crop, in fractional pixels.

    If a crop of this area and aspect ratio does not fit into the image, its long side is cut to that of the image.
    `torchvision.transforms.RandomResizedCrop` instead draws area and ratio again, up to ten times, and then uses a
    central crop. Here they are drawn before the image's size is known, so that the draws of a batch are one small
    array.

    Args:
        height: Height of the image.
        width: Width of the image.
        crop: `(area, ratio, y, x)`: fraction of the image's area, width / height, and the fractions of the free margin
            above and to the left of the crop.
    """
    area, ratio, y, x = crop
    pixels = area * height * width
    wide, high = min(width, np.sqrt(pixels * ratio)), min(height, np.sqrt(pixels / ratio))
    left, upper = x * (width - wide), y * (height - high)
    # Rounding may push the sums past the edge, which Pillow rejects.
    return float(left), float(upper), float(min(width, left + wide)), float(min(height, upper + high))


def central_box(
    height: int, width: int, size: Size, central: float = 1.0, resize_mode: ResizeMode = "crop"
) -> tuple[float, float, float, float]:
    """Return the box `(left, upper, right, lower)` of an image that is resized to `size`, in fractional pixels.

    Args:
        height: Height of the image.
        width: Width of the image.
        size: `(h, w)` to resize to.
        central: Fraction of the box's sides to keep. For square sizes and `"crop"`, it refers to the image's short
            side: 0.875 with size 224 equals resizing to a short side of 256 and cropping to 224.
        resize_mode: `"crop"` for the largest central box of the aspect ratio of `size`; `"squash"` for the whole image,
            distorted; `"pad"` for the smallest box of that aspect ratio around the whole image, which may extend beyond
            it.
    """
    if resize_mode == "squash":
        high, wide = central * height, central * width
    else:
        fit = max if resize_mode == "pad" else min
        scale = central * fit(height / size[0], width / size[1])
        high, wide = scale * size[0], scale * size[1]
    left, upper = (width - wide) / 2, (height - high) / 2
    if resize_mode != "pad":  # rounding may push the box past the edge, which Pillow rejects
        return left, upper, min(width, left + wide), min(height, upper + high)
    return left, upper, left + wide, upper + high


def check_resize_mode(resize_mode: object) -> None:
    """Raise a `ValueError` unless `resize_mode` is one of `RESIZE_MODES`."""
    if resize_mode not in RESIZE_MODES:
        raise ValueError(
            f"Expected resize_mode to be {', '.join(map(repr, RESIZE_MODES[:-1]))} or {RESIZE_MODES[-1]!r}; "
            f"received: resize_mode={resize_mode!r}."
        )


def read_image(
    image: Any, size: Size | None = None, *, resize_mode: ResizeMode = "crop", channels: int = 3
) -> np.ndarray:
    """Read one image exactly as training and evaluation do.

    Args:
        image: Path or bytes of an image file, a Pillow image, or an array `(h, w, c)` of values from 0 to 255.
        size: `(height, width)` of the network's input, or `None` for the image's own.
        resize_mode: `"crop"`, `"squash"` or `"pad"` for images of another aspect ratio, as in `open_dataset`. For a
            trained network, use the one in its report.
        channels: 3 for RGB, 1 for grey.

    Returns:
        An array of shape `(height, width, channels)`, 0 to 255: uint8, or float32 for an array of floats.

    Raises:
        ValueError: If the image does not exist, cannot be decoded or has no fixed range of values (the message names
            the image), or another argument is invalid.
    """
    check_resize_mode(resize_mode)
    if channels not in (1, 3):
        raise ValueError(f"Expected channels to be 1 or 3; received: channels={channels!r}.")
    sides = () if size is None else tuple(size) if isinstance(size, (tuple, list, np.ndarray)) else (None,)
    if sides and (len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side >= 1 for side in sides)):
        raise ValueError(f"Expected size=(height, width), or None; received: size={size!r}.")
    size = None if size is None else tuple(map(int, sides))
    image = os.path.expanduser(image) if isinstance(image, (str, os.PathLike)) else image
    name = str(image) if isinstance(image, str) else f"the image ({type(image).__name__})"
    return load_image(image, name, size, channels=channels, resize_mode=resize_mode)


def load_image(
    image: Any,
    name: Any,
    size: Size | None = None,
    crop: Sequence[float] | None = None,
    central: float = 1.0,
    channels: int = 3,
    resize_mode: ResizeMode | None = "crop",
) -> np.ndarray:
    """Return an image as an array `(h, w, channels)`, resized by antialiased bilinear interpolation.

    Files and Pillow images are decoded by `keras_resattn.data.decoding.decode`: upright, composited on white, 8 bits
    per channel. A JPEG that is much larger than needed is decoded at a half, a quarter or an eighth of its size.

    Args:
        image: Path or bytes of a file, a Pillow image, or an array `(h, w)` or `(h, w, c)` of values from 0 to 255.
        name: Name of the image in messages.
        size: `(h, w)` to resize to, or `None` for the image's own size.
        crop: An Inception-style crop (see `crop_box`) instead of `central` and `resize_mode`. Requires `size`.
        central: Fraction of the central crop; see `central_box`. An image that already has `size` is not cropped.
        channels: Number of channels. Files and Pillow images are converted to 1 or 3 channels.
        resize_mode: `"crop"`, `"squash"` or `"pad"` (with 0, black), for images of another aspect ratio than `size`.

    Returns:
        uint8, or float32 for an array of floats.

    Raises:
        ValueError: If the image cannot be decoded, has no fixed range of values, or is an array of an unsupported
            shape. The message names the image.
    """
    if isinstance(image, (str, os.PathLike, bytes)):
        with opened(image, name) as decoded:
            return _from_image(decoded, size, crop, central, channels, resize_mode, draft=decoded.format == "JPEG")
    if isinstance(image, Image.Image):
        with naming(name):
            return _from_image(image, size, crop, central, channels, resize_mode)
    array = as_array(image, name, channels)
    if size is None or (crop is None and array.shape[:2] == tuple(size)):
        return array
    return _resized_array(array, size, _box(array.shape[:2], size, crop, central, resize_mode))


def as_array(image: Any, name: Any, channels: int | None = None) -> np.ndarray:
    """Return one image as a uint8 or float32 array of shape `(h, w, c)`.

    Raises:
        ValueError: If the rank, number of channels or value range (0 to 255) is wrong, or channels come first.
    """
    array = to_numpy(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "uif" or 0 in array.shape:
        raise ValueError(
            f"Expected {name} to be of shape (height, width, channels), 0 to 255; "
            f"received: shape {array.shape}, {array.dtype}.{hint_on_bool(array)}"
        )
    check_channels_last(array.shape, name)
    if channels is not None and array.shape[-1] != channels:
        raise ValueError(f"Expected {channels} channels in {name}; received: shape {array.shape}.")
    return as_pixels(array, name)


def as_images(x: Any) -> np.ndarray:
    """Return images as a uint8 or float32 array of shape `(n, h, w, c)`.

    Raises:
        ValueError: If the rank or value range (0 to 255) is wrong, channels come first, or there are no images.
    """
    x = to_numpy(x)
    if x.ndim != 4 or x.dtype.kind not in "uif" or 0 in x.shape:
        raise ValueError(
            f"Expected images of shape (n, height, width, channels), 0 to 255; received: shape {x.shape}, {x.dtype}."
            + hint_on_bool(x)
        )
    check_channels_last(x.shape, "images")
    return as_pixels(x, "images")


def to_numpy(values: Any) -> np.ndarray:
    """Return an array, or a tensor of any backend, as a plain NumPy array.

    Raises:
        ValueError: If values are masked, because NumPy would use the values under the mask, or a list has items of
            different shapes.
    """
    if hasattr(values, "detach"):  # a PyTorch tensor, possibly on a device
        values = values.detach().cpu()
    parts = values if isinstance(values, (list, tuple)) else [values]
    if any(np.ma.is_masked(part) for part in parts if isinstance(part, np.ma.MaskedArray)):
        raise ValueError(
            "Expected an array without masked values; received: a masked array. "
            "Fill masked values, x.filled(0), or leave those images out."
        )
    try:
        return np.asarray(values)
    except ValueError as error:  # NumPy's message mentions an inhomogeneous shape
        raise ValueError(
            f"Expected an array, or a list whose items have one shape; received: a {type(values).__name__} of items of "
            "different shapes."
        ) from error


def check_channels_last(shape: Sequence[int], name: Any) -> None:
    """Raise a `ValueError` if a shape looks like channels first."""
    if shape[-3] in (1, 3) and shape[-1] > 4 and shape[-2] > 4:
        raise ValueError(
            f"Expected {name} with channels last, (height, width, channels); received: shape {tuple(shape)}. "
            "Move the channels: np.moveaxis(x, -3, -1), or x.permute in PyTorch, and leave out ToTensor."
        )


def as_pixels(array: np.ndarray, name: Any) -> np.ndarray:
    """Return integers as uint8 and floats as float32, after checking that values are from 0 to 255.

    Raises:
        ValueError: If values are outside this range, or floats have a maximum of at most 1, which would be nearly black
            images.
    """
    if array.dtype == "uint8" or not array.size:
        return array
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # or one is NaN
        raise ValueError(
            f"Expected {name} from 0 to 255, not normalised; received: values from {low} to {high} ({array.dtype})."
            + hint_on_range(array.dtype, low, high)
        )
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(
            f"Expected {name} from 0 to 255; received: floats that go up to {high:.4g}. "
            "Pass uint8 images, or multiply by 255; recipes normalise them."
        )
    return array.astype("float32" if array.dtype.kind == "f" else "uint8", copy=False)


def is_grey(image: Image.Image) -> bool:
    """Return whether a Pillow image has one channel, not counting transparency."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")


def hint_on_bool(array: np.ndarray) -> str:
    """Return advice for a boolean array, with a leading space, or an empty string for other arrays."""
    return " Multiply by 255: (255 * x).astype('uint8')." if array.dtype.kind == "b" else ""


def hint_on_range(dtype: Any, low: Any, high: Any) -> str:
    """Return advice for values outside 0 to 255, with a leading space, or an empty string if there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return " Remove NaN and infinite values, or the images that hold them."
    if dtype.kind == "u" and high <= 65535:
        return " Scale 16-bit values by their range: (x / 257).round().astype('uint8')."
    return ""


def _from_image(image, size, crop, central, channels, resize_mode, draft=False):
    """Decode and resize a Pillow image. `draft` decodes a JPEG at a smaller scale, which modifies the image object."""
    shape = None
    if draft and size is not None:
        shape = upright_size(image)
        _draft(image, shape, size, _box(shape, size, crop, central, resize_mode))
    image = decode(image, channels)
    shape = shape or (image.height, image.width)
    if size is None or (crop is None and shape == tuple(size)):
        return _with_channels(image)
    box = _box(shape, size, crop, central, resize_mode)
    if channels not in (1, 3):
        return _resized_array(np.asarray(image), size, box)
    x, y = image.width / shape[1], image.height / shape[0]
    box = box[0] * x, box[1] * y, box[2] * x, box[3] * y
    return _with_channels(_resized(image, size, box))


def _draft(image, shape, size, box):
    """Make a JPEG decode at a smaller scale, with at least twice the resolution of `size`."""
    high, wide = max(box[3] - box[1], 1), max(box[2] - box[0], 1)
    wanted = int(2 * size[1] * shape[1] / wide), int(2 * size[0] * shape[0] / high)
    image.draft(None, wanted if image.size == shape[::-1] else wanted[::-1])


def _box(shape, size, crop, central, resize_mode):
    height, width = shape
    return central_box(height, width, size, central, resize_mode) if crop is None else crop_box(height, width, crop)


def _resized_array(array, size, box):
    if array.dtype == "uint8" and array.shape[-1] in (1, 3):
        planes = [Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])]
    else:  # Pillow does not support such images: resize each channel
        planes = [Image.fromarray(np.ascontiguousarray(array[..., i])) for i in range(array.shape[-1])]
    return np.concatenate([_with_channels(_resized(plane, size, box)) for plane in planes], axis=-1)


def _resized(image, size, box):
    """Return the part of an image in a box, resized to `size`. Pixels beyond the image are 0."""
    left, upper, right, lower = box
    inner = max(left, 0), max(upper, 0), min(right, image.width), min(lower, image.height)
    height = max(1, round(size[0] * (inner[3] - inner[1]) / (lower - upper)))
    width = max(1, round(size[1] * (inner[2] - inner[0]) / (right - left)))
    part = image.resize((width, height), Image.Resampling.BILINEAR, inner, REDUCING_GAP)
    if (height, width) == tuple(size):
        return part
    padded = Image.new(image.mode, (size[1], size[0]))
    padded.paste(part, ((size[1] - width) // 2, (size[0] - height) // 2))
    return padded


def _with_channels(image):
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
