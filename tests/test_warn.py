"""WARN: layer names, inputs of its modules, outputs compared with NumPy references, files."""

import inspect

import keras
import pytest
from helpers import assert_close, predict, randomise, undrawn
from networks import BODY, module_names, names_of, narrow_warn, received
from references import (
    float64_weights,
    gates_reference,
    groups_reference,
    module_reference,
    norm_relu_reference,
    rectified_reference,
)

import keras_resattn
from keras_resattn import WARN, WARN50x2, WideResNet, iter_layers
from keras_resattn.layers.initializers import HeGaussian

TOP = ["avg_pool", "classifier", "global_gate", "rectify", "predictions"]


@pytest.mark.once
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_names_of_the_layers_are_frozen(depth):
    model = undrawn(narrow_warn, attention_depth=depth)
    assert names_of(model) == sorted([*BODY, *TOP, *module_names(*range(4 - depth, 4))])
    assert model.name == "warn_10_1"


@pytest.mark.once
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_modules_read_the_activated_input_of_the_next_group(depth):
    model = undrawn(narrow_warn, attention_depth=depth, width=2)
    taps = {1: ("group2_preact_relu", 32, 32), 2: ("group3_preact_relu", 16, 64), 3: ("post_relu", 8, 128)}
    for group in range(4 - depth, 4):
        tap, size, channels = taps[group]
        assert received(model, f"attention{group}_mask") == [tap]
        assert received(model, f"attention{group}_outputs") == [tap, f"attention{group}_mask"]
        assert model.get_layer(tap).output.shape == (None, size, size, channels)
        assert model.get_layer(f"attention{group}_mask").output.shape == (None, size, size, 2)
        assert model.get_layer(f"attention{group}_mask").regularization == 1e-3 / depth
    assert received(model, "group2_unit1") == ["group1_unit1", "group2_preact_relu"]
    assert received(model, "global_gate") == received(model, "classifier") == ["avg_pool"]
    modules = [f"attention{group}_logits" for group in range(4 - depth, 4)]
    assert received(model, "rectify") == ["global_gate", *modules, "classifier"]
    assert model.get_layer("global_gate").output.shape == (None, depth + 1)


@pytest.mark.once
@pytest.mark.parametrize("depth", [1, 3])
def test_modules_of_the_fine_grained_network(depth):
    model = undrawn(WARN50x2, weights=None, classes=7, attention_depth=depth)
    taps = {1: "group1_unit3", 2: "group2_unit4", 3: "group3_unit6"}
    for group in range(4 - depth, 4):
        assert received(model, f"attention{group}_mask") == [taps[group]]
    assert received(model, "avg_pool") == ["group4_unit3"]
    assert [name for name in names_of(model) if "attention" in name] == sorted(module_names(*range(4 - depth, 4)))
    assert model.name == "warn50x2"


@pytest.mark.once
def test_arguments_reach_their_layers():
    model = undrawn(
        narrow_warn,
        mask_activation="sigmoid",
        head_gate="mean",
        gate="linear",
        aggregation="log_prob",
        regularization=0.5,
        attention_depth=2,
        dropout=0.25,
    )
    mask = model.get_layer("attention3_mask")
    assert (mask.activation, mask.heads, mask.regularization) == ("sigmoid", 2, 0.25)
    assert model.get_layer("global_gate").gate == "linear"
    assert model.get_layer("attention3_logits").gate == "mean"
    assert not model.get_layer("attention3_outputs").scores
    assert model.get_layer("group3_unit1").dropout.rate == 0.25
    assert undrawn(narrow_warn, aggregation="prob").get_layer("rectify").aggregation == "prob"


@pytest.mark.once
def test_kernels_are_initialised_as_in_the_authors_code():
    convolutions = [layer for layer in iter_layers(narrow_warn()) if hasattr(layer, "kernel_initializer")]
    assert len(convolutions) == 7 + 2 + 3 * 3 + 2  # stem and units, projections, modules, classifier and gate
    assert {type(layer.kernel_initializer) for layer in convolutions} == {HeGaussian}


@pytest.mark.once
@pytest.mark.parametrize("build", [WARN, WARN50x2])
def test_signature_begins_as_that_of_keras_applications(build):
    parameters = list(inspect.signature(build).parameters.values())
    assert [p.name for p in parameters[:8]] == list(inspect.signature(keras.applications.ResNet50).parameters)
    assert {p.kind for p in parameters[8:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert getattr(keras_resattn, build.__name__) is build


@pytest.mark.once
@pytest.mark.parametrize("shape", [(33, 44, 3), (None, None, 1)], ids=str)
def test_any_size(shape, data_format):
    shape = shape if data_format == "channels_last" else (shape[-1], *shape[:-1])
    assert undrawn(narrow_warn, input_shape=shape).output_shape == (None, 5)


# --- Outputs, compared with NumPy ----------------------------------------------------------------


def assert_scores(model, images, aggregation="log_prob"):
    weights = float64_weights(model)
    *taps, last = groups_reference(images.astype("float64"), weights, attended=True)
    taps.append(norm_relu_reference(last, weights, "post_bn"))
    features = taps[-1].mean((1, 2))
    modules = [module_reference(x, weights, name=f"attention{i}_") for i, x in enumerate(taps, 1)]
    scores = [module["logits"] for module in modules]
    scores.append(features @ weights["classifier/kernel"] + weights["classifier/bias"])
    gates = gates_reference(features, weights, "softmax", name="global_gate")
    assert_close(predict(model, images), rectified_reference(gates, scores, aggregation))
    return modules


def test_warn(images):
    model = randomise(narrow_warn(classifier_activation=None))
    modules = assert_scores(model, images)
    found = keras_resattn.attention_maps(model, images)
    assert list(found) == [f"attention{i}_mask" for i in (1, 2, 3)]
    for masks, module in zip(found.values(), modules, strict=True):
        assert_close(masks, module["masks"])


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def warn_file(tmp_path):
    """Return a network and the file of its weights."""
    model = randomise(narrow_warn())
    model.save_weights(tmp_path / "warn.weights.h5")
    return model, tmp_path / "warn.weights.h5"


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 16}, "tensors of the layer group1_unit2/bn1 .*another network's file"),
        ({"attention_depth": 2}, "shapes .* for the layer global_gate/linear"),
        ({"attention_width": 3}, "shapes .* for the layer attention1_mask/conv"),
        ({"head_gate": "mean"}, "no place for: attention1_outputs/score_conv"),
        ({"gate": "linear"}, "tensors of the layer global_gate in"),
        ({"gate": "base"}, "no place for: global_gate/bn, global_gate/linear"),
        ({"classes": 6}, "shapes .* for the layer (classifier|attention1_outputs/output_conv)"),
    ],
    ids=str,
)
def test_a_file_of_another_warn(warn_file, options, message):
    with pytest.raises(ValueError, match=message):
        narrow_warn(weights=warn_file[1], **options)


@pytest.mark.once
def test_files_of_networks_without_attention(warn_file, tmp_path):
    plain = {"depth": 10, "width": 1, "classes": 5}
    WideResNet(weights=None, **plain).save_weights(tmp_path / "plain.weights.h5")
    for include_top in (True, False):
        with pytest.raises(ValueError, match=r"the layer stem_bn in .*another network's file"):
            narrow_warn(weights=tmp_path / "plain.weights.h5", include_top=include_top)
        with pytest.raises(ValueError, match=r"group2_unit1/bn1 in .*another network's file"):
            WideResNet(weights=warn_file[1], include_top=include_top, **plain)
