"""Properties of every layer: configuration, files, shapes, data formats, half precision, gradients."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    channels_last,
    forward,
    random_array,
    randomise,
    weights_by_path,
)
from layer_cases import LAYERS, OTHERS, inputs_for, model_of


@pytest.fixture(params=LAYERS)
def case(request):
    return LAYERS[request.param]


@pytest.mark.parametrize("name", LAYERS | OTHERS)
def test_every_layer_is_restored_from_its_configuration(name):
    make, _ = (LAYERS | OTHERS)[name]
    layer = make(name="layer", dtype="mixed_bfloat16")
    configuration = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(configuration)
    assert configuration["registered_name"] == f"keras_resattn>{type(layer).__name__}"
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


@pytest.mark.once
@pytest.mark.parametrize("name", LAYERS | OTHERS)
def test_every_layer_is_restored_from_a_file(name, tmp_path):
    make, shapes = (LAYERS | OTHERS)[name]
    model = randomise(model_of(make(name="layer"), shapes))
    model.save(tmp_path / "layer.keras")
    restored = keras.saving.load_model(tmp_path / "layer.keras", safe_mode=True)
    inputs = inputs_for(shapes)
    for actual, expected in zip(*(keras.tree.flatten(forward(m, inputs)) for m in (restored, model)), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_compute_output_shape_of_every_layer(case):
    make, shapes = case
    layer, inputs = make(), inputs_for(shapes)
    received = [array.shape for array in inputs] if len(shapes) > 1 else inputs.shape
    assert forward(layer, inputs).shape == layer.compute_output_shape(received)


def test_every_layer_gives_equal_results_in_both_data_formats(case):
    make, shapes = case
    inputs = inputs_for(shapes)
    last = randomise(model_of(make(name="layer"), shapes))
    keras.config.set_image_data_format("channels_first")
    first = model_of(make(name="layer"), [(shape[-1], *shape[:-1]) for shape in shapes])
    first.set_weights(last.get_weights())
    outputs = forward(first, keras.tree.map_structure(channels_first, inputs))
    assert_close(channels_last(outputs), forward(last, inputs))


def test_every_layer_computes_in_half_precision(case, mixed_policy):
    make, shapes = case
    half = randomise(model_of(make(name="layer"), shapes))
    outputs = half(inputs_for(shapes), training=False)
    assert half.output.dtype == keras.backend.standardize_dtype(outputs.dtype)
    assert keras.backend.standardize_dtype(outputs.dtype) == mixed_policy.removeprefix("mixed_")
    assert {variable.dtype for variable in half.weights} <= {"float32"}
    single = model_of(make(name="layer", dtype="float32"), shapes)
    single.set_weights(half.get_weights())
    rounding = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[mixed_policy]
    expected = forward(single, inputs_for(shapes))
    difference = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32")) - expected
    assert np.sqrt(np.mean(difference**2)) < 3 * rounding * np.sqrt(np.mean(expected**2))


TRAINABLE = [name for name in LAYERS if name not in ("resize", "pool", "merge", "naive_merge")]


@pytest.mark.parametrize("name", TRAINABLE)
def test_gradients_reach_every_weight(name):
    make, shapes = LAYERS[name]
    model = model_of(make(name="layer"), shapes)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    before = weights_by_path(model)
    x = inputs_for(shapes)
    model.train_on_batch(x, random_array(4, *model.output_shape[1:], seed=9))
    after = weights_by_path(model)
    assert [path for path in before if np.array_equal(before[path], after[path])] == []
