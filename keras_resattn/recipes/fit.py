"""Training a network by a recipe: compile, fit, log, checkpoint, resume, report."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import math
from collections.abc import Iterable
from typing import Literal

import keras

from keras_resattn.data.open_dataset import BatchStream, open_dataset, open_validation
from keras_resattn.layers import Rectify
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.models.inspection import iter_layers, last_layer
from keras_resattn.recipes import distribution
from keras_resattn.recipes.checkpointing import Progress, RunCallback, part
from keras_resattn.recipes.checks import check_callbacks, check_lengths, check_model, check_restored
from keras_resattn.recipes.kept_epoch import Kept
from keras_resattn.recipes.optimizers import build_optimizer
from keras_resattn.recipes.presets import get_recipe
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.recipes.report import Report, best_on_validation, environment, plot_history
from keras_resattn.recipes.run_folder import ARCHITECTURE, REPORT, WEIGHTS, RunFolder
from keras_resattn.recipes.run_spec import RunSpec, TrainingInputs
from keras_resattn.recipes.weight_averaging import AveragedWeights, BatchNormRecalibrator
from keras_resattn.typing import DataLike, PathLike, Statistics
from keras_resattn.utils.io import atomic_write, reserve, user_path

TOP5_FROM = 10  # networks of more classes log top-5 accuracy, too
LOGITS = (keras.activations.linear, keras.activations.log_softmax)


def compile_and_fit(
    model: keras.Model,
    recipe: str | Recipe,
    data: DataLike,
    *,
    validation_data: DataLike | None = None,
    run_dir: PathLike | None = None,
    resume: bool = True,
    verbose: int = 1,
    statistics: Statistics | None = None,
    data_dir: PathLike | None = None,
    device_data: bool = False,
    checkpoint_steps: int | None = None,
    jit_compile: bool | Literal["auto"] = "auto",
    steps_per_execution: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    class_weight: dict[int, float] | None = None,
) -> Report:
    """Trains `model` by `recipe`.

    Images are normalised as the recipe says, by the training set's statistics, which the report holds. With
    `ema`, validation and the final weights are those of the moving average, and batch normalisation's statistics are
    measured anew with them, on some ten thousand training images.

    A run with a `run_dir` may be killed at any moment. The same call goes on from its last checkpoint, with the data
    in the order that it would have had, and ends with the same weights: bit for bit where the backend's arithmetic is
    repeatable, as it is on a CPU. There is a checkpoint at the end of each epoch and every five minutes. Ctrl-C
    finishes the running step, writes one, and leaves the model as it then is; a scheduler's SIGTERM does the same.

    Args:
        model: A classifier over `(n, h, w, c)` images that returns softmax probabilities or logits. With gated
            attention, `classifier_activation=None` trains by the authors' loss.
        recipe: A `Recipe`, or the name of one of `RECIPES`.
        data: What `keras_resattn.data.open_dataset` takes: `(x, y)`, the path of an `.npz` file or of a folder of class
            folders, a name such as `"cifar10"`, a `tf.data.Dataset`, `PyDataset`, PyTorch `DataLoader` and others.
            Images 0 to 255, integer labels.
        validation_data: Data measured after every epoch, or `None`.
        run_dir: Folder for `log.csv`, `checkpoint.npz`, `recipe.json`, `statistics.json` and, at the end,
            `model.json`, `model.weights.h5`, `report.json` and (with matplotlib) `history.png`; `None` writes nothing.
        resume: Whether to go on with the run that `run_dir` holds.
        verbose: Keras' verbosity: 1 is a progress bar, 2 a line for each epoch, 0 nothing.
        statistics: `(mean, std)` to normalise by in place of the training set's own, of images 0 to 255, for weights
            that were trained with them.
        data_dir: Where TensorFlow Datasets lie, for data by name.
        device_data: Whether all images lie on the device as uint8, and are cropped, flipped, normalised and mixed
            there in the compiled step: for accelerators, and data that fit their memory. Not for streams, `augment` and
            Inception's crops.
        checkpoint_steps: Steps between checkpoints inside an epoch; `None`: one every five minutes.
        jit_compile: As in `keras.Model.compile`.
        steps_per_execution: As in `keras.Model.compile`; has to divide the steps of an epoch.
        callbacks: More Keras callbacks, such as `keras.callbacks.TensorBoard`. One that stops the training finishes the
            run. With `ema` they find the averaged weights in the model at an epoch's end. A run that is resumed begins
            with new callbacks: what they remember is not part of its checkpoint.
        class_weight: `{label: weight}` of the images of each class in the loss, for all classes; `None` where all weigh
            the same. Sample weights come with the data: `(x, y, sample_weight)`. With both, an image weighs their
            product. The training loss and accuracy in the log are weighted, figures on validation data are not.

    Returns:
        A `Report`. The model is trained in place and stays compiled. If the training data name their classes, the
        report, the run folder and the model have the names: see `class_names_of`. Validation data with the same names
        in another order are renumbered. Repeating the call of a finished run trains nothing and changes no file: the
        model gets the weights that the run kept, and the same report is returned.

    Raises:
        ValueError: before any work, for an unknown recipe or dataset, data that does not fit the model, data of other
            classes than the model or the training data have, fewer images than a batch, a model of another precision
            or dropout than the recipe's, callbacks that contradict the recipe, or a `run_dir` that holds another run or
            damaged files.
        BlockingIOError: if another process trains in `run_dir`.
        FloatingPointError: if the loss is no longer a finite number; it names the step, its images and the last good
            checkpoint.
        OSError: if a file of the run cannot be written; the one before it stays.
        KeyboardInterrupt: after Ctrl-C, in good order.
    """
    recipe = get_recipe(recipe)
    check_model(model, recipe)
    loss = _loss(model, recipe.mixes_labels)
    strategy = distribution.current_strategy()
    strategy.check(model, recipe, jit_compile, device_data, steps_per_execution)
    run_dir = None if run_dir is None else user_path(run_dir)
    callbacks = check_callbacks(callbacks, recipe)
    dataset = open_dataset(data, data_dir=data_dir)
    folder = RunFolder(run_dir, writes=strategy.rank == 0)
    kept_statistics = None if folder.progress is None else folder.progress["statistics"]
    validation = open_validation(validation_data, data_dir, dataset)
    spec = RunSpec.of(model, recipe, strategy, dataset, validation, statistics, kept_statistics, class_weight)
    inputs = TrainingInputs.on_device(spec) if device_data else TrainingInputs.by_batches(spec)
    per_epoch = inputs.batches.steps_per_epoch
    check_lengths(recipe, per_epoch, steps_per_execution, checkpoint_steps)
    strategy.check_same("the number of steps of an epoch", per_epoch)
    optimizer = strategy.make_optimizer(recipe, per_epoch)
    with contextlib.ExitStack() as stack:
        with strategy.together():
            identity = spec.identity(per_epoch)
            stack.enter_context(folder.opened(identity, spec.statistics, resume or strategy.rank > 0))
            rows, steps = inputs.batches.rows, recipe.steps(per_epoch)
            loop = RunCallback(
                folder,
                steps,
                per_epoch,
                rows,
                recipe.batch_size,
                checkpoint_steps,
                inputs.left_out,
                strategy,
                functools.partial(recipe.image_size, steps_per_epoch=per_epoch),
            )
            loop.restore()
            if not folder.finished:
                check_restored(loop, steps_per_execution)
        strategy.check_same("the step to resume from (run_dir has to be on a file system of all processes)", loop.done)
        compiled = {
            "optimizer": optimizer,
            "loss": loss,
            "weighted_metrics": _metrics(spec.classes, recipe.mixes_labels),  # unweighted where nothing has a weight
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }
        spec.name_classes()
        inputs.model.compile(**compiled)
        build_optimizer(inputs.model.optimizer, inputs.model.trainable_variables, recipe.decay_norm_and_bias)
        if folder.finished and folder.progress is not None:
            loop.assign(inputs.model, metrics=False)
            report = Report(**folder.progress["report"])
        else:
            with strategy.distributed(inputs.model):
                report = _train(spec, inputs, loop, jit_compile, verbose, callbacks)
        if inputs.model is not model:
            model.compile(**compiled)
        with strategy.together():
            _write_results(model, folder, report)
    return report


def _train(spec, inputs, loop, jit_compile, verbose, callbacks):
    """Trains to the end, writes the last checkpoint, of the weights that are kept, and returns the report."""
    model, strategy = inputs.model, spec.strategy
    statistics = None if spec.recipe.ema is None else BatchNormRecalibrator(inputs, strategy, jit_compile)
    kept = Kept(loop, None if statistics is None else AveragedWeights(statistics), callbacks)
    if loop.done < loop.steps:
        _fit(spec, inputs, loop, kept, verbose)
        epoch = kept.epoch(model)
    else:  # what `fit` ends with, where weights are averaged
        loop.assign(model, metrics=False)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        part(model.trainable_variables)
        epoch = loop.rows[-1]["epoch"]
        if statistics is not None:
            statistics.measure(epoch - 1)
    if epoch is not None:
        metrics = next(row for row in loop.rows if row["epoch"] == epoch)
    elif inputs.validation is not None:
        found = model.evaluate(inputs.validation, verbose=0, return_dict=True)
        metrics = {f"val_{name}": float(value) for name, value in found.items()}
    else:
        metrics = {}
    report = _report(spec, loop, epoch, metrics)
    with strategy.together():
        loop.finish(model, dataclasses.asdict(report))
    return report


def _fit(spec, inputs, loop, kept, verbose):
    model, batches, strategy = inputs.model, inputs.batches, spec.strategy
    verbose = verbose if strategy.rank == 0 else 0
    first_epoch, in_epoch = divmod(loop.done, loop.steps_per_epoch)
    batches.first_epoch, batches.first_step = first_epoch, loop.done
    # Metrics resume in their middle. Keras makes them with the first batch, except on JAX, where it makes them before.
    if (in_epoch and keras.backend.backend() != "jax") or strategy.metrics_first:
        model.test_on_batch(*batches[in_epoch])
        model.reset_metrics()
    averages = [] if kept.averages is None else [kept.averages]
    progress = [Progress(loop)] if verbose else []
    try:
        with loop.around(model):
            model.fit(
                batches.of_several_sizes() if spec.recipe.image_sizes else batches,
                steps_per_epoch=loop.steps_per_epoch,
                epochs=spec.recipe.length(loop.steps_per_epoch),
                initial_epoch=first_epoch,
                validation_data=inputs.validation,
                callbacks=[*averages, loop, *progress, *kept.callbacks],
                shuffle=False,
                verbose=verbose,
            )
    except Exception:
        if batches.error is not None:  # a image that cannot be read, say
            raise batches.error from None
        raise
    finally:
        if kept.averages is not None:  # an error of a callback may have left them in the model
            kept.averages.hide()


def _report(spec, loop, kept_epoch, metrics):
    dataset, recipe = spec.dataset, spec.recipe
    images = loop.steps_per_epoch * recipe.batch_size if isinstance(dataset, BatchStream) else len(dataset)
    mean, std = spec.statistics
    return Report(
        network=spec.model.name,
        recipe=json.loads(recipe.to_json()),
        metrics=metrics,
        mean=mean,
        std=std,
        training_images=images,
        seconds=round(sum(row["seconds"] for row in loop.rows), 1),
        environment=environment(),
        history=loop.rows,
        best_on_validation=best_on_validation(loop.rows),
        precision=spec.model.dtype_policy.name,
        steps=loop.done,
        processes=spec.strategy.processes,
        data_format=keras.config.image_data_format(),
        resize_mode=dataset.resize_mode,
        class_names=spec.class_names,
        kept_epoch=kept_epoch,
        stopped=loop.done < loop.steps,
    )


def _write_results(model, folder, report):
    """Writes what comes out of a finished run; the report last, so that one that is there is never changed."""
    if not folder.writes or (folder.path / REPORT).exists():
        return
    folder.write_log(report.history)  # a kill may have come between the last checkpoint and its row
    # Without the optimizer, whose variables a model saves with its own.
    network = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with atomic_write(folder.path / WEIGHTS) as path:
        # HDF5 takes more than the numbers: some kilobytes for each variable.
        reserve(path, sum(math.prod(v.shape) * 4 + 2**12 for v in network.weights))
        network.save_weights(path, overwrite=True)
    with contextlib.suppress(NotImplementedError, TypeError):  # a layer of the user's may be one that cannot be written
        folder.write_json(ARCHITECTURE, json.loads(network.to_json()))
    if importlib.util.find_spec("matplotlib"):
        with atomic_write(folder.path / "history.png") as path:
            plot_history(report.history).savefig(path, dpi=100)
    folder.write_json(REPORT, dataclasses.asdict(report))


def _metrics(classes, mixes_labels):
    if classes <= TOP5_FROM:
        return ["accuracy"]
    top5 = keras.metrics.TopKCategoricalAccuracy if mixes_labels else keras.metrics.SparseTopKCategoricalAccuracy
    return ["accuracy", top5(5, name="top5_accuracy")]


def returns_logits(model: keras.Model) -> bool:
    """Whether a classifier returns logits, not probabilities.

    Raises:
        ValueError: if its last layer does not tell.
    """
    layer = last_layer(model)
    if isinstance(layer, keras.layers.Softmax):
        return False
    if not hasattr(layer, "activation"):
        raise ValueError(
            "Expected a classifier that ends in a layer with an activation, or in Softmax, to know whether it returns "
            f"probabilities; received: {type(layer).__name__} in the end of {model.name}."
        )
    if layer.activation not in (*LOGITS, keras.activations.softmax):
        raise ValueError(
            "Expected a classifier that ends in softmax, or in no activation (logits); received: "
            f"activation={keras.activations.serialize(layer.activation)!r} in the end of {model.name}."
        )
    return layer.activation in LOGITS


def _loss(model, mixes_labels):
    """The cross-entropy of probabilities or logits; that of gated log-probabilities is their authors'."""
    logits = returns_logits(model)
    if logits and any(isinstance(layer, Rectify) for layer in iter_layers(model)):
        return NegativeLogLikelihood()
    if mixes_labels:
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
