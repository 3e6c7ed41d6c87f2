"""`keras-resattn attend`: images and the network's attention maps, in one figure."""

import argparse
import importlib.util

from keras_resattn.cli import image_files, network, network_arguments, output, startup
from keras_resattn.cli.arguments import FIGURES, check_least, check_output, path

MAX_IMAGES = 100  # rows of the figure
DISPLAY = 512  # pixels of the longer side of a displayed image; the figure shows some 200


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
        metavar="N",
        help="channels, or heads of gated attention, to draw besides the overview (default: 2)",
    )
    parser.add_argument(
        "--rank",
        choices=("energy", "gradient"),
        help="how channels are chosen: by the energy of the feature map (default; heads of gated attention by their "
        "gates), or by what their masks add to the score of a class (default with --montage)",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="name or index of the class for --rank gradient (default: the predicted class of each image)",
    )
    parser.add_argument(
        "--montage",
        action="store_true",
        help="draw one channel of each attention module, from shallow to deep: the feature map before the mask, the "
        "mask, and the feature map after it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Return 2 if an image could not be read, else 0."""
    check_output("--output", arguments.output, FIGURES, arguments.images)
    check_least("--channels", arguments.channels, 0)
    if arguments.montage and arguments.channels is not None:
        raise ValueError("Expected --channels without --montage, which draws one channel of each module.")
    rank = arguments.rank or ("gradient" if arguments.montage else "energy")
    if arguments.class_name is not None and rank != "gradient":
        raise ValueError(f"Expected --class with --rank gradient; received: --rank {rank}.")
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
    classes = _class_index(net, arguments.class_name)
    batches = list(given.batches(net))
    if batches:
        _draw(net, batches, rank, classes, arguments)
    return given.finish()


def _class_index(net, name):
    """Return the index of the class that `--class` names, or `None` if it is not given."""
    if name is None:
        return None
    count = net.model.output_shape[-1]
    if name in (net.class_names or ()):
        return net.class_names.index(name)
    if name.isdecimal() and int(name) < count:
        return int(name)
    names = f"a class name, such as {net.class_names[0]}, or " if net.class_names else ""
    raise ValueError(f"Expected --class to be {names}an index from 0 to {count - 1}; received: {name}.")


def _draw(net, batches, rank, classes, arguments):
    import numpy as np

    from keras_resattn.utils.io import atomic_write
    from keras_resattn.visualize import plot_attention, plot_attention_montage

    paths = [path for batch, _ in batches for path in batch]
    pixels = np.concatenate([batch for _, batch in batches])
    titles = []
    for name, [(index, label, probability)] in zip(output.labels(paths), net.top_classes(pixels, 1), strict=True):
        titles.append(f"{output.printable(name)}\n{network.class_label(index, label)} {probability:.0%}")
        if classes is not None:
            shown = net.class_names[classes] if net.class_names else None
            titles[-1] += f"\nmasks for {network.class_label(classes, shown)}"
    options = {
        "display_images": [_photo(path) for path in paths],
        "titles": titles,
        "rank": rank,
        "classes": classes,
        "resize_mode": arguments.resize_mode or net.resize_mode,
    }
    if arguments.montage:
        figure = plot_attention_montage(net.model, net.preprocess(pixels), **options)
    else:
        channels = 2 if arguments.channels is None else arguments.channels
        figure = plot_attention(net.model, net.preprocess(pixels), channels=channels, **options)
    with atomic_write(arguments.output) as partial:
        figure.savefig(partial, dpi=150)
    print(f"wrote {output.printable(str(arguments.output))}")


def _photo(file):
    """Return an image with its own aspect ratio, of at most `DISPLAY` pixels."""
    from keras_resattn.data.images import load_image

    photo = load_image(file, str(file))
    scale = DISPLAY / max(photo.shape[:2])
    size = tuple(max(1, round(scale * side)) for side in photo.shape[:2])
    return photo if scale >= 1 else load_image(photo, str(file), size, resize_mode="squash")
