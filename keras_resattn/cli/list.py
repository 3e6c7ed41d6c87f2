"""`keras-resattn list`: networks with their costs and released checkpoints."""

import argparse

from keras_resattn import pretrained
from keras_resattn.cli import output
from keras_resattn.cli.arguments import add_formats
from keras_resattn.models import registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list` to an `argparse` parser."""
    add_formats(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    records = [
        {
            "network": name,
            "parameters": network.parameters,
            "macs": network.macs,
            "size": network.size,
            "classes": network.classes,
            "weights": [tag.tag for tag in pretrained.tags() if tag.network == name],
        }
        for name, network in registry.NETWORKS.items()
    ]
    if arguments.format is not None:
        return output.print_records(arguments.format, records)
    left, right = {"no_wrap": True}, {"no_wrap": True, "justify": "right"}
    columns = {"network": left, "parameters": right, "GMACs": right, "input": right, "weights": {}}
    rows = [
        [
            record["network"],
            f"{record['parameters']:,}",
            f"{record['macs'] / 1e9:.3f}",
            f"{record['size']} x {record['size']}",
            ", ".join(record["weights"]) or "-",
        ]
        for record in records
    ]
    output.print_table("networks", columns, rows)
    print("No ImageNet weights of Residual Attention Networks were ever released; those networks start untrained.")
    print("GMACs of WARN are counted as in the paper; the implementation computes fewer.")
