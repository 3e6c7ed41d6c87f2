"""The functions behind the demo page, on a small network."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from networks import narrow_residual, narrow_wide
from PIL import Image

from keras_resattn import WARN, WideResNet
from keras_resattn.data import read_image
from keras_resattn.pretrained import find, tags

pytestmark = pytest.mark.once

FILE = Path(__file__).parents[1] / "examples" / "11_demo_page.py"
MASK = "stage1_attention1_mask"


@pytest.fixture
def demo(monkeypatch):
    """The module of the example."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    spec = importlib.util.spec_from_file_location("demo_page", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def serve(demo, monkeypatch):
    """A function that makes the page load a network of five classes instead of released weights."""
    [checkpoint] = find("CifarResidualAttention56/cifar10")
    checkpoint = dataclasses.replace(checkpoint, classes=("ant", "bee", "cat", "dog", "elk"))
    return lambda model: monkeypatch.setattr(demo, "open_network", lambda name: (checkpoint, model))


@pytest.fixture
def photo(tmp_path):
    """An upright image of 500 x 400 pixels, red on the left and blue on the right, stored on its side."""
    pixels = np.zeros((500, 400, 3), "uint8")
    pixels[:, :200, 0] = pixels[:, 200:, 2] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    return str(tmp_path / "photo.png")


def test_an_image_gets_class_names_and_overlays_at_its_resolution(demo, serve, photo):
    serve(narrow_residual())
    steps = []
    predictions, images, masks = demo.analyse(
        photo, "small", channels=demo.MEAN, report=lambda *step: steps.append(step)
    )
    assert set(predictions) == {"ant", "bee", "cat", "dog", "elk"}
    assert sum(predictions.values()) == pytest.approx(1, abs=1e-5)
    assert masks == [MASK]
    [(overlay, caption)] = images
    assert overlay.shape == (400, 400, 3)
    assert overlay.dtype == "uint8"
    assert caption.startswith("stage 1, module 1, mean: 0.")
    assert [fraction for fraction, _ in steps] == sorted(fraction for fraction, _ in steps)
    assert "small" in steps[0][1]


@pytest.mark.parametrize("channels", ["ENERGY", "RELEVANCE"])
def test_channels_are_ranked(demo, serve, photo, channels):
    serve(narrow_residual())
    _, images, _ = demo.analyse(photo, "small", mask=MASK, channels=getattr(demo, channels))
    captions = [caption.partition(":")[0] for _, caption in images]
    assert len(set(captions)) == 3
    assert all(caption.startswith("stage 1, module 1, channel ") for caption in captions)


@pytest.mark.parametrize("channels", ["ENERGY", "RELEVANCE"])
def test_heads_of_gated_attention_are_ranked(demo, serve, photo, channels):
    serve(narrow_wide(WARN))
    _, images, masks = demo.analyse(photo, "small", channels=getattr(demo, channels))
    assert masks == ["attention1_mask", "attention2_mask", "attention3_mask"]
    captions = [caption.partition(":")[0] for _, caption in images]
    assert {caption.rpartition(",")[0] for caption in captions} == {"module 1", "module 2", "module 3"}
    assert {caption.rpartition(", ")[2] for caption in captions} <= {f"head {number}" for number in range(1, 5)}


def test_the_last_module_of_each_stage_is_shown_for_a_mask_of_another_network(demo, serve, photo):
    serve(narrow_residual(modules=(2, 1, 0)))
    _, images, masks = demo.analyse(photo, "small", mask="stage9_attention1_mask", channels=demo.MEAN)
    assert masks == [MASK, "stage1_attention2_mask", "stage2_attention1_mask"]
    assert [caption[:17] for _, caption in images] == ["stage 1, module 2", "stage 2, module 1"]


def test_a_network_without_attention_only_predicts(demo, serve, photo):
    serve(narrow_wide(WideResNet))
    predictions, images, masks = demo.analyse(photo, "small")
    assert len(predictions) == 5
    assert (images, masks) == ([], [])


def test_the_page_shows_what_the_network_receives(demo, photo):
    pixels, shown = demo.read_upload(photo, (32, 32))
    np.testing.assert_array_equal(pixels, read_image(photo, (32, 32)))
    assert shown.shape == (400, 400, 3), "the central square, upright"
    assert (shown[:, :199, 0] == 200).all()
    assert (shown[:, 201:, 2] == 200).all()


def test_small_images_are_enlarged_and_large_ones_reduced(demo, tmp_path):
    for width, side in ((20, 320), (900, 800)):
        Image.new("RGB", (width, width + 100)).save(tmp_path / "image.png")
        assert demo.read_upload(tmp_path / "image.png", (32, 32))[1].shape == (side, side, 3)


def test_a_damaged_file_is_named_without_its_folder(demo, serve, tmp_path):
    serve(None)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"^Expected broken\.png to be an image that can be decoded"):
        demo.analyse(str(tmp_path / "broken.png"), "small")


def test_samples_and_networks_are_those_of_the_repository(demo):
    assert [Path(path).name for path in demo.SAMPLES[:2]] == ["chelsea.jpg", "coffee.jpg"]
    assert len(demo.SAMPLES) == 12
    assert demo.default_network() in [tag.id for tag in tags()]
    assert demo.os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
