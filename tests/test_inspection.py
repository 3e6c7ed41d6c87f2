"""Multiply-adds of networks of the package, layer by layer, and their feature pyramids."""

import keras
import numpy as np
import pytest
from helpers import forward, random_array, randomise, undrawn

import keras_resattn
from keras_resattn import count_macs, feature_pyramid
from keras_resattn.layers import InceptionUnit, PostActivationUnit, PreActivationUnit, SoftMask, WideUnit
from keras_resattn.models.variants import TOPOLOGIES

# --- count_macs ----------------------------------------------------------------------------------


def macs_of(make, shape):
    inputs = keras.Input(shape)
    return count_macs(undrawn(lambda: keras.Model(inputs, make()(inputs))))


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "shape", "macs"),
    [
        (lambda: keras.layers.Conv2D(5, 3, padding="same"), (8, 6, 2), 8 * 6 * 9 * 2 * 5),
        (lambda: keras.layers.Conv2D(5, 3), (8, 6, 2), 6 * 4 * 9 * 2 * 5),
        (lambda: keras.layers.Conv2D(5, 1, strides=2), (8, 6, 2), 4 * 3 * 2 * 5),
        (lambda: keras.layers.Conv2D(8, 3, groups=4, padding="same"), (8, 6, 12), 8 * 6 * 9 * 3 * 8),
        (lambda: keras.layers.DepthwiseConv2D(3, padding="same"), (8, 6, 12), 8 * 6 * 9 * 12),
        (lambda: keras.layers.BatchNormalization(), (8, 6, 2), 0),
        (lambda: keras.layers.UpSampling2D(interpolation="bilinear"), (8, 6, 2), 0),
        (lambda: PreActivationUnit(2), (8, 6, 8), 8 * 6 * (8 * 2 + 9 * 2 * 2 + 2 * 8)),
        (lambda: PreActivationUnit(2, strides=2), (8, 7, 4), 56 * 4 * 2 + 16 * (9 * 2 * 2 + 2 * 8 + 4 * 8)),
        (
            lambda: PostActivationUnit(4, strides=2, groups=2),
            (8, 7, 3),
            56 * 3 * 4 + 16 * (9 * 2 * 4 + 4 * 8 + 3 * 8),
        ),
        (lambda: InceptionUnit(2, filters=5), (8, 7, 5), 56 * (3 * 5 * 2 + 3 * 9 * 2 * 2 + 6 * 5)),
        (lambda: WideUnit(4, strides=2), (8, 7, 3), 16 * (9 * 3 * 4 + 9 * 4 * 4 + 3 * 4)),
        (lambda: SoftMask(2, bottom_units=1), (8, 7, 8), 4 * 3 * (8 * 2 + 9 * 2 * 2 + 2 * 8) + 8 * 7 * 2 * 8 * 8),
        (lambda: SoftMask(2, mask="local", local_units=1), (8, 7, 8), 8 * 7 * (8 * 2 + 9 * 2 * 2 + 2 * 8 + 2 * 8 * 8)),
    ],
)
def test_multiply_adds_by_hand(make, shape, macs, data_format):
    assert macs_of(make, shape if data_format == "channels_last" else (shape[-1], *shape[:-1])) == macs


@pytest.mark.once
@pytest.mark.parametrize(("shape", "macs"), [((7,), 7 * 5), ((3, 4, 7), 3 * 4 * 7 * 5)])
def test_multiply_adds_of_a_dense_layer(shape, macs):
    assert macs_of(lambda: keras.layers.Dense(5), shape) == macs


