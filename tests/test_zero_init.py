"""Networks whose residual branches start at zero."""

import keras
import numpy as np
import pytest
from helpers import forward, random_array, tiny

from keras_resattn import zero_init_residual
from keras_resattn.layers import InceptionUnit, PostActivationUnit, PreActivationUnit, SoftMask, WideUnit
from keras_resattn.layers.residual import UNITS


@pytest.mark.parametrize("unit", [PreActivationUnit, PostActivationUnit, InceptionUnit, WideUnit])
def test_a_unit_starts_as_its_shortcut(unit):
    inputs = keras.Input((4, 4, 64))
    options = {"width": 32, "filters": 64} if unit is not WideUnit else {"filters": 64}
    model = keras.Model(inputs, unit(**options, data_format="channels_last")(inputs))
    x = random_array(2, 4, 4, 64)
    shortcut = np.maximum(x, 0) if unit is PostActivationUnit else x
    assert np.abs(forward(model, x) - shortcut).max() > 0.01
    zero_init_residual(model)
    np.testing.assert_allclose(forward(model, x), shortcut, atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_units_inside_masks_start_at_zero_too(unit):
    inputs = keras.Input((8, 8, 64))
    mask = SoftMask(32, unit=unit, filters=64, data_format="channels_last")
    zero_init_residual(keras.Model(inputs, mask(inputs)))
    last = getattr(mask.bottom_unit1, mask.bottom_unit1.last)
    assert not np.any(keras.ops.convert_to_numpy(last.trainable_variables[0]))


def test_a_network_without_residual_units():
    with pytest.raises(ValueError, match="Expected a network with residual units"):
        zero_init_residual(tiny())
