"""`keras-resattn`: look at pictures with the published networks, measure them again, and train new ones."""

import argparse
import os
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

import keras_resattn
from keras_resattn import checkpoints, evaluation
from keras_resattn.cli import reproduce, train
from keras_resattn.data import Arrays, Source, network_input, open_source
from keras_resattn.data.class_names import match_classes
from keras_resattn.files import atomic_write
from keras_resattn.models import zoo
from keras_resattn.models.variants import VARIANTS
from keras_resattn.preprocessing import decode_predictions
from keras_resattn.suggestions import did_you_mean
from keras_resattn.visualize import plot_attention

DEFAULT = "CifarResidualAttention56/cifar10"
PICTURE_FORMATS = (".png", ".pdf", ".svg", ".jpg")


def main(argv=None):
    """Runs the command line. Returns 0, 1 if `verify` found faults, or 2 after one line that says what was wrong."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except KeyboardInterrupt as error:
        print(f"keras-resattn: {error or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, FloatingPointError, Image.DecompressionBombError) as error:
        message = " ".join(str(error).split())
        print(f"keras-resattn: {message or type(error).__name__}", file=sys.stderr)
        return 2


def _parser():
    parser = argparse.ArgumentParser(prog="keras-resattn", description=__doc__)
    version = f"keras-resattn {keras_resattn.__version__}, Keras {keras.version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name, run, help):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=run)
        return sub

    predict = command("predict", _predict, "say what is in pictures")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--top", type=int, default=3, help="classes to show for each picture (default: %(default)s)")
    attend = command("attend", _attend, "draw where the network looked")
    attend.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    attend.add_argument(
        "-o", "--output", type=Path, required=True, help=f"file to write ({', '.join(PICTURE_FORMATS)})"
    )
    attend.add_argument("--channels", type=int, default=2, help="channels beside the mean (default: %(default)s)")
    command("list", _list, "list networks and published weights")
    info = command("info", _info, "tell all about a network, or about published weights")
    info.add_argument("name", help="a network, such as CifarResidualAttention56, or network/tag")
    evaluate = command("evaluate", _evaluate, "measure published weights, or a run of yours, on labelled pictures")
    evaluate.add_argument(
        "--data", required=True, help=".npz file with x_test and y_test, class folders, or a name such as cifar10"
    )
    evaluate.add_argument("--data-dir", type=Path, help="where TensorFlow Datasets lie, for data by name")
    evaluate.add_argument("--batch-size", type=int, default=256, help="pictures in a step (default: %(default)s)")
    command("verify", _verify, "hash all bundled weights again")
    train.add_arguments(
        command("train", train.train, "train a network from random weights by a recipe, or go on with a run")
    )
    reproduce.add_arguments(command("reproduce", reproduce.reproduce, "run rows of the papers' tables"))
    measured = evaluate.add_mutually_exclusive_group()
    measured.add_argument("--run-dir", type=Path, help="folder of a finished run, as `train` leaves it")
    for sub in (predict, attend, measured):
        sub.add_argument("--weights", default=DEFAULT, help="network/tag or network, see `list` (default: %(default)s)")
    return parser


def _predict(arguments):
    if arguments.top < 1:
        raise ValueError(f"Expected --top to be 1 or more; received: {arguments.top}.")
    tag = _tag(arguments.weights)
    pictures = _read_pictures(arguments.images, tag)
    probabilities = evaluation.build(tag).predict(network_input(pictures, tag.mean, tag.std), verbose=0)
    table = Table(title=tag.id)
    table.add_column("picture")
    table.add_column("class")
    table.add_column("probability", justify="right")
    for path, best in zip(arguments.images, decode_predictions(probabilities, arguments.top, tag.id), strict=True):
        for i, (_, name, probability) in enumerate(best):
            last = i == len(best) - 1
            table.add_row(path.name if i == 0 else "", name, f"{probability:.1%}", end_section=last)
    Console().print(table)


def _attend(arguments):
    output = arguments.output
    if output.suffix.lower() not in PICTURE_FORMATS:
        raise ValueError(f"Expected --output to end in one of {', '.join(PICTURE_FORMATS)}; received: {output}.")
    if (
        output.is_dir()
        or not output.parent.is_dir()
        or not os.access(output if output.exists() else output.parent, os.W_OK)
    ):
        raise ValueError(f"Expected --output to be a file that can be written; {output} cannot.")
    if arguments.channels < 0:
        raise ValueError(f"Expected --channels to be 0 or more; received: {arguments.channels}.")
    tag = _tag(arguments.weights)
    pictures = _read_pictures(arguments.images, tag)
    model, images = evaluation.build(tag), network_input(pictures, tag.mean, tag.std)
    best = decode_predictions(model.predict(images, verbose=0), 1, tag.id)
    titles = [f"{path.stem}\n{name} {p:.0%}" for path, [(_, name, p)] in zip(arguments.images, best, strict=True)]
    figure = plot_attention(model, images, pictures=pictures, titles=titles, channels=arguments.channels)
    with atomic_write(output) as partial:
        figure.savefig(partial, dpi=150)
    print(f"wrote {output}")


def _list(arguments):
    table = Table(title="networks")
    for column in ("network", "parameters", "GMACs", "input", "weights"):
        left = column in ("network", "weights")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "weights")
    for name, network in zoo.NETWORKS.items():
        own = ", ".join(tag.tag for tag in checkpoints.tags() if tag.network == name)
        costs = f"{network.parameters:,}", f"{network.macs / 1e9:.3f}"
        table.add_row(name, *costs, f"{network.size} x {network.size}", own or "-")
    Console().print(table)
    print("ImageNet weights of Residual Attention Networks were never released by anyone.")
    print("The ImageNet rows start from random ones. WARN's GMACs are the paper's way of counting; it computes fewer.")


def _info(arguments):
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if arguments.name in zoo.NETWORKS:
        network = zoo.NETWORKS[arguments.name]
        fields = {
            "name": arguments.name,
            "parameters": network.parameters,
            "macs": network.macs,
            "input": f"{network.size} x {network.size}",
            "classes": network.classes,
            **(vars(VARIANTS[arguments.name].resolved()) if arguments.name in VARIANTS else network.arguments),
            "published weights": [tag.tag for tag in checkpoints.tags() if tag.network == arguments.name] or "none",
        }
    else:
        tag = _tag(arguments.name, "a network, as `keras-resattn list` has them, or published weights", zoo.NETWORKS)
        fields = {
            "network": tag.network,
            "tag": tag.tag,
            "aliases": tag.aliases,
            "file": tag.tensors,
            "sha256": tag.sha256,
            "classes": tag.classes,
            "mean": tag.mean,
            "std": tag.std,
            **tag.metrics,
            **tag.training,
        }
    for field, value in fields.items():
        table.add_row(field, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    Console().print(table)


def _evaluate(arguments):
    if arguments.batch_size < 1:
        raise ValueError(f"Expected --batch-size to be 1 or more; received: {arguments.batch_size}.")
    if arguments.run_dir is not None:
        return _evaluate_run(arguments)
    tag = _tag(arguments.weights)
    x, y = _test_pictures(arguments, tag)
    result = evaluation.evaluate(tag, x, y, arguments.batch_size, verbose=1 if sys.stdout.isatty() else 0)
    _print_counts(tag.id, result)
    if result.changed is None:
        print("These are not the pictures that the weights were released with, so single predictions are not compared.")
    elif result.changed:
        flips = f"{len(result.changed)} of {result.total} predictions"
        print(f"{flips} differ from the released ones: pictures {result.changed}")
    else:
        print(f"All {result.total} predictions are the released ones.")


def _test_pictures(arguments, tag):
    """Test pictures, those of files resized, and labels; classes that have names have to be the tag's."""
    source = open_source(arguments.data, split="test", data_dir=arguments.data_dir)
    if not isinstance(source, Source):
        raise ValueError(f"Expected pictures that can be read by index; received: --data {arguments.data}.")
    source = match_classes(source, tag.classes, tag.id)
    size = None if isinstance(source, Arrays) else tag.input_shape[:2]
    return source.read(range(len(source)), size), source.labels


