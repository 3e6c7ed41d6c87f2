"""Decoding of single images: bit depths, modes, transparency, and orientation, in files and as Pillow objects."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_resattn.data import ImageFolder, RecordDataset, open_dataset
from keras_resattn.data.decoding import decode
from keras_resattn.data.images import load_image

pytestmark = pytest.mark.once

GREY = np.arange(0, 240, 10, dtype="uint8").reshape(4, 6)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], -1)
SIXTEEN = GREY.astype("uint16") * 257


def saved(image, format, **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(values, bits, colour_type, transparency=None):
    """A PNG of any depth; Pillow writes no 16-bit RGB, and no grey of 2 or 4 bits with a transparent colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        digits = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in values]
        rows = [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in digits]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", header)]
    if transparency is not None:
        chunks.append(chunk(b"tRNS", np.asarray(transparency, ">u2").tobytes()))
    chunks += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values, bits=16, photometric=1, order="<"):
    """A grey TIFF of one strip, of a depth and polarity that Pillow does not write."""
    height, width = values.shape
    if bits == 12:
        digits = "".join(f"{value:012b}" for value in values.ravel())
        data = int(digits, 2).to_bytes(len(digits) // 8)
    else:
        data = values.astype(f"{order}u2").tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


# --- Depths and modes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        saved(SIXTEEN, "PNG"),
        saved(SIXTEEN, "TIFF"),
        saved(SIXTEEN, "PPM"),
        saved(SIXTEEN, "JPEG2000"),
        tiff(SIXTEEN, order=">"),
        tiff(65535 - SIXTEEN, photometric=0),
        tiff((GREY.astype(int) * 4095 + 127) // 255, bits=12),
        png(SIXTEEN, 16, 0),
        png(np.stack([SIXTEEN, SIXTEEN], -1) | np.uint16([0, 65535]), 16, 4),
        png(np.stack([SIXTEEN] * 3, -1), 16, 2),
    ],
    ids=["PNG", "TIFF", "PGM", "JPEG2000", "TIFF-MM", "TIFF-white-0", "TIFF-12", "PNG-0", "PNG-LA", "PNG-RGB"],
)
def test_more_than_8_bits_are_scaled_by_their_range(data, tmp_path):
    expected = np.stack([GREY] * 3, -1)
    (tmp_path / "it.png").write_bytes(data)
    for form in (data, tmp_path / "it.png", Image.open(io.BytesIO(data))):
        np.testing.assert_allclose(load_image(form, "it").astype(int), expected, atol=0)
        np.testing.assert_array_equal(load_image(form, "it", channels=1), expected[..., :1])
        np.testing.assert_allclose(load_image(form, "it", size=(2, 3)).mean(), GREY.mean(), atol=1)


def test_values_of_16_bits_are_rounded():
    values = np.array([[0, 128, 129, 256, 65406, 65407, 65535]], "uint16")
    np.testing.assert_array_equal(decode(Image.fromarray(values), 1), [[0, 0, 1, 1, 254, 255, 255]])


