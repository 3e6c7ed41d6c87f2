"""Declared shapes and dtypes hold in half precision; networks can be quantised and converted to LiteRT."""

import keras
import numpy as np
import pytest
from helpers import assert_close, predict, random_array, randomise
from layer_cases import LAYERS, OTHERS, inputs_for, model_of
from networks import narrow_warn

from keras_resattn import iter_layers, layers
from keras_resattn.layers import global_attention


def test_every_layer_has_a_case():
    classes = {type(make()) for make, _ in (LAYERS | OTHERS).values()}
    public = [getattr(layers, name) for name in layers.__all__] + list(vars(global_attention).values())
    own = {value for value in public if isinstance(value, type) and issubclass(value, keras.layers.Layer)}
    assert {one for one in own if one.__name__ != "CompositeLayer"} == classes


@pytest.mark.parametrize("name", OTHERS)
def test_layers_return_the_dtypes_and_shapes_that_they_declare(name, mixed_policy):
    make, shapes = OTHERS[name]
    inputs = [
        np.abs(array) / np.abs(array).sum(-1, keepdims=True) for array in keras.tree.flatten([inputs_for(shapes)])
    ]
    layer = make()
    declared = model_of(layer, shapes).outputs
    has_training = "training" in layer.call_signature_parameters
    for arguments in ({"training": False}, {"training": True}) if has_training else ({},):
        returned = keras.tree.flatten(layer(inputs if len(inputs) > 1 else inputs[0], **arguments))
        assert [keras.backend.standardize_dtype(one.dtype) for one in returned] == [one.dtype for one in declared]
        assert [tuple(one.shape)[1:] for one in returned] == [one.shape[1:] for one in declared]
        for one in returned:
            assert np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(one, "float32"))).all()


def test_sums_beyond_the_range_of_float16_are_returned_in_float32():
    model = model_of(layers.OutputHead(1, scores=False, dtype="mixed_float16"), [(9, 9, 4), (9, 9, 1)])
    model.set_weights([np.full(weight.shape, 200.0) for weight in model.weights])
    outputs = predict(model, [np.full((1, 9, 9, 4), 9.0), np.ones((1, 9, 9, 1))])
    assert outputs.dtype == "float32"
    assert np.isfinite(outputs).all()
    assert outputs > np.finfo("float16").max


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")  # Keras warns of layers that it cannot quantize
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_gates_are_restored(mode, tmp_path):
    model = randomise(model_of(layers.GlobalGate(3, name="gate"), [(16,)]))
    x = random_array(8, 16)
    before = predict(model, x)
    model.quantize(mode)
    quantized = predict(model, x)
    assert np.abs(quantized - before).max() < 0.2
    assert model.get_layer("gate").linear.quantization_mode == mode
    model.save(tmp_path / "gate.keras")
    restored = keras.models.load_model(tmp_path / "gate.keras")
    assert restored.get_layer("gate").linear.quantization_mode == mode
    np.testing.assert_array_equal(predict(restored, x), quantized)


@pytest.mark.filterwarnings("ignore:Layer:UserWarning")
@pytest.mark.parametrize("network", ["warn", "residual"])
def test_quantized_networks_are_restored(network, narrow_network, images, tmp_path):
    model = randomise(narrow_warn() if network == "warn" else narrow_network(modules=(0, 0, 0)))
    model.quantize("int8")
    model.save(tmp_path / "network.keras")
    restored = keras.models.load_model(tmp_path / "network.keras")
    names = {layer.name for layer in iter_layers(restored) if layer.quantization_mode}
    assert names == {"warn": {"classifier", "linear"}, "residual": {"predictions"}}[network]
    np.testing.assert_array_equal(predict(restored, images), predict(model, images))


def test_dtype_policies_of_sublayers_are_restored():
    mask = layers.SoftMask(2, depth=2)
    for part in (mask.up1_unit1, *iter_layers(mask.up1_unit1), mask.linear2):
        part.dtype_policy = "mixed_bfloat16"
    again = layers.SoftMask.from_config(mask.get_config())
    assert [part.dtype_policy for part in iter_layers(again)] == [part.dtype_policy for part in iter_layers(mask)]
    assert {part.dtype_policy.name for part in iter_layers(again)} == {"float32", "mixed_bfloat16"}


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="LiteRT's converter is TensorFlow's")
def test_warn_converts_to_litert():
    import tensorflow as tf

    model = randomise(narrow_warn(attention_depth=1))
    x = random_array(1, 32, 32, 3)
    interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    assert_close(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), predict(model, x))
