"""Wide ResNets in half precision, and in files."""

import functools
import json

import keras
import numpy as np
import pytest
from helpers import assert_close, copy_weights, forward, randomise, weights_by_path
from networks import WIDE_FAMILIES, narrow_wide, wide_body

from keras_resattn import WideResNet, WideResNetAtt2, evaluation, pretrained
from keras_resattn.utils.io import sha256


@pytest.mark.parametrize("build", WIDE_FAMILIES)
def test_classifier_computes_in_float32_under_a_mixed_policy(mixed_policy, build):
    model = narrow_wide(build)  # in this thread, like the policy
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers[1:]}
    assert dtypes.pop("predictions") == "float32"
    assert set(dtypes.values()) == {mixed_policy.removeprefix("mixed_")}
    assert model.output.dtype == "float32"


def test_half_precision_is_close_to_full_precision(images):
    full = randomise(narrow_wide(WideResNetAtt2))
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = narrow_wide(WideResNetAtt2)
    copy_weights(full, half)
    assert_close(forward(half, images), forward(full, images), 0.1)


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(narrow_wide, WideResNet, dropout=0.3),
        functools.partial(narrow_wide, WideResNetAtt2),
        wide_body,
    ],
    ids=["WideResNet", "WideResNetAtt2", "attended_body"],
)
def test_a_saved_network_loads_in_safe_mode(images, make, tmp_path):
    model = randomise(make())
    model.save(tmp_path / "network.keras")
    restored = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    for actual, expected in zip(*(keras.tree.flatten(forward(m, images)) for m in (restored, model)), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (WideResNet, {}),
        (WideResNet, {"dropout": 0.3}),
        (WideResNetAtt2, {}),
    ],
)
def test_a_weights_file_loads_with_and_without_top(tmp_path, build, arguments):
    path = tmp_path / "own.weights.h5"
    model = randomise(narrow_wide(build, **arguments))
    model.save_weights(path)
    values = weights_by_path(model)
    for include_top in (True, False):
        loaded = weights_by_path(narrow_wide(build, weights=path, include_top=include_top, **arguments))
        assert len(values) - len(loaded) == (0 if include_top else 2)
        for name, value in loaded.items():
            np.testing.assert_array_equal(value, values[name])


def test_a_file_of_another_network(tmp_path):
    narrow_wide(WideResNet).save_weights(tmp_path / "own.weights.h5")
    with pytest.raises(ValueError, match=r"group1_unit2/bn1 in .*It is another network's file"):
        narrow_wide(WideResNet, depth=16, weights=tmp_path / "own.weights.h5")


def test_a_released_folder_names_its_network_by_id(tmp_path):
    model = randomise(narrow_wide(WideResNet, classes=10))
    model.save_weights(tmp_path / "model.weights.h5")
    record = json.loads((pretrained.tags()[0].folder / "config.json").read_text())
    record |= {"network": "WideResNet-10-1", "sha256": sha256(tmp_path / "model.weights.h5")}
    (tmp_path / "config.json").write_text(json.dumps(record))
    loaded = evaluation.build(pretrained.Checkpoint.read(tmp_path))
    assert loaded.name == "wide_resnet_10_1"
    for path, value in weights_by_path(loaded).items():
        np.testing.assert_array_equal(value, weights_by_path(model)[path])
