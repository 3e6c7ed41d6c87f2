"""`keras-resattn info`: details of a network or of a released checkpoint."""

import argparse
import math

from keras_resattn import pretrained
from keras_resattn.cli import output, startup
from keras_resattn.models import registry
from keras_resattn.models.variants import VARIANTS
from keras_resattn.pretrained.resolution import find_tensors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info` to an `argparse` parser."""
    parser.add_argument("name", metavar="NAME", help="network, such as CifarResidualAttention56, tag, or network/tag")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    fields = _of_network(arguments.name) if registry.is_network(arguments.name) else _of_tag(arguments.name)
    rows = [[field, _text(value)] for field, value in fields.items()]
    output.print_table(None, {"field": {"no_wrap": True}, "value": {}}, rows)


def _text(value):
    if isinstance(value, dict):
        known = {key: f"({_text(each)})" if isinstance(each, dict) else _text(each) for key, each in value.items()}
        return ", ".join(f"{key}={text}" for key, text in known.items() if text not in ("None", "()", ""))
    return ", ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)


def _of_network(name):
    entry = registry.NETWORKS.get(name) or _measured(name)
    if name in VARIANTS:
        startup.start_keras()  # widths are computed from layers
        arguments = vars(VARIANTS[name].resolved())
    else:
        arguments = entry.arguments
    return {
        "name": name,
        "parameters": entry.parameters,
        "macs": entry.macs,
        "input": f"{entry.size} x {entry.size}",
        "classes": entry.classes,
        **arguments,
        "released weights": [tag.tag for tag in pretrained.tags() if tag.network == name] or "none",
    }


def _measured(name):
    """Return the `Network` of an id that the registry does not list."""
    startup.start_keras()
    from keras_resattn.models.profiling import count_macs

    model = registry.create_model(name, weights=None)
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return registry.Network(name, parameters, count_macs(model))


def _of_tag(name):
    expected = "a network listed by `keras-resattn list`, or released weights"
    tag = registry.find_checkpoint(name, expected, registry.NETWORKS)
    return {
        "network": tag.network,
        "tag": tag.tag,
        "aliases": tag.aliases,
        "file": _location(tag),
        "sha256": tag.sha256,
        "classes": tag.classes,
        "mean": tag.mean,
        "std": tag.std,
        **tag.metrics,
        **tag.training,
    }


def _location(tag):
    try:
        return str(find_tensors(tag))
    except ValueError:
        return "not in the package, not in KERAS_RESATTN_WEIGHTS, and not on the Hub"
