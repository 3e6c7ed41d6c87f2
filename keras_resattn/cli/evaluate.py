"""`keras-resattn evaluate`: accuracy of a released checkpoint, or of your own network, on labelled images."""

import argparse
import sys

from keras_resattn.cli import evaluate_all, network, network_arguments, output, startup
from keras_resattn.cli.arguments import add_data, add_formats, add_resize_mode, check_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate` to an `argparse` parser."""
    add_data(parser, "x_test and y_test", required=False)
    parser.add_argument(
        "--all",
        action="store_true",
        help="evaluate all released weights and compare with their cards; --data-dir DIR then holds the test images, "
        "such as cifar10.npz, or datasets of TensorFlow Datasets; exit code 1 if a result differs",
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="images per batch (default: %(default)s)"
    )
    add_resize_mode(parser, "as in training if known, otherwise crop; arrays are not resized")
    network_arguments.add_arguments(parser)
    add_formats(parser)


def run(arguments: argparse.Namespace) -> int | None:
    """Run the command. Return 1 if a result of `--all` differs from its card."""
    check_least("--batch-size", arguments.batch_size, 1)
    if arguments.all:
        return evaluate_all.run(arguments)
    if arguments.data is None:
        raise ValueError("Expected --data, the test images, or --all with --data-dir; received: neither.")
    choice = network_arguments.choose(arguments)
    startup.start_keras()
    evaluate = {"tag": _released, "hub": _released, "run": _run}.get(choice.kind, _file)
    name, result = evaluate(choice, arguments)
    if arguments.format is None:
        _print_text(name, result, released=choice.kind in ("tag", "hub"))
    else:
        _print_record(name, result, arguments)
    return None


def _released(choice, arguments):
    from keras_resattn import evaluation
    from keras_resattn.data import Dataset, open_dataset

    tag = network.open_tag(choice)
    mode = arguments.resize_mode
    dataset = open_dataset(arguments.data, split="test", data_dir=arguments.data_dir, resize_mode=mode)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected data with access by index; received: --data {arguments.data}, a stream.")
    verbose = 1 if arguments.format is None and sys.stdout.isatty() else 0
    return tag.id, evaluation.evaluate_checkpoint(tag, dataset, arguments.batch_size, verbose)


def _run(choice, arguments):
    from keras_resattn.evaluation import evaluate_run

    options = arguments.batch_size, arguments.data_dir, arguments.resize_mode
    return choice.name, evaluate_run(choice.source, arguments.data, *options)


def _file(choice, arguments):
    from keras_resattn.data import open_dataset
    from keras_resattn.data.class_matching import match_classes
    from keras_resattn.evaluation import evaluate_model

    net = network.open_network(choice)
    dataset = open_dataset(arguments.data, split="test", data_dir=arguments.data_dir, resize_mode=arguments.resize_mode)
    dataset = match_classes(dataset, net.class_names, net.name)
    return net.name, evaluate_model(net.model, dataset, net.mean, net.std, arguments.batch_size)


def _print_text(name, result, released):
    import keras

    counts = f"{result.correct} of {result.total} correct, {result.accuracy:.2%}, loss {result.loss:.4f}"
    print(f"{output.printable(name)} on {keras.backend.backend()}: {counts}")
    if not released:
        return
    if result.changed is None:
        print("Individual predictions are not compared: the release has none for these test images.")
    elif result.changed:
        count = f"{len(result.changed)} of {result.total} predictions"
        print(f"{count} differ from the released predictions: images {result.changed}")
    else:
        print(f"All {result.total} predictions match the released predictions.")


def _print_record(name, result, arguments):
    import keras

    record = {
        "network": name,
        "data": arguments.data,
        "backend": keras.backend.backend(),
        "correct": result.correct,
        "total": result.total,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "changed": result.changed,
    }
    output.print_records(arguments.format, record)
