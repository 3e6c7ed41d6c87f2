"""Training of gated attention: the overlap regulariser and scaled gradients."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, channels_last, forward, losses_of, random_array, randomise
from references import conv_reference, float64_weights, overlap_reference, softmax

from keras_resattn.layers import AttentionHead, GradientScale


@pytest.mark.parametrize(
    ("size", "activation"), [((7, 6), "softmax"), ((7, 6), "sigmoid"), ((1, 4), "softmax")], ids=str
)
def test_overlapping_heads_are_penalised(size, activation, data_format):
    x = random_array(3, *size, 4)
    received = x if data_format == "channels_last" else channels_first(x)
    layer = AttentionHead(3, activation, 0.7, name="mask")
    layer.build(received.shape)
    randomise(layer)
    masks = forward(layer, received)
    masks = masks if data_format == "channels_last" else channels_last(masks)
    expected = 0.7 * overlap_reference(masks.astype("float64"))
    (loss,) = losses_of(layer, received, training=True)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_single_head_and_inference_are_not_penalised():
    x = random_array(2, 6, 6, 4)
    layer = AttentionHead(2, regularization=0.5)
    assert len(losses_of(layer, x, training=True)) == 1
    assert losses_of(layer, x, training=False) == []
    assert losses_of(layer, x) == []
    assert losses_of(AttentionHead(1, regularization=0.5), x, training=True) == []
    assert losses_of(AttentionHead(2), x, training=True) == []


def test_losses_of_several_calls_do_not_add_up():
    x = random_array(2, 6, 6, 4)
    layer = AttentionHead(2, regularization=0.5)
    model = keras.Model(inputs := keras.Input((6, 6, 4)), layer(inputs))
    attributes = set(vars(layer))
    first = losses_of(model, x, training=True)
    assert losses_of(model, x, training=True) == first
    assert losses_of(layer, x, training=True) == first
    assert len(first) == 1
    assert set(vars(layer)) == attributes


def test_the_regulariser_joins_the_loss_in_fit_and_trains_the_masks():
    """The loss sees the masks through `GradientScale(0)`, so that only the regulariser trains them."""
    x, y = random_array(4, 6, 6, 4), np.zeros((4, 6, 6, 3), "float32")
    inputs = keras.Input((6, 6, 4))
    masks = AttentionHead(3, regularization=100.0, name="mask")(inputs)
    model = randomise(keras.Model(inputs, GradientScale(0.0)(masks)))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    kernel = float64_weights(model)["mask/conv/kernel"]

    def masks(kernel):
        return softmax(conv_reference(x.astype("float64"), kernel, pad=1), (1, 2))

    error, penalty = np.mean(masks(kernel) ** 2), 100 * overlap_reference(masks(kernel))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(error, rel=1e-5)
    history = model.fit(x, y, epochs=1, verbose=0).history
    assert history["loss"][0] == pytest.approx(error + penalty, rel=1e-5)
    step = kernel - float64_weights(model)["mask/conv/kernel"]
    direction = random_array(*kernel.shape, seed=7).astype("float64")
    ahead, behind = (100 * overlap_reference(masks(kernel + h * direction)) for h in (1e-5, -1e-5))
    assert (step * direction).sum() == pytest.approx((ahead - behind) / 2e-5, rel=1e-3)


# --- GradientScale -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0, 0.1, 1, 3.0])
def test_gradient_scale_returns_its_input_unchanged(scale):
    x = random_array(4, 5) * np.float32(10.0) ** random_array(4, 5, seed=1)
    x[0] = [0.0, 1e-37, 3e38, -3e38, 1.0]
    np.testing.assert_array_equal(forward(GradientScale(scale), x), x)


@pytest.mark.parametrize("scale", [1, 0.1, 0])
def test_gradient_scale_multiplies_the_gradient(scale):
    """One step of gradient descent on a layer whose output is read by a scaled and a direct layer, by hand."""
    x, y = random_array(8, 4), random_array(8, 4, seed=1)
    inputs = keras.Input((4,))
    below = keras.layers.Dense(3, use_bias=False, name="below")(inputs)
    scaled = keras.layers.Dense(2, use_bias=False, name="scaled")(GradientScale(scale)(below))
    direct = keras.layers.Dense(2, use_bias=False, name="direct")(below)
    model = randomise(keras.Model(inputs, keras.layers.Concatenate()([scaled, direct])))
    before = float64_weights(model)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, batch_size=8, verbose=0)

    h = x @ before["below/kernel"]
    residuals = np.concatenate([h @ before["scaled/kernel"], h @ before["direct/kernel"]], axis=1) - y
    gradient = 2 * residuals / y.size
    through_scaled = gradient[:, :2] @ before["scaled/kernel"].T
    through_direct = gradient[:, 2:] @ before["direct/kernel"].T
    after = float64_weights(model)
    steps = {path.removesuffix("/kernel"): before[path] - after[path] for path in before}
    assert_close(steps["below"], x.T @ (scale * through_scaled + through_direct), 2e-6)
    assert_close(steps["scaled"], h.T @ gradient[:, :2], 2e-6)
    assert_close(steps["direct"], h.T @ gradient[:, 2:], 2e-6)
    assert np.abs(x.T @ through_scaled).max() > 0.1
