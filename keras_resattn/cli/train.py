"""`keras-resattn train`: a network, a recipe and data, from a shell."""

import contextlib
import importlib.util
import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_resattn.data import Source, Stream, open_source
from keras_resattn.data.sources import open_validation
from keras_resattn.layers.composite import picture_shape
from keras_resattn.models import zoo
from keras_resattn.models.initialization import zero_init_residual
from keras_resattn.recipes import distribution, engines
from keras_resattn.recipes.fit import compile_and_fit
from keras_resattn.recipes.named import RECIPES, get_recipe
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.suggestions import did_you_mean


def add_arguments(parser):
    """Adds the arguments of `train` to an `argparse` parser."""
    parser.add_argument("--model", required=True, help="as `list` has them, such as CifarResidualAttention56")
    parser.add_argument("--recipe", default="cifar_one_cycle", help=f"{', '.join(RECIPES)}, or a .json file")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="change fields of the recipe"
    )
    parser.add_argument("--data", required=True, help=".npz file with x_train and y_train, class folders, or a name")
    parser.add_argument("--data-dir", type=Path, help="where TensorFlow Datasets lie, for data by name")
    parser.add_argument("--validation", help="data to validate on, as --data: x_validation of a file, val/ of a folder")
    parser.add_argument("--holdout", type=int, default=0, help="training pictures, drawn at random, to validate on")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for log, checkpoint, weights and report")
    parser.add_argument("--size", type=int, help="side of the network's input (default: the pictures')")
    parser.add_argument(
        "--zero-init-residual", action="store_true", help="start with every residual branch at zero, for calmer steps"
    )
    parser.add_argument("--device-data", action="store_true", help="keep all pictures on the accelerator")
    parser.add_argument("--distribute", choices=["data"], help="share each batch between all devices")
    parser.add_argument("--checkpoint-steps", type=int, help="steps between checkpoints (default: every five minutes)")
    parser.add_argument("--steps-per-execution", type=int, default=1, help="steps in one call (default: %(default)s)")
    parser.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="also write logs for TensorBoard")


def train(arguments):
    """Runs the subcommand.

    Raises:
        ValueError: before any work, for an unknown network, recipe, field or data set, or what does not go together.
        FloatingPointError: if the training diverges.
    """
    recipe = change_recipe(arguments.recipe, arguments.set)
    zoo.find(arguments.model)  # data may be long in opening
    scope = distribution.scope(arguments.distribute) if arguments.distribute else contextlib.nullcontext()
    with scope:
        callbacks = _tensorboard(arguments.tensorboard) if engines.current().rank == 0 else []
        source, validation = _sources(arguments)
        keras.utils.set_random_seed(recipe.seed)
        keras.config.set_dtype_policy(recipe.precision or keras.config.dtype_policy())
        report = compile_and_fit(
            _model(arguments, recipe, source),
            recipe,
            source,
            validation_data=validation,
            run_dir=arguments.run_dir,
            verbose=1 if sys.stdout.isatty() else 2,
            device_data=arguments.device_data,
            checkpoint_steps=arguments.checkpoint_steps,
            steps_per_execution=arguments.steps_per_execution,
            callbacks=callbacks,
        )
        if engines.current().rank > 0:
            return
    print(f"last epoch: {', '.join(f'{name} {value:.4g}' for name, value in report.metrics.items())}")
    print(f"wrote {arguments.run_dir / 'model.weights.h5'}")


def change_recipe(name, changes):
    """Returns a recipe by name or from a file, with `field=value` changes whose values are JSON, or strings."""
    recipe = _read_recipe(Path(name)) if name.endswith(".json") else get_recipe(name)
    fields = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals or field not in Recipe.__dataclass_fields__:
            known = ", ".join(Recipe.__dataclass_fields__)
            hint = did_you_mean(field, Recipe.__dataclass_fields__)
            raise ValueError(
                f"Expected --set FIELD=VALUE with a field of a recipe ({known}); received: {change}.{hint}"
            )
        try:
            fields[field] = json.loads(value)
        except json.JSONDecodeError:
            fields[field] = value
    return recipe.replace(**fields)


def _read_recipe(path):
    if not path.is_file():
        raise ValueError(f"Expected --recipe to be the name of one or a .json file; there is no file {path}.")
    try:
        return Recipe.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"Expected {path} to hold a recipe, as Recipe.to_json writes it: {error}") from error


def _sources(arguments):
    source = open_source(arguments.data, data_dir=arguments.data_dir)
    if arguments.validation and arguments.holdout:
        raise ValueError("Expected --validation or --holdout; received: both.")
    if not arguments.holdout:
        return source, open_validation(arguments.validation, arguments.data_dir)
    if not isinstance(source, Source):
        raise ValueError(f"Expected --holdout 0 with data that comes as a stream; received: {arguments.holdout}.")
    if not 0 < arguments.holdout < len(source):
        raise ValueError(f"Expected --holdout from 0 to below {len(source)} pictures; received: {arguments.holdout}.")
    # Always the same ones, whatever the seed of the run; the last ones may all be of one class.
    rows = np.random.default_rng(0).permutation(len(source))
    return source.part(np.sort(rows[arguments.holdout :])), source.part(np.sort(rows[: arguments.holdout]))


def _model(arguments, recipe, source):
    shape = source.picture_shape
    if shape is None and arguments.size is None and not recipe.image_sizes:
        raise ValueError("Expected --size, the side of the network's input, as the pictures differ in shape.")
    if recipe.image_sizes and arguments.size is not None:
        raise ValueError(f"Expected no --size with a recipe that has image_sizes; received: --size {arguments.size}.")
    if recipe.image_sizes:
        height = width = None
    else:
        height, width = shape[:2] if arguments.size is None else (arguments.size, arguments.size)
    channels = source.channels if shape is None else shape[2]
    classes = source.classes
    if classes is None and isinstance(source, Stream):
        raise ValueError(f"Expected data that knows its classes; received: --data {arguments.data}.")
    classes = classes or int(source.labels.max()) + 1
    dropout = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    shape = picture_shape(height, width, channels)
    try:
        model = zoo.build(
            arguments.model,
            weights=None,
            input_shape=shape,
            classes=classes,
            classifier_activation=None,
            **dropout,
        )
    except ValueError as error:
        if arguments.size is not None or "input_shape" not in str(error):
            raise
        raise ValueError(f"{error} With --size the pictures are resized.") from error
    if arguments.zero_init_residual:
        zero_init_residual(model)
    return model


def _tensorboard(folder):
    if folder is None:
        return []
    if not all(map(importlib.util.find_spec, ("tensorflow", "tensorboard"))):
        raise ImportError("Expected TensorFlow and TensorBoard for --tensorboard: pip install tensorflow tensorboard.")
    return [keras.callbacks.TensorBoard(folder)]