def _evaluate_run(arguments):
    result = evaluation.evaluate_run(arguments.run_dir, arguments.data, arguments.batch_size, arguments.data_dir)
    _print_counts(arguments.run_dir, result)


def _print_counts(what, result):
    counts = f"{result.correct} of {result.total} correct, {result.accuracy:.2%}, loss {result.loss:.4f}"
    print(f"{what} on {keras.backend.backend()}: {counts}")


def _verify(arguments):
    results = checkpoints.verify()
    for result in results:
        print(f"{result.name}: {result.status}")
    failed = [result for result in results if result.failed]
    for result in failed:
        print(f"keras-resattn: {result.problem}", file=sys.stderr)
    if failed:
        print("keras-resattn: Reinstall keras_resattn to restore its weights.", file=sys.stderr)
    return 1 if failed else 0


def _tag(name, expected="published weights", known=()):
    """The published weights of a name, or of a network its default ones; an error suggests `known` names, too."""
    found = checkpoints.find("default", name) if name in zoo.NETWORKS else checkpoints.find(name)
    if len(found) == 1:
        return found[0]
    published = checkpoints.tags()
    names = {each for tag in published for each in (tag.id, tag.tag, tag.network, *tag.aliases)}
    if found:
        hint = f" It is a tag of several networks: {', '.join(tag.id for tag in found)}."
    else:
        hint = " It has none." if zoo.is_network(name) else did_you_mean(name, {*names, *known})
    ids = ", ".join(tag.id for tag in published) or "none yet"
    raise ValueError(f"Expected {expected} ({ids}); received: {name}.{hint}")


def _read_pictures(paths, tag):
    """Pictures as `(n, h, w, 3)` uint8: the largest central square, resized to the network's size."""
    height, width, _ = tag.input_shape
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image = image.convert("RGB")
        except FileNotFoundError:
            raise ValueError(f"Expected a picture; there is no file {path}.") from None
        except (OSError, SyntaxError) as error:
            raise ValueError(f"Expected a picture; {path} cannot be read as one ({error}).") from error
        side = min(image.size)
        left, upper = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=(left, upper, left + side, upper + side))
        pictures.append(np.asarray(image))
    return np.stack(pictures)


if __name__ == "__main__":
    sys.exit(main())
