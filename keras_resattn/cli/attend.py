"""`keras-resattn attend`: images and the network's attention maps, in one figure."""

import argparse
import importlib.util

from keras_resattn.cli import image_files, network, network_arguments, output, startup
from keras_resattn.cli.arguments import FIGURES, check_least, check_output, path

MAX_IMAGES = 100  # rows of the figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `attend` to an `argparse` parser."""
    image_files.add_arguments(parser)
    network_arguments.add_arguments(parser)
    parser.add_argument(
        "-o", "--output", type=path, required=True, metavar="FILE", help=f"figure to write ({', '.join(FIGURES)})"
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=2,
        metavar="N",
        help="mask channels to draw beside their mean (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Return 2 if an image could not be read, else 0."""
    check_output("--output", arguments.output, FIGURES, arguments.images)
    check_least("--channels", arguments.channels, 0)
    choice = network_arguments.choose(arguments)
    given = image_files.Images(arguments)
    if not given.given:
        return given.finish()
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "Expected matplotlib, which draws the figure; it is not installed. Run: pip install 'keras-resattn[viz]'."
        )
    startup.start_keras()
    paths = given.paths()
    check_output("--output", arguments.output, FIGURES, paths)
    if len(paths) > MAX_IMAGES:
        raise ValueError(f"Expected at most {MAX_IMAGES} images in one figure; received: {len(paths)}.")
    net = network.open_network(choice)
    batches = list(given.batches(net))
    if batches:
        _draw(net, batches, arguments)
    return given.finish()


def _draw(net, batches, arguments):
    import numpy as np

    from keras_resattn.utils.io import atomic_write
    from keras_resattn.visualize import plot_attention

    paths = [path for batch, _ in batches for path in batch]
    pixels = np.concatenate([batch for _, batch in batches])
    titles = []
    for name, [(index, label, probability)] in zip(output.labels(paths), net.top_classes(pixels, 1), strict=True):
        titles.append(f"{output.printable(name)}\n{network.class_label(index, label)} {probability:.0%}")
    figure = plot_attention(
        net.model, net.preprocess(pixels), display_images=pixels, titles=titles, channels=arguments.channels
    )
    with atomic_write(arguments.output) as partial:
        figure.savefig(partial, dpi=150)
    print(f"wrote {output.printable(str(arguments.output))}")
