"""`SoftMask` and its merge with the trunk by `AttentionResidual`, compared with NumPy references."""

import keras
import pytest
from helpers import (
    assert_close,
    by_format,
    channels_first,
    channels_last,
    forward,
    random_array,
    randomise,
    weights_by_path,
)
from references import ACTIVATIONS, chain_reference, float64_weights, hourglass_reference, linear_reference, sigmoid

from keras_resattn.layers import AttentionResidual, SoftMask

# --- SoftMask ------------------------------------------------------------------------------------


def built_mask(width, size, **arguments):
    mask = SoftMask(width, name="mask", **arguments)
    mask.build((None, *size, 4 * width))
    return randomise(mask)


@pytest.mark.parametrize(
    ("depth", "units", "bottom_units", "size"),
    [(1, 1, None, (7, 6)), (2, 1, None, (9, 8)), (3, 1, 1, (15, 18)), (2, 2, 3, (8, 8)), (1, 1, 1, (2, 3))],
)
def test_encoder_decoder_mask(depth, units, bottom_units, size):
    mask = built_mask(2, size, depth=depth, units=units, bottom_units=bottom_units)
    x = random_array(2, *size, 8)
    y = hourglass_reference(x.astype("float64"), float64_weights(mask), depth, units, bottom_units or 2 * units)
    assert_close(forward(mask, x), sigmoid(linear_reference(y, float64_weights(mask))))


def test_encoder_decoder_mask_of_post_activation_units(data_format):
    mask = SoftMask(32, depth=2, bottom_units=1, unit="resnext", filters=6, name="mask")
    x = random_array(2, 5, 4, 6)

    def call(x):
        mask.build(x.shape)
        return forward(randomise(mask), x)

    actual = by_format(call, x, data_format)
    y = hourglass_reference(x.astype("float64"), float64_weights(mask), 2, 1, 1, "resnext")
    assert_close(actual, sigmoid(linear_reference(y, float64_weights(mask))))
    assert not hasattr(mask, "bn1")


@pytest.mark.parametrize("local_units", [1, 3])
def test_local_mask(local_units):
    mask = built_mask(2, (5, 4), mask="local", local_units=local_units)
    x = random_array(2, 5, 4, 8)
    y = chain_reference(x.astype("float64"), float64_weights(mask), "mask/local_unit", local_units)
    assert_close(forward(mask, x), sigmoid(linear_reference(y, float64_weights(mask))))


