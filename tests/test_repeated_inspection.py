"""Repeated inspection of a model: nothing is compiled twice, leaked or changed; raw images warn."""

import gc
import pickle
import weakref

import keras
import numpy as np
import pytest

from keras_resattn import (
    attend_and_rectify,
    attention_gates,
    attention_maps,
    count_macs,
    feature_pyramid,
    plot_attention,
)
from keras_resattn.layers import AttentionResidual
from keras_resattn.visualize.responses import stage_responses

MASK = "stage1_attention1_mask"
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
TRACES = []


@keras.saving.register_keras_serializable("tests")
class Traced(keras.layers.Layer):
    """Identity layer that records its calls; on compiling backends it is called only during compilation."""

    def call(self, x):
        TRACES.append(x.shape)
        return x

    def compute_output_shape(self, shape):
        return shape


def one_module():
    """Build a model that compiles fast, with the layers and names of a network with one attention module."""
    inputs = keras.Input((32, 32, 3))
    trunk = keras.layers.Conv2D(4, 3, 4, name="stage1_attention1_trunk1")(Traced()(inputs))
    mask = keras.layers.Conv2D(4, 3, 4, activation="sigmoid", name="mask")(inputs)
    x = AttentionResidual(name="stage1_attention1_merge")([trunk, mask])
    x = keras.layers.ReLU(name="post_relu")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="avg_pool")(x))


def nodes_of(layers):
    return sum(len(layer._inbound_nodes) + len(layer._outbound_nodes) for layer in layers)


CALLS = {
    "attention_maps": attention_maps,
    "plot_attention": lambda model, images: plot_attention(model, images, channels=0),
    "stage_responses": lambda model, images: stage_responses(model, images),
    "stage_responses_of_blocks": lambda model, images: stage_responses(model, images, blocks=True),
    "count_macs": lambda model, images: count_macs(model, images.shape[1:]),
    "feature_pyramid": lambda model, images: keras.Model(model.input, feature_pyramid(model)),
}


@pytest.mark.parametrize("call", CALLS)
def test_repeated_calls_add_no_nodes_and_compile_nothing(call):
    model = one_module()
    CALLS[call](model, IMAGES[:1])
    TRACES.clear()
    before = nodes_of(model.layers)
    for image in IMAGES:
        CALLS[call](model, image[None])
    assert nodes_of(model.layers) == before
    if keras.backend.backend() != "torch":  # which does not compile
        assert not TRACES


def test_repeated_calls_on_gated_and_nested_models():
    inputs = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, 4, name="conv")(inputs))
    gated = attend_and_rectify(keras.Model(inputs, keras.layers.Dense(5)(features)), ["conv"])
    model = keras.Sequential([keras.Input((32, 32, 3)), gated])
    for _ in range(2):
        attention_gates(model, IMAGES)
        attention_maps(model, IMAGES)
        before = nodes_of(gated.layers)
    attention_gates(model, IMAGES)
    attention_maps(model, IMAGES)
    assert nodes_of(gated.layers) == before


def test_changed_weights_and_layers_are_noticed():
    model = one_module()
    first = attention_maps(model, IMAGES)[MASK]
    model.set_weights([0.5 * np.asarray(weight) for weight in model.get_weights()])
    second = attention_maps(model, IMAGES)[MASK]
    assert np.abs(first - second).max() > 1e-4
    node = keras.Model(model.input, model.get_layer("mask").output)
    np.testing.assert_allclose(second, node.predict(IMAGES, verbose=0), atol=1e-6)
    model = keras.Sequential([keras.Input((32, 32, 3)), model])
    model.compile("sgd", "mse", jit_compile=False)
    before = attention_maps(model, IMAGES)[MASK]
    model.fit(IMAGES, np.ones((2, 4)), epochs=1, verbose=0)
    trained = attention_maps(model, IMAGES)[MASK]
    assert np.abs(trained - before).max() > 0
    model.pop()
    with pytest.raises(ValueError, match=r"Expected a (model with AttentionResidual|functional or built)"):
        attention_maps(model, IMAGES)


def test_a_deleted_model_is_freed():
    network = one_module()
    outer = keras.Sequential([keras.Input((32, 32, 3)), network, keras.layers.Dense(3)])
    attention_maps(outer, IMAGES)
    attention_maps(network, IMAGES)
    stage_responses(network, IMAGES)
    gone = [weakref.ref(part) for part in (outer, network, outer.layers[-1], network.layers[-1])]
    del outer, network
    gc.collect()
    assert [reference() for reference in gone] == [None] * 4


def test_copies_and_files_of_an_inspected_model(tmp_path):
    model = one_module()
    expected = attention_maps(model, IMAGES)
    clone = keras.models.clone_model(model)
    assert np.abs(attention_maps(clone, IMAGES)[MASK] - expected[MASK]).max() > 0, "the clone has its own weights"
    clone.set_weights(model.get_weights())
    model.save(tmp_path / "model.keras")
    assert len(keras.saving.load_model(tmp_path / "model.keras").weights) == len(model.weights)
    for copy in (clone, pickle.loads(pickle.dumps(model)), keras.saving.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(attention_maps(copy, IMAGES)[MASK], expected[MASK], atol=1e-6)


# --- Raw images ----------------------------------------------------------------------------------

RAW = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype="uint8")


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
@pytest.mark.parametrize("call", ["attention_maps", "plot_attention", "stage_responses"])
def test_raw_images_warn(call, dtype):
    with pytest.warns(UserWarning, match="look raw .*0 to 255.*(trunk1|mask).*preprocess_input.*include_preprocessing"):
        CALLS[call](one_module(), RAW.astype(dtype))


def test_raw_images_warn_through_models_and_padding():
    inner = keras.Sequential([keras.Input((30, 30, 3)), keras.layers.ZeroPadding2D(1), one_module()])
    with pytest.warns(UserWarning, match="look raw"):
        attention_maps(inner, RAW[:, 1:-1, 1:-1])


@pytest.mark.parametrize("first", [keras.layers.Rescaling, keras.layers.BatchNormalization])
def test_models_that_normalise_do_not_warn(first):
    options = {"scale": 1 / 255} if first is keras.layers.Rescaling else {}
    attention_maps(keras.Sequential([keras.Input((32, 32, 3)), first(**options), one_module()]), RAW)
