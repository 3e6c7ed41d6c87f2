"""One run of one row: train by the paper's recipe, use the test images once, keep the result."""

import dataclasses
import datetime
import gc
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resattn.data import network_input
from keras_resattn.models import registry
from keras_resattn.models.cluttered_mnist_cnn import ClutteredMnistCNN
from keras_resattn.models.residual_attention import ResidualAttentionNet
from keras_resattn.models.variants import VARIANTS
from keras_resattn.recipes import compile_and_fit
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.recipes.run_folder import differing
from keras_resattn.reproduce.datasets import open_sets, where_is
from keras_resattn.reproduce.published import home
from keras_resattn.reproduce.rows import DATASETS, Row, Table
from keras_resattn.typing import PathLike, Shape
from keras_resattn.utils.data_format import image_shape
from keras_resattn.utils.io import read_json, sha256, user_path, write_json
from keras_resattn.utils.provenance import revision_of

RESULT = "result.json"
CHUNK = 500  # test images read at once


@dataclass(frozen=True)
class Options:
    """How rows are run.

    Attributes:
        scale: Share of the passes and of the images, above 0, up to 1.
        where: `{dataset: what open_dataset takes}` in place of the datasets' own.
        run_dir: Folder of all runs.
        base_weights: File of ImageNet weights, for rows that start from some.
        device_data: As in `compile_and_fit`.
        verbose: Keras' verbosity.
    """

    scale: float = 1.0
    where: dict[str, Any] = field(default_factory=dict)
    run_dir: Path = Path("runs")
    base_weights: Path | None = None
    device_data: bool = False
    verbose: int = 1

    def data(self, row: Row) -> Any:
        """Where the data of a row is."""
        return self.where.get(row.data, DATASETS[row.data].where)


def run_folder(table: Table, row: Row, seed: int, options: Options) -> Path:
    """Returns the folder of a run; rows that are the same in several tables share it."""
    table, row = home(table, row)
    rehearsal = "" if options.scale == 1 else f"-scale{options.scale:g}"
    return user_path(options.run_dir) / table.name / row.name / f"seed{seed}{rehearsal}"


