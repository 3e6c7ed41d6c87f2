"""`keras-resattn fine-tune`: fine-tune a released checkpoint, or your own network, on other classes."""

import argparse
import sys

from keras_resattn.cli import network, network_arguments, startup, training_arguments
from keras_resattn.cli.arguments import check_folder, check_output, path
from keras_resattn.recipes.run_files import CLASSIFIER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fine-tune` to an `argparse` parser."""
    network_arguments.add_arguments(parser, run_dir=False)
    parser.add_argument(
        "--model", metavar="NETWORK", help="network of a .weights.h5 file, such as CifarResidualAttention56"
    )
    training_arguments.add_training_data(parser)
    run_dir = "folder of both phases and the classifier. Safe to interrupt: rerun the command to resume"
    parser.add_argument("--run-dir", type=path, required=True, metavar="DIR", help=run_dir)
    classifier = f".keras file of the classifier (default: {CLASSIFIER} in --run-dir)"
    parser.add_argument("--output", type=path, metavar="FILE", help=classifier)
    changes = {"nargs": "+", "action": "extend", "default": [], "metavar": "FIELD=VALUE"}
    recipe = "recipe of the {} phase, {}: a name, or a .json file (default: %(default)s)"
    first, second = recipe.format("first", "new classifier only"), recipe.format("second", "with unfrozen layers")
    parser.add_argument("--head-recipe", default="transfer_head", metavar="RECIPE", help=first)
    parser.add_argument("--head-set", help="change fields of the first phase's recipe", **changes)
    parser.add_argument("--recipe", default="transfer_fine_tune", metavar="RECIPE", help=second)
    parser.add_argument("--set", help="change fields of the second phase's recipe", **changes)
    parser.add_argument(
        "--unfreeze",
        nargs="+",
        default=["last_stage"],
        metavar="LAYERS",
        help="layers to train in the second phase: last_stage, patterns of layer names, or none to skip the phase "
        "(default: last_stage)",
    )
    parser.add_argument(
        "--pooling", choices=("avg", "max"), default="avg", help="global pooling (default: %(default)s)"
    )
    parser.add_argument(
        "--dropout", type=float, default=0.0, metavar="RATE", help="dropout before the classifier (default: 0)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: Before any training, for unknown weights, recipes, fields or layers, and mutually exclusive options.
        FloatingPointError: If training diverges.
    """
    head_recipe = training_arguments.change_recipe(arguments.head_recipe, arguments.head_set, "--head-set")
    recipe = training_arguments.change_recipe(arguments.recipe, arguments.set)
    choice = network_arguments.choose(arguments)
    training_arguments.check_data(arguments)
    check_folder("--run-dir", arguments.run_dir)
    check_output("--output", arguments.output, (".keras",))
    startup.start_keras()
    from keras_resattn.recipes.transfer import fine_tune, with_normalization
    from keras_resattn.utils.io import atomic_write

    dataset, validation = training_arguments.open_data(arguments)
    startup.set_random_seed(head_recipe.seed)
    backbone, statistics = _backbone(choice, arguments, dataset)
    model, report = fine_tune(
        backbone,
        dataset,
        validation_data=validation,
        statistics=statistics,
        size=None if arguments.size is None else (arguments.size, arguments.size),
        head_recipe=head_recipe,
        fine_tune_recipe=recipe,
        unfreeze={"last_stage": "last_stage", "none": None}.get(" ".join(arguments.unfreeze), arguments.unfreeze),
        pooling=arguments.pooling,
        dropout=arguments.dropout,
        run_dir=arguments.run_dir,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    output = arguments.output or arguments.run_dir / CLASSIFIER
    with atomic_write(output) as partial:
        with_normalization(model, report.mean, report.std).save(partial)
    training_arguments.print_metrics(report.head, "first phase, last epoch")
    if report.fine_tune is not None:
        training_arguments.print_metrics(report.fine_tune, "second phase, last epoch")
    training_arguments.print_written(output)


def _without_top(net):
    """Return the network of a run without its classifier, and the mean and standard deviation of its images."""
    import keras

    classifier = net.model.layers[-1]
    if not isinstance(classifier, keras.layers.Dense):
        raise ValueError(
            f"Expected the network of {net.name} to end in a Dense layer, which is replaced; it ends in "
            f"{type(classifier).__name__}. Save the network without its classifier as a .keras file, and pass that."
        )
    return keras.Model(net.model.input, classifier.input, name=net.model.name), (net.mean, net.std)


def _backbone(choice, arguments, dataset):
    """Return the first argument of `fine_tune`, and `(mean, std)` of its images (`None` for a released checkpoint)."""
    from keras_resattn.data import Dataset
    from keras_resattn.models import registry
    from keras_resattn.utils.data_format import image_shape

    if choice.kind == "tag":
        return choice.source.folder, None
    if choice.kind == "hub":
        return choice.source, None
    if choice.kind == "model":
        model = network.load_model(choice.source)
        return model, network.normalization_of(model, choice)
    if choice.kind == "run":
        return _without_top(network.open_network(choice))
    if arguments.size is None:
        raise ValueError("Expected --size, the height and width of images, with a .weights.h5 file; received: none.")
    channels = dataset.channels if isinstance(dataset, Dataset) else dataset.image_shape[-1]
    shape = image_shape(arguments.size, arguments.size, channels)
    model = registry.create_model(choice.model, include_top=False, weights=str(choice.source), input_shape=shape)
    return model, network.normalization_of(model, choice)
