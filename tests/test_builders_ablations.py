"""Effects of the ablation arguments of `ResidualAttentionNet` on modules and masks."""

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, randomise, weights_by_path


def module_outputs(model, images):
    """Return trunk, mask and merge of the first module."""
    names = [f"stage1_attention1_{part}" for part in ("trunk2", "mask", "merge")]
    return predict(keras.Model(model.input, [model.get_layer(name).output for name in names]), images)


@pytest.mark.parametrize("arguments", [{}, {"learning": "residual"}])
def test_residual_learning(narrow_network, images, arguments):
    trunk, mask, merged = module_outputs(randomise(narrow_network(**arguments)), images)
    assert_close(merged, (1 + mask) * trunk)


def test_naive_learning(narrow_network, images):
    trunk, mask, merged = module_outputs(randomise(narrow_network(learning="naive")), images)
    assert_close(merged, mask * trunk)


def test_mask_activations(narrow_network, images):
    masks = {}
    for activation in ("mixed", "channel", "spatial"):
        model = randomise(narrow_network(mask_activation=activation))
        masks[activation] = module_outputs(model, images)[1]
    assert masks["mixed"].min() >= 0
    assert masks["mixed"].max() <= 1
    assert_close(np.linalg.norm(masks["channel"], axis=-1), np.ones((2, 32, 32)), 1e-3)  # epsilon is inside the root
    logits = np.log(masks["spatial"] / (1 - masks["spatial"]))
    assert_close(logits.std((1, 2)), np.ones((2, 16)), 1e-3)
    np.testing.assert_allclose(logits.mean((1, 2)), 0, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize(("arguments", "count"), [({}, 3), ({"local_units": 1}, 1)])
def test_local_mask(narrow_network, arguments, count):
    mask = narrow_network(mask="local", **arguments).get_layer("stage1_attention1_mask")
    units = {path.split("/")[1] for path in weights_by_path(mask) if "unit" in path}
    assert units == {f"local_unit{i + 1}" for i in range(count)}


@pytest.mark.once
def test_mask_depth_and_bottom_units(narrow_network):
    mask = narrow_network(mask_depth=(2, 1, 1), bottom_units=3).get_layer("stage1_attention1_mask")
    units = {path.split("/")[1] for path in weights_by_path(mask) if "unit" in path or "skip" in path}
    assert units == {"down1_unit1", "bottom_unit1", "bottom_unit2", "bottom_unit3", "skip1", "up1_unit1"}
