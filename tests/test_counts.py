"""Parameters and multiply-adds of every network, to the last digit; of two networks, layer by layer."""

import functools
import json
import math
import re
import sys
from pathlib import Path

import pytest
from helpers import undrawn

import keras_resattn
from keras_resattn import ResidualAttentionNet, count_macs
from keras_resattn.models.variants import TOPOLOGIES, VARIANTS

SPEC = Path(__file__).parent / "spec"
COUNTS = json.loads((SPEC / "counts.json").read_text())
CIFAR_STAGES = json.loads((SPEC / "cifar_stages.json").read_text())


def build(row):
    """The network of a row of `counts.json`."""
    arguments = {"variant": row.split()[0], "weights": None}
    if bottom := re.search(r"bottom=(\d+)", row):
        arguments["bottom_units"] = int(bottom.group(1))
    if classes := re.search(r"classes=(\d+)", row):
        arguments["classes"] = int(classes.group(1))
    if size := re.search(r"at (\d+)", row):
        arguments["input_shape"] = (int(size.group(1)), int(size.group(1)), 3)
    if local := re.search(r"local-conv mask, (\d) unit", row):
        arguments |= {"mask": "local", "local_units": int(local.group(1))}
    return ResidualAttentionNet(**arguments)


@functools.cache
def measure(row):
    """What `counts.json` states of a row, measured, and the cost of each layer."""
    return undrawn(_measure, row=row)


def _measure(row):
    """The deepest graphs, too, build and describe themselves within Python's recursion limit."""
    limit = sys.getrecursionlimit()
    model = build(row)
    assert len(model.get_config()["layers"]) == len(model.layers)
    assert sys.getrecursionlimit() == limit
    counts = {
        "input": model.input_shape[1],
        "classes": model.output_shape[1],
        "trainable": sum(math.prod(variable.shape) for variable in model.trainable_variables),
        "with_bn_statistics": model.count_params(),
        "macs": count_macs(model),
    }
    return counts, count_macs(model, per_layer=True)


# Of a hundred classes, the first and the last network stand for all but when there is time.
ROWS = [
    pytest.param(row, marks=pytest.mark.slow) if re.search(r"(128|164|200|236|bottom=6) classes", row) else row
    for row in COUNTS
]


@pytest.mark.parametrize("row", ROWS)
def test_counts(row):
    assert measure(row)[0] == COUNTS[row]


