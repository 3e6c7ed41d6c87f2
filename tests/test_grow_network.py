"""`tools.grow_network`: a deeper network that starts with the function of a trained one."""

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, random_array, randomise
from networks import narrow_residual

from tools.grow_network import grow

pytestmark = pytest.mark.once

SMALL = {"input_shape": (64, 64, 3), "topology": "imagenet", "mask_depth": (1, 1, 1, 1), "widths": (2, 2, 2, 2)}


def network(*modules):
    return randomise(narrow_residual(modules=modules, **SMALL))


def test_a_grown_network_returns_the_same_and_every_added_weight_learns():
    small, deep = network(1, 1, 1, 0), network(1, 2, 3, 0)
    added = grow(small, deep)
    assert {name.rpartition("_")[0] for name in added} == {
        "stage2_attention2",
        "stage3_attention2",
        "stage3_attention3",
    }
    x = random_array(4, 64, 64, 3)
    assert_close(predict(deep, x), predict(small, x))
    deep.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    deep.fit(x, np.arange(4), epochs=3, verbose=0)
    for name in added:
        ends = [weight for weight in deep.get_layer(name).trainable_weights if "conv3" in weight.path]
        assert all(np.any(keras.ops.convert_to_numpy(weight)) for weight in ends)


@pytest.mark.parametrize(
    ("source", "target"), [((1, 2, 1, 0), (1, 1, 1, 0)), ((1, 1, 1, 0), (1, 1, 1, 1))], ids=["fewer", "last stage"]
)
def test_networks_that_cannot_grow_are_left_unchanged(source, target):
    small, deep = network(*source), network(*target)
    before = deep.get_weights()
    with pytest.raises(ValueError, match="Expected "):
        grow(small, deep)
    for a, b in zip(before, deep.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
