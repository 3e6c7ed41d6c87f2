"""Attention masks and gates: as arrays, from any model that contains a network, and plotted over images."""

import re

import keras
import numpy as np
import pytest

import keras_resattn
from keras_resattn import (
    attend_and_rectify,
    attention_gates,
    attention_maps,
    plot_attention,
)

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
MASKS = [f"stage{s}_attention{m}_mask" for s in (1, 2, 3) for m in (1, 2)]


@pytest.fixture(scope="module")
def network():
    rows = {"modules": (2, 2, 2), "widths": (2, 3, 4), "p": 0, "t": 1, "mask_depth": (2, 1, 1), "bottom_units": 1}
    return keras_resattn.ResidualAttentionNet(include_top=False, pooling="avg", weights=None, topology="cifar", **rows)


@pytest.fixture(scope="module")
def maps(network):
    return attention_maps(network, IMAGES)


@pytest.mark.once
def test_masks_by_name(network, maps):
    assert list(maps) == MASKS
    assert [maps[name].shape for name in MASKS[::2]] == [(2, 32, 32, 8), (2, 16, 16, 12), (2, 8, 8, 16)]
    assert all(mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1 for mask in maps.values())


def test_a_mask_is_the_output_of_its_layer(network, maps):
    node = keras.Model(network.input, network.get_layer(MASKS[3]).output)
    np.testing.assert_allclose(maps[MASKS[3]], node.predict(IMAGES, verbose=0), atol=1e-6)


def sequential(network):
    return keras.Sequential([keras.Input((32, 32, 3)), network, keras.layers.Dense(3)])


def functional(network):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Dense(3)(network(keras.layers.Rescaling(1.0)(inputs))))


def twice_nested(network):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Dense(3)(sequential(network)(inputs)))


def with_lists(network):
    return keras.Model(network.inputs, network.outputs)


def nested_with_lists(network):
    return functional(keras.Model(network.inputs, network.output))


@pytest.mark.once
@pytest.mark.parametrize("nest", [sequential, functional, twice_nested, with_lists, nested_with_lists])
def test_a_network_inside_another_model_is_found(network, maps, nest):
    model = nest(network)
    model.compile("sgd", "mse")
    found = attention_maps(model, IMAGES)
    assert list(found) == MASKS
    for name in MASKS:
        np.testing.assert_allclose(found[name], maps[name], atol=1e-6)


@pytest.mark.once
def test_float_and_uint8_display_images_look_the_same(network):
    display_images = np.random.default_rng(0).integers(0, 256, (len(IMAGES), 32, 32, 3))
    shown = [
        np.asarray(
            plot_attention(network, IMAGES, display_images=display_images.astype(dtype)).axes[0].images[0].get_array()
        )
        for dtype in ("uint8", "float32")
    ]
    np.testing.assert_array_equal(*shown)
    with pytest.raises(ValueError, match=r"received: shape \(\d+, 32, 32\)"):
        plot_attention(network, IMAGES, display_images=display_images[..., 0])


@pytest.mark.once
def test_models_without_a_graph_and_empty_batches_raise(network):
    with pytest.raises(ValueError, match="functional or built sequential"):
        attention_maps(keras.Sequential([keras.layers.Dense(3)]), IMAGES)
    with pytest.raises(ValueError, match=r"received: shape \(0, 32, 32, 3\)"):
        attention_maps(network, IMAGES[:0])


@pytest.mark.once
def test_models_without_attention_raise():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="has none"):
        attention_maps(model, np.zeros((1, 4, 4, 3)))


@pytest.mark.once
def test_a_figure_has_a_row_for_each_image_and_a_column_for_each_mask(network):
    figure = plot_attention(network, IMAGES, titles=["one", "two"], channels=2)
    assert len(figure.axes) == 2 * (1 + 3 * 3) + 1, "plus one colour bar"
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "one"
    assert titles[10] == "two"
    assert titles[1].startswith("stage 1, module 2\nmean of channels\n"), "the last module of each stage, mean first"


def test_the_channels_with_the_highest_trunk_energy_are_shown(network):
    figure = plot_attention(network, IMAGES[:1], masks=[MASKS[0]], channels=1)
    trunk = keras.Model(network.input, network.get_layer("stage1_attention1_trunk1").output).predict(
        IMAGES[:1], verbose=0
    )
    strongest = np.square(trunk[0]).mean((0, 1)).argmax()
    assert f"channel {strongest}\n" in figure.axes[2].get_title()