def test_every_network_of_the_table_has_its_counts():
    assert {row for row in COUNTS if " " not in row} == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_states_the_counts(name):
    row, topology = VARIANTS[name], TOPOLOGIES[VARIANTS[name].topology]
    assert {
        "input": topology.default_size,
        "classes": topology.classes,
        "trainable": row.parameters,
        "macs": row.macs,
    } == {key: value for key, value in COUNTS[name].items() if key != "with_bn_statistics"}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_builder_states_the_counts(name):
    millions, giga = COUNTS[name]["trainable"] / 1e6, COUNTS[name]["macs"] / 1e9
    assert (
        f"{millions:.2f} M trainable parameters and {giga:.2f} G multiply-adds" in getattr(keras_resattn, name).__doc__
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_number_in_a_name_is_the_depth_of_the_trunk(name):
    trunk = [cost for cost in measure(name)[1] if "_mask/" not in cost.path]
    weighted = [cost for cost in trunk if cost.macs and not cost.path.endswith("/projection")]
    assert len(weighted) == int(re.search(r"\d+$", name).group())


def test_a_larger_picture_has_the_counts_of_a_network_of_that_size():
    macs = undrawn(lambda: count_macs(build("ResidualAttention92"), (320, 320, 3)))
    assert macs == COUNTS["ResidualAttention92 at 320"]["macs"]


@pytest.mark.parametrize("row", CIFAR_STAGES)
def test_stages_of_the_cifar_networks(row):
    stages = {1: [0, 0], 2: [0, 0], 3: [0, 0]}
    for cost in measure(row)[1]:
        if stage := re.match(r"stage(\d)_", cost.path):
            stages[int(stage.group(1))][0] += cost.parameters
            stages[int(stage.group(1))][1] += cost.macs
    assert list(stages.values()) == CIFAR_STAGES[row]


# --- Layer by layer, against the authors' prototxts ----------------------------------------------

MASK_DEPTH = {"A": 3, "B": 2, "C": 1}


def unit_name(name):
    """The name here of a residual unit of the prototxt."""
    if entry := re.fullmatch(r"pre_res_(\d)", name):
        return f"stage{entry[1]}_unit1"
    if last := re.fullmatch(r"post_res_4_(\d)", name):
        return f"stage4_unit{last[1]}"
    letter, module, inside = re.fullmatch(r"Attention([ABC])_(\d)(?:/(.*))?", name).groups()
    attention = f"stage{'ABC'.index(letter) + 1}_attention{module}"
    if inside is None:
        return f"{attention}_post1"
    if trunk := re.fullmatch(r"trunk/res(\d)", inside):
        return f"{attention}_{('pre1', 'trunk1', 'trunk2')[int(trunk[1]) - 1]}"
    if skip := re.fullmatch(r"mask/skip/res(\d)", inside):
        return f"{attention}_mask/skip{skip[1]}"
    way, level, i = re.fullmatch(r"mask/(down|up)_sample/res(\d)_(\d)", inside).groups()
    if way == "down" and int(level) == MASK_DEPTH[letter]:
        return f"{attention}_mask/bottom_unit{i}"
    return f"{attention}_mask/{way}{level}_unit{i}"


def names_here(prototxt):
    """`{name in the prototxt: path here}`.

    A mask's pools are one layer here, and so are its resizings: the calls are `pool#1`, `pool#2` and so on.
    """
    paths = {
        "conv1": "stem_conv",
        "conv1/bn": "stem_bn",
        "pool1_3x3_s2": "stem_pool",
        "post_res_4_3/bn": "post_bn",
        "ave_pool": "avg_pool",
        "classifier": "predictions",
    }
    for name, _, reads, *_ in prototxt:
        if conv := re.fullmatch(r"(.*)/branch1/conv(\d)_\dx\d", name):
            paths[name] = f"{unit_name(conv[1])}/conv{conv[2]}"
            # The file names a normalisation after the tensor that it reads; here it belongs to the unit that reads it.
            paths[reads] = f"{unit_name(conv[1])}/bn{conv[2]}"
        elif projection := re.fullmatch(r"(.*)/branch2/conv1_1x1", name):
            paths[name] = f"{unit_name(projection[1])}/projection"
        elif inside := re.fullmatch(r"Attention([ABC])_(\d)/mask/(.*)", name):
            mask = f"stage{'ABC'.index(inside[1]) + 1}_attention{inside[2]}_mask"
            if linear := re.fullmatch(r"linear_(\d)", inside[3]):
                paths[name] = f"{mask}/linear{linear[1]}"
                paths[reads] = f"{mask}/bn{linear[1]}"
            elif pool := re.fullmatch(r"down_sample/pool(\d)_3x3_s2", inside[3]):
                paths[name] = f"{mask}/pool#{pool[1]}"
            elif interp := re.fullmatch(r"up_sample/interp_(\d)", inside[3]):
                paths[name] = f"{mask}/resize#{MASK_DEPTH[inside[1]] - int(interp[1]) + 1}"
    return paths


TYPES = {
    "Convolution": {"Conv2D"},
    "BN": {"BatchNormalization"},
    "Pooling": {"CeilMaxPooling2D", "GlobalAveragePooling2D"},
    "Interp": {"BilinearResize"},
    "InnerProduct": {"Dense"},
}


def layers_here(costs):
    """`{path: (kind, input shapes, output shape, parameters, macs)}`, shapes as in the prototxt."""
    layers, calls, before_padding = {}, {}, None
    for cost in costs:
        shapes = cost.input_shape if isinstance(cost.input_shape, list) else [cost.input_shape]
        if cost.kind == "ZeroPadding2D":  # in the file, a part of the convolution that follows
            before_padding = shapes
        elif cost.kind in set().union(*TYPES.values()):
            shapes, before_padding = before_padding or shapes, None
            received = [[channels, *sizes] for _, *sizes, channels in shapes]
            _, *sizes, channels = cost.output_shape
            path = cost.path
            if cost.kind in ("CeilMaxPooling2D", "BilinearResize") and "/" in path:
                calls[path] = calls.get(path, 0) + 1
                path = f"{path}#{calls[path]}"
            assert path not in layers
            layers[path] = (cost.kind, received, [channels, *sizes], cost.parameters, cost.macs)
    return layers


@pytest.mark.parametrize("depth", [56, 92])
def test_every_layer_is_the_prototxts(depth):
    prototxt = json.loads((SPEC / f"attention{depth}.json").read_text())
    paths, layers = names_here(prototxt), layers_here(measure(f"ResidualAttention{depth}")[1])
    assert sorted(paths[name] for name, *_ in prototxt) == sorted(layers)
    for name, kind, _, received, returned, parameters, macs in prototxt:
        kind_here, *rest = layers[paths[name]]
        assert kind_here in TYPES[kind], name
        received = received if kind == "Interp" else [received]
        if name == "ave_pool":
            returned = [2048]
        if name == "classifier":
            received = [[2048]]
        assert rest == [received, returned, parameters, macs], name
