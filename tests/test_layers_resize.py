"""`BilinearResize` and `CeilMaxPooling2D`, compared with NumPy references."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, channels_last, forward, random_array
from references import pool_reference, resize_reference

from keras_resattn.layers import BilinearResize, CeilMaxPooling2D, SoftMask

SIZE_PAIRS = [
    ((4, 4), (8, 8)),
    ((7, 7), (15, 15)),
    ((9, 9), (18, 18)),
    ((8, 8), (8, 8)),
    ((1, 1), (3, 3)),
    ((2, 2), (5, 5)),
    ((3, 5), (7, 10)),
    ((5, 1), (4, 6)),
    ((5, 4), (1, 1)),
]


@pytest.mark.parametrize(("size", "target"), SIZE_PAIRS)
def test_resize_aligns_corners(size, target, data_format):
    x = random_array(2, *size, 3)
    expected = resize_reference(x, *target)
    if data_format == "channels_last":
        resized = forward(BilinearResize(), [x, np.zeros((2, *target, 1), "float32")])
    else:
        resized = channels_last(forward(BilinearResize(), [channels_first(x), np.zeros((2, 1, *target), "float32")]))
    assert_close(resized, expected, 1e-6)
    corners = np.ix_([0, 1], [0, -1] if target[0] > 1 else [0], [0, -1] if target[1] > 1 else [0])
    assert_close(resized[corners], x[corners], 1e-6)


def test_resize_to_the_same_size_is_a_copy():
    x = random_array(1, 8, 8, 2)
    np.testing.assert_array_equal(forward(BilinearResize(), [x, x]), x)


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX computes in float32 unless it is configured otherwise"
)
def test_resize_keeps_double_precision():
    x = random_array(1, 4, 4, 2).astype("float64")
    resized = forward(BilinearResize(dtype="float64"), [x, np.zeros((1, 7, 9, 1))])
    assert resized.dtype == "float64"
    assert_close(resized, resize_reference(x, 7, 9), 1e-14)


def test_resize_of_integers_is_not_truncated():
    x = np.arange(4).reshape(1, 2, 2, 1)
    resized = forward(BilinearResize(), [x, np.zeros((1, 3, 3, 1))])
    assert_close(resized[0, :, :, 0], [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]])


def test_resize_uses_only_the_size_of_its_reference():
    x, size = random_array(1, 3, 4, 2), (1, 6, 9, 1)
    noise = forward(BilinearResize(), [x, 1e3 * random_array(*size)])
    np.testing.assert_array_equal(noise, forward(BilinearResize(), [x, np.zeros(size, "float32")]))


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4), (5, 5), (7, 4), (2, 9), (32, 15)])
@pytest.mark.parametrize("offset", [0, -10], ids=["signed", "all_negative"])
def test_pooling_rounds_up_as_in_caffe(size, offset, data_format):
    x = random_array(2, *size, 3) + np.float32(offset)
    expected = pool_reference(x)
    if data_format == "channels_last":
        pooled = forward(CeilMaxPooling2D(), x)
    else:
        pooled = channels_last(forward(CeilMaxPooling2D(), channels_first(x)))
    np.testing.assert_array_equal(pooled, expected)
    assert expected.shape[1:3] == (size[0] // 2, size[1] // 2)


@pytest.fixture
def dynamic_hourglass():
    """Return a model that multiplies by a kernel, pools, and resizes to the input size, for images of any size."""
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="scale")(inputs)
    model = keras.Model(inputs, BilinearResize()([CeilMaxPooling2D()(x), x]))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 4), (2, 3)])
def test_pooling_and_resize_of_dynamic_sizes(dynamic_hourglass, size):
    assert dynamic_hourglass.output_shape == (None, None, None, 1)
    x = random_array(2, *size, 1)
    assert_close(dynamic_hourglass.predict(x, verbose=0), resize_reference(pool_reference(x), *size), 1e-6)


def test_gradients_through_pooling_and_resize_of_dynamic_sizes(dynamic_hourglass):
    (kernel,) = dynamic_hourglass.get_layer("scale").trainable_weights
    scale = 1.0
    for size in [(8, 8), (7, 5)]:
        x = random_array(2, *size, 1)
        resized = resize_reference(pool_reference(x), *size)
        dynamic_hourglass.train_on_batch(x, np.zeros_like(x))
        scale -= 0.1 * 2 * scale * np.mean(resized**2)  # pooling and resizing are linear in a positive kernel
        assert_close(keras.ops.convert_to_numpy(kernel), np.full((1, 1, 1, 1), scale))


@pytest.mark.once
@pytest.mark.parametrize(
    "shapes",
    [(2, 4, 4, 3), [(2, 4, 4, 3)], [(2, 4, 4, 3)] * 3, [(2, 4, 4), (2, 8, 8)], [(2, 4, 4, 3), (2, 8, 8)]],
    ids=["one_tensor", "list_of_one", "three_tensors", "3d", "3d_reference"],
)
def test_resize_needs_two_maps(shapes):
    inputs = (
        [keras.Input(batch_shape=shape) for shape in shapes] if isinstance(shapes, list) else keras.Input(shapes[1:])
    )
    with pytest.raises(ValueError, match=r"\[x, reference\], two 4-D tensors; received shapes"):
        BilinearResize()(inputs)


@pytest.mark.once
@pytest.mark.parametrize("layer", [BilinearResize, CeilMaxPooling2D, lambda **kwargs: SoftMask(2, **kwargs)])
def test_unknown_data_format(layer):
    with pytest.raises(ValueError, match="'channels_last', 'channels_first' or None; received: data_format='NHWC'"):
        layer(data_format="NHWC")
