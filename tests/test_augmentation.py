"""What happens to training images, drawn for each of them."""

import keras
import numpy as np
import pytest

from keras_resattn.data import augmentation
from keras_resattn.data.augmentation import AugmentationParams, draw_params
from keras_resattn.data.augmentation_layers import LayerAugmentation
from keras_resattn.data.labels import smooth_labels
from keras_resattn.data.normalization import array_statistics, normalize
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)
NOTHING = get_recipe("cifar_one_cycle").replace(pad=0, flip=False)


def drawn(n, size=(8, 8), seed=0, **fields):
    return draw_params(NOTHING.replace(**fields), n, size, np.random.default_rng(seed))


@pytest.mark.once
def test_a_plan_holds_what_the_recipe_does_and_nothing_else():
    assert drawn(4) == AugmentationParams()
    params = drawn(4, pad=2, flip=True, cutout=3, mixup=1.0)
    assert params.offsets.shape == params.cutout.shape == (4, 2)
    assert params.flips.shape == params.partner.shape == params.mix_weight.shape == (4,)
    assert params.crops is None
    assert params.boxes is None
    part = params.take([3, 1])
    np.testing.assert_array_equal(part.offsets, params.offsets[[3, 1]])
    np.testing.assert_array_equal(part.partner, params.partner[[3, 1]])


