"""Class names of a model survive every way of rebuilding it; functions that read them."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import base_of, narrow_warn, small_cnn

from keras_resattn import (
    CifarResidualAttention56,
    attend_and_rectify,
    class_names_of,
    decode_predictions,
    set_class_names,
    with_normalization,
)
from keras_resattn.utils.validation import check_class_names

pytestmark = pytest.mark.once

NAMES = ["bee", "cat", "dog", "emu", "fox"]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def dense():
    return base_of(small_cnn(), "dense_softmax")


def separate_softmax():
    inputs, x = small_cnn()
    return keras.Model(inputs, keras.layers.Softmax()(keras.layers.Dense(5)(keras.layers.Flatten()(x))))


def convolution():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 3)(inputs))
    return keras.Model(inputs, keras.layers.Activation("softmax")(x))


def sequential():
    layers = keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(5), keras.layers.Softmax()
    return keras.Sequential(layers)


MODELS = {
    "dense": dense,
    "softmax": separate_softmax,
    "convolution": convolution,
    "sequential": sequential,
    "gated attention": lambda: narrow_warn(classes=5),
    "rectified": lambda: attend_and_rectify(dense(), attention_depth=1),
}


def in_a_file(suffix):
    def rebuild(model, folder):
        model.save(folder / f"model{suffix}")
        return keras.models.load_model(folder / f"model{suffix}")

    return rebuild


def around(model, folder):
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, model(keras.layers.Rescaling(2.0)(inputs)))


REBUILT = {
    "keras": in_a_file(".keras"),
    "h5": in_a_file(".h5"),
    "clone_model": lambda model, folder: keras.models.clone_model(model),
    "clone_function": lambda model, folder: keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config(layer.get_config())
    ),
    "from_config": lambda model, folder: type(model).from_config(model.get_config()),
    "json": lambda model, folder: keras.models.model_from_json(model.to_json()),
    "same graph": lambda model, folder: keras.Model(model.inputs[0], model.outputs[0]),
    "around": around,
    "sequential": lambda model, folder: keras.Sequential([keras.Input(model.input_shape[1:]), model]),
    "normalization": lambda model, folder: with_normalization(model, [0.0] * 3, [1.0] * 3),
}


@pytest.mark.parametrize(("kind", "way"), [*(("dense", way) for way in REBUILT), *((kind, "keras") for kind in MODELS)])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_names_survive(kind, way, tmp_path):
    model = MODELS[kind]()
    set_class_names(model, NAMES)
    assert class_names_of(REBUILT[way](model, tmp_path)) == NAMES


def test_naming_changes_nothing_else(tmp_path):
    model = dense()
    before = model.get_weights()
    model.save_weights(tmp_path / "unnamed.weights.h5")
    set_class_names(model, NAMES)
    set_class_names(model, NAMES[::-1])
    assert class_names_of(model) == NAMES[::-1]
    model.load_weights(tmp_path / "unnamed.weights.h5")
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    set_class_names(model, None)
    assert class_names_of(model, None) is None
    assert model.get_config() == type(model).from_config(model.get_config()).get_config()
    assert "NamedClasses" not in model.to_json()


def test_names_are_read_in_another_process(tmp_path):
    path = tmp_path / "model.keras"
    model = sequential()
    set_class_names(model, NAMES)
    model.save(path)
    code = f"import keras, keras_resattn; model = keras.models.load_model({str(path)!r}); "
    code += "print(keras_resattn.class_names_of(model))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip().splitlines()[-1] == str(NAMES)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_keeps_its_names(tmp_path):
    model = sequential()
    set_class_names(model, NAMES)
    model.quantize("int8")
    assert model.layers[1].quantization_mode == "int8"
    assert class_names_of(in_a_file(".keras")(model, tmp_path)) == NAMES


def test_released_weights_name_their_classes():
    assert class_names_of("cifar10") == class_names_of("CifarResidualAttention56/cifar10_v2") == CIFAR10
    model = CifarResidualAttention56()
    assert class_names_of(model) == CIFAR10
    new_top = keras.Model(model.input, keras.layers.Dense(10)(model.get_layer("avg_pool").output))
    assert class_names_of(new_top, None) is None, "another classifier is of other classes"
    on_top = keras.Model(model.input, keras.layers.Dense(10)(model.output))
    assert class_names_of(on_top, None) is None
    assert class_names_of(CifarResidualAttention56(include_top=False), None) is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:4], r"Expected 5 class names.*received: 4, 'bee', 'cat', 'dog', 'emu'\."),
        ([*NAMES[:4], "bee"], r"without duplicates; received more than once: 'bee'\."),
        ([*NAMES[:4], 4], r"non-empty strings; received among them: 4\."),
        ([*NAMES[:4], " "], r"received among them: ' '\."),
        ([*NAMES[:4], b"fox"], r"received among them: b'fox'\."),
        ("abcde", "to be a list of strings; received: 'abcde'"),
        ([], r"to be a list of strings; received: \[\]"),
        ({"bee": 0}, "to be a list of strings"),
    ],
)
def test_invalid_names(names, message):
    model = sequential()
    with pytest.raises(ValueError, match=message):
        set_class_names(model, names)
    assert class_names_of(model, None) is None


def test_arrays_of_strings_become_lists():
    assert check_class_names(np.array(NAMES)) == NAMES
    assert all(type(name) is str for name in check_class_names(tuple(np.array(NAMES))))


class Subclassed(keras.Model):
    def call(self, x):
        return x


def test_a_model_that_cannot_keep_names():
    for model in (
        Subclassed(),
        keras.Sequential([keras.layers.Dense(3)]),
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalMaxPooling2D()]),
    ):
        with pytest.raises(ValueError, match=r"come from a Dense or convolution layer.*Pass class_names"):
            set_class_names(model, NAMES[:3])
        set_class_names(model, None)


def test_decoding_by_names_models_and_tags():
    model, p = sequential(), np.array([[0.1, 0.2, 0.4, 0.3, 0.0]])
    best = [[(2, "dog", 0.4), (3, "emu", 0.3)]]
    assert decode_predictions(p, top=2, class_names=NAMES) == best
    with pytest.raises(ValueError, match=r"the model .*, which has none\. Name them: set_class_names"):
        decode_predictions(p, weights=model)
    set_class_names(model, NAMES)
    assert decode_predictions(p, top=2, weights=model) == best
    with pytest.raises(ValueError, match=r"\(n, 4\) for 4 class_names; received: shape \(1, 5\)"):
        decode_predictions(p, class_names=NAMES[:4])
    with pytest.raises(
        ValueError, match=r"\(n, 10\) for the 10 classes of weights='cifar10'; received: shape \(1, 5\)\. For another"
    ):
        decode_predictions(p, weights="cifar10")


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ("imagenet", "Expected weights to be a released tag"),
        (3, "Expected a keras.Model, a report, the folder of a run, or a released checkpoint; received: 3"),
        ([1, 2], "Expected a keras.Model"),
    ],
)
def test_objects_without_class_names(known, message):
    with pytest.raises(ValueError, match=message):
        class_names_of(known, None)


def test_a_folder_with_an_unfinished_run_of_fine_tune(tmp_path):
    (tmp_path / "transfer.json").write_text("{}")
    with pytest.raises(ValueError, match="Let the run finish first"):
        class_names_of(tmp_path, None)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"has no recipe\.json either: no run was started in it"):
        class_names_of(tmp_path, None)
