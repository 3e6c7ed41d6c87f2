"""Layers of a spatial transformer, compared with the NumPy references in this file."""

import keras
import numpy as np
import pytest
from helpers import assert_close, channels_first, channels_last, forward, random_array

from keras_resattn.layers import AffineGrid, BilinearSampler

IDENTITY = (1, 0, 0, 0, 1, 0)


def grid_reference(theta, height, width):
    """Corner pixels are at -1 and 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    points = np.stack([x, y, np.ones_like(x)])
    return np.moveaxis(np.einsum("nij,jhw->nihw", np.reshape(theta, (-1, 2, 3)), points), 1, -1)


def sample_reference(image, grid):
    """Interpolate each point between its four neighbours; pixels outside the image are zero."""
    _, height, width, channels = image.shape
    sampled = np.zeros((*grid.shape[:3], channels))
    for n, i, j in np.ndindex(*grid.shape[:3]):
        column, row = (grid[n, i, j] + 1) / 2 * (width - 1, height - 1)
        for y in (int(np.floor(row)), int(np.floor(row)) + 1):
            for x in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= y < height and 0 <= x < width:
                    sampled[n, i, j] += (1 - abs(row - y)) * (1 - abs(column - x)) * image[n, y, x]
    return sampled


def thetas(*rows):
    return np.array(rows, "float32")


def transformed(image, theta):
    """Resample each image on the grid of its own `theta`."""
    return forward(BilinearSampler(), [image, forward(AffineGrid(), [theta, image])])


# --- AffineGrid ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 5), (1, 3)])
def test_grid(size, data_format):
    theta = random_array(3, 6)
    shape = (3, *size, 2) if data_format == "channels_last" else (3, 2, *size)
    expected = grid_reference(theta, *size)
    if size[0] == 1:  # a single row is in the middle
        expected = (grid_reference(theta, 3, size[1]))[:, 1:2]
    assert_close(forward(AffineGrid(), [theta, np.zeros(shape, "float32")]), expected, 1e-6)


def test_grid_of_the_identity_runs_from_corner_to_corner():
    grid = forward(AffineGrid(), [thetas(IDENTITY), np.zeros((1, 3, 5, 1), "float32")])
    np.testing.assert_array_equal(grid[0, 0, :, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(grid[0, :, 0, 1], [-1, 0, 1])


# --- BilinearSampler -----------------------------------------------------------------------------


def test_identity_returns_the_image_exactly():
    image = random_array(2, 5, 9, 2)
    np.testing.assert_array_equal(transformed(image, thetas(IDENTITY, IDENTITY)), image)


def test_identity_of_any_size_returns_the_image_up_to_rounding():
    image = random_array(1, 40, 39, 2)
    assert_close(transformed(image, thetas(IDENTITY)), image, 1e-5)


def test_translation_by_pixels_shifts_the_image_and_fills_with_zeros():
    image = random_array(2, 5, 9, 2)
    moved = transformed(image, thetas((1, 0, 2 * 3 / 8, 0, 1, 0), (1, 0, 0, 0, 1, -2 * 1 / 4)))
    expected = np.zeros_like(image)
    expected[0, :, :6] = image[0, :, 3:]
    expected[1, 1:] = image[1, :4]
    np.testing.assert_array_equal(moved, expected)


def test_scaling_skips_pixels_or_interpolates():
    image = random_array(2, 5, 9, 2)
    reduced, enlarged = transformed(image, thetas((2, 0, 0, 0, 2, 0), (0.25, 0, 0, 0, 0.25, 0)))
    expected = np.zeros_like(reduced)
    expected[1:4, 2:7] = image[0, ::2, ::2]
    np.testing.assert_array_equal(reduced, expected)
    assert_close(enlarged[0, 0], image[1, 1:3, 3].mean(axis=0), 1e-6)
    np.testing.assert_array_equal(enlarged[2, 4], image[1, 2, 4])


@pytest.mark.parametrize("scale", [0.5, 1.5, 100])
def test_sampling(scale, data_format):
    image, grid = random_array(3, 6, 5, 2), scale * random_array(3, 4, 7, 2, seed=1)
    expected = sample_reference(image, grid)
    if data_format == "channels_last":
        sampled = forward(BilinearSampler(), [image, grid])
    else:
        sampled = channels_last(forward(BilinearSampler(), [channels_first(image), grid]))
    assert_close(sampled, expected, 1e-5)


def test_sampling_at_the_edge():
    image = np.ones((1, 3, 3, 1), "float32")
    at = np.array([-9, -2, -1.5, -1, -0.3, 1, 1.5, 2, 9], "float32")
    grid = np.stack([at, np.zeros_like(at)], axis=-1)[None, None]
    expected = [0, 0, 0.5, 1, 1, 1, 0.5, 0, 0]
    np.testing.assert_array_equal(forward(BilinearSampler(), [image, grid])[0, 0, :, 0], expected)


@pytest.fixture
def dynamic_model():
    """Build the layers for images of any size; one trainable layer scales the image, another changes theta."""
    image, theta = keras.Input((None, None, 1)), keras.Input((6,))
    scaled = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="image")(image)
    changed = keras.layers.Dense(6, kernel_initializer="identity", name="theta")(theta)
    sampled = BilinearSampler()([scaled, AffineGrid()([changed, image])])
    model = keras.Model([image, theta], sampled)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=keras.backend.backend() == "jax")
    return model


def test_dynamic_sizes_and_gradients(dynamic_model):
    """SGD with learning rate 1 changes each weight by its gradient, which is compared with finite differences."""
    assert dynamic_model.output_shape == (None, None, None, 1)
    image, theta = random_array(3, 6, 5, 1), thetas(IDENTITY) + 0.2 * random_array(3, 6, seed=1)
    target = random_array(3, 6, 5, 1, seed=2)

    def loss(scale=1.0, shift=0.0):
        return np.mean((scale * sample_reference(image, grid_reference(theta + shift, 6, 5)) - target) ** 2)

    step = 1e-5
    expected = [(loss(shift=row) - loss(shift=-row)) / (2 * step) for row in step * np.eye(6)]
    assert_close(dynamic_model.train_on_batch([image, theta], target), loss())
    assert_close(dynamic_model.get_layer("theta").bias, -np.array(expected), 1e-3)
    kernel = dynamic_model.get_layer("image").kernel
    assert_close(kernel, np.full((1, 1, 1, 1), 1 - (loss(1 + step) - loss(1 - step)) / (2 * step)), 1e-3)


# --- Both ----------------------------------------------------------------------------------------


def test_coordinates_stay_in_full_precision(mixed_policy):
    image, theta = random_array(1, 5, 900, 1), thetas((0.9, 0.1, 0.01, -0.1, 0.8, 0.02))
    grid = AffineGrid()([theta, image])
    assert keras.backend.standardize_dtype(grid.dtype) == "float32"
    sampled = BilinearSampler()([image, grid])
    assert keras.backend.standardize_dtype(sampled.dtype) == mixed_policy.removeprefix("mixed_")
    expected = sample_reference(image, grid_reference(theta, 5, 900))
    rounding = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[mixed_policy]
    assert_close(keras.ops.convert_to_numpy(keras.ops.cast(sampled, "float32")), expected, rounding)


@pytest.mark.once
@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (AffineGrid, [(2, 5), (2, 4, 4, 1)], r"\[theta, reference\], of shape \(n, 6\) and 4-D; received shapes"),
        (AffineGrid, [(2, 6), (2, 4, 4)], "received shapes"),
        (AffineGrid, [(2, 6)], "received shapes"),
        (BilinearSampler, [(2, 4, 4, 1), (2, 4, 4, 3)], r"\[image, grid\], 4-D and of shape \(n, H, W, 2\); received"),
        (BilinearSampler, [(2, 4, 4), (2, 4, 4, 2)], "received shapes"),
        (BilinearSampler, [(2, 4, 4, 1)], "received shapes"),
    ],
)
def test_layers_need_two_tensors(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer()([keras.Input(batch_shape=shape) for shape in shapes])


@pytest.mark.once
@pytest.mark.parametrize("layer", [AffineGrid, BilinearSampler])
def test_unknown_data_format(layer):
    with pytest.raises(ValueError, match="received: data_format='NHWC'"):
        layer(data_format="NHWC")
