"""Decoding of image files: upright, opaque, 8 bits per channel. All decoding in the package goes through `decode`."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from keras_resattn.typing import Size
from keras_resattn.utils.io import open_regular

BACKGROUND = (255, 255, 255)  # transparent pixels are composited on white
_Turn = Image.Transpose
# EXIF orientation -> operation that makes the image upright. 1, and values that EXIF does not define, need none.
TURNS = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
EXIF_ORIENTATION, TIFF_BITS, TIFF_PHOTOMETRIC = 0x0112, 0x0102, 0x0106
# A PNG stores its transparent colour with the file's bit depth, and Pillow returns it unscaled. For 16-bit RGB, Pillow
# keeps the upper byte, which differs from a division by 257 by at most one.
PNG_COLOUR_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


def decode(image: Image.Image, channels: int = 3) -> Image.Image:
    """Return a Pillow image upright, opaque and with 8 bits per channel.

    - EXIF (or XMP) orientation is applied, as `PIL.ImageOps.exif_transpose` does; unreadable EXIF data is ignored.
    - Transparency (an alpha channel, a palette's, or a PNG's transparent colour) is composited on white.
    - 16-bit values are divided by 257, values of 12-bit TIFF files by 4095 / 255. Files without a fixed range raise.
    - Only the first frame of an animation, or page of a TIFF, is decoded. ICC profiles are not applied.

    Args:
        image: A `PIL.Image.Image`. The caller's object keeps its pixels and mode.
        channels: 3 for mode `"RGB"`, 1 for `"L"`. 4 returns an `"RGBA"` image as stored, not composited.

    Returns:
        A `PIL.Image.Image` of mode `"RGB"` or `"L"`.

    Raises:
        ValueError: If the mode has no fixed range (`"F"`, 32-bit `"I"`), or the number of bands differs.
        Exception: Any Pillow error for a damaged file; `naming` turns it into a `ValueError`.
    """
    tile = getattr(image, "tile", None)
    png_mode = tile[0][3] if image.format == "PNG" and tile else None
    image.load()  # makes TIFF files upright, and reads EXIF data after the pixels of a PNG
    turn = TURNS.get(exif_orientation(image))
    if channels in (1, 3):
        image, mode = _opaque(_eight_bits(image, png_mode)), {1: "L", 3: "RGB"}[channels]
        image = image if image.mode == mode else image.convert(mode)
    elif len(image.getbands()) != channels or image.mode != "RGBA":
        raise ValueError(f"mode {image.mode}, which cannot be read as {channels} channels")
    return image if turn is None else image.transpose(turn)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a Pillow image, 1 to 8; 1 if it is missing, unreadable or undefined."""
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        return orientation if orientation in TURNS else 1
    except Exception:  # damaged metadata of an intact image: Pillow raises errors of many types
        return 1


def upright_size(image: Image.Image) -> Size:
    """Return `(height, width)` of the decoded image. This decodes only PNG files that are not square."""
    width, height = image.size
    # Pillow reports the upright size of TIFF files even before decoding.
    turned = width != height and image.format != "TIFF" and exif_orientation(image) >= 5
    return (width, height) if turned else (height, width)


@contextlib.contextmanager
def opened(file_or_bytes: Any, name: Any) -> Iterator[Image.Image]:
    """Open a path or bytes as a Pillow image. Errors inside the context name the image; see `naming`."""
    file = (
        contextlib.nullcontext(io.BytesIO(file_or_bytes))
        if isinstance(file_or_bytes, bytes)
        else open_regular(file_or_bytes)
    )
    with file as stream, naming(name), Image.open(stream) as image:
        yield image


@contextlib.contextmanager
def naming(name: Any) -> Iterator[None]:
    """Turn any error in decoding a damaged or unsupported image into a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise errors of many types
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):
            reason = "a format unknown to Pillow"
        raise ValueError(
            f"Expected {name} to be an image that can be decoded; received: {reason.rstrip(' .')}. "
            "Repair it, convert it to 8 bits per channel, or remove it."
        ) from error


def _eight_bits(image, png_mode):
    """Return the image with 8 bits per channel, and its transparent colour scaled to match."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        return _from_sixteen_bits(image)
    if image.mode in ("I", "F"):
        kind = {"I": "integers of more than 16 bits", "F": "floats"}[image.mode]
        raise ValueError(f"{kind} without a fixed range (Pillow mode {image.mode})")
    scale, colour = PNG_COLOUR_SCALES.get(png_mode), image.info.get("transparency")
    if scale is not None and colour is not None:
        image = image.copy()
        image.info["transparency"] = (
            tuple(int(value * scale) for value in colour) if isinstance(colour, tuple) else int(colour * scale)
        )
    return image


def _from_sixteen_bits(image):
    values = np.asarray(image).astype("int64")
    tags = getattr(image, "tag_v2", {})
    highest = 4095 if tuple(tags.get(TIFF_BITS, ())) == (12,) else 65535
    colour = image.info.get("transparency")
    scaled = np.clip((values * 255 + highest // 2) // highest, 0, 255).astype("uint8")
    if tags.get(TIFF_PHOTOMETRIC) == 0:  # white is 0; Pillow inverts only files of up to 8 bits
        scaled = 255 - scaled
    if isinstance(colour, int):
        scaled[values == colour] = 255
    return Image.fromarray(scaled)


def _opaque(image):
    """Return the image in mode `"L"` or `"RGB"`, composited on white if it has transparency."""
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
