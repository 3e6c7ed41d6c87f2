"""Training and evaluation of one row: the paper's recipe, then the test images once, after the last epoch."""

import dataclasses
import datetime
import functools
import gc
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_resattn.data.evaluation_batches import EvaluationBatches
from keras_resattn.data.normalization import normalize
from keras_resattn.evaluation import evaluate_batches
from keras_resattn.models import registry
from keras_resattn.models.cluttered_mnist_cnn import ClutteredMnistCNN
from keras_resattn.models.residual_attention import ResidualAttentionNet
from keras_resattn.models.variants import VARIANTS
from keras_resattn.recipes import Report, compile_and_fit
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.recipes.run_identity import differing_fields
from keras_resattn.reproduce.datasets import Splits, data_name, open_splits
from keras_resattn.reproduce.published import original
from keras_resattn.reproduce.rows import DATASETS, Row, Table
from keras_resattn.typing import PathLike, Shape
from keras_resattn.utils.data_format import image_shape, image_size
from keras_resattn.utils.io import read_json, sha256, user_path, write_json
from keras_resattn.utils.provenance import revision_of

RESULT = "result.json"
BATCH_SIZE = 100  # of test images


@dataclass(frozen=True)
class Options:
    """Options for running rows.

    Attributes:
        scale: Fraction of the epochs and of the images, in (0, 1]; below 1 it is a scaled-down run.
        sources: Data by dataset, as passed to `open_dataset`, in place of the defaults of `DATASETS`.
        run_dir: Folder of all runs.
        base_weights: File with ImageNet weights, for rows that start from them.
        device_data: As in `compile_and_fit`.
        verbose: Keras' verbosity.
    """

    scale: float = 1.0
    sources: dict[str, Any] = field(default_factory=dict)
    run_dir: Path = Path("runs")
    base_weights: Path | None = None
    device_data: bool = False
    verbose: int = 1

    def source(self, row: Row) -> Any:
        """Return the data source of a row."""
        return self.sources.get(row.data, DATASETS[row.data].source)


def run_folder(table: Table, row: Row, seed: int, options: Options) -> Path:
    """Return the folder of a run; rows that occur in several tables share it."""
    table, row = original(table, row)
    suffix = "" if options.scale == 1 else f"-scale{options.scale:g}"
    return user_path(options.run_dir) / table.name / row.name / f"seed{seed}{suffix}"


