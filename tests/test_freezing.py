"""Frozen layers stay frozen: whole composites, parts of them, and batch normalization, however a model is rebuilt."""

import json

import keras
import numpy as np
import pytest
from helpers import random_array, weights_by_path
from layer_cases import LAYERS, OTHERS

from keras_resattn import freeze_batch_norm, iter_layers, layers
from keras_resattn.layers.composite import CompositeLayer

CASES = {**LAYERS, **OTHERS}
COMPOSITES = [name for name, (make, _) in CASES.items() if isinstance(make(), CompositeLayer)]


def built(layer, name):
    shapes = [(None, *shape) for shape in CASES[name][1]]
    layer.build(shapes if len(shapes) > 1 else shapes[0])
    return layer


def rebuilt(layer):
    return type(layer).from_config(json.loads(json.dumps(layer.get_config())))


def flags(layer):
    """Return which layers and which variables are frozen."""
    frozen = [part.trainable for part in (layer, *iter_layers(layer))]
    return frozen, [variable.trainable for variable in layer.weights]


@pytest.mark.once
@pytest.mark.parametrize("name", COMPOSITES)
def test_frozen_composites_are_rebuilt_frozen(name):
    make, _ = CASES[name]
    layer = built(make(), name)
    layer.trainable = False
    for again in (rebuilt(layer), rebuilt(rebuilt(layer)), make(trainable=False)):
        assert flags(built(again, name)) == flags(layer)
    assert not any(variable.trainable for variable in again.weights)
    assert "sublayer_settings" not in layer.get_config()


@pytest.mark.once
@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen_parts", "trained_parts"])
def test_settings_of_single_sublayers_are_restored(name, frozen):
    layer = built(CASES[name][0](), name)
    layer.trainable = frozen
    for part in list(iter_layers(layer))[::2]:
        part.trainable = not frozen
    assert flags(built(rebuilt(layer), name)) == flags(layer)
    assert rebuilt(layer).get_config() == layer.get_config(), "also before it is built"
    thawed = rebuilt(layer)
    thawed.trainable = False  # on TensorFlow, Keras ignores a setting that does not change the layer itself
    thawed.trainable = True
    assert all(flags(built(thawed, name))[0]), "the last setting counts, for layers that are made later too"


@pytest.mark.once
def test_settings_of_an_unknown_sublayer():
    unit = layers.PreActivationUnit(2, sublayer_settings={"bn9": {"trainable": False}})
    with pytest.raises(ValueError, match=r"Expected sublayer_settings of .* bn1, conv1.*; received: 'bn9'"):
        unit.build((None, 8, 8, 8))


# --- A model in a model, and all ways to rebuild it ----------------------------------------------


@pytest.fixture
def backbone():
    """Build a unit that adds its projection in `build`, a mask, and a batch normalisation."""
    inputs = keras.Input((8, 8, 4))
    x = layers.PreActivationUnit(2, name="unit1")(inputs)
    mask = layers.SoftMask(2, units=1, bottom_units=1, name="mask")(x)
    x = layers.AttentionResidual(name="merge")([x, mask])
    x = keras.layers.BatchNormalization(name="post_bn")(layers.WideUnit(4, strides=2, name="unit2")(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="backbone")


def through_file(ending):
    def through(model, folder):
        model.save(folder / f"model.{ending}")
        return keras.models.load_model(folder / f"model.{ending}", compile=False)

    return through


def cloned(model, folder):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def from_config(model, folder):
    again = type(model).from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    return again


WAYS = {"keras": through_file("keras"), "h5": through_file("h5"), "clone": cloned, "config": from_config}
FREEZE = {
    "whole": lambda backbone: setattr(backbone, "trainable", False),
    "batch_norm": freeze_batch_norm,
    "one_unit": lambda backbone: setattr(backbone.get_layer("unit1"), "trainable", False),
}


def trained_paths(model):
    return sorted(variable.path.split("/", 1)[-1] for variable in model.trainable_variables)


@pytest.mark.once
@pytest.mark.parametrize("way", WAYS)
def test_rebuilt_models_have_the_same_frozen_layers(backbone, way, tmp_path):
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, keras.layers.Dense(2, name="top")(backbone(inputs)))
    everything = len(model.trainable_variables)
    for freeze in FREEZE.values():
        backbone.trainable = True
        freeze(backbone)
        again = WAYS[way](model, tmp_path)
        assert trained_paths(again) == trained_paths(model)
        assert 2 <= len(again.trainable_variables) < everything
        for weight, original in zip(again.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, original)


def test_freeze_batch_norm_finds_all_batch_normalisation(backbone):
    norms = [layer for layer in iter_layers(backbone) if isinstance(layer, keras.layers.BatchNormalization)]
    assert freeze_batch_norm(backbone) == len(norms) == sum("moving_mean" in path for path in weights_by_path(backbone))
    assert len(norms) > 10 > len([layer for layer in backbone.layers if layer in norms])


def test_frozen_batch_norm_keeps_its_statistics_in_fit_and_after_loading(tmp_path):
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.PreActivationUnit(2), layers.BatchNormalization()])
    model = keras.Sequential([inner, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    assert freeze_batch_norm(model) == 4
    for _ in range(2):
        before = weights_by_path(model)
        model.compile("sgd", "mse", jit_compile=False)
        model.fit(3 + random_array(4, 8, 8, 4), random_array(4, 2), verbose=0)
        after = weights_by_path(model)
        changed = [path for path in before if not np.array_equal(before[path], after[path])]
        assert changed
        assert [path for path in changed if "/bn" in path or "batch_normalization" in path] == []
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")


# --- Walking a model -----------------------------------------------------------------------------


@pytest.mark.once
def test_iter_layers_visits_layers_inside_all_kinds_of_layers():
    shared = keras.layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared, layers.GlobalGate(4, name="gate")], name="inner")
    inputs = keras.Input((3, 4))
    x = keras.layers.TimeDistributed(shared, name="wrapper")(inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(2, name="lstm"), name="both")(x)
    model = keras.Model(inputs, inner(x))
    found = list(iter_layers(model))
    names = [layer.name for layer in found]
    assert len({id(layer) for layer in found}) == len(found), "each layer once"
    expected = {"shared", "wrapper", "both", "inner", "gate", "linear", "bn"}
    assert expected <= set(names)
    assert model.name not in names
    assert names.index("inner") < names.index("gate") < names.index("linear")
    assert freeze_batch_norm(layers.BatchNormalization()) == 1
    assert freeze_batch_norm(keras.Sequential([keras.layers.Dense(2)])) == 0


@pytest.mark.once
@pytest.mark.parametrize("function", [iter_layers, freeze_batch_norm])
def test_objects_that_are_not_layers(function):
    with pytest.raises(ValueError, match=r"Expected a keras.Model or keras.layers.Layer; received: list"):
        function([])
