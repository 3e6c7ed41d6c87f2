"""Progressive image sizes: a recipe that shows small images first."""

import keras
import numpy as np
import pytest
from helpers import random_array, weights_of
from PIL import Image
from resuming import Killed, killed_at

from keras_resattn import compile_and_fit
from keras_resattn.data import ArrayDataset
from keras_resattn.data.normalization import normalize
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (40, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 40)
# 3 epochs of 5 steps: steps 0 to 5 at 16 pixels, 6 to 8 at 24, the rest at 32.
RECIPE = get_recipe("cifar_one_cycle").replace(
    epochs=3,
    batch_size=8,
    warmup_epochs=1,
    learning_rate=0.05,
    crop="inception",
    crop_area=(0.5, 1),
    ema=0.5,
    image_sizes=((0, 16), (0.4, 24), (0.6, 32)),
)
STEPS_BY_SIZE = {16: range(6), 24: range(6, 9), 32: range(9, 15)}


def network():
    """A classifier of images of any size into 3 classes; its weights are always the same."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="open_size")
    for i, layer in enumerate(model.layers):
        if hasattr(layer, "kernel"):
            layer.kernel.assign(0.3 * random_array(*layer.kernel.shape, seed=i))
    return model


def train(run_dir=None, recipe=RECIPE, **arguments):
    model = network()
    report = compile_and_fit(model, recipe, (X, Y), validation_data=(X, Y), run_dir=run_dir, verbose=0, **arguments)
    return model, report


def identity(x):
    return np.asarray(x, "float32")


@pytest.mark.once
def test_each_step_has_the_size_of_its_part_of_the_run():
    batches = TrainingBatches(ArrayDataset(X, Y), RECIPE, identity, size=(32, 32), classes=3, workers=0)
    sizes = {step: side for side, steps in STEPS_BY_SIZE.items() for step in steps}
    for step, side in sizes.items():
        assert RECIPE.image_size(step, steps_per_epoch=5) == side
        assert batches[step][0].shape == (8, side, side, 3)


@pytest.mark.once
def test_crops_are_resized_as_pillow_does():
    recipe = RECIPE.replace(flip=False)
    batches = TrainingBatches(ArrayDataset(X, Y), recipe, identity, size=(32, 32), classes=3, workers=0)
    images, _ = batches[0]
    for image, row, (area, ratio, y, x) in zip(
        images, batches.indices(0), batches.augmentation_params(0).crops, strict=True
    ):
        width = min(32, np.sqrt(area * 32 * 32 * ratio))
        height = min(32, np.sqrt(area * 32 * 32 / ratio))
        left, top = x * (32 - width), y * (32 - height)
        expected = Image.fromarray(X[row]).resize(
            (16, 16), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
        )
        assert np.abs(image - np.asarray(expected, "float32")).max() <= 3  # a box of whole pixels or not


@pytest.mark.once
def test_crops_have_the_area_that_the_recipe_says():
    batches = TrainingBatches(ArrayDataset(X, Y), RECIPE, identity, size=(32, 32), classes=3, workers=0)
    areas = np.concatenate([batches.augmentation_params(step).crops[:, 0] for step in range(15)])
    assert 0.5 <= areas.min() < 0.55 < 0.95 < areas.max() <= 1


@pytest.mark.once
def test_padded_crops_are_resized_first():
    recipe = RECIPE.replace(crop="pad", flip=False, pad=0)
    images, _ = TrainingBatches(ArrayDataset(X, Y), recipe, identity, size=(32, 32), classes=3, workers=0)[0]
    row = TrainingBatches(ArrayDataset(X, Y), recipe, identity, size=(32, 32), classes=3, workers=0).indices(0)[0]
    expected = Image.fromarray(X[row]).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[0], np.asarray(expected, "float32"))


@pytest.fixture(scope="module")
def unbroken():
    model, report = train()
    return weights_of(model), report.history


def test_the_log_names_the_size_of_each_epoch(unbroken):
    _, history = unbroken
    assert [row["image_size"] for row in history] == [16, 32, 32]
    assert all(np.isfinite(row["val_loss"]) for row in history)


def test_images_of_several_sizes_have_weights(unbroken):
    model = network()
    compile_and_fit(model, RECIPE, (X, Y, np.ones(40, "float32")), validation_data=(X, Y), verbose=0)
    for a, b in zip(weights_of(model), unbroken[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.once), 8, pytest.param(12, marks=pytest.mark.once)])
def test_a_killed_run_resumes_at_its_size(tmp_path, unbroken, step):
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(step), checkpoint_steps=1)
    model, report = train(tmp_path, checkpoint_steps=1)
    for a, b in zip(weights_of(model), unbroken[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert [row["loss"] for row in report.history] == [row["loss"] for row in unbroken[1]]


@pytest.mark.once
@pytest.mark.parametrize(
    ("sizes", "received"),
    [
        (((0.1, 16),), "0.1"),
        (((0, 16), (0, 24)), "24"),
        (((0, 16), (1, 24)), "24"),
        (((0, 16.5),), "16.5"),
        (((0, 0),), "0"),
        ((16, 24), "16"),
        ("16", "16"),
        ({0: 16}, "16"),
    ],
)
def test_sizes_that_are_no_schedule_are_refused(sizes, received):
    with pytest.raises(ValueError, match=f"Expected image_sizes of a recipe.*received.*{received}"):
        RECIPE.replace(image_sizes=sizes)


@pytest.mark.once
@pytest.mark.parametrize("area", [(0, 1), (0.5, 1.1), (0.9, 0.5), 0.5, (0.5,), ("a", 1)])
def test_areas_that_are_no_range_are_refused(area):
    with pytest.raises(ValueError, match="Expected crop_area of a recipe"):
        RECIPE.replace(crop_area=area)


@pytest.mark.once
def test_sizes_survive_json():
    assert type(RECIPE).from_json(RECIPE.to_json()) == RECIPE


@pytest.mark.once
def test_what_has_one_size_is_refused():
    fixed = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"variable size.*input_shape=\(None, None, 3\)"):
        compile_and_fit(fixed, RECIPE, (X, Y), verbose=0)
    with pytest.raises(ValueError, match="image_sizes"):
        compile_and_fit(network(), RECIPE.replace(crop="pad"), (X, Y), verbose=0, device_data=True)
    with pytest.raises(ValueError, match="empty with normalization='pixel_mean'"):
        RECIPE.replace(normalization="pixel_mean")


@pytest.mark.once
def test_images_are_normalised_whatever_their_size():
    batches = TrainingBatches(
        ArrayDataset(X, Y), RECIPE, lambda x: normalize(x, [10, 20, 30], [2, 2, 2]), size=(32, 32), classes=3, workers=0
    )
    raw = TrainingBatches(ArrayDataset(X, Y), RECIPE, identity, size=(32, 32), classes=3, workers=0)
    np.testing.assert_allclose(batches[0][0], (raw[0][0] - [10, 20, 30]) / 2, atol=1e-4)