def run(table: Table, row: Row, seed: int, options: Options) -> dict[str, Any]:
    """Train the network of a row and evaluate it on the test images.

    An interrupted run resumes. A finished run is neither trained nor evaluated again; its result is read from the run
    folder.

    Args:
        table: A `Table`.
        row: A `Row` of the table.
        seed: Seed of initial weights, data order, augmentation and label noise.
        options: An `Options`.

    Returns:
        Dictionary with `date`, `seed`, `scale`, `epochs`, `images`, `test_images`, `data`, `error` (in percent, after
        the last epoch), `seconds` of training, `backend`, `device` and `revision` (or the version of the package); for
        some rows, additional errors.

    Raises:
        ValueError: If the run's folder holds another run, or the data do not fit the row.
        FloatingPointError: If training diverges.
    """
    folder = run_folder(table, row, seed, options)
    identity = _identity(table, row, seed, options)
    finished = _read_finished(folder, identity)
    if finished is not None:
        return finished
    recipe = row.get_recipe(seed)
    splits = open_splits(row.data, options.source(row), options.scale, recipe.batch_size)
    recipe = scale_recipe(recipe, len(splits.train), options.scale, DATASETS[row.data].images)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(row, _image_shape(row, splits.train), options.base_weights)
    settings = {"run_dir": folder, "verbose": options.verbose, "device_data": options.device_data}
    report = compile_and_fit(model, recipe, splits.train, **settings)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "scale": options.scale,
        "epochs": round((report.steps or 0) / (len(splits.train) // recipe.batch_size), 2),
        "images": len(splits.train),
        "test_images": len(splits.tests["error"]),
        "data": data_name(options.source(row)),
        **measure_errors(_at_test_size(model, row, splits.train.channels), row, splits, report),
        "seconds": round(report.seconds),
        "backend": report.environment["backend"],
        "device": report.environment["device"],
        "revision": revision_of(report.environment),
    }
    write_json(folder / RESULT, {"run": identity, "result": result})
    del model
    gc.collect()
    return result


def scale_recipe(recipe: Recipe, images: int, scale: float, all_images: int | None = None) -> Recipe:
    """Return a recipe with a fraction of its epochs; milestones and warm-up keep their proportions.

    Args:
        recipe: A `Recipe`.
        images: Number of training images of the scaled-down run.
        scale: Fraction of the epochs.
        all_images: Number of training images at a scale of 1, used to convert iterations to epochs (default:
            `images / scale`).
    """
    if scale == 1:
        return recipe
    all_epochs = recipe.epochs
    if all_epochs is None:
        all_epochs = (recipe.iterations or 0) / max(1, (all_images or round(images / scale)) // recipe.batch_size)
    epochs = max(1, round(scale * all_epochs))
    return recipe.replace(epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / math.ceil(all_epochs))


def build(row: Row, shape: Shape, base_weights: PathLike | None = None) -> keras.Model:
    """Build the network of a row with random weights, or with ImageNet weights below its classifier.

    Args:
        row: A `Row`.
        shape: `(height, width, channels)`.
        base_weights: File with the weights of `row.base`.
    """
    shape = image_shape(*shape)
    shared = {"classes": DATASETS[row.data].classes, "classifier_activation": None, "input_shape": shape}
    if row.network == "ClutteredMnistCNN":
        return ClutteredMnistCNN(**row.arguments, **shared)
    if row.network in VARIANTS:
        return ResidualAttentionNet(variant=row.network, weights=None, **row.arguments, **shared)
    model = registry.create_model(row.network, weights=None, **row.arguments, **shared)
    if row.base is not None:
        base = registry.create_model(row.base, include_top=False, weights=str(base_weights), input_shape=shape)
        for layer in (layer for layer in base.layers if layer.weights):
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def measure_errors(model: keras.Model, row: Row, splits: Splits, report: Report) -> dict[str, float]:
    """Return errors on test images in percent, by column of the results.

    Raises:
        FloatingPointError: If the network returns NaN or infinite values.
    """
    size = image_size(model.input_shape)
    crops = row.test_size is not None or DATASETS[row.data].size is not None
    central = 0.875 if crops else 1.0  # a crop of 224 from a short side of 256
    preprocess = functools.partial(normalize, mean=report.mean, std=report.std)
    errors = {}
    for column, dataset in splits.tests.items():
        batches = EvaluationBatches(dataset, BATCH_SIZE, preprocess, size=size, central=central)
        evaluation = evaluate_batches(model, batches)
        if not math.isfinite(evaluation.loss):
            raise FloatingPointError(
                "The network returns NaN or infinite values for test images: training diverged, or a scaled-down run "
                "was too short for batch-norm statistics. No result was recorded."
            )
        errors[column] = round(100 * (1 - evaluation.accuracy), 3)
        if row.top5 is not None and evaluation.top5_accuracy is not None:
            errors["top5_error"] = round(100 * (1 - evaluation.top5_accuracy), 3)
    return errors


def _identity(table, row, seed, options):
    """Return everything that determines a run's result, except the backend."""
    shared_table, shared_row = original(table, row)
    recipe = dataclasses.asdict(row.get_recipe(seed))
    return {
        "row": f"{shared_table.name}/{shared_row.name}",
        "recipe": {field: value for field, value in recipe.items() if field not in ("source", "deviations")},
        "scale": options.scale,
        "data": data_name(options.source(row)),
        "base": sha256(user_path(options.base_weights)) if row.base is not None else None,
    }


def _read_finished(folder, identity):
    """Return the result of a finished run, or `None`."""
    path = folder / RESULT
    if not path.exists():
        return None
    remedy = f"Delete {path} to evaluate the run again."
    content = read_json(path, remedy)
    if not all(isinstance(content.get(key), dict) for key in ("run", "result")):
        raise ValueError(f"Expected {path} to hold a run and its result; it does not. {remedy}")
    different = differing_fields(content["run"], identity)
    if different:
        raise ValueError(
            f"Expected {folder} to hold the run of this row; it holds a run with different values of "
            f"{', '.join(different)}. Pass another --run-dir."
        )
    return content["result"]


def _image_shape(row, dataset):
    size = DATASETS[row.data].size
    if size is not None:
        return size, size, dataset.channels
    if dataset.image_shape is None:
        raise ValueError(f"Expected images of the same shape for {row.data}; received: images of different shapes.")
    return dataset.image_shape


def _at_test_size(model, row, channels):
    """Return the trained network with the input size of test images."""
    if row.test_size is None:
        return model
    resized = build(dataclasses.replace(row, base=None), (row.test_size, row.test_size, channels))
    resized.set_weights(model.get_weights())
    return resized