@pytest.mark.parametrize(
    ("composite", "shape"),
    [
        (lambda: PreActivationUnit(2), (7, 6, 8)),
        (lambda: PreActivationUnit(2, strides=2), (7, 6, 4)),
        (lambda: PostActivationUnit(4, strides=2, groups=2), (7, 6, 4)),
        (lambda: InceptionUnit(2, strides=2, filters=5), (7, 6, 4)),
        (lambda: WideUnit(4, strides=2, dropout=0.3), (7, 6, 8)),
        (lambda: SoftMask(2, depth=3, units=2), (9, 8, 8)),
        (lambda: SoftMask(32, unit="resnext", filters=8), (7, 6, 8)),
        (lambda: SoftMask(2, mask="local", local_units=2), (7, 6, 8)),
    ],
    ids=["unit", "strided_unit", "next_unit", "inception_unit", "wide_unit", "mask", "next_mask", "local_mask"],
)
def test_only_called_layers_inside_a_layer_are_counted(composite, shape, monkeypatch):
    layer, calls = composite(), []
    layer.build((2, *shape))
    expected = [
        (part.name, [tuple(s) for s in (received if isinstance(received, list) else [received])])
        for part, received in layer.sublayer_calls((2, *shape))
    ]
    parts = [part for part, _ in layer.sublayer_calls((2, *shape))]
    call = keras.layers.Layer.__call__

    def record(part, inputs, *args, **kwargs):
        if any(part is other for other in parts):
            calls.append((part.name, [tuple(x.shape) for x in (inputs if isinstance(inputs, list) else [inputs])]))
        return call(part, inputs, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "__call__", record)
    layer(random_array(2, *shape))
    assert calls == expected


@pytest.mark.once
def test_unknown_input_size_needs_an_input_shape(narrow_network):
    network = undrawn(narrow_network, input_shape=(None, None, 3))
    with pytest.raises(ValueError, match=r"Expected input_shape for .*whose input size is unknown: \(None, None, 3\)"):
        count_macs(network)
    for size in [(32, 32, 3), (33, 47, 3)]:
        assert count_macs(network, size) == count_macs(undrawn(narrow_network, input_shape=size))


@pytest.mark.once
def test_multiply_adds_grow_with_the_image(narrow_network):
    network = undrawn(narrow_network, include_top=False)
    assert count_macs(network, (64, 96, 3)) == 6 * count_macs(network)


@pytest.mark.once
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_table_adds_up(narrow_network, topology):
    network = undrawn(narrow_network, topology=topology)
    costs = count_macs(network, per_layer=True)
    assert sum(cost.macs for cost in costs) == count_macs(network)
    trainable = sum(np.prod(variable.shape) for variable in network.trainable_variables)
    assert sum(cost.parameters for cost in costs) == trainable
    names = list(dict.fromkeys(cost.path.split("/")[0] for cost in costs))
    assert names == [layer.name for layer in network.layers[1:]]
    assert costs[-1] == ("predictions", "Dense", (None, 16), (None, 5), 16 * 5 + 5, 16 * 5)


@pytest.fixture
def backbone(narrow_network):
    return narrow_network(include_top=False, pooling="avg")


def sequential(backbone):
    return keras.Sequential([keras.Input((32, 32, 3)), backbone, keras.layers.Dense(7)])


def functional(backbone):
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Dense(7)(backbone(inputs)))


def nested_twice(backbone):
    inputs = keras.Input((32, 32, 3))
    inner = keras.Model(inputs, backbone(keras.layers.Rescaling(2.0)(inputs)))
    return keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Dense(7)])


@pytest.mark.once
@pytest.mark.parametrize("wrap", [sequential, functional, nested_twice])
def test_a_network_inside_another_model_is_counted(backbone, wrap):
    model = wrap(backbone)
    assert count_macs(model) == count_macs(backbone) + 16 * 7
    inside = [cost for cost in count_macs(model, per_layer=True) if cost.path.startswith(("stem", "stage", "post"))]
    assert inside == [cost for cost in count_macs(backbone, per_layer=True) if cost.path != "avg_pool"]


@pytest.mark.once
def test_a_network_that_is_called_twice_counts_twice(backbone):
    inputs = keras.Input((32, 32, 3))
    pair = keras.Model(inputs, keras.layers.Concatenate()([backbone(inputs), backbone(keras.layers.ReLU()(inputs))]))
    assert count_macs(pair) == 2 * count_macs(backbone)


@pytest.mark.once
def test_counting_does_not_change_the_model(narrow_network, tmp_path):
    model = randomise(narrow_network())
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    x = random_array(2, 32, 32, 3)
    before = forward(model, x), [layer.output for layer in model.layers], model.get_config()
    count_macs(model)
    count_macs(model, (64, 48, 3))
    np.testing.assert_array_equal(forward(model, x), before[0])
    assert all(layer.output is output for layer, output in zip(model.layers, before[1], strict=True))
    assert model.get_config() == before[2]
    assert model.compiled
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(forward(keras.saving.load_model(tmp_path / "model.keras"), x), before[0])


@pytest.mark.once
def test_models_without_a_graph():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"a functional or sequential .*; received: Subclassed"):
        count_macs(Subclassed(), (32, 32, 3))


