"""One picture: decoded, cropped, and resized. Every source that reads pictures one by one comes through here."""

import contextlib
import io
import os
import struct

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# Everything that Pillow's decoders raise for a file that is damaged, or none of theirs.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
# Resizing in two steps, an integer reduction first. From 3 up Pillow calls the result indistinguishable from one step.
REDUCING_GAP = 3.0


def crop_box(height, width, crop):
    """Returns the box `(left, upper, right, lower)` of an Inception-style crop, in pixels, not rounded.

    The crop has `area` of the picture's area and the aspect ratio `ratio`, where such a crop fits into the picture.
    Where it does not, the side that is too long is cut to the picture's. `torchvision.transforms.RandomResizedCrop`
    draws area and ratio anew instead, up to ten times, and then takes a central crop; here they are drawn before the
    picture's size is known, so that a batch's draws are one small array.

    Args:
        height: Height of the picture.
        width: Width of the picture.
        crop: `(area, ratio, y, x)`: share of the picture's area, width by height, and which share of the free margin
            lies above and to the left of the crop.
    """
    area, ratio, y, x = crop
    pixels = area * height * width
    wide, high = min(width, np.sqrt(pixels * ratio)), min(height, np.sqrt(pixels / ratio))
    left, upper = x * (width - wide), y * (height - high)
    # The sums may pass the edge by rounding, which Pillow refuses.
    return float(left), float(upper), float(min(width, left + wide)), float(min(height, upper + high))


def central_box(height, width, size, central=1.0):
    """Returns the box of the central `central` share of a picture, with the aspect ratio of `size`, `(h, w)`.

    For square sizes the share is that of the picture's short side: 0.875 with size 224 is what is left of the
    picture resized to a short side of 256 and cropped to 224.
    """
    scale = central * min(height / size[0], width / size[1])
    high, wide = scale * size[0], scale * size[1]
    left, upper = (width - wide) / 2, (height - high) / 2
    return left, upper, min(width, left + wide), min(height, upper + high)


def read_picture(picture, name, size=None, crop=None, central=1.0, channels=3):
    """Returns a picture as an array `(h, w, channels)`, cropped and resized by antialiased bilinear interpolation.

    A JPEG of which much more is there than needed is decoded at a half, a quarter or an eighth of its size. EXIF
    orientation is not applied, as in ImageNet's usual pipelines.

    Args:
        picture: Path, the bytes of a file, a Pillow picture, or an array `(h, w)` or `(h, w, c)` of values 0 to 255.
        name: What an error calls it.
        size: `(h, w)` to resize to, or `None` for the picture as it is.
        crop: As in `crop_box`, or `None` for the central crop; only with `size`.
        central: As in `central_box`. A picture that has `size` already is not cropped.
        channels: Number of channels: files and Pillow pictures are converted for 1 and 3.

    Returns:
        uint8, or float32 for a picture that was an array of floats.

    Raises:
        ValueError: if the picture cannot be decoded, or an array has another shape; it says which.
    """
    if isinstance(picture, (str, os.PathLike, bytes)):
        with opened(picture, name) as image:
            return _from_image(image, size, crop, central, channels)
    if isinstance(picture, Image.Image):
        with naming(name):
            return _from_image(picture, size, crop, central, channels)
    array = as_array(picture, name, channels)
    if size is None or (crop is None and array.shape[:2] == tuple(size)):
        return array
    return _resized_array(array, size, _box(array.shape[:2], size, crop, central))


@contextlib.contextmanager
def opened(picture, name):
    """Opens a path or bytes as a Pillow picture; what goes wrong inside is told with the picture's name."""
    with naming(name), Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        yield image


@contextlib.contextmanager
def naming(name):
    """Turns whatever Pillow raises for a damaged file into a `ValueError` that names it."""
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(
            f"Expected {name} to be a picture that can be decoded; received: {type(error).__name__}: {error}. "
            "Repair it or take it out."
        ) from error


