"""Invalid arguments of builders raise a message before anything is built."""

import keras
import numpy as np
import pytest

import keras_resattn
from keras_resattn import CifarResidualAttention56, ResidualAttention56, ResidualAttentionNet
from keras_resattn.models.variants import VARIANTS

pytestmark = pytest.mark.once

# --- The eight arguments of every builder --------------------------------------------------------


@pytest.mark.parametrize("pooling", ["foo", "", 3, ["avg"]])
def test_unknown_pooling(refuses, pooling):
    refuses(
        CifarResidualAttention56,
        "Expected pooling to be one of None, 'avg', 'max'; received: pooling=",
        include_top=False,
        pooling=pooling,
    )


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_with_top(refuses, pooling):
    refuses(CifarResidualAttention56, f"pooling='{pooling}'.*include_top=False to choose the pooling", pooling=pooling)


@pytest.mark.parametrize("include_top", [None, 1, "yes"])
def test_include_top_that_is_not_a_bool(refuses, include_top):
    refuses(CifarResidualAttention56, "include_top to be True or False; received", include_top=include_top)


@pytest.mark.parametrize("classes", [0, -1, True, 2.5, "10"])
@pytest.mark.parametrize("include_top", [True, False])
def test_invalid_classes(refuses, classes, include_top):
    message = f"Expected classes to be an integer of at least 1; received: classes={classes!r}"
    refuses(CifarResidualAttention56, message, classes=classes, include_top=include_top)


@pytest.mark.parametrize("activation", ["softmaks", 3, ["softmax"]])
def test_unknown_classifier_activation(refuses, activation):
    message = "classifier_activation to be None, 'softmax', or another Keras activation; received"
    refuses(CifarResidualAttention56, message, classifier_activation=activation)


@pytest.mark.parametrize("build", [CifarResidualAttention56, ResidualAttention56])
@pytest.mark.parametrize("shape", [(31, 32, 3), (32, 31, 3), (8, None, 3), (None, 31, 3)])
def test_size_below_32(refuses, build, shape):
    message = rf"at least 32 pixels \(channels_last\); received: input_shape=\({shape[0]}, {shape[1]}, 3\)"
    refuses(build, message, input_shape=shape)


def test_size_below_32_with_channels_first(refuses):
    keras.config.set_image_data_format("channels_first")
    message = r"at least 32 pixels \(channels_first\); received: input_shape=\(32, 32, 3\)"
    refuses(CifarResidualAttention56, message, input_shape=(32, 32, 3))


@pytest.mark.parametrize(
    "shape", [(32, 32), (1, 32, 32, 3), 32, "32", (32.0, 32, 3), (-1, 32, 3), (32, 32, 0), np.zeros((32, 32, 3))]
)
def test_invalid_input_shape(refuses, shape):
    message = r"input_shape to be \(height, width, channels\), three positive integers.*received: input_shape="
    refuses(CifarResidualAttention56, message, input_shape=shape)


def test_invalid_input_shape_with_channels_first(refuses):
    keras.config.set_image_data_format("channels_first")
    refuses(CifarResidualAttention56, r"input_shape to be \(channels, height, width\)", input_shape=(32, 32))


def test_unknown_number_of_channels(refuses):
    message = r"known number of channels \(channels_last\); received: input_shape=\(32, 32, None\)"
    refuses(CifarResidualAttention56, message, input_shape=(32, 32, None))


@pytest.mark.parametrize("make", [np.zeros, keras.ops.zeros, lambda shape: shape], ids=["numpy", "backend", "tuple"])
def test_an_array_instead_of_a_keras_tensor(refuses, make):
    array = make((1, 32, 32, 3))
    message = f"input_tensor to be a KerasTensor.*received: an object of type {type(array).__name__}.*model.predict"
    refuses(CifarResidualAttention56, message, input_tensor=array)


def test_input_tensor_of_another_rank(refuses):
    message = r"4 dimensions; received: shape \(None, 32, 3\)"
    refuses(CifarResidualAttention56, message, input_tensor=keras.Input((32, 3)))


def test_input_tensor_too_small(refuses):
    message = r"at least 32 pixels.*received: an input_tensor of shape \(None, 16, 32, 3\)"
    refuses(CifarResidualAttention56, message, input_tensor=keras.Input((16, 32, 3)))


def test_input_tensor_with_an_unknown_number_of_channels(refuses):
    message = r"known number of channels.*received: an input_tensor of shape \(None, 32, 32, None\)"
    refuses(CifarResidualAttention56, message, input_tensor=keras.Input((32, 32, None)))


@pytest.mark.parametrize("shape", [(64, 64, 3), (32, 32, 1), (None, None, 3)])
def test_input_tensor_and_input_shape_that_contradict_each_other(refuses, shape):
    message = r"input_shape to agree with input_tensor.*received: input_shape=.*shape \(None, 32, 32, 3\)"
    refuses(CifarResidualAttention56, message, input_tensor=keras.Input((32, 32, 3)), input_shape=shape)


def test_input_tensor_and_input_shape_that_agree(narrow_network):
    inputs = keras.Input((40, 32, 3))
    assert narrow_network(input_tensor=inputs, input_shape=(40, 32, 3)).input is inputs


@pytest.mark.parametrize("name", VARIANTS)
def test_every_builder_checks_its_arguments(refuses, name):
    refuses(getattr(keras_resattn, name), "received: classes=0", classes=0)


def test_a_builder_of_the_table_takes_no_other_arguments():
    with pytest.raises(TypeError, match="'modules'"):
        CifarResidualAttention56(weights=None, modules=(1, 1, 1))
    with pytest.raises(TypeError, match="positional arguments"):
        CifarResidualAttention56(True, None, None, None, None, 10, "softmax", "name", "CifarResidualAttention56")


