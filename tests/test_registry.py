"""The registry: every network by its id, `list_models` and `create_model`."""

import re

import keras
import pytest
from helpers import undrawn

import keras_resattn
from keras_resattn import create_model, list_models, pretrained
from keras_resattn.models import registry
from keras_resattn.utils.network_ids import python_call

# Deep networks take seconds to build, and the tests of counts build them by default.
IDS = [
    pytest.param(id, marks=pytest.mark.slow) if re.search(r"(164|200|236|452|1001)$", id) else id
    for id in registry.NETWORKS
]

pytestmark = pytest.mark.once


@pytest.mark.parametrize("network", IDS)
def test_create_model_builds_every_network_under_its_own_name(network):
    size = 32 if registry.NETWORKS[network].size == 32 else 64
    model = undrawn(create_model, id=network, weights=None, input_shape=(size, size, 3))
    assert registry.id_of_model_name(model.name) == network


def test_create_model_builds_any_depth_and_width_of_a_family():
    model = undrawn(create_model, id="WARN-10-1", weights=None, classes=7)
    assert model.name == "warn_10_1"
    assert registry.id_of_model_name("warn_10_1") == "WARN-10-1"
    assert registry.id_of_model_name("wide_resnet_att2_22_4") == "WideResNetAtt2-22-4"
    assert model.output_shape == (None, 7)


def test_create_model_loads_released_weights_by_default():
    with pytest.raises(ValueError, match=r"WARN-10-1.*weights=None"):
        create_model("WARN-10-1")


@pytest.mark.once
@pytest.mark.parametrize("network", ["WARN", "WARN-16", "warn-16-8", None, 56])
def test_an_unknown_id(network):
    with pytest.raises(ValueError, match=rf"Expected network to be an id .*'WARN-DEPTH-WIDTH'.* network={network!r}"):
        create_model(network, weights=None)


@pytest.mark.once
def test_an_unknown_id_brings_suggestions():
    with pytest.raises(ValueError, match=r"Did you mean 'CifarResidualAttention56' or "):
        create_model("CifarResidualAttention65")


@pytest.mark.once
@pytest.mark.parametrize("network", ["CifarResidualAttention56", "WARN-10-1"])
def test_a_checkpoint_is_no_network(network):
    with pytest.raises(ValueError, match=rf"Pass weights='cifar10' beside the id '{network}'\."):
        create_model(f"{network}/cifar10")


@pytest.mark.once
def test_an_unknown_argument():
    with pytest.raises(ValueError, match=r"Expected arguments of WARN, include_top, .*; received: mask, wide\."):
        create_model("WARN-10-1", weights=None, mask="local", wide=True)


@pytest.mark.once
def test_list_models_divides_all_networks_by_released_weights():
    assert list_models() == list_models(None) == list(registry.NETWORKS)
    assert set(list_models(pretrained=True)) == {checkpoint.network for checkpoint in pretrained.tags()}
    assert "CifarResidualAttention56" in list_models(pretrained=True)
    assert sorted(list_models(pretrained=True) + list_models(pretrained=False)) == sorted(registry.NETWORKS)


@pytest.mark.once
def test_list_models_knows_released_weights_of_other_depths(monkeypatch):
    class Released:
        network = "WARN-22-3"

    monkeypatch.setattr(registry, "tags", lambda: (Released,))
    assert list_models(pretrained=True) == ["WARN-22-3"]
    assert list_models() == [*registry.NETWORKS, "WARN-22-3"]
    assert list_models(pretrained=False) == list(registry.NETWORKS)


@pytest.mark.once
def test_list_models_takes_true_false_or_none():
    with pytest.raises(ValueError, match="received: pretrained='cifar10'"):
        list_models("cifar10")


@pytest.mark.once
@pytest.mark.parametrize("name", ["my_network", "", "warn_16"])
def test_a_model_name_that_belongs_to_no_network(name):
    with pytest.raises(ValueError, match=r"Expected a network that create_model builds, .*; received: "):
        registry.id_of_model_name(name)


@pytest.mark.parametrize(
    ("network", "call"),
    [
        ("CifarResidualAttention56", "CifarResidualAttention56(weights=None)"),
        ("WARN-16-8", "WARN(depth=16, width=8, weights=None)"),
        ("WARN50x2", "WARN50x2(weights=None)"),
    ],
)
def test_python_call_is_the_expression_that_builds_a_network(network, call):
    assert python_call(network, "weights=None") == call
    model = undrawn(lambda: eval(call, vars(keras_resattn) | {call.split("(")[0]: registry.NETWORKS[network].builder}))
    assert isinstance(model, keras.Model)
