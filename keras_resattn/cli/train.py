"""`keras-resattn train`: train a network with a recipe."""

import argparse
import contextlib
import importlib.util
import sys
from typing import Any

from keras_resattn.cli import network, network_arguments, startup, training_arguments
from keras_resattn.cli.arguments import check_folder, check_least, path
from keras_resattn.models import registry
from keras_resattn.recipes import RECIPES
from keras_resattn.recipes.run_files import WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train` to an `argparse` parser."""
    parser.add_argument(
        "--model", metavar="NETWORK", help="network to train, such as CifarResidualAttention56 (see `list`)"
    )
    network_arguments.add_arguments(parser, default=None, run_dir=False)
    recipes = f"{', '.join(RECIPES)}, or a .json file (default: %(default)s)"
    parser.add_argument("--recipe", default="cifar_one_cycle", metavar="RECIPE", help=recipes)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="change fields of the recipe, such as epochs=30",
    )
    training_arguments.add_training_data(parser)
    run_dir = "folder of the run: checkpoint, weights, log and report. Safe to interrupt: rerun the command to resume"
    parser.add_argument("--run-dir", type=path, required=True, metavar="DIR", help=run_dir)
    parser.add_argument(
        "--zero-init-residual",
        action="store_true",
        help="initialize the last batch-norm scale of each residual branch to zero, for a more stable start",
    )
    parser.add_argument("--device-data", action="store_true", help="keep all images on the accelerator")
    parser.add_argument("--distribute", choices=["data"], help="split each batch across all devices")
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="steps between checkpoints (default: every five minutes)"
    )
    parser.add_argument(
        "--steps-per-execution", type=int, default=1, metavar="N", help="steps per compiled call (default: %(default)s)"
    )
    parser.add_argument("--tensorboard", type=path, metavar="DIR", help="folder for TensorBoard logs")


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: Before any training, for an unknown network, recipe, field or dataset, and mutually exclusive
            options.
        FloatingPointError: If training diverges.
    """
    recipe = training_arguments.change_recipe(arguments.recipe, arguments.set)
    choice = _choose(arguments)
    training_arguments.check_data(arguments)
    if recipe.image_sizes and arguments.size is not None:
        raise ValueError(f"Expected no --size with a recipe with image_sizes; received: --size {arguments.size}.")
    if arguments.zero_init_residual and choice is not None:
        raise ValueError(
            "Expected --zero-init-residual only without --weights, whose residual branches are trained already."
        )
    for option in ("checkpoint_steps", "steps_per_execution"):
        check_least(f"--{option.replace('_', '-')}", getattr(arguments, option), 1)
    check_folder("--run-dir", arguments.run_dir)
    startup.start_keras()
    import keras

    from keras_resattn.recipes import distribution, fit

    scope = distribution.scope(arguments.distribute) if arguments.distribute else contextlib.nullcontext()
    with scope:
        callbacks = _tensorboard(arguments.tensorboard) if distribution.current_strategy().rank == 0 else []
        dataset, validation = training_arguments.open_data(arguments)
        startup.set_random_seed(recipe.seed)
        keras.config.set_dtype_policy(recipe.precision or keras.config.dtype_policy())
        model, statistics, dataset = _start(arguments, choice, recipe, dataset)
        report = fit.compile_and_fit(
            model,
            recipe,
            dataset,
            validation_data=validation,
            statistics=statistics,
            run_dir=arguments.run_dir,
            verbose=1 if sys.stdout.isatty() else 2,
            device_data=arguments.device_data,
            checkpoint_steps=arguments.checkpoint_steps,
            steps_per_execution=arguments.steps_per_execution,
            callbacks=callbacks,
        )
        if distribution.current_strategy().rank > 0:
            return
    training_arguments.print_metrics(report)
    training_arguments.print_written(arguments.run_dir / WEIGHTS)


def _choose(arguments):
    """Return the `NetworkChoice` of the weights to start from, or `None` for random weights."""
    if arguments.weights is None:
        if arguments.model is None:
            raise ValueError("Expected --model, or --weights to start from; received: neither.")
        if arguments.mean is not None or arguments.std is not None:
            raise ValueError("Expected --mean and --std only with --weights.")
        registry.check_id(arguments.model)
        return None
    choice = network_arguments.choose(arguments, any_model=True)
    if choice.kind == "tag":
        _check_network(choice, choice.source)
    if choice.kind in ("run", "model") and arguments.model is not None:
        raise ValueError(
            f"Expected no --model with {choice.name}, which records its network; received: --model {choice.model}."
        )
    return choice


def _check_network(choice, tag):
    if choice.model not in (None, tag.network):
        raise ValueError(f"Expected weights of {choice.model}; {choice.name} has weights of {tag.network}.")


def _start(arguments, choice, recipe, dataset):
    """Return the initial network, `(mean, std)` of its images (`None` to compute them), and the renumbered data."""
    from keras_resattn.models.initialization import zero_init_residual

    if choice is None:
        model = _build(arguments, arguments.model, recipe, dataset)
        if arguments.zero_init_residual:
            zero_init_residual(model)
        return model, None, dataset
    if choice.kind in ("run", "model"):
        net = network.open_network(choice)
        dataset = _matched(arguments, dataset, net.class_names, net.model.output_shape[1], net.name)
        return net.model, (_per_channel(net.mean, net), _per_channel(net.std, net)), dataset
    if choice.kind == "weights":
        model = _build(arguments, choice.model, recipe, dataset, weights=str(choice.source))
        return model, network.normalization_of(model, choice), dataset
    tag = network.open_tag(choice)
    _check_network(choice, tag)
    dataset = _matched(arguments, dataset, tag.classes, len(tag.classes), tag.id)
    model = _build(arguments, tag.network, recipe, dataset, weights=str(tag.folder))
    return model, (tag.mean, tag.std), dataset


def _per_channel(values, net):
    return [values] * net.channels if isinstance(values, float) else values


def _matched(arguments, dataset, names, classes, owner):
    """Return the data with labels renumbered by the network's class names."""
    from keras_resattn.data.class_matching import match_classes

    remedy = "For other classes, use `keras-resattn fine-tune`."
    if _number_of_classes(arguments, dataset) > classes:
        raise ValueError(f"Expected the {classes} classes of {owner}; {arguments.data} has more. {remedy}")
    return match_classes(dataset, names, owner, remedy)


def _number_of_classes(arguments, dataset):
    from keras_resattn.data import BatchStream

    if dataset.classes is None and isinstance(dataset, BatchStream):
        raise ValueError(f"Expected data with a known number of classes; received: --data {arguments.data}.")
    return dataset.classes or int(dataset.labels.max()) + 1


def _build(arguments, name, recipe, dataset, weights=None):
    from keras_resattn.utils.data_format import image_shape

    shape: Any = dataset.image_shape
    if shape is None and arguments.size is None and not recipe.image_sizes:
        raise ValueError(
            "Expected --size, the height and width of the network's input, for images of different shapes."
        )
    if recipe.image_sizes:
        height = width = None
    else:
        height, width = (arguments.size, arguments.size) if arguments.size is not None or shape is None else shape[:2]
    channels = dataset.channels if shape is None else shape[2]
    dropout = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    try:
        return registry.create_model(
            name,
            weights=weights,
            input_shape=image_shape(height, width, channels),
            classes=_number_of_classes(arguments, dataset),
            classifier_activation=None,
            **dropout,
        )
    except ValueError as error:
        if arguments.size is not None or "input_shape=" not in str(error):
            raise
        raise ValueError(f"{error} Pass --size to resize the images.") from error


def _tensorboard(folder):
    if folder is None:
        return []
    if not all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        raise ImportError(
            "Expected TensorFlow and TensorBoard for --tensorboard. Run: pip install tensorflow tensorboard."
        )
    import keras

    return [keras.callbacks.TensorBoard(folder)]