# --- feature_pyramid -----------------------------------------------------------------------------

WIDTHS = {"cifar": (2, 3, 4), "imagenet": (2, 3, 4, 5)}
LEVELS = {
    "cifar": {"P0": (64, 48, 8), "P1": (32, 24, 12), "P2": (16, 12, 16)},
    "imagenet": {"P2": (16, 12, 8), "P3": (8, 6, 12), "P4": (4, 3, 16), "P5": (2, 2, 20)},
}


@pytest.fixture(params=TOPOLOGIES)
def topology(request):
    return request.param


@pytest.fixture
def pyramid_network(narrow_network, topology):
    modules = (0, 1) + (0,) * (len(WIDTHS[topology]) - 2)
    return undrawn(narrow_network, topology=topology, widths=WIDTHS[topology], modules=modules, input_shape=(64, 48, 3))


@pytest.mark.once
def test_levels_of_the_pyramid(pyramid_network, topology):
    pyramid = feature_pyramid(pyramid_network)
    assert {level: tensor.shape[1:] for level, tensor in pyramid.items()} == LEVELS[topology]
    assert list(pyramid) == list(LEVELS[topology])


@pytest.mark.once
def test_levels_are_raw_stage_outputs_except_the_last(pyramid_network, topology):
    *levels, last = feature_pyramid(pyramid_network).values()
    cifar = ["stage1_unit2", "stage2_unit2"]
    imagenet = ["stage1_unit1", "stage2_attention1_post1", "stage3_unit1"]
    names = cifar if topology == "cifar" else imagenet
    assert all(x is pyramid_network.get_layer(name).output for x, name in zip(levels, names, strict=True))
    assert last is pyramid_network.get_layer("post_relu").output


@pytest.mark.once
def test_levels_of_post_activation_units_are_their_outputs(narrow_network):
    network = undrawn(narrow_network, topology="imagenet", unit="resnext", widths=(32,) * 4, filters=(8, 12, 16, 20))
    names = ["stage1_attention1_post1", "stage2_unit1", "stage3_unit1", "stage4_unit3"]
    pyramid = feature_pyramid(network)
    assert list(pyramid) == ["P2", "P3", "P4", "P5"]
    assert all(x is network.get_layer(name).output for x, name in zip(pyramid.values(), names, strict=True))


@pytest.mark.once
def test_pyramid_of_unknown_sizes_and_without_top(narrow_network):
    network = undrawn(narrow_network, input_shape=(None, None, 3), include_top=False)
    shapes = {level: tensor.shape for level, tensor in feature_pyramid(network).items()}
    assert shapes == dict.fromkeys(["P0", "P1", "P2"], (None, None, None, 16))


@pytest.mark.once
def test_pyramid_after_preprocessing_layers(narrow_network):
    inputs = keras.Input((32, 32, 3))
    network = narrow_network(input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    assert list(feature_pyramid(network)) == ["P0", "P1", "P2"]


@pytest.mark.once
def test_pyramid_of_a_model_without_stages(narrow_network):
    network = narrow_network()
    inside = keras.Sequential([keras.Input((32, 32, 3)), network])
    inputs = keras.Input((8, 8, 3))
    foreign = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="stage1_conv")(inputs))
    for model in (inside, foreign):
        with pytest.raises(
            ValueError, match=f"Expected a network of keras_resattn.*received: {model.name}.*pass that layer"
        ):
            feature_pyramid(model)
    assert list(feature_pyramid(inside.layers[-1])) == ["P0", "P1", "P2"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("build", "levels"),
    [
        (lambda: keras_resattn.WideResNet(weights=None, depth=10, width=1), {"P0": 32, "P1": 16, "P2": 8}),
        (lambda: keras_resattn.WARN(weights=None, depth=10, width=1), {"P0": 32, "P1": 16, "P2": 8}),
        (
            lambda: keras_resattn.WideResNet50x2(weights=None, input_shape=(64, 64, 3)),
            {"P2": 16, "P3": 8, "P4": 4, "P5": 2},
        ),
    ],
    ids=["WideResNet", "WARN", "WideResNet50x2"],
)
def test_pyramids_of_networks_of_groups(build, levels):
    pyramid = undrawn(lambda: feature_pyramid(build()))
    assert {level: tensor.shape[1] for level, tensor in pyramid.items()} == levels
