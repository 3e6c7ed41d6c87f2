"""All networks by their ids."""

import keras
import pytest
from helpers import undrawn

import keras_resattn
from keras_resattn.models import registry
from keras_resattn.pretrained import records

pytestmark = pytest.mark.once


@pytest.mark.parametrize("network", registry.NETWORKS)
def test_the_name_of_a_model_tells_its_network(network):
    entry = registry.NETWORKS[network]
    if network in ("ResidualAttention452", "CifarResidualAttention452", "ResNet1001"):
        pytest.skip("takes seconds to build; its name is made as the others' are")
    model = undrawn(registry.create_model, id=network, weights=None, input_shape=_smallest(entry.size))
    assert registry.identify(model.name) == network


def _smallest(size):
    size = 32 if size == 32 else 64
    return (size, size, 3)


def test_any_depth_and_width_of_a_family_has_an_id():
    assert undrawn(registry.create_model, id="WARN-10-1", weights=None).name == "warn_10_1"


@pytest.mark.parametrize("name", ["my_network", "", "warn_16"])
def test_a_model_of_another_name(name):
    with pytest.raises(ValueError, match=r"Expected the default name of one of .*; received: "):
        registry.identify(name)


def test_an_unknown_network():
    with pytest.raises(ValueError, match="network='WARN'"):
        registry.create_model("WARN")


@pytest.mark.parametrize(
    ("network", "call"),
    [
        ("CifarResidualAttention56", "CifarResidualAttention56(weights=None)"),
        ("WARN-16-8", "WARN(depth=16, width=8, weights=None)"),
        ("WARN50x2", "WARN50x2(weights=None)"),
    ],
)
def test_the_python_that_builds_a_network(network, call):
    assert records.call(network, "weights=None") == call
    assert isinstance(
        undrawn(lambda: eval(call, {name: getattr(keras_resattn, name) for name in keras_resattn.__all__})), keras.Model
    )
