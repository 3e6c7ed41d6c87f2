"""Parameters and multiply-adds of WARN, Wide ResNets and the other baselines, exactly."""

import functools
import inspect
import json
import math
import re
from pathlib import Path

import pytest
from helpers import undrawn

from keras_resattn import ResNet164, ResNet1001, WideResNet50x2, count_macs
from keras_resattn.models import registry
from keras_resattn.models.variants import VARIANTS

pytestmark = pytest.mark.once

SPEC = Path(__file__).parent / "spec"
COUNTS = {
    row: counts
    for name in ("counts_warn.json", "counts_wide.json")
    for row, counts in json.loads((SPEC / name).read_text()).items()
}


@functools.cache
def measure(row):
    """Return the measured numbers of a row such as `"WARN-28-10 classes=100"`, and the cost of each layer."""
    network, *arguments = row.split()
    arguments = {name: int(value) for name, value in (argument.split("=") for argument in arguments)}
    return undrawn(_measure, network=network, **arguments)


def _measure(network, **arguments):
    model = registry.create_model(network, weights=None, **arguments)
    costs = count_macs(model, per_layer=True)
    trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    assert sum(cost.parameters for cost in costs) == trainable
    counts = {
        "input": model.input_shape[1],
        "classes": model.output_shape[1],
        "trainable": trainable,
        "with_bn_statistics": model.count_params(),
        "macs": sum(cost.macs for cost in costs),
    }
    return counts, costs


@pytest.mark.parametrize("row", COUNTS)
def test_counts(row):
    assert measure(row)[0] == COUNTS[row]


@pytest.mark.parametrize("network", [row for row in COUNTS if " " not in row])
def test_the_table_states_the_counts(network):
    row = registry.NETWORKS[network]
    assert {"input": row.size, "classes": row.classes, "trainable": row.parameters, "macs": row.macs} == {
        key: value for key, value in COUNTS[network].items() if key != "with_bn_statistics"
    }


def test_every_network_has_its_counts():
    """`test_counts.py` has the Residual Attention Networks; WARN50x2 is counted from its base below."""
    assert set(registry.NETWORKS) == set(VARIANTS) | {row for row in COUNTS if " " not in row} | {"WARN50x2"}


@pytest.mark.parametrize("build", [WideResNet50x2, ResNet164, ResNet1001])
def test_the_builder_states_the_counts(build):
    millions, giga = COUNTS[build.__name__]["trainable"] / 1e6, COUNTS[build.__name__]["macs"] / 1e9
    stated = f"{millions:.2f} M trainable parameters and {giga:.2f} G multiply-adds"
    assert stated in inspect.getdoc(build)


@pytest.mark.parametrize("network", ["WideResNet-16-8", "WideResNet-40-10", "ResNet164", "ResNet1001"])
def test_the_number_in_a_name_is_the_depth(network):
    """The depths of Wide ResNets count the three projections, those of pre-activation ResNets do not."""
    weighted = [cost.path for cost in measure(network)[1] if cost.macs]
    projections = [path for path in weighted if path.endswith("/projection")]
    depth = int(re.search(r"\d+", network).group())
    assert len(projections) == 3
    assert len(weighted) - (len(projections) if network.startswith("ResNet") else 1) == depth


def test_any_depth_and_width_has_an_id():
    model = undrawn(registry.create_model, id="WideResNet-22-2", weights=None, classes=7)
    assert (model.name, model.output_shape) == ("wide_resnet_22_2", (None, 7))
    assert model.get_layer("group3_unit3").output.shape == (None, 8, 8, 128)


@pytest.mark.parametrize("network", ["ResNet50", "WideResNet-28", "WideResNet-28-10-4", None, 28])
def test_an_unknown_network(network):
    with pytest.raises(ValueError, match=f"to be an id .*'WideResNet-DEPTH-WIDTH'.*: network={network!r}"):
        registry.create_model(network)


@pytest.mark.parametrize(
    ("depth", "heads", "classes"), [(3, 1, 120), (3, 2, 120), (3, 4, 120), (2, 2, 120), (1, 4, 7)], ids=str
)
def test_parameters_that_attention_adds_to_the_fine_grained_network(depth, heads, classes):
    """Each module adds three 3x3 convolutions with 9 C K (N + 2) weights, and the gate its batch normalisation."""
    maps = {256: 56, 512: 28, 1024: 14}
    taps = list(maps)[-depth:]
    base, _ = measure("WideResNet50x2 classes=120")
    counts, _ = measure(f"WARN50x2 classes={classes} attention_depth={depth} attention_width={heads}")
    added = sum(9 * c * heads * (classes + 2) for c in taps) + (depth + 1) * (2048 + 2)
    assert counts["trainable"] - base["trainable"] == added + (classes - 120) * 2049
    if depth == 3:
        assert added == 16128 * heads * (classes + 2) + 8200
    added = sum(9 * c * heads * (classes + 2) * maps[c] ** 2 for c in taps) + (depth + 1) * 2048
    assert counts["macs"] - base["macs"] == added + (classes - 120) * 2048


def test_the_table_states_the_counts_of_the_fine_grained_network():
    row, base = registry.NETWORKS["WARN50x2"], registry.NETWORKS["WideResNet50x2"]
    assert (row.size, row.classes) == (224, 1000)
    assert row.parameters - base.parameters == 16128 * 4 * 1002 + 8200
    positions = 256 * 56**2 + 512 * 28**2 + 1024 * 14**2
    assert row.macs - base.macs == 9 * positions * 4 * 1002 + 4 * 2048
