"""Arguments may be NumPy integers, as in shapes and sweeps; configurations hold Python integers, for JSON."""

import json

import keras
import numpy as np
import pytest
from helpers import undrawn
from networks import base_of, small_cnn

from keras_resattn import (
    WARN,
    ClutteredMnistCNN,
    ResidualAttentionNet,
    WideResNet,
    WideResNetAtt2,
    attend_and_rectify,
)

pytestmark = pytest.mark.once

COUNTS = {"attention_depth": 2, "attention_width": 2}
WIDE = {"depth": 10, "width": 1, "classes": 5, "input_shape": (32, 32, 3)}
STAGES = {"modules": [1, 0, 0], "mask_depth": (1, 1, 1), "widths": (32, 32, 32), "filters": (64, 64, 64)}
MODULES = {"p": 1, "t": 1, "r": 1, "bottom_units": 1, "local_units": 1, "classes": 5}


def rectified(**counts):
    return attend_and_rectify(base_of(small_cnn()), **counts)


def residual(**counts):
    return ResidualAttentionNet(topology="cifar", unit="resnext", weights=None, **counts)


@pytest.mark.parametrize(
    ("build", "counts"),
    [
        (WARN, {"weights": None, **WIDE, **COUNTS}),
        (WideResNet, {"weights": None, **WIDE}),
        (WideResNetAtt2, {"weights": None, **WIDE}),
        (ClutteredMnistCNN, {**COUNTS, "classes": 5, "input_shape": (40, 40, 1)}),
        (rectified, {**COUNTS, "classes": 5}),
        (residual, {**STAGES, **MODULES}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_numpy_integers_equal_python_integers(build, counts):
    models = [undrawn(build, **arguments) for arguments in (counts, keras.tree.map_structure(as_numpy, counts))]
    configs = [json.dumps([{**layer.get_config(), "name": ""} for layer in model.layers]) for model in models]
    assert configs[1] == configs[0]
    assert models[1].name == models[0].name
    again = undrawn(keras.models.model_from_json, json_string=models[1].to_json())
    assert again.output_shape == models[0].output_shape


def as_numpy(count):
    return count if count is None else np.int64(count)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float32(2)])
def test_values_that_are_not_integers(value):
    with pytest.raises(ValueError, match="Expected attention_width to be an integer of at least 1"):
        WARN(weights=None, attention_width=value)