def as_array(picture, name, channels=None):
    """Returns a picture as uint8 or float32, `(h, w, c)`, and checks its shape.

    Raises:
        ValueError: for another rank or number of channels, other values than 0 to 255, or channels first.
    """
    array = to_numpy(picture)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype.kind not in "uif" or 0 in array.shape:
        raise ValueError(
            f"Expected {name} to be of shape (height, width, channels), 0 to 255; "
            f"received: shape {array.shape}, {array.dtype}."
        )
    check_channels_last(array.shape, name)
    if channels is not None and array.shape[-1] != channels:
        raise ValueError(f"Expected {channels} channels in {name}; received: shape {array.shape}.")
    return as_pixels(array, name)


def to_numpy(values):
    """Returns an array, or a tensor of any backend, as a NumPy array."""
    if hasattr(values, "detach"):  # PyTorch's, which may lie on a device
        values = values.detach().cpu()
    return np.asarray(values)


def check_channels_last(shape, name):
    if shape[-3] in (1, 3) and shape[-1] > 4 and shape[-2] > 4:
        raise ValueError(
            f"Expected {name} with channels last, (height, width, channels); received: shape {tuple(shape)}. "
            "Move the channels: np.moveaxis(x, -3, -1), or x.permute in PyTorch, and leave out ToTensor."
        )


def as_pixels(array, name):
    """Returns uint8 as it is, other integers as uint8, and floats as float32, after checking that all is 0 to 255.

    Raises:
        ValueError: for other values, and for floats that end at 1, which would be taken for black pictures.
    """
    if array.dtype == "uint8" or not array.size:
        return array
    low, high = array.min(), array.max()
    if low < 0 or high > 255 or low != low:
        raise ValueError(f"Expected {name} from 0 to 255, not normalised; received: values from {low} to {high}.")
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(
            f"Expected {name} from 0 to 255; received: floats that go up to {high:.4g}. "
            "Pass uint8 pictures, or multiply by 255; recipes normalise them."
        )
    return array.astype("float32" if array.dtype.kind == "f" else "uint8", copy=False)


def _from_image(image, size, crop, central, channels):
    width, height = image.size
    box = None
    if size is not None and (crop is not None or (height, width) != tuple(size)):
        box = _box((height, width), size, crop, central)
        box = _drafted(image, size, box)
    mode = {1: "L", 3: "RGB"}.get(channels)
    image = image if mode is None else image.convert(mode)
    array = np.asarray(image)
    if mode is None or box is None:
        return as_array(array, "the picture", channels)
    return _with_channels(image.resize(size[::-1], Image.Resampling.BILINEAR, box, REDUCING_GAP))


def _drafted(image, size, box):
    """Lets a JPEG decode itself at a smaller scale, still twice as fine as `size`, and returns the box there."""
    width, height = image.size
    high, wide = max(box[3] - box[1], 1), max(box[2] - box[0], 1)
    if image.format == "JPEG":
        image.draft(None, (int(2 * size[1] * width / wide), int(2 * size[0] * height / high)))
    x, y = image.width / width, image.height / height
    return box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height)


def _box(shape, size, crop, central):
    return central_box(*shape, size, central) if crop is None else crop_box(*shape, crop)


def _resized_array(array, size, box):
    if array.dtype == "uint8" and array.shape[-1] in (1, 3):
        planes = [Image.fromarray(array if array.shape[-1] == 3 else array[..., 0])]
    else:  # Pillow has no such pictures: one channel after the other
        planes = [Image.fromarray(np.ascontiguousarray(array[..., i])) for i in range(array.shape[-1])]
    planes = [plane.resize(size[::-1], Image.Resampling.BILINEAR, box, REDUCING_GAP) for plane in planes]
    return np.concatenate([_with_channels(plane) for plane in planes], axis=-1)


def _with_channels(image):
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