@pytest.mark.once
def test_display_images_are_shown_unchanged(network):
    display_images = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype="uint8")
    figure = plot_attention(network, IMAGES[:1], display_images=display_images, masks=MASKS[:1], channels=0)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), display_images[0])
    assert len(figure.axes) == 3


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"masks": ["stage9_attention1_mask"]}, "stage9_attention1_mask"),
        ({"titles": ["only one"]}, "as many"),
        ({"display_images": np.zeros((3, 32, 32, 3))}, "as many"),
        ({"channels": -1}, "channels"),
        ({"images": np.zeros((0, 32, 32, 3))}, "at least one"),
    ],
)
def test_invalid_arguments_raise(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_attention(network, **{"images": IMAGES, **arguments})


@pytest.mark.once
def test_soft_masks_share_a_scale_from_zero(network):
    figure = plot_attention(network, IMAGES, channels=1)
    *cells, bar = figure.axes
    overlays = [axis.images[1] for axis in cells if len(axis.images) == 2]
    arrays = [np.asarray(overlay.get_array()) for overlay in overlays]
    assert len(overlays) == 2 * 3 * 2
    ((low, high),) = {overlay.get_clim() for overlay in overlays}
    assert low == 0
    assert high >= np.max([a.max() for a in arrays])
    assert any(axis.get_title().endswith(f"to {high:.3g}") for axis in cells)
    assert bar.get_xlim() == pytest.approx(overlays[0].get_clim())


@pytest.mark.once
def test_a_flat_mask_looks_flat(gated):
    figure = plot_attention(gated, np.zeros_like(DISPLAY_IMAGES), channels=0)
    for axis in figure.axes[1:4]:
        overlay = axis.images[1]
        low, high = overlay.get_clim()
        assert low == 0
        assert np.ptp(np.asarray(overlay.get_array())) < 0.1 * high


LONG = "a_layer_of_another_model/with-a.name that is very long WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW $x_1"


@pytest.mark.once
def test_long_names_are_complete_and_do_not_overlap(network):
    inputs = keras.Input((16, 16, 3))
    layer = re.sub("[^A-Za-z0-9_>-]", "_", LONG)  # what TensorFlow takes as a scope
    x = keras.layers.Conv2D(4, 3, 2, name=layer)(inputs)
    x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))
    tapped = attend_and_rectify(keras.Model(inputs, x), [layer])
    for model, images, title, names in ((tapped, DISPLAY_IMAGES, "short", layer), (network, IMAGES, LONG, "stage 1")):
        figure = plot_attention(model, images, titles=[title, title])
        figure.draw_without_rendering()
        boxes = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
        boxes += [axis.get_window_extent() for axis in figure.axes]
        drawn = "".join(axis.get_title() for axis in figure.axes[:2])
        assert all(re.sub(r"\s", "", name) in re.sub(r"\s", "", drawn) for name in (title, names))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
        assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
        overlapping = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.padded(-0.5).overlaps(b)]
        assert not overlapping


# --- Gated attention -----------------------------------------------------------------------------


@pytest.fixture
def gated():
    """A small network with three modules of three heads, tapped from deep to shallow."""
    inputs = x = keras.Input((16, 16, 3))
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(4 * i, 3, 2, "same", activation="relu", name=f"conv{i}")(x)
    base = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))
    return attend_and_rectify(base, ["conv3", "conv1", "conv2"], attention_width=3)


DISPLAY_IMAGES = IMAGES[:, ::2, ::2]


@pytest.mark.once
@pytest.mark.parametrize(
    "name", ["head 1 adds +0.19, gate 0.32", "relevance: -0.0123 to 0.00366", "range 1e-05 to 12.5"]
)
def test_titles_wrap_between_numbers_and_stay_within_their_column(gated, name):
    """Also at the resolution of released figures, where text is wider than its outlines."""
    figure = plot_attention(gated, DISPLAY_IMAGES, titles=[f"{'w' * count} {name}" for count in (3, 6)])
    figure.set_dpi(80)
    figure.draw_without_rendering()
    titles = [axis.title for axis in figure.axes if axis.get_title()]
    assert max(title.get_window_extent().width for title in titles) < 1.5 * 80  # COLUMN, in pixels
    numbers = re.findall(r"-?\d[\d.e-]*", name)
    for title in (titles[0], next(title for title in titles if "wwwwww" in title.get_text())):
        assert set(numbers) <= set(re.findall(r"-?\d[\d.e-]*", title.get_text()))