@pytest.mark.once
@pytest.mark.parametrize("pad_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("pad", [2, 9])
def test_crops_are_drawn_per_image_from_the_padded_one(pad, pad_mode):
    x = RNG.integers(1, 256, (64, 8, 10, 3), dtype="uint8")
    margins = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(x, margins) if pad_mode == "zeros" else np.pad(x, margins, "reflect")
    params = drawn(64, pad=pad)
    cropped = augmentation.crop_and_flip(x, params, pad, pad_mode)
    for one, dataset, (top, left) in zip(cropped, padded, params.offsets, strict=True):
        np.testing.assert_array_equal(one, dataset[top : top + 8, left : left + 10])
    assert (params.offsets.min(), params.offsets.max()) == (0, 2 * pad)
    assert len(np.unique(params.offsets, axis=0)) > 12, "64 draws from at least 25 places"
    assert cropped.dtype == np.uint8


@pytest.mark.once
def test_half_of_the_crops_are_mirrored():
    x = RNG.integers(0, 256, (400, 4, 5, 3), dtype="uint8")
    params = drawn(400, pad=1, flip=True)
    both = augmentation.crop_and_flip(x, params, 1)
    cropped = augmentation.crop_and_flip(x, AugmentationParams(offsets=params.offsets), 1)
    np.testing.assert_array_equal(both[params.flips], cropped[params.flips][:, :, ::-1])
    np.testing.assert_array_equal(both[~params.flips], cropped[~params.flips])
    assert 160 < params.flips.sum() < 240


@pytest.mark.once
def test_flips_alone_need_no_padding():
    x = RNG.integers(0, 256, (8, 4, 5, 3), dtype="uint8")
    params = drawn(8, flip=True)
    expected = np.where(params.flips[:, None, None, None], x[:, :, ::-1], x)
    np.testing.assert_array_equal(augmentation.crop_and_flip(x, params, pad=3), expected)


@pytest.mark.once
@pytest.mark.parametrize("recipe", [{"pad": 2, "flip": True}, {"mixup": 0.4}, {"cutmix": 1.0}])
def test_how_many_images_are_worked_on_at_once_changes_nothing(recipe, monkeypatch):
    x = RNG.normal(size=(20, 8, 10, 3)).astype("float32")
    params = drawn(20, (8, 10), **recipe)
    work = mixed if params.partner is not None else augmentation.crop_and_flip
    arguments = () if work is mixed else (2,)
    whole = work(x, params, *arguments)
    for values in (1, 3 * 240):
        monkeypatch.setattr(augmentation, "CHUNK_VALUES", values)
        np.testing.assert_array_equal(work(x, params, *arguments), whole)


@pytest.mark.once
def test_images_with_nothing_to_do_are_not_copied():
    x = np.zeros((2, 4, 4, 3), "uint8")
    assert augmentation.crop_and_flip(x, AugmentationParams()) is x


@pytest.mark.once
def test_inception_crops_have_a_uniform_area_and_a_log_uniform_ratio():
    area, ratio, y, x = drawn(4000, crop="inception").crops.T
    for values, low, high in (
        (area, 0.08, 1),
        (np.log(ratio), np.log(3 / 4), np.log(4 / 3)),
        (y, 0, 1),
        (x, 0, 1),
    ):
        counts = np.histogram(values, 4, (low, high))[0]
        np.testing.assert_allclose(counts, 1000, atol=120)  # four standard deviations
        assert counts.sum() == 4000, "all inside"


@pytest.mark.once
@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_blanks_a_square_around_any_pixel(size):
    x = np.ones((500, 8, 10, 3), "float32")
    centres = drawn(500, (8, 10), cutout=size).cutout
    augmentation.cutout(x, centres, size)
    blank = x == 0
    assert (blank.all(-1) == blank.any(-1)).all(), "all channels alike"
    assert blank[np.arange(500), centres[:, 0], centres[:, 1]].all()
    assert len(np.unique(centres, axis=0)) == 80, "any pixel is a centre"
    rows, columns = blank[..., 0].any(2), blank[..., 0].any(1)
    assert (blank[..., 0] == rows[:, :, None] & columns[:, None, :]).all(), "a rectangle"
    for sides in (rows.sum(1), columns.sum(1)):
        assert sides.max() == size
        assert sides.min() == size - size // 2, "where half of it reaches over the edge"


def one_hot(n, classes=4):
    return np.eye(classes, dtype="float32")[np.arange(n) % classes]


def mixed(x, params):
    return augmentation.mix(x.__getitem__, np.arange(len(x)), params.partner, params, x.shape[1:])


@pytest.mark.once
def test_mixup_averages_images_and_labels_by_the_same_shares():
    y = one_hot(64)
    x = np.ascontiguousarray(np.broadcast_to(y[:, None, None, :], (64, 5, 5, 4)))
    params = drawn(64, mixup=0.4)
    images, labels = mixed(x, params), augmentation.mix_labels(y, params)
    np.testing.assert_allclose(images, np.broadcast_to(labels[:, None, None, :], x.shape), atol=1e-6)
    np.testing.assert_allclose(labels.sum(1), np.ones(64), atol=1e-6)
    assert len(np.unique(params.mix_weight.round(4))) > 32, "a share for each image"
    assert sorted(params.partner) == list(range(64))
    assert (images.dtype, labels.dtype) == (np.float32, np.float32)
    assert (x == y[:, None, None, :]).all(), "never changed"


@pytest.mark.once
def test_cutmix_labels_are_the_areas():
    y = one_hot(64)
    x = np.ascontiguousarray(np.broadcast_to(y[:, None, None, :], (64, 10, 12, 4)))
    params = drawn(64, (10, 12), cutmix=1.0)
    images, labels = mixed(x, params), augmentation.mix_labels(y, params)
    assert set(np.unique(images)) == {0.0, 1.0}, "pixels come from one image or the other"
    np.testing.assert_allclose(labels, images.mean((1, 2)), atol=1e-6)
    assert np.mean(params.mix_weight < 0.99) > 0.2, "most are mixed"


@pytest.mark.once
def test_a_batch_gets_one_of_two_mixes():
    kinds = [drawn(4, mixup=1.0, cutmix=1.0, seed=seed).boxes is None for seed in range(40)]
    assert 10 < sum(kinds) < 30


@pytest.mark.once
def test_smoothing_spreads_a_share_over_all_classes():
    np.testing.assert_allclose(smooth_labels(np.array([2, 0]), 4, 0.2), [[0.05, 0.05, 0.85, 0.05], [0.85] + [0.05] * 3])


def layers(*augmentations):
    return tuple(keras.layers.serialize(layer) for layer in augmentations)


IMAGES = RNG.integers(0, 256, (6, 8, 8, 3), dtype="uint8")


def test_layers_of_keras_draw_by_the_given_seed_alone():
    recipe = layers(keras.layers.RandomBrightness(0.5), keras.layers.RandomFlip("vertical"))
    once, again = LayerAugmentation(recipe), LayerAugmentation(recipe)
    first = once(IMAGES, (0, 1, 2))
    other = once(IMAGES, (0, 1, 3))
    assert first.shape == IMAGES.shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert 200 < first.max() <= 255
    assert np.abs(first - IMAGES).max() > 1
    assert np.abs(first - other).max() > 1
    np.testing.assert_array_equal(again(IMAGES, (0, 1, 2)), first)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles each of its operations: many seconds")
@pytest.mark.filterwarnings("ignore:Tensor.T is deprecated on 0-D tensors:UserWarning")  # RandAugment's, on PyTorch
def test_layers_within_layers_draw_by_the_seed_too():
    """RandAugment holds a layer for each operation, and each of them a seed of its own."""
    recipe = layers(keras.layers.RandAugment((0, 255), num_ops=1, factor=1.0))
    augment, again = LayerAugmentation(recipe), LayerAugmentation(recipe)
    batches = [augment(IMAGES, (seed,)) for seed in range(4)]
    for seed in (2, 0):
        np.testing.assert_array_equal(again(IMAGES, (seed,)), batches[seed])
    assert len({batch.tobytes() for batch in batches}) > 1


def test_layers_of_keras_see_channels_last_whatever_the_setting():
    keras.config.set_image_data_format("channels_first")
    flip = layers(keras.layers.RandomFlip("vertical"))
    flipped = LayerAugmentation(flip)(IMAGES, (0,))
    assert keras.config.image_data_format() == "channels_first"
    kept = [np.array_equal(a, b) for a, b in zip(flipped, IMAGES, strict=True)]
    turned = [np.array_equal(a, b[::-1]) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(kept, turned, strict=True))
    assert any(turned)


@pytest.mark.once
@pytest.mark.parametrize("wrap", [lambda layer: layer, lambda layer: keras.layers.Pipeline([layer])])
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.MixUp, r"received: MixUp.*recipe's mixup or cutmix"),
        (keras.layers.CutMix, r"received: CutMix.*recipe's mixup or cutmix"),
        (keras.layers.AugMix, r"received: AugMix, which draws from Python's.*Use RandAugment"),
    ],
)
def test_layers_that_mix_images_or_cannot_be_repeated_are_refused(layer, message, wrap):
    with pytest.raises(ValueError, match=message):
        LayerAugmentation(layers(wrap(layer())))


