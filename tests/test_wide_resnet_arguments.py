"""Invalid arguments of the builders of Wide ResNets and other baselines."""

import numpy as np
import pytest
from networks import BASELINES, WIDE_FAMILIES

from keras_resattn import WideResNetAtt2

pytestmark = pytest.mark.once


@pytest.mark.parametrize("build", BASELINES)
@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("include_top", 1, "include_top to be True or False; received: include_top=1"),
        ("classes", 0, "classes to be an integer of at least 1; received: classes=0"),
        ("classifier_activation", "softmaks", "Keras activation; received: classifier_activation='softmaks'"),
        ("pooling", "avg", "pooling=None.*; received: pooling='avg'. Pass include_top=False"),
        ("input_shape", (31, 32, 3), r"at least 32 pixels .*received: input_shape=\(31, 32, 3\)"),
        ("input_tensor", np.zeros((1, 32, 32, 3)), "input_tensor to be a KerasTensor"),
        ("weights", "cifar10", "received: weights='cifar10'. There is no released checkpoint for"),
        ("weights", "default", "received: weights='default'. There is no released checkpoint for"),
    ],
)
def test_every_builder_checks_its_arguments(refuses, build, argument, value, message):
    refuses(build, message, **{argument: value})


FAMILY_ARGUMENTS = {
    "depth": (r"6n \+ 4 \(10, 16, 22, 28, \.\.\.\)", [0, 4, 12, 27, 28.0, "28", True, None]),
    "width": ("an integer of at least 1", [0, 1.5, "10"]),
    "dropout": ("a number from 0 to below 1", [-0.1, 1, "0.3", True, None]),
}


@pytest.mark.parametrize("build", WIDE_FAMILIES)
@pytest.mark.parametrize(
    ("argument", "value"), [(argument, value) for argument, (_, values) in FAMILY_ARGUMENTS.items() for value in values]
)
def test_arguments_of_a_family(refuses, build, argument, value):
    expected = FAMILY_ARGUMENTS[argument][0]
    refuses(build, f"{argument} to be {expected}; received: {argument}={value!r}", **{argument: value})


@pytest.mark.parametrize("include_top", [True, False])
def test_attended_sums_are_not_pooled_again(refuses, include_top):
    message = "pooling=None, as the attention of this network already pools its maps; received: pooling='max'"
    refuses(WideResNetAtt2, message, include_top=include_top, pooling="max")