def run(table: Table, row: Row, seed: int, options: Options) -> dict[str, Any]:
    """Trains a row's network and measures it, or goes on where it was; a finished run is not measured again.

    Args:
        table: A `Table`.
        row: A `Row` of it.
        seed: Seed of the initial weights, the order of the data and its augmentation, and label noise.
        options: An `Options`.

    Returns:
        Dictionary of the result: `date`, `seed`, `scale`, `epochs`, `images`, `test_images`, `data`, `error` (per
        cent, last epoch), `seconds` of training, `backend`, `device` and `revision` (or
        the package's version); of some rows further errors.

    Raises:
        ValueError: if the run's folder holds another run, or the data is not the row's.
        FloatingPointError: if the training diverges.
    """
    folder = run_folder(table, row, seed, options)
    identity = _identity(table, row, seed, options)
    result = _finished(folder, identity)
    if result is not None:
        return result
    recipe = row.get_recipe(seed)
    sets = open_sets(row.data, options.data(row), options.scale, recipe.batch_size)
    recipe = scaled(recipe, len(sets.train), options.scale, DATASETS[row.data].images)
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(row, _shape(row, sets.train), options.base_weights)
    report = compile_and_fit(
        model,
        recipe,
        sets.train,
        run_dir=folder,
        verbose=options.verbose,
        device_data=options.device_data,
    )
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "scale": options.scale,
        "epochs": round((report.steps or 0) / (len(sets.train) // recipe.batch_size), 2),
        "images": len(sets.train),
        "test_images": len(sets.tests["error"]),
        "data": where_is(options.data(row)),
        **_errors(_tested(model, row, sets), row, sets, report),
        "seconds": round(report.seconds),
        "backend": report.environment["backend"],
        "device": report.environment["device"],
        "revision": revision_of(report.environment),
    }
    write_json(folder / RESULT, {"run": identity, "result": result})
    del model
    gc.collect()
    return result


def scaled(recipe: Recipe, images: int, scale: float, whole: int | None = None) -> Recipe:
    """Returns a recipe shortened to a share of its passes over the data; with fewer images, passes are short, too.

    Rates and milestones keep their shares of the whole, and a warm-up shrinks with it.

    Args:
        recipe: A `Recipe`.
        images: Number of training images that there are.
        scale: Share of the passes.
        whole: Number of training images at a scale of 1, which iterations are counted in passes of; `None` for
            `images / scale`.
    """
    if scale == 1:
        return recipe
    if recipe.epochs is None:
        passes = (recipe.iterations or 0) / max(1, (whole or round(images / scale)) // recipe.batch_size)
    else:
        passes = recipe.epochs
    epochs = max(1, round(scale * passes))
    return recipe.replace(epochs=epochs, warmup_epochs=recipe.warmup_epochs * epochs / math.ceil(passes))


def build(row: Row, shape: Shape, base_weights: PathLike | None = None) -> keras.Model:
    """Builds the network of a row, with random weights, or with ImageNet's in its body.

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
        body = registry.create_model(row.base, include_top=False, weights=str(base_weights), input_shape=shape)
        for layer in (layer for layer in body.layers if layer.weights):
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def _identity(table, row, seed, options):
    """What a run is: with the same of all this, its result is the same."""
    of_table, of_row = home(table, row)
    recipe = dataclasses.asdict(row.get_recipe(seed))
    return {
        "row": f"{of_table.name}/{of_row.name}",
        "recipe": {field: value for field, value in recipe.items() if field not in ("source", "deviations")},
        "scale": options.scale,
        "data": where_is(options.data(row)),
        "base": sha256(user_path(options.base_weights)) if row.base is not None else None,
    }


def read_result(path: PathLike) -> dict[str, Any]:
    """Returns what a row's run left: `{"run": what it was, "result": its result}`.

    Raises:
        ValueError: if the file is damaged.
    """
    remedy = f"Delete {path}, and the row's run is measured again."
    held = read_json(path, remedy)
    if not all(isinstance(held.get(key), dict) for key in ("run", "result")):
        raise ValueError(f"Expected {path} to hold a run and its result; it does not. {remedy}")
    return held


def _finished(folder, identity):
    """The result that a folder holds, or `None`."""
    path = folder / RESULT
    if not path.exists():
        return None
    held = read_result(path)
    others = differing(held["run"], identity)
    if others:
        raise ValueError(
            f"Expected {folder} to hold this row's run; the one that it holds differs in {', '.join(others)}. "
            "Pass another --run-dir."
        )
    return held["result"]


def _shape(row, source):
    size = DATASETS[row.data].size
    shape = source.image_shape if size is None else (size, size, source.channels)
    if shape is None:
        raise ValueError(f"Expected images of one shape for {row.data}; received: images of several shapes.")
    return shape


def _tested(model, row, sets):
    """The trained network, at the size that the row is tested at."""
    if row.test_size is None:
        return model
    tested = build(dataclasses.replace(row, base=None), (row.test_size, row.test_size, sets.train.channels))
    tested.set_weights(model.get_weights())
    return tested


def _errors(model, row, sets, report):
    """Errors in per cent, by column of the results."""
    errors = {}
    for column, source in sets.tests.items():
        ranks = np.concatenate(list(_ranks(model, source, report, row.test_size or DATASETS[row.data].size)))
        errors[column] = round(100 * float(np.mean(ranks >= 1)), 3)
        if row.top5 is not None:
            errors["top5_error"] = round(100 * float(np.mean(ranks >= 5)), 3)
    return errors


def _ranks(model, source, report, size):
    """For each image, how many classes come before its own."""
    # Where training crops, a test image is the centre of one whose short side is 256 for a crop of 224.
    crop = {} if size is None else {"size": (size, size), "central": 0.875}
    for start in range(0, len(source), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(source)))
        x = network_input(source.read(rows, **crop), report.mean, report.std)
        scores = model.predict(x, batch_size=100, verbose=0)
        own = scores[np.arange(len(rows)), source.labels[rows]]
        if not np.isfinite(scores).all():
            raise FloatingPointError(
                "The network's outputs on test images are not finite numbers: it has diverged, or a rehearsal was "
                "too short for the moving statistics of batch normalisation. Nothing was recorded."
            )
        yield (scores > own[:, None]).sum(1)