def test_files_without_a_fixed_range_are_refused_by_name(tmp_path):
    (tmp_path / "a").mkdir()
    for name, values in (("float", GREY / 255.0), ("integer", GREY.astype("int32") * 1000)):
        image = Image.fromarray(values.astype("float32") if name == "float" else values)
        path = tmp_path / "a" / f"{name}.tif"
        image.save(path)
        for form in (path, path.read_bytes(), image):
            with pytest.raises(ValueError, match=rf"Expected {name}\.tif .*received: .*without a fixed range"):
                load_image(form, f"{name}.tif", size=(8, 8))
    with pytest.raises(ValueError, match=r"a/float\.tif to be an image that can be decoded"):
        ImageFolder(tmp_path).read([0], size=(8, 8))
    pfm = b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5)
    with pytest.raises(ValueError, match="floats without a fixed range"):
        load_image(pfm, "it.pfm")


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_of_pillow_is_read(mode):
    black_and_white = np.kron(np.array([[0, 255], [255, 0]], "uint8"), np.ones((4, 4), "uint8"))
    expected = np.stack([black_and_white] * 3, -1)
    through = {"La": "LA", "PA": "P", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.fromarray(expected if mode not in ("La", "LA") else black_and_white).convert(through).convert(mode)
    np.testing.assert_array_equal(load_image(image, "it"), expected)
    np.testing.assert_array_equal(load_image(image, "it", channels=1), expected[..., :1])
    assert image.mode == mode


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(format):
    frames = [Image.fromarray(np.full((4, 4, 3), value, "uint8")) for value in (255, 0, 51)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(load_image(data, "it"), np.asarray(frames[0]))


# --- Transparency --------------------------------------------------------------------------------


def transparent(mode):
    """A file whose upper row is transparent and has dark pixels below it, and whose lower row is (51, 51, 51)."""
    grey = np.array([[0, 0], [51, 51]], "uint8")
    alpha = np.array([[0, 0], [255, 255]], "uint8")
    if mode == "LA":
        return saved(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG")
    if mode in ("RGBA", "WEBP", "TIFF"):
        image = Image.merge("RGBA", [*[Image.fromarray(grey)] * 3, Image.fromarray(alpha)])
        return saved(image, "PNG" if mode == "RGBA" else mode, **({"lossless": True} if mode == "WEBP" else {}))
    if mode in ("P", "GIF", "P-bytes"):
        image = Image.fromarray(np.array([[0, 0], [1, 1]], "uint8")).convert("P")
        image.putpalette([0, 0, 0, 51, 51, 51])
        return saved(image, "GIF" if mode == "GIF" else "PNG", transparency=b"\0\xff" if mode == "P-bytes" else 0)
    return {
        "L": saved(grey, "PNG", transparency=0),
        "RGB": saved(np.stack([grey] * 3, -1), "PNG", transparency=(0, 0, 0)),
        "L-16": png(grey.astype("uint16") * 257 + [[300], [0]], 16, 0, [300]),
        "RGB-16": png(np.stack([grey.astype("uint16") * 257 + [[512], [0]]] * 3, -1), 16, 2, [512] * 3),
        "L-2": png(np.array([[3, 3], [0, 0]]), 2, 0, [3]),
        "L-4": png(np.array([[8, 8], [3, 3]]), 4, 0, [8]),
    }[mode]


@pytest.mark.parametrize(
    "mode", ["LA", "RGBA", "WEBP", "TIFF", "P", "P-bytes", "GIF", "L", "RGB", "L-16", "RGB-16", "L-2", "L-4"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(mode, channels):
    dark = 0 if mode == "L-2" else 51
    expected = np.broadcast_to(np.array([255, dark], "uint8")[:, None, None], (2, 2, channels))
    np.testing.assert_array_equal(load_image(transparent(mode), "it", channels=channels), expected)


def test_half_transparent_pixels_are_mixed_with_white_before_resizing():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 51))
    np.testing.assert_allclose(load_image(image, "it", size=(4, 4)), 204)


# --- Orientation ---------------------------------------------------------------------------------

TURNED = {  # from an upright image to what a camera stores with each orientation
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x[::-1].transpose(1, 0, 2)[::-1, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x[:, ::-1].transpose(1, 0, 2)[::-1, ::-1],
}
UPRIGHT = np.kron(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype="uint8"), np.ones((16, 16, 1), "uint8"))


def photo(orientation, format="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(TURNED.get(orientation, TURNED[1])(UPRIGHT))
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    return saved(stored, format, exif=exif, **options)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(orientation, format, tmp_path):
    path = tmp_path / "a" / f"it.{format.lower()}"
    path.parent.mkdir()
    path.write_bytes(photo(orientation, format))
    tolerance = 6 if format == "JPEG" else 0
    for form in (path, path.read_bytes(), Image.open(path)):
        np.testing.assert_allclose(load_image(form, "it").astype(int), UPRIGHT, atol=tolerance)
        for crop in (None, (0.3, 0.8, 0.1, 0.7)):
            read = load_image(form, "it", (8, 6), crop).astype(int)  # a JPEG is drafted
            np.testing.assert_allclose(read, load_image(UPRIGHT, "it", (8, 6), crop), atol=tolerance)
    dataset = ImageFolder(tmp_path)
    assert dataset.image_shape == (64, 96, 3)
    np.testing.assert_allclose(dataset.read([0])[0].astype(int), UPRIGHT, atol=tolerance)


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_orientations_that_exif_does_not_define_change_nothing(orientation):
    np.testing.assert_array_equal(load_image(photo(orientation, "PNG"), "it"), UPRIGHT)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_changes_nothing():
    data = photo(6)
    start = data.index(b"Exif\0\0") + 6
    for damage in (b"XXXX", b"II*\0\xff\xff\xff\x7f"):
        broken = data[:start] + damage + data[start + len(damage) :]
        assert load_image(broken, "it").shape == (96, 64, 3)


def test_exif_after_the_pixels_of_a_png_counts(tmp_path):
    data = photo(6, "PNG")
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    path = tmp_path / "a" / "it.png"
    path.parent.mkdir()
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert ImageFolder(tmp_path).image_shape == (64, 96, 3)
    np.testing.assert_array_equal(load_image(path, "it"), UPRIGHT)


# --- Pillow images of the caller, and damage -------------------------------------------------------


def test_a_callers_image_stays_as_it_is():
    image = Image.open(io.BytesIO(photo(1)))
    first = load_image(image, "it", size=(4, 6))
    assert (image.size, image.mode) == ((96, 64), "RGB")
    np.testing.assert_array_equal(load_image(image, "it", size=(4, 6)), first)


def test_colour_after_a_grey_image_is_not_lost():
    records = [(Image.fromarray(GREY), 0), (Image.fromarray(RGB), 1)]
    with pytest.raises(ValueError, match=r"received: record 1 of mode RGB\. Pass RecordDataset\(data, channels=3\)"):
        RecordDataset(records).read([0, 1])
    np.testing.assert_array_equal(RecordDataset(records, channels=3).read([0, 1]), [np.stack([GREY] * 3, -1), RGB])
    assert RecordDataset(records, channels=1).read([0, 1]).shape == (2, 4, 6, 1)


def test_records_hold_paths(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "it.png")
    for path in (tmp_path / "it.png", str(tmp_path / "it.png")):
        np.testing.assert_array_equal(open_dataset([(path, 0)]).read([0]), RGB[None])
    with pytest.raises(ValueError, match=r"none\.png"):
        open_dataset([("none.png", 0)]).read([0])


def test_records_of_pillow_images_know_grey_ones():
    assert RecordDataset([(Image.fromarray(SIXTEEN), 0)]).image_shape == (4, 6, 1)
    assert RecordDataset([(Image.fromarray(RGB).convert("P"), 0)]).image_shape == (4, 6, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_whatever_is_damaged_the_error_names_the_file(format):
    data = bytearray(saved(np.tile(RGB, (8, 8, 1)), format))
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = data.copy()
        for place in rng.integers(0, min(len(data), 400), 4):
            broken[place] = rng.integers(256)
        broken = broken[: rng.integers(1, len(data) + 1)]
        error = failure(bytes(broken))
        assert error is None or error.startswith("Expected some.file to be an image that can be decoded"), error


def failure(data):
    """The message of the `ValueError` that reading raises, or `None`."""
    try:
        assert load_image(data, "some.file", size=(4, 4)).shape == (4, 4, 3)
    except ValueError as error:
        return str(error)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "it.png")
    with pytest.raises(ValueError, match=r"it\.png to be a regular file"):
        load_image(tmp_path / "it.png", "it.png")
