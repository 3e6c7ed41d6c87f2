"""Responses of stages and blocks: what they are, and how they are drawn."""

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


def test_responses_of_networks_with_other_blocks_are_not_drawn_together():
    with pytest.raises(ValueError, match="Expected responses of the same blocks; received: 2 different"):
        plot_responses({"a": {"stage1_unit1": 1.0}, "b": {"stage1_unit2": 1.0}})


def test_both_kinds_of_responses_are_drawn(narrow_network, images):
    model = narrow_network()
    for blocks, ticks in ((False, ["stage 1", "stage 2"]), (True, ["unit 1", "module 1"])):
        responses = stage_responses(model, images, blocks=blocks)
        alone, [axes] = plot_responses(responses), plot_responses({"a": responses, "b": [responses] * 2}).axes
        assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ticks
        assert_close(alone.axes[0].lines[0].get_ydata(), list(responses.values()))
        assert not alone.legends, "one network needs no name"
        assert [text.get_text() for text in axes.texts] == (["stage 1", "stage 2", "stage 3"] if blocks else [])


NO_RESPONSES = {
    "none": ({}, r"Expected responses, or \{label: responses\}; received: \{\}"),
    "a list": ([{"stage1": 1.0}], r"Expected responses, or \{label: responses\}; received: \[\{"),
    "no run": ({"a": []}, r"Expected responses as stage_responses returns them, .*received: 'a': \[\]"),
    "a number": ({"a": 1.0}, "received: 'a': 1.0"),
    "empty": ({"a": {}}, r"received: 'a': \{\}"),
    "no block": ({"a": {"stage1": 1.0}, "b": {"layer1": 1.0}}, "received: 'b': .*layer1"),
    "no value": ({"a": {"stage1": None}}, "received: 'a': .*None"),
}


@pytest.mark.parametrize("case", NO_RESPONSES)
def test_what_is_no_responses_is_not_drawn(case):
    responses, message = NO_RESPONSES[case]
    with pytest.raises(ValueError, match=message):
        plot_responses(responses)


@pytest.mark.parametrize("copies", [1, 6])
def test_the_legend_covers_nothing_and_is_whole(copies):
    label = "naive $attention$ learning_$, CifarResidualAttention56, rehearsal at scale 0.001; " * copies
    figure = plot_responses({f"{label}{i}": {"stage1_unit1": 1.0, "stage2_unit1": 2.0} for i in range(3)})
    figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert legend.y1 <= axes.y0, "it begins below the tick labels"
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= figure.bbox.x1
    assert figure.axes[0].bbox.height > 200, "the more lines it has, the taller the figure"


@pytest.mark.parametrize(("largest", "scale"), [(50.0, "linear"), (500.0, "log")])
def test_responses_that_differ_much_are_drawn_by_their_logarithm(largest, scale):
    figure = plot_responses({"a": {"stage1_unit1": 1.0, "stage2_unit1": largest}})
    assert figure.axes[0].get_yscale() == scale
