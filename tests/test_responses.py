"""Mean absolute responses of stages and blocks, and their plot."""

import keras
import numpy as np
import pytest
from helpers import assert_close, forward

from keras_resattn.visualize.responses import plot_responses, stage_responses

pytestmark = pytest.mark.once


def test_responses_are_the_mean_absolute_values_of_stage_outputs(narrow_network, images):
    model = narrow_network(modules=(2, 0, 0), mask_depth=(1, 1, 1))
    blocks = stage_responses(model, images, blocks=True)
    names = ["stage1_unit1", "stage1_attention1", "stage1_attention2", "stage1_unit2"]
    assert list(blocks) == [*names, "stage2_unit1", "stage2_unit2", "stage3_unit1", "stage3_unit2"]
    outputs = [model.get_layer(name).output for name in ("stage1_attention1_post1", "stage1_unit2")]
    expected = [np.abs(output).mean() for output in forward(keras.Model(model.input, outputs), images)]
    assert_close([blocks["stage1_attention1"], blocks["stage1_unit2"]], expected)
    assert stage_responses(model, images) == {
        "stage1": blocks["stage1_unit2"],
        "stage2": blocks["stage2_unit2"],
        "stage3": blocks["stage3_unit2"],
    }


def test_responses_need_stages_and_images(narrow_network, images):
    plain = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()], name="plain")
    with pytest.raises(ValueError, match=r"Expected a network of keras_resattn with its stages .*; received: plain"):
        stage_responses(plain, images)
    with pytest.raises(ValueError, match=r"Expected images of shape .*; received: shape \(32, 32, 3\)"):
        stage_responses(narrow_network(), images[0])


@pytest.mark.parametrize("blocks", [False, True], ids=["stages", "blocks"])
def test_responses_of_stages_and_of_blocks_are_plotted(narrow_network, images, blocks):
    responses = stage_responses(narrow_network(), images, blocks=blocks)
    [axes] = plot_responses({"a": responses, "b": responses}).axes
    ticks = ["unit 1", "module 1"] if blocks else ["stage 1", "stage 2"]
    assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ticks
    assert [text.get_text() for text in axes.texts] == (["stage 1", "stage 2", "stage 3"] if blocks else [])
    for line in axes.lines[:2]:
        assert_close(line.get_ydata(), list(responses.values()))


@pytest.mark.once
def test_several_seeds_are_plotted_as_their_mean():
    [axes] = plot_responses({"naive": [{"stage1": 1.0, "stage2": 2.0}, {"stage1": 3.0, "stage2": 4.0}]}).axes
    assert list(axes.lines[0].get_ydata()) == [2.0, 3.0]


INVALID_RESPONSES = {
    "no networks": {},
    "no label": {"stage1": 1.0},
    "no seeds": {"a": []},
    "no stages": {"a": {}},
    "unknown block": {"a": {"stage1": 1.0, "layer1": 1.0}},
    "different blocks": {"a": {"stage1_unit1": 1.0}, "b": {"stage1_unit2": 1.0}},
}


@pytest.mark.once
@pytest.mark.parametrize("responses", INVALID_RESPONSES.values(), ids=INVALID_RESPONSES)
def test_invalid_responses_raise(responses):
    with pytest.raises(ValueError, match=r"Expected \{label: responses\} .* same stages or blocks; received"):
        plot_responses(responses)


@pytest.mark.once
def test_the_legend_is_inside_the_figure_and_covers_nothing():
    label = "naive learning, CifarResidualAttention56, scaled down to 0.001"
    figure = plot_responses({f"{label}, {i}": {"stage1_unit1": 1.0, "stage2_unit1": 2.0} for i in range(8)})
    figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert legend.y1 <= axes.y0, "the legend is below the tick labels"
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= figure.bbox.x1
    assert figure.axes[0].bbox.height > 200


@pytest.mark.once
@pytest.mark.parametrize(("largest", "scale"), [(50.0, "linear"), (500.0, "log")])
def test_a_wide_range_of_responses_is_plotted_on_a_logarithmic_scale(largest, scale):
    figure = plot_responses({"a": {"stage1_unit1": 1.0, "stage2_unit1": largest}})
    assert figure.axes[0].get_yscale() == scale
