"""Residual units, compared with NumPy references: outputs, weights, arguments."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    by_format,
    channels_first,
    channels_last,
    forward,
    random_array,
    randomise,
    undrawn,
    weights_by_path,
)
from references import (
    float64_weights,
    inception_unit_reference,
    next_unit_reference,
    unit_reference,
    wide_unit_reference,
)

from keras_resattn.layers import InceptionUnit, PostActivationUnit, PreActivationUnit, SoftMask, WideUnit

UNITS = {
    "identity": (16, 1, (7, 6)),
    "projection": (6, 1, (7, 6)),
    "stride_2_even": (16, 2, (8, 6)),
    "stride_2_odd": (6, 2, (7, 5)),
}


@pytest.mark.parametrize(("channels", "strides", "size"), UNITS.values(), ids=UNITS)
def test_unit(channels, strides, size, data_format):
    unit = PreActivationUnit(4, strides, name="unit")
    x = random_array(2, *size, channels)
    expected_shape = (2, -(-size[0] // strides), -(-size[1] // strides), 16)
    if data_format == "channels_last":
        unit.build(x.shape)
        y = forward(randomise(unit), x)
    else:
        unit.build(channels_first(x).shape)
        y = channels_last(forward(randomise(unit), channels_first(x)))
    assert_close(y, unit_reference(x.astype("float64"), float64_weights(unit), "unit", strides))
    assert y.shape == expected_shape
    assert (unit.projection is not None) == (strides == 2 or channels != 16)


def test_unit_weights():
    unit = PreActivationUnit(4, strides=2, name="unit")
    unit.build((None, 8, 8, 6))
    shapes = {variable.path: tuple(variable.shape) for variable in unit.trainable_weights}
    assert shapes == {
        **{f"unit/bn1/{name}": (6,) for name in ("gamma", "beta")},
        "unit/conv1/kernel": (1, 1, 6, 4),
        **{f"unit/bn2/{name}": (4,) for name in ("gamma", "beta")},
        "unit/conv2/kernel": (3, 3, 4, 4),
        **{f"unit/bn3/{name}": (4,) for name in ("gamma", "beta")},
        "unit/conv3/kernel": (1, 1, 4, 16),
        "unit/projection/kernel": (1, 1, 6, 16),
    }


# Function that creates the unit, number of output channels, and reference.
OTHER_UNITS = {
    "next": (
        lambda strides: PostActivationUnit(8, strides, groups=4, name="unit"),
        16,
        lambda *arguments: next_unit_reference(*arguments, groups=4),
    ),
    "inception": (lambda strides: InceptionUnit(3, strides, 10, name="unit"), 10, inception_unit_reference),
    "wide": (lambda strides: WideUnit(6, strides, dropout=0.5, name="unit"), 6, wide_unit_reference),
}


@pytest.mark.parametrize("strides", [1, 2], ids=["identity", "stride_2"])
@pytest.mark.parametrize(("make", "filters", "reference"), OTHER_UNITS.values(), ids=OTHER_UNITS)
def test_other_units(make, filters, reference, strides, data_format):
    unit, x = make(strides), random_array(2, 7, 6, filters if strides == 1 else 5)

    def call(x):
        unit.build(x.shape)
        return forward(randomise(unit), x)

    y = by_format(call, x, data_format)
    assert_close(y, reference(x.astype("float64"), float64_weights(unit), "unit", strides))
    assert y.shape == ((2, 7, 6, filters) if strides == 1 else (2, 4, 3, filters))
    assert (unit.projection is None) == (strides == 1)


def test_preactivated_wide_unit(data_format):
    unit = WideUnit(6, strides=2, preactivated=True, name="unit")
    x, activated = random_array(2, 7, 6, 5), np.abs(random_array(2, 7, 6, 5, seed=1))

    def call(inputs):
        unit.build([array.shape for array in inputs])
        return forward(randomise(unit), inputs)

    y = by_format(call, [x, activated], data_format)
    expected = wide_unit_reference(x.astype("float64"), float64_weights(unit), "unit", 2, activated.astype("float64"))
    assert_close(y, expected)
    assert {path.split("/")[1] for path in weights_by_path(unit)} == {"conv1", "bn2", "conv2", "projection"}


def test_wide_unit_drops_whole_channels():
    unit = WideUnit(64, dropout=0.5, name="unit")
    x = random_array(1, 4, 4, 64)
    unit.build(x.shape)
    unit.bn2.beta.assign(np.full(64, 9.0))  # all values are positive before dropout
    unit.conv2.kernel.assign(np.pad(np.eye(64)[None, None], [(1, 1), (1, 1), (0, 0), (0, 0)]))  # conv2 copies its input
    branch = keras.ops.convert_to_numpy(unit(x, training=True)) - x
    dropped = np.all(np.abs(branch) < 1e-5, axis=(0, 1, 2))
    assert 16 < dropped.sum() < 48
    assert np.all(branch[..., ~dropped] > 1)


NEXT_UNIT = {
    "conv1/kernel": (1, 1, 6, 4),
    "bn1": 4,
    "conv2/kernel": (3, 3, 2, 4),
    "bn2": 4,
    "conv3/kernel": (1, 1, 4, 8),
    "bn3": 8,
    "projection/kernel": (1, 1, 6, 8),
    "projection_bn": 8,
}


INCEPTION_UNIT = {
    "bn1": 6,
    "branch1_conv1/kernel": (1, 1, 6, 2),
    "branch1_bn1": 2,
    "branch2_conv1/kernel": (1, 1, 6, 2),
    "branch2_bn1": 2,
    "branch2_conv2/kernel": (3, 3, 2, 2),
    "branch2_bn2": 2,
    "branch3_conv1/kernel": (1, 1, 6, 2),
    "branch3_bn1": 2,
    "branch3_conv2/kernel": (3, 3, 2, 2),
    "branch3_bn2": 2,
    "branch3_conv3/kernel": (3, 3, 2, 2),
    "branch3_bn3": 2,
    "conv/kernel": (1, 1, 6, 16),
    "projection/kernel": (1, 1, 6, 16),
}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: PostActivationUnit(4, 2, groups=2, name="unit"), NEXT_UNIT),
        (lambda: InceptionUnit(2, 2, name="unit"), INCEPTION_UNIT),
    ],
    ids=["next", "inception"],
)
def test_weights_of_other_units(make, expected):
    unit = make()
    undrawn(unit.build, input_shape=(None, 8, 8, 6))
    shapes = {variable.path.removeprefix("unit/"): tuple(variable.shape) for variable in unit.trainable_weights}
    kernels = {name: shape for name, shape in expected.items() if "/" in name}
    norms = {f"{name}/{part}": (c,) for name, c in expected.items() if "/" not in name for part in ("gamma", "beta")}
    assert shapes == kernels | norms


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreActivationUnit(0), "width to be an integer of at least 1; received: width=0"),
        (lambda: PreActivationUnit(2, 0), "strides to be an integer of at least 1; received: strides=0"),
        (lambda: InceptionUnit(2, 1, 0), "filters to be an integer of at least 1; received: filters=0"),
        (lambda: PostActivationUnit(48), "width to be a multiple of groups=32; received: width=48"),
        (lambda: PostActivationUnit(4, groups=0), "groups to be an integer of at least 1; received: groups=0"),
        (lambda: WideUnit(2.0), "filters to be an integer of at least 1; received: filters=2.0"),
        (lambda: WideUnit(2, dropout=1), "dropout to be a number from 0 to below 1; received: dropout=1"),
        (lambda: WideUnit(2, dropout="0.3"), "dropout to be a number from 0 to below 1; received: dropout='0.3'"),
        (
            lambda: WideUnit(2, preactivated=True)(keras.Input((4, 4, 2))),
            r"called on \[x, relu\(bn\(x\)\)\], two maps of equal shapes; received shapes",
        ),
    ],
)
def test_unit_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: PreActivationUnit(2), lambda: SoftMask(2)], ids=["unit", "mask"])
def test_a_layer_saved_without_filters_still_loads(make):
    config = make().get_config()
    assert config.pop("filters") == 8
    assert type(make()).from_config(config).filters == 8


def test_batch_normalisation_has_momentum_0_9():
    unit = PreActivationUnit(2, name="unit")
    x = 3 + 2 * random_array(4, 5, 5, 8)
    unit(x, training=True)
    statistics = weights_by_path(unit)
    assert_close(statistics["unit/bn1/moving_mean"], 0.1 * x.mean((0, 1, 2)))
    assert_close(statistics["unit/bn1/moving_variance"], 0.9 + 0.1 * x.var((0, 1, 2)))
