"""Parameters and multiply-adds of every network, exactly; layer by layer for five networks."""

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

pytestmark = pytest.mark.once

SPEC = Path(__file__).parent / "spec"
COUNTS = json.loads((SPEC / "counts.json").read_text())
CIFAR_STAGES = json.loads((SPEC / "cifar_stages.json").read_text())


def build(row):
    """Build the network of a row of `counts.json`."""
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
    """Return the measured numbers of a row of `counts.json`, and the cost of each layer."""
    return undrawn(_measure, row=row)


def _measure(row):
    """Even the deepest graphs stay within Python's recursion limit."""
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


def cases(rows):
    """By default every network is built once; the deep ones with other arguments are slow tests."""
    deep = re.compile(r"(128|164|200|236|452) (classes|bottom)")
    return [pytest.param(row, marks=pytest.mark.slow) if deep.search(row) else row for row in rows]


@pytest.mark.parametrize("row", cases(COUNTS))
def test_counts(row):
    assert measure(row)[0] == COUNTS[row]


def test_every_network_of_the_table_has_its_counts():
    assert {row for row in COUNTS if " " not in row} == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_states_the_counts(name):
    row = VARIANTS[name].resolved()
    assert {
        "input": row.default_size,
        "classes": TOPOLOGIES[row.topology].classes,
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
    depth = len(weighted)
    if VARIANTS[name].unit == "inception":  # each unit counts as the three layers of the bottleneck that it replaces
        depth = 2 + 3 * len({cost.path.split("/")[0] for cost in weighted if "/" in cost.path})
    assert depth == int(re.search(r"\d+$", name).group())


def test_a_larger_image_has_the_counts_of_a_network_of_that_size():
    macs = undrawn(lambda: count_macs(build("ResidualAttention92"), (320, 320, 3)))
    assert macs == COUNTS["ResidualAttention92 at 320"]["macs"]


@pytest.mark.parametrize("row", cases(CIFAR_STAGES))
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
    """Return our name of a residual unit of the prototxt."""
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
    way, level, i = re.fullmatch(r"mask/(down|up)(?:_sample)?/res(\d)_(\d)", inside).groups()
    if way == "down" and int(level) == MASK_DEPTH[letter]:
        return f"{attention}_mask/bottom_unit{i}"
    return f"{attention}_mask/{way}{level}_unit{i}"


def names_here(prototxt, preactivation):
    """`{name in the prototxt: path here}`.

    A mask's pools are one layer here, and so are its resizings: the calls are `pool#1`, `pool#2` and so on. The file
    names a normalisation after the tensor that it reads; here, with pre-activation, it is the reading unit's.
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
            paths[reads if preactivation else f"{name}/bn"] = f"{unit_name(conv[1])}/bn{conv[2]}"
        elif projection := re.fullmatch(r"(.*)/branch2/conv1_1x1(/bn)?", name):
            paths[name] = f"{unit_name(projection[1])}/projection{'_bn' if projection[2] else ''}"
        elif inside := re.fullmatch(r"Attention([ABC])_(\d)/mask/(.*)", name):
            mask = f"stage{'ABC'.index(inside[1]) + 1}_attention{inside[2]}_mask"
            if linear := re.fullmatch(r"linear_(\d)", inside[3]):
                paths[name] = f"{mask}/linear{linear[1]}"
                if preactivation or linear[1] == "2":
                    paths[reads] = f"{mask}/bn{linear[1]}"
            elif pool := re.fullmatch(r"down(?:_sample)?/pool(\d)_3x3_s2", inside[3]):
                paths[name] = f"{mask}/pool#{pool[1]}"
            elif interp := re.fullmatch(r"up(?:_sample)?/interp_(\d)", inside[3]):
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
        if cost.kind == "ZeroPadding2D":  # part of the following convolution in the prototxt
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


def assert_same_layers(definition, paths, layers):
    """Compare kinds, shapes, parameters and multiply-adds of the layers by name."""
    assert sorted(paths[name] for name, *_ in definition) == sorted(layers)
    for name, kind, _, received, returned, parameters, macs in definition:
        kind_here, *rest = layers[paths[name]]
        assert kind_here in TYPES[kind], name
        received = received if kind == "Interp" else [received]
        if name == "ave_pool":
            returned = [2048]
        if name == "classifier":
            received = [[2048]]
        assert rest == [received, returned, parameters, macs], name


PROTOTXTS = {
    "ResidualAttention56": "attention56",
    "ResidualAttention92": "attention92",
    "AttentionNeXt56": "attention_next56",
    "AttentionNeXt92": "attention_next92",
}


@pytest.mark.parametrize(("network", "file"), PROTOTXTS.items(), ids=PROTOTXTS)
def test_every_layer_equals_that_of_the_prototxt(network, file):
    prototxt = json.loads((SPEC / f"{file}.json").read_text())
    paths = names_here(prototxt, preactivation=network.startswith("Residual"))
    assert_same_layers(prototxt, paths, layers_here(measure(network)[1]))


# --- Layer by layer, against the definition of AttentionInception --------------------------------


def inception_units():
    """Return our names of the units and masks that the definition numbers from 1."""
    for stage, depth in enumerate(MASK_DEPTH.values(), start=1):
        module = f"stage{stage}_attention1"
        yield f"stage{stage}_unit1"
        yield f"{module}_mask"
        yield from (f"{module}_{part}" for part in ("pre1", "trunk1", "trunk2"))
        yield from (f"{module}_mask/down{level}_unit1" for level in range(1, depth))
        yield from (f"{module}_mask/bottom_unit{i}" for i in (1, 2))
        for level in range(depth - 1, 0, -1):
            yield from (f"{module}_mask/skip{level}", f"{module}_mask/up{level}_unit1")
        yield f"{module}_post1"
    yield from (f"stage4_unit{i}" for i in (1, 2, 3))


INCEPTION_LAYERS = {
    "preact": "bn1",
    "b1_1x1": "branch1_conv1",
    "b2_1x1": "branch2_conv1",
    "b2_3x3": "branch2_conv2",
    "b3_1x1": "branch3_conv1",
    "b3_3x3a": "branch3_conv2",
    "b3_3x3b": "branch3_conv3",
    "proj": "conv",
    "shortcut": "projection",
    "i/bn": "bn1",
    "lin1": "linear1",
    "l/bn": "bn2",
    "lin2": "linear2",
}


def inception_names_here():
    """`{name in the definition: path here}`."""
    paths = {"conv1": "stem_conv", "conv1/bn": "stem_bn", "max_pooling2d": "stem_pool"}
    paths |= {"final/bn": "post_bn", "global_average_pooling2d": "avg_pool", "fc": "predictions"}
    calls = [(f"stage{stage}_attention1_mask", i) for stage, depth in enumerate((3, 2, 1), 1) for i in range(depth)]
    for n, (mask, i) in enumerate(calls):
        paths[f"max_pooling2d_{n + 1}"] = f"{mask}/pool#{i + 1}"
        paths["interp" + (f"_{n}" if n else "")] = f"{mask}/resize#{i + 1}"
    for n, unit in enumerate(inception_units(), start=1):
        for name, here in INCEPTION_LAYERS.items():
            paths[f"inc{n}/{name}"] = paths[f"m{n}/{name}"] = f"{unit}/{here}"
            paths[f"inc{n}/{name}/bn"] = f"{unit}/{here.replace('conv', 'bn')}"
    return paths


def test_every_layer_of_the_inception_network_equals_its_definition():
    definition = json.loads((SPEC / "attention_inception56.json").read_text())
    layers = layers_here(measure("AttentionInception56 at 224")[1])
    assert_same_layers(definition, inception_names_here(), layers)