def test_masks_of_gated_attention_by_name(gated):
    maps = attention_maps(gated, DISPLAY_IMAGES)
    assert {name: mask.shape for name, mask in maps.items()} == {
        "attention1_mask": (2, 2, 2, 3),
        "attention2_mask": (2, 8, 8, 3),
        "attention3_mask": (2, 4, 4, 3),
    }
    assert list(maps) == ["attention1_mask", "attention2_mask", "attention3_mask"]
    for mask in maps.values():
        np.testing.assert_allclose(mask.sum((1, 2)), np.ones((2, 3)), rtol=1e-5)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_gates_by_name(gated, nested):
    model = keras.Sequential([keras.Input((16, 16, 3)), gated]) if nested else gated
    gates = attention_gates(model, DISPLAY_IMAGES)
    assert {name: gate.shape for name, gate in gates.items()} == {
        "attention1_gates": (2, 3),
        "attention2_gates": (2, 3),
        "attention3_gates": (2, 3),
        "global_gate": (2, 4),
    }
    for name, gate in gates.items():
        node = keras.Model(gated.input, gated.get_layer(name).output)
        np.testing.assert_allclose(gate, node.predict(DISPLAY_IMAGES, verbose=0), atol=1e-6)


@pytest.mark.once
def test_a_figure_of_gated_attention_shows_heads_by_their_gates(gated):
    figure = plot_attention(gated, DISPLAY_IMAGES, channels=2)
    gates = attention_gates(gated, DISPLAY_IMAGES)
    titles = [axis.get_title() for axis in figure.axes]
    assert len(titles) == 2 * (1 + 3 * 3) + 3, "plus a colour bar for each module"
    for module in (1, 2, 3):
        best = gates[f"attention{module}_gates"][1].argmax()
        share, gate = gates["global_gate"][1, module - 1], gates[f"attention{module}_gates"][1, best]
        column = 10 + 1 + 3 * (module - 1)  # of the second image
        assert titles[column].startswith(f"module's share {share:.2f}\n")
        assert titles[column + 1].startswith(f"head {best + 1}, gate {gate:.2f}\n")
    assert titles[1].startswith("attention 1\nconv3\n"), "with the layer that the module attends to"
    assert titles[10] == f"base's share {gates['global_gate'][1, 3]:.2f}"


@pytest.mark.once
def test_all_heads_are_shown_if_there_are_fewer_than_requested(gated):
    figure = plot_attention(gated, DISPLAY_IMAGES[:1], masks=["attention2_mask", "attention3_mask"], channels=500)
    assert [bool(axis.images) for axis in figure.axes] == [True, *[True] * 4 * 2, False, False]
    heads = sorted(head for axis in figure.axes for head in re.findall(r"head \d", axis.get_title()))
    assert heads == ["head 1", "head 1", "head 2", "head 2", "head 3", "head 3"]


@pytest.mark.once
def test_masks_may_be_a_single_name(gated):
    assert len(plot_attention(gated, DISPLAY_IMAGES[:1], masks="attention2_mask", channels=0).axes) == 3


@pytest.mark.once
def test_an_image_that_is_not_a_batch(gated):
    with pytest.raises(ValueError, match=r"received: shape \(16, 16, 3\)\. Pass a single image x as x\[None\]"):
        attention_maps(gated, DISPLAY_IMAGES[0])


@pytest.mark.once
def test_images_of_another_size_raise(gated):
    with pytest.raises(ValueError, match=r"of shape \(None, 16, 16, 3\); received: shape \(1, 8, 8, 3\)\.$"):
        attention_maps(gated, DISPLAY_IMAGES[:1, :8, :8])


@pytest.mark.once
def test_gates_of_a_model_without_gated_attention_raise(network):
    with pytest.raises(ValueError, match="Expected a model with gated attention"):
        attention_gates(network, IMAGES)


OUT_OF_RANGE = {"16 bits": np.full((1, 32, 32, 3), 40_000, "uint16"), "0 to 1": np.full((1, 32, 32, 3), 0.5)}


@pytest.mark.once
@pytest.mark.parametrize("display_images", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)
def test_display_images_outside_their_range_raise(narrow_network, images, display_images):
    with pytest.raises(ValueError, match="Expected display_images from 0 to 255"):
        plot_attention(narrow_network(), images[:1], display_images=display_images)


@pytest.mark.once
def test_masked_images_raise(narrow_network, images):
    for look in (attention_maps, plot_attention):
        with pytest.raises(ValueError, match="masked"):
            look(narrow_network(), np.ma.masked_greater(images, 2))