@pytest.mark.parametrize("scale", [1, 1e-3], ids=["large", "as_small_as_epsilon"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mask_activation(activation, scale, data_format):
    mask = SoftMask(2, mask="local", local_units=1, activation=activation, name="mask")
    x = random_array(2, 5, 4, 8)
    received = x if data_format == "channels_last" else channels_first(x)
    mask.build(received.shape)
    randomise(mask)
    mask.linear2.kernel.assign(mask.linear2.kernel * scale)
    y = chain_reference(x.astype("float64"), float64_weights(mask), "mask/local_unit", 1)
    expected = ACTIVATIONS[activation](linear_reference(y, float64_weights(mask)))
    actual = forward(mask, received)
    assert_close(actual if data_format == "channels_last" else channels_last(actual), expected)


UNIT_NAMES = {
    (1, 1, None): "bottom_unit1 bottom_unit2",
    (2, 1, None): "down1_unit1 bottom_unit1 bottom_unit2 skip1 up1_unit1",
    (3, 1, None): "down1_unit1 down2_unit1 bottom_unit1 bottom_unit2 skip1 skip2 up1_unit1 up2_unit1",
    (
        2,
        2,
        None,
    ): "down1_unit1 down1_unit2 bottom_unit1 bottom_unit2 bottom_unit3 bottom_unit4 skip1 up1_unit1 up1_unit2",
    (2, 3, 3): "down1_unit1 down1_unit2 down1_unit3 bottom_unit1 bottom_unit2 bottom_unit3 skip1 "
    "up1_unit1 up1_unit2 up1_unit3",
}


@pytest.mark.once
@pytest.mark.parametrize(("counts", "names"), UNIT_NAMES.items())
def test_units_of_the_encoder_decoder_mask(counts, names):
    depth, units, bottom_units = counts
    mask = built_mask(1, (8, 8), depth=depth, units=units, bottom_units=bottom_units)
    found = {path.split("/")[1] for path in weights_by_path(mask)}
    assert found == {*names.split(), "bn1", "linear1", "bn2", "linear2"}
    bottom = bottom_units or 2 * units
    assert len(names.split()) == depth * units + (bottom - units) + (depth - 1) * (1 + units)


@pytest.mark.once
@pytest.mark.parametrize("local_units", [1, 3])
def test_units_of_the_local_mask(local_units):
    mask = built_mask(1, (8, 8), mask="local", local_units=local_units, depth=3)
    found = {path.split("/")[1] for path in weights_by_path(mask)}
    assert found == {*(f"local_unit{i + 1}" for i in range(local_units)), "bn1", "linear1", "bn2", "linear2"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "global"}, "mask to be one of 'encoder_decoder', 'local'; received: mask='global'"),
        ({"activation": "relu"}, "activation to be one of 'mixed', 'channel', 'spatial'; received: activation='relu'"),
        ({"unit": "basic"}, "unit to be one of 'preactivation'.*; received: unit='basic'"),
        ({"width": 0}, "width to be an integer of at least 1; received: width=0"),
        ({"width": 2.0}, "width to be an integer of at least 1; received: width=2.0"),
        ({"depth": 0}, "depth to be an integer of at least 1; received: depth=0"),
        ({"units": -1}, "units to be an integer of at least 1; received: units=-1"),
        ({"units": True}, "units to be an integer of at least 1; received: units=True"),
        ({"bottom_units": 0}, "bottom_units to be an integer of at least 1; received: bottom_units=0"),
        ({"local_units": 0}, "local_units to be an integer of at least 1; received: local_units=0"),
        ({"filters": 0}, "filters to be an integer of at least 1; received: filters=0"),
        ({"unit": "resnext"}, "width to be a multiple of groups=32; received: width=2"),
    ],
)
def test_mask_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftMask(**{"width": 2, **arguments})


@pytest.mark.once
@pytest.mark.parametrize(("depth", "size"), [(1, (1, 8)), (3, (7, 8)), (3, (8, 4)), (3, (None, 7))])
def test_mask_deeper_than_its_map(depth, size):
    least = 2**depth
    with pytest.raises(ValueError, match=f"at least {least} x {least} pixels.*depth {depth}; received: {size[0]} x"):
        SoftMask(2, depth=depth)(keras.Input((*size, 8)))


@pytest.mark.once
@pytest.mark.parametrize(("depth", "size"), [(1, (2, 2)), (3, (8, 9)), (3, (None, None))])
def test_mask_of_the_largest_depth_for_its_map(depth, size):
    assert SoftMask(2, depth=depth)(keras.Input((*size, 8))).shape == (None, *size, 8)


def test_local_mask_on_one_pixel():
    assert SoftMask(2, depth=3, mask="local")(keras.Input((1, 1, 8))).shape == (None, 1, 1, 8)


@pytest.mark.once
def test_mask_with_a_wrong_number_of_channels():
    with pytest.raises(ValueError, match="to have 8 channels, like its output; received: 6 channels"):
        SoftMask(2)(keras.Input((8, 8, 6)))


# --- AttentionResidual ---------------------------------------------------------------------------


@pytest.mark.parametrize(("learning", "factor"), [("residual", 1), ("naive", 0)])
def test_merge(learning, factor):
    trunk, mask = random_array(2, 3, 4, 5), random_array(2, 3, 4, 5, seed=1)
    assert_close(forward(AttentionResidual(learning), [trunk, mask]), (factor + mask) * trunk, 1e-6)


def test_merge_is_residual_by_default():
    assert AttentionResidual().learning == "residual"


@pytest.mark.once
def test_unknown_learning():
    with pytest.raises(ValueError, match="learning to be one of 'residual', 'naive'; received: learning='none'"):
        AttentionResidual("none")


@pytest.mark.once
@pytest.mark.parametrize("mask_shape", [(4, 4, 1), (8, 8, 6)])
def test_merge_of_different_shapes(mask_shape):
    with pytest.raises(ValueError, match=r"\[trunk, mask\] of equal shapes"):
        AttentionResidual()([keras.Input((4, 4, 6)), keras.Input(mask_shape)])
