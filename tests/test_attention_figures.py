"""Figures of attention: channels chosen by gradient, photos of any size, and feature maps before and after masks."""

import numpy as np
import pytest
from helpers import assert_close
from test_relevance import IMAGES, MASK, gated, network

from keras_resattn import attention_relevance, plot_attention, plot_attention_montage, upsample_maps
from keras_resattn.layers import BilinearResize

pytestmark = pytest.mark.once


def titles_of(figure):
    return [axis.get_title() for axis in figure.axes]


def test_the_channels_that_add_most_to_the_score_are_shown():
    model = network()
    relevance = attention_relevance(model, IMAGES, 1)[MASK]
    figure = plot_attention(model, IMAGES, rank="gradient", classes=1)
    for i, titles in enumerate((titles_of(figure)[:4], titles_of(figure)[4:8])):
        amounts = relevance[i].sum((0, 1))
        first, second = np.argsort(-amounts)[:2]
        assert f"all channels add {relevance[i].sum():+.2f}" in titles[1]
        assert f"channel {first} adds {amounts[first]:+.2f}" in titles[2]
        assert f"channel {second} adds {amounts[second]:+.2f}" in titles[3]
    overlay = figure.axes[1].images[1]
    assert_close(overlay.get_array(), upsample_maps(relevance[0].sum(-1), (8, 8)))
    low, high = overlay.get_clim()
    assert low == -high == -np.abs(relevance.sum(-1)).max(), "a signed scale that both images share"


def test_the_heads_that_add_most_to_the_score_are_shown():
    model = gated()
    relevance = attention_relevance(model, IMAGES)["attention1_mask"][0].sum((0, 1))
    titles = titles_of(plot_attention(model, IMAGES[:1], masks="attention1_mask", rank="gradient", channels=1))
    assert f"head {relevance.argmax() + 1} adds {relevance.max():+.2f}" in " ".join(titles[2].split())


def test_a_single_image_has_a_row_for_each_mask_and_the_colour_bars_below_it():
    figure = plot_attention(gated(), IMAGES[:1], rank="gradient", channels=1)
    left, bottom = np.round([axis.get_position().p0 for axis in figure.axes], 3).T
    cells, bars = slice(0, 5), slice(5, None)
    assert [bool(axis.images) for axis in figure.axes] == [True] * 5 + [False] * 4
    below, above = np.unique(bottom[cells])
    np.testing.assert_array_equal(bottom[cells], [above] * 3 + [below] * 2)
    np.testing.assert_array_equal(left[1:3], left[3:5])
    assert sorted(bottom[bars] > below) == [False, False, True, True], "each mask has two scales: relevance, and heads"


@pytest.mark.parametrize("count", [1, 2])
def test_without_masks_only_the_images_are_shown(count):
    assert len(plot_attention(gated(), IMAGES[:count], masks=[]).axes) == count


def test_maps_are_resized_as_in_the_network():
    maps = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    expected = BilinearResize(data_format="channels_last")([maps[..., None], np.zeros((2, 40, 60, 1))])
    assert_close(upsample_maps(maps, (40, 60)), np.asarray(expected)[..., 0])


BOXES = {"crop": (20, 80, 60, 0), "squash": (0, 100, 60, 0), "pad": (0, 100, 80, -20)}


@pytest.mark.parametrize("mode", BOXES)
def test_masks_cover_the_part_of_a_photo_that_the_network_received(mode):
    photos = [np.zeros((60, 100, 3), "uint8"), np.zeros((8, 8, 3), "uint8")]
    figure = plot_attention(network(), IMAGES, display_images=photos, channels=0, resize_mode=mode)
    wide, square = figure.axes[1], figure.axes[3]
    assert [tuple(image.get_extent()) for image in wide.images] == [(0, 100, 60, 0), BOXES[mode]]
    assert wide.get_xlim() == (0, 100)
    assert wide.get_ylim() == (60, 0)
    left, right, lower, upper = BOXES[mode]
    assert wide.images[1].get_array().shape == (lower - upper, right - left)
    assert tuple(square.images[1].get_extent()) == (0, 8, 8, 0)


def test_a_montage_shows_one_channel_before_and_after_its_mask():
    model = network()
    figure = plot_attention_montage(model, IMAGES, titles=["one", "two"])
    assert len(figure.axes) == 2 * (1 + 3) + 1, "for each image, itself, and three rows of one module; one colour bar"
    image, before, mask, after = figure.axes[:4]
    channel = attention_relevance(model, IMAGES)[MASK][0].sum((0, 1)).argmax()
    assert before.get_title().startswith(f"stage 1, module 1\nchannel {channel} adds ")
    assert mask.get_title().startswith("mask: ")
    ratio = np.asarray(after.images[0].get_array()) / np.asarray(before.images[0].get_array())
    assert_close(upsample_maps(ratio - 1, (8, 8)), mask.images[1].get_array(), 1e-3)
    assert before.images[0].get_clim() == after.images[0].get_clim()
    assert image.get_title() == "one"


def test_a_montage_needs_soft_masks():
    model = gated()
    assert len(plot_attention_montage(model, IMAGES[:1]).axes) == 1 + 3 + 1, "the masks of heads are left out"
    with pytest.raises(ValueError, match=f"Expected masks to be among {MASK}; received: 'attention1_mask'"):
        plot_attention_montage(model, IMAGES, masks=["attention1_mask"])


INVALID = {
    "rank": ({"rank": "area"}, "rank to be one of 'energy', 'gradient'"),
    "classes": ({"classes": 1, "rank": "energy"}, "classes only with rank='gradient'; received: rank='energy'"),
    "resize mode": ({"resize_mode": "fill"}, "received: resize_mode='fill'"),
    "photo": (
        {"display_images": [np.zeros((9, 9, 3)), np.zeros((8, 8))]},
        r"a list of images .*received: shape \(8, 8\)",
    ),
}


@pytest.mark.parametrize("plot", [plot_attention, plot_attention_montage])
@pytest.mark.parametrize("case", INVALID)
def test_invalid_arguments_raise(plot, case):
    arguments, message = INVALID[case]
    with pytest.raises(ValueError, match=message):
        plot(network(), IMAGES, **arguments)