def test_layers_that_change_the_size_are_refused():
    augment = LayerAugmentation(layers(keras.layers.CenterCrop(4, 4, name="crop")))
    with pytest.raises(ValueError, match=r"keep their shape \(6, 8, 8, 3\); received: CenterCrop, .* \(6, 4, 4, 3\)"):
        augment(IMAGES, (0,))


@pytest.mark.once
@pytest.mark.parametrize("normalization", ["channel", "pixel_mean", "unit", "imagenet", "none"])
def test_normalizations(normalization):
    x = RNG.integers(0, 256, (50, 6, 6, 3), dtype="uint8")
    mean, std = array_statistics(x, normalization)
    normalized = normalize(x, mean, std)
    expected = {
        "channel": (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)),
        "pixel_mean": x - x.mean(0),
        "unit": x / 255,
        "imagenet": (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "none": x,
    }[normalization]
    np.testing.assert_allclose(normalized, expected, atol=1e-4)
    assert normalized.dtype == np.float32


@pytest.mark.once
def test_normalising_changes_no_image_of_the_callers():
    x = np.ones((2, 3, 3, 1), "float32")
    assert (normalize(x, [1.0], [0.0]) == 0).all(), "a constant channel's deviation counts as 1"
    assert (x == 1).all()
    assert normalize(x[:0], [1.0], [1.0]).shape == (0, 3, 3, 1)


@pytest.mark.once
def test_imagenets_statistics_are_of_three_channels():
    with pytest.raises(ValueError, match=r"3 channels.*received: 1 channels"):
        array_statistics(np.zeros((2, 4, 4, 1), "uint8"), "imagenet")


@pytest.mark.once
def test_layers_of_keras_cv_are_refused_because_they_cannot_be_repeated():
    layer = {"module": "keras_cv.src.layers.preprocessing.grid_mask", "class_name": "GridMask", "config": {}}
    with pytest.raises(ValueError, match=r"keras_cv's GridMask, .* tf\.data\.Dataset"):
        LayerAugmentation([layer])


@pytest.mark.parametrize(
    ("layer", "message"),
    [(keras.layers.Rescaling(1 / 255), "between 0 and 255"), (keras.layers.Dense(3), "Dense, which has weights")],
)
def test_layers_that_do_not_augment_are_refused(layer, message):
    augment = LayerAugmentation([keras.layers.serialize(layer)])
    with pytest.raises(ValueError, match=message):
        augment(np.full((2, 8, 8, 3), 200, "uint8"), (0, 0, 0))