# --- The rows of ResidualAttentionNet ------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"topology": "cifar"}, {"modules": (1, 1, 1)}])
def test_neither_a_variant_nor_topology_and_modules(refuses, arguments):
    message = "Expected a variant, or a topology and the modules of each stage; received: variant=None"
    refuses(ResidualAttentionNet, message, **arguments)


@pytest.mark.parametrize("variant", ["ResNet50", "cifar_residual_attention56", 56])
def test_unknown_variant(refuses, variant):
    message = f"variant to be one of 'ResidualAttention56'.*received: variant={variant!r}"
    refuses(ResidualAttentionNet, message, variant=variant)


@pytest.mark.parametrize("topology", ["mnist", 3, ["cifar"]])
def test_unknown_topology(refuses, topology):
    message = "topology to be one of 'imagenet', 'cifar'; received: topology="
    refuses(ResidualAttentionNet, message, topology=topology, modules=(1, 1, 1))


def test_topology_of_another_variant(refuses):
    message = "topology='cifar' or None with variant='CifarResidualAttention56'; received: topology='imagenet'"
    refuses(ResidualAttentionNet, message, variant="CifarResidualAttention56", topology="imagenet")


@pytest.mark.parametrize("argument", ["modules", "mask_depth", "widths", "filters"])
@pytest.mark.parametrize("topology", ["cifar", "imagenet"])
@pytest.mark.parametrize("values", [(1, 1), (1, 1, 1, 1, 1), 3, "111"])
def test_wrong_number_of_stages(refuses, argument, topology, values):
    stages = {"cifar": 3, "imagenet": 4}[topology]
    message = f"{argument} to hold one integer for each of the {stages} stages; received: {argument}="
    refuses(ResidualAttentionNet, message, **{"topology": topology, "modules": (1,) * stages, argument: values})


@pytest.mark.parametrize(
    ("argument", "values", "least"),
    [
        ("modules", (1, 1, -1), 0),
        ("modules", (1, 1.0, 1), 0),
        ("modules", (True, 1, 1), 0),
        ("modules", (1, 1, None), 0),
        ("mask_depth", (3, 2, -1), 0),
        ("mask_depth", (3, 2, "1"), 0),
        ("widths", (0, 4, 4), 1),
        ("widths", (4, 4, 4.0), 1),
        ("filters", (0, 4, 4), 1),
    ],
)
def test_invalid_counts(refuses, argument, values, least):
    message = f"each entry of {argument} to be an integer of at least {least}; received"
    refuses(ResidualAttentionNet, message, **{"topology": "cifar", "modules": (1, 1, 1), argument: values})


def test_widths_that_are_not_multiples_of_the_groups(refuses):
    message = "width to be a multiple of groups=32; received: width=48"
    refuses(ResidualAttentionNet, message, topology="cifar", modules=(1, 1, 1), unit="resnext", widths=(32, 48, 64))


@pytest.mark.parametrize(
    ("argument", "value", "least"),
    [
        ("p", -1, 0),
        ("p", True, 0),
        ("t", 0, 1),
        ("t", 2.0, 1),
        ("r", 0, 1),
        ("bottom_units", 0, 1),
        ("bottom_units", "2", 1),
        ("local_units", 0, 1),
    ],
)
def test_invalid_numbers_of_units(refuses, argument, value, least):
    message = f"Expected {argument} to be an integer of at least {least}; received: {argument}={value!r}"
    refuses(ResidualAttentionNet, message, **{"variant": "CifarResidualAttention56", argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "choices"),
    [
        ("unit", "basic", "'preactivation', 'resnext', 'inception'"),
        ("mask", "global", "'encoder_decoder', 'local'"),
        ("mask", None, "'encoder_decoder', 'local'"),
        ("mask_activation", "tanh", "'mixed', 'channel', 'spatial'"),
        ("learning", "none", "'residual', 'naive'"),
    ],
)
def test_unknown_choice(refuses, argument, value, choices):
    message = f"{argument} to be one of {choices}.*; received: {argument}={value!r}"
    refuses(ResidualAttentionNet, message, **{"variant": "CifarResidualAttention56", argument: value})


DEEP = [
    (
        {"topology": "cifar", "modules": (1, 1, 1), "mask_depth": (6, 2, 1)},
        "64 x 64 pixels.*depth 6; received: 32 x 32",
    ),
    ({"topology": "cifar", "modules": (1, 1, 1), "mask_depth": (3, 2, 4)}, "16 x 16 pixels.*depth 4; received: 8 x 8"),
    (
        {"topology": "imagenet", "modules": (1, 1, 1, 1), "mask_depth": (3, 2, 1, 1), "input_shape": (32, 50, 3)},
        "2 x 2 pixels.*depth 1; received: 1 x 2",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), DEEP)
def test_mask_deeper_than_its_map(refuses, arguments, message):
    refuses(ResidualAttentionNet, message, **arguments)


def test_modules_in_a_stage_of_mask_depth_zero(refuses):
    message = "depth.*at least 1.*received.*0"
    refuses(ResidualAttentionNet, message, topology="imagenet", modules=(1, 1, 1, 1))


def test_mask_depth_of_a_stage_without_modules_is_ignored(narrow_network):
    assert narrow_network(modules=(1, 0, 0), mask_depth=(1, 0, 9)).output_shape == (None, 5)


def test_mask_depth_of_a_local_mask_is_ignored(narrow_network):
    assert narrow_network(mask="local", mask_depth=(9, 2, 0), modules=(1, 0, 1)).output_shape == (None, 5)
