"""`keras-resattn predict`: the most probable classes of images."""

import argparse

from keras_resattn.cli import image_files, network, network_arguments, output, startup
from keras_resattn.cli.arguments import add_formats, check_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict` to an `argparse` parser."""
    image_files.add_arguments(parser)
    network_arguments.add_arguments(parser)
    parser.add_argument(
        "--top", type=int, default=3, metavar="N", help="number of classes per image (default: %(default)s)"
    )
    add_formats(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Return 2 if an image could not be read, else 0."""
    check_least("--top", arguments.top, 1)
    choice = network_arguments.choose(arguments)
    given = image_files.Images(arguments)
    if not given.given:
        return given.finish()
    startup.start_keras()
    net = network.open_network(choice)
    results = []
    for paths, batch in given.batches(net):
        results += zip(paths, net.top_classes(batch, arguments.top), strict=True)
    if results:
        (_print_table if arguments.format is None else _print_records)(net, results, arguments)
    return given.finish()


def _print_table(net, results, arguments):
    rows = []
    for path, best in results:
        for i, (index, name, probability) in enumerate(best):
            rows.append([str(path) if i == 0 else "", network.class_label(index, name), f"{probability:.1%}"])
        rows.append(None)
    columns = {"image": {}, "class": {}, "probability": {"justify": "right"}}
    output.print_table(net.name, columns, rows)


def _print_records(net, results, arguments):
    keys = ("index", "class", "probability")
    if arguments.format == "json":
        records = [
            {"image": str(path), "predictions": [dict(zip(keys, entry, strict=True)) for entry in best]}
            for path, best in results
        ]
    else:
        records = [
            {"image": str(path), "rank": rank, **dict(zip(keys, entry, strict=True))}
            for path, best in results
            for rank, entry in enumerate(best, start=1)
        ]
    output.print_records(arguments.format, records)
