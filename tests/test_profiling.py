"""Multiply-adds of any model: several inputs and outputs, shared layers, custom layers."""

import keras
import numpy as np
import pytest
from helpers import undrawn
from keras import layers

from keras_resattn import count_macs

pytestmark = pytest.mark.once


class Scale(layers.Layer):
    """Custom layer without `compute_output_shape`, like those of ConvNeXt in keras.applications."""

    def build(self, input_shape):
        self.gamma = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.gamma


class Block(layers.Layer):
    """Custom layer with convolutions, one of which is called twice and another never."""

    def __init__(self, filters):
        super().__init__()
        self.first = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.again = layers.Conv2D(filters, 1, use_bias=False)
        self.unused = layers.Conv2D(filters, 5)
        self.scale = Scale()

    def build(self, input_shape):
        self.first.build(input_shape)
        self.again.build((*input_shape[:-1], self.first.filters))

    def call(self, x):
        return self.scale(self.again(self.again(self.first(x))))


class Windows(layers.Layer):
    """Custom layer that folds windows into the batch and applies a dense layer."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(5, use_bias=False)

    def build(self, input_shape):
        self.dense.build((None, 2, input_shape[-1]))

    def call(self, x):
        return keras.ops.reshape(self.dense(keras.ops.reshape(x, (-1, 2, x.shape[-1]))), (-1, x.shape[1], 5))


LAYERS = {
    "custom": (Scale, (8, 6, 3), 0),
    "custom block": (lambda: Block(4), (8, 6, 3), 8 * 6 * (9 * 3 * 4 + 2 * 4 * 4)),
    "windows": (Windows, (8, 3), 8 * 3 * 5),
    "1-D": (lambda: layers.Conv1D(4, 3, padding="same"), (8, 3), 8 * 3 * 3 * 4),
    "3-D": (lambda: layers.Conv3D(4, 3, padding="same"), (5, 8, 6, 3), 5 * 8 * 6 * 27 * 3 * 4),
    "separable": (lambda: layers.SeparableConv2D(4, 3, padding="same"), (8, 6, 3), 8 * 6 * (9 * 3 + 3 * 4)),
    "transposed": (lambda: layers.Conv2DTranspose(4, 3, 2, padding="same"), (8, 6, 3), 8 * 6 * 9 * 3 * 4),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (7, 3), 7 * 3 * 2 * 5),
    "time": (lambda: layers.TimeDistributed(layers.Dense(5)), (7, 2, 3), 7 * 2 * 3 * 5),
}


@pytest.mark.parametrize("case", LAYERS)
def test_multiply_adds_of_layers(case):
    make, shape, macs = LAYERS[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make()(inputs))
    costs = count_macs(model, per_layer=True)
    assert sum(cost.macs for cost in costs) == count_macs(model) == macs
    assert sum(cost.parameters for cost in costs) == sum(np.prod(v.shape) for v in model.trainable_variables)
    for layer in model.layers[1:]:
        assert "call" not in vars(layer)


def test_projections_of_keras_attention_layers_are_counted():
    inputs = keras.Input((7, 6))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs))
    assert count_macs(model) == 4 * 7 * 6 * 2 * 3


def test_convnext_of_keras_applications():
    model = undrawn(lambda: keras.applications.ConvNeXtTiny(weights=None))
    assert count_macs(model) == pytest.approx(4.46e9, rel=0.01)  # Liu et al. (2022): 4.5 GFLOPs
    assert count_macs(model, (448, 448, 3)) == pytest.approx(4 * count_macs(model), rel=0.01)


@pytest.fixture
def pair():
    """Build a model with two inputs, a shared network, and two outputs."""
    left, right = keras.Input((8, 6, 3), name="left"), keras.Input((None, None, 3), name="right")
    network = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 1), layers.GlobalMaxPooling2D()])
    vectors = [network(left), network(right)]
    outputs = [layers.Dense(5, name="one")(vectors[0]), layers.Dense(2, name="two")(layers.Concatenate()(vectors))]
    return keras.Model({"left": left, "right": right}, outputs)


def test_several_inputs_and_outputs(pair):
    macs = 8 * 6 * 3 * 4 + 4 * 5 * 3 * 4 + 4 * 5 + 8 * 2
    shapes = [(8, 6, 3), (4, 5, 3)]
    assert count_macs(pair, shapes) == macs
    assert count_macs(pair, dict(zip(("left", "right"), shapes, strict=True))) == macs
    costs = count_macs(pair, shapes, per_layer=True)
    assert sum(cost.parameters for cost in costs) == pair.count_params(), "a shared layer's once"
    assert [cost.input_shape for cost in costs if cost.kind == "Concatenate"] == [[(None, 4), (None, 4)]]
    wrapped = keras.Model(pair.inputs, pair(dict(zip(("left", "right"), pair.inputs, strict=True))))
    assert count_macs(wrapped, shapes) == macs


@pytest.mark.parametrize(
    "shape", [None, (8, 6, 3), [(8, 6, 3)], [(8, 6, 3), (8, 6)], {"left": (8, 6, 3)}, [(8, 6, 3), (None, 6, 3)]]
)
def test_shapes_that_do_not_match_the_inputs(pair, shape):
    with pytest.raises(ValueError, match=r"Expected input_shape .*(received|size is unknown)"):
        count_macs(pair, shape)


def test_a_model_of_integers():
    inputs = keras.Input((None,), dtype="int32")
    model = keras.Model(inputs, layers.Dense(3)(layers.Embedding(10, 4)(inputs)))
    assert count_macs(model, (7,)) == 7 * 4 * 3


def test_an_unbuilt_sequential_model_stays_unbuilt():
    model = keras.Sequential([layers.Conv2D(4, 1), layers.Flatten()])
    assert count_macs(model, (8, 6, 3)) == 8 * 6 * 3 * 4
    assert not model.built
    with pytest.raises(ValueError, match=r"Expected input_shape for .*not built"):
        count_macs(model)
