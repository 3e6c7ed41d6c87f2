"""`keras-resattn export`: export a network to a file of another runtime, and compare the file with Keras."""

import argparse
import dataclasses
from pathlib import Path

from keras_resattn.cli import image_files, network, network_arguments, output, startup
from keras_resattn.cli.arguments import add_formats, check_least, expanded, path
from keras_resattn.deployment.files import check_path
from keras_resattn.deployment.formats import FORMATS, check_format
from keras_resattn.deployment.quantization import check_quantization

#: Number of training images, spread evenly over the data, that `--int8` uses.
CALIBRATION_IMAGES = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` to an `argparse` parser."""
    network_arguments.add_name(parser, "fixed height and width of images, for a network of any input size")
    parser.add_argument("--format", dest="file_format", choices=FORMATS, required=True, help="format of the file")
    parser.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="PATH",
        help="file to write; a folder for tf_saved_model (default: name of the network, in the current folder)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="fixed number of images per batch (default: any)")
    parser.add_argument(
        "--include-preprocessing", action="store_true", help="let the file normalise images from 0 to 255 itself"
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=path,
        metavar="IMAGE",
        help="image files or folders for the comparison with Keras (default: sample images)",
    )
    parser.add_argument("--int8", action="store_true", help="quantize an openvino or onnx file to int8")
    parser.add_argument(
        "--calibration",
        type=expanded,
        metavar="DATA",
        help="training data for --int8: a dataset, folder of class folders, or .npz file, of which "
        f"{CALIBRATION_IMAGES} images are used",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="largest accepted difference, relative to the largest output (default: 1e-4); with --int8, largest "
        "accepted fraction of changed predictions (default: 0.05)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_formats(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    check_least("--batch-size", arguments.batch_size, 1)
    check_least("--tolerance", arguments.tolerance, 0)
    if arguments.int8 != (arguments.calibration is not None):
        raise ValueError("Expected --int8 and --calibration DATA together; received: only one of them.")
    choice = network_arguments.choose(arguments)
    file_format = FORMATS[arguments.file_format]
    target = arguments.output or Path(_name_of(choice) + file_format.suffix)
    check_path(target, file_format, arguments.overwrite, "--overwrite")
    startup.start_keras()
    import keras

    from keras_resattn.deployment import export

    check_format(arguments.file_format, keras.backend.backend())
    check_quantization("int8" if arguments.int8 else None, arguments.file_format, arguments.int8)
    net = network.load_network(choice)
    images = _images(net, arguments)
    with startup.quiet():
        report = export(
            net.model,
            target,
            arguments.file_format,
            batch_size=arguments.batch_size,
            image_size=choice.size,
            statistics=None if net.mean == 0.0 else (net.mean, net.std),
            include_preprocessing=arguments.include_preprocessing,
            class_names=net.class_names,
            images=images,
            tolerance=arguments.tolerance,
            quantization="int8" if arguments.int8 else None,
            calibration_images=_calibration(net, arguments),
            overwrite=arguments.overwrite,
        )
    raw = arguments.include_preprocessing or net.mean == 0.0
    _print(report, "0 to 255" if raw else "normalised", arguments)


def _name_of(choice):
    """Return the name of a file for a network: `CifarResidualAttention56-cifar10_v2`, or that of its file or folder."""
    if choice.kind == "tag":
        return f"{choice.source.network}-{choice.source.tag}"
    if choice.kind == "hub":
        return choice.source.partition("@")[0].rpartition("/")[2]
    return Path(choice.name).resolve().name.removesuffix(".h5").removesuffix(".weights").removesuffix(".keras")


def _images(net, arguments):
    """Return the `--images` as input of the exported file, or `None` for the sample images."""
    if arguments.images is None:
        return None
    import numpy as np

    _check_size(net, "--images")
    given = image_files.Images(argparse.Namespace(images=arguments.images, resize_mode=None))
    batches = [batch for _, batch in given.batches(net)]
    if given.skipped:
        raise ValueError(f"Expected readable --images; {given.skipped} of {given.total} are not.")
    return _as_input(np.concatenate(batches), net, arguments)


def _calibration(net, arguments):
    """Return images of `--calibration` as input of the exported file, or `None`."""
    if arguments.calibration is None:
        return None
    import numpy as np

    from keras_resattn.data import Dataset, open_dataset

    _check_size(net, "--calibration")
    dataset = open_dataset(arguments.calibration, split="train", resize_mode=net.resize_mode)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected data with access by index; received: --calibration {arguments.calibration}.")
    count = min(CALIBRATION_IMAGES, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).astype(int)
    return _as_input(dataset.read(indices, size=net.size), net, arguments)


def _check_size(net, option):
    if None in net.size:
        raise ValueError(f"Expected --size with {option}, because {net.name} accepts images of any size.")


def _as_input(pixels, net, arguments):
    from keras_resattn.data.normalization import in_data_format

    return in_data_format(pixels) if arguments.include_preprocessing else net.preprocess(pixels)


def _print(report, pixels, arguments):
    record = {**dataclasses.asdict(report), "path": str(report.path), "input_shape": list(report.input_shape)}
    record["pixels"] = pixels
    if arguments.format is not None:
        return output.print_records(arguments.format, record)
    shape = " x ".join("any" if size is None else str(size) for size in report.input_shape)
    rows = {
        "file": str(report.path),
        "format": f"{report.format}, from {report.backend}",
        "input": f"{shape}, pixels {pixels}",
        "precision": report.quantization or "float32",
        "size": f"{report.size:,} bytes",
        "largest difference from Keras": f"{report.max_difference:.2g}, on {report.images} images",
    }
    if report.agreement is not None:
        rows["same predictions"] = f"{report.agreement:.1%}"
    output.print_table(None, {"field": {"no_wrap": True}, "value": {}}, list(map(list, rows.items())))
