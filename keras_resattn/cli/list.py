"""`keras-resattn list`: networks with their costs and released checkpoints."""

import argparse

from keras_resattn import pretrained
from keras_resattn.cli import output
from keras_resattn.cli.arguments import add_formats
from keras_resattn.models import registry

FIELDS = ("parameters", "macs", "size", "classes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list` to an `argparse` parser."""
    add_formats(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    released = pretrained.tags()
    records = [
        {
            "network": name,
            **{field: getattr(registry.NETWORKS.get(name), field, None) for field in FIELDS},
            "weights": [tag.tag for tag in released if tag.network == name],
        }
        for name in registry.list_models()
    ]
    if arguments.format is not None:
        return output.print_records(arguments.format, records)
    left, right = {"no_wrap": True}, {"no_wrap": True, "justify": "right"}
    columns = {"network": left, "parameters": right, "GMACs": right, "input": right, "weights": {}}
    rows = [
        [
            record["network"],
            *_costs(record),
            ", ".join(record["weights"]) or "-",
        ]
        for record in records
    ]
    output.print_table("networks", columns, rows)
    print("No ImageNet-1k weights of Residual Attention Networks exist. Networks without weights start untrained.")
    print("GMACs of WARN are counted as in the paper; the implementation computes fewer.")


def _costs(record):
    if record["parameters"] is None:  # a depth and width that only weights outside the package have
        return ["-", "-", "-"]
    return [f"{record['parameters']:,}", f"{record['macs'] / 1e9:.3f}", f"{record['size']} x {record['size']}"]
