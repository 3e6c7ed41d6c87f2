"""Train a network with a recipe: compile, fit, log, checkpoint, resume, report."""

import contextlib
import dataclasses
import importlib.util
import json
import math
from collections.abc import Iterable
from typing import Literal

import keras

from keras_resattn.data import BatchStream, open_dataset
from keras_resattn.data.open_dataset import open_validation
from keras_resattn.recipes import distribution
from keras_resattn.recipes.checkpointing import RunCallback, unshare_values
from keras_resattn.recipes.checks import check_callbacks, check_lengths, check_model, check_restored
from keras_resattn.recipes.history import best_on_validation, plot_history
from keras_resattn.recipes.kept_epoch import KeptEpoch
from keras_resattn.recipes.loss_and_metrics import make_loss, make_metrics
from keras_resattn.recipes.optimizers import build_optimizer
from keras_resattn.recipes.presets import get_recipe
from keras_resattn.recipes.progress_bar import ProgressBar
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.recipes.report import Report, environment
from keras_resattn.recipes.run_files import ARCHITECTURE, REPORT, WEIGHTS
from keras_resattn.recipes.run_folder import RunFolder
from keras_resattn.recipes.run_spec import RunSpec, TrainingInputs
from keras_resattn.recipes.weight_averaging import AveragedWeights, BatchNormRecalibrator
from keras_resattn.typing import DataLike, PathLike, Statistics
from keras_resattn.utils.io import atomic_write, reserve, user_path


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
    """Train a model with a recipe.

    Images are normalised as the recipe specifies, with statistics of the training data, which the report records. With
    `ema`, validation and the final model use averaged weights, and batch-norm statistics are re-estimated for them on
    about 10,000 training images.

    With a `run_dir`, a run is safe to interrupt. Repeat the call to resume from the last checkpoint; the data come in
    the same order, and the final weights are those of an uninterrupted run: bit for bit if the backend's arithmetic is
    deterministic, as on a CPU. A checkpoint is written at the end of each epoch and every five minutes. Ctrl-C and a
    scheduler's SIGTERM finish the running step, write a checkpoint, and leave the model in that state.

    Args:
        model: A classifier of images `(n, h, w, c)` that returns softmax probabilities or logits. With gated attention,
            `classifier_activation=None` trains with the authors' loss.
        recipe: A `Recipe`, or the name of one of `RECIPES`.
        data: Training data, in any form that `keras_resattn.data.open_dataset` accepts: `(x, y)`, the path of an `.npz`
            file or of a folder of class folders, a name such as `"cifar10"`, a `tf.data.Dataset`, `PyDataset`, PyTorch
            `DataLoader` and others. Images are from 0 to 255, labels are integers.
        validation_data: Data evaluated after every epoch, or `None`.
        run_dir: Folder for `log.csv`, `checkpoint.npz`, `recipe.json`, `statistics.json` and, at the end,
            `model.json`, `model.weights.h5`, `report.json` and (with matplotlib) `history.png`; `None` writes nothing.
        resume: Whether to resume the run in `run_dir`; if false, `run_dir` must not hold one.
        verbose: Keras' verbosity: 1 for a progress bar, 2 for one line per epoch, 0 for silence.
        statistics: `(mean, std)` with which images (0 to 255) are normalised instead of the training data's own, for
            initial weights that were trained with them. A network that starts with a `Normalization` or `Rescaling`
            layer, such as one built with `include_preprocessing=True`, gets images from 0 to 255 and needs none.
        data_dir: Folder of TensorFlow Datasets, for data by name.
        device_data: Whether to keep all images on the device as uint8, and crop, flip, normalise and mix them there in
            the compiled step: for accelerators, and data that fit into their memory. Not supported for streams,
            `augment` and Inception crops.
        checkpoint_steps: Steps between checkpoints inside an epoch; `None` writes one every five minutes.
        jit_compile: As in `keras.Model.compile`.
        steps_per_execution: As in `keras.Model.compile`; must divide the number of steps per epoch.
        callbacks: Further Keras callbacks, such as `keras.callbacks.TensorBoard`. One that stops the training finishes
            the run. With `ema`, the model holds the averaged weights at the end of an epoch. Checkpoints do not include
            the state of callbacks: a resumed run starts with new ones.
        class_weight: `{label: weight}` of each class in the loss, for all classes; `None` weights all equally. Sample
            weights are part of the data: `(x, y, sample_weight)`. With both, an image's weight is their product. The
            training loss and accuracy in the log are weighted; validation metrics are not.

    Returns:
        A `Report`. The model is trained in place and stays compiled. If the training data have class names, they are
        stored in the report, the run folder and the model; see `class_names_of`. Validation data with the same names in
        another order are renumbered. Repeating the call for a finished run trains nothing and changes no file: the kept
        weights are loaded into the model, and the same report is returned.

    Raises:
        ValueError: before any work, for an unknown recipe or dataset, data that do not fit the model, data with other
            classes than the model or the training data, fewer images than a batch, a model of another precision or
            dropout than the recipe's, callbacks that contradict the recipe, or a `run_dir` that holds another run or
            damaged files.
        BlockingIOError: if another process trains in `run_dir`.
        FloatingPointError: if the loss is NaN or infinite; the message names the step, its images and the last good
            checkpoint.
        OSError: if a file of the run cannot be written; the previous one is kept.
        KeyboardInterrupt: after Ctrl-C, once the running step is finished and saved.
    """
    recipe = get_recipe(recipe)
    check_model(model, recipe)
    loss = make_loss(model, recipe.mixes_labels)
    strategy = distribution.current_strategy()
    strategy.check(model, recipe, jit_compile, device_data, steps_per_execution)
    run_dir = None if run_dir is None else user_path(run_dir)
    callbacks = check_callbacks(callbacks, recipe)
    dataset = open_dataset(data, data_dir=data_dir)
    folder = RunFolder(run_dir, writes=strategy.rank == 0)
    checkpoint_statistics = None if folder.progress is None else folder.progress["statistics"]
    validation = open_validation(validation_data, data_dir, dataset)
    spec = RunSpec.create(model, recipe, strategy, dataset, validation, statistics, checkpoint_statistics, class_weight)
    inputs = TrainingInputs.on_device(spec) if device_data else TrainingInputs.on_host(spec)
    per_epoch = inputs.batches.steps_per_epoch
    check_lengths(recipe, per_epoch, steps_per_execution, checkpoint_steps)
    strategy.check_same("the number of steps per epoch", per_epoch)
    compiled = {
        "optimizer": strategy.make_optimizer(recipe, per_epoch),
        "loss": loss,
        "weighted_metrics": make_metrics(spec.classes, recipe.mixes_labels),  # unweighted without weights
        "jit_compile": jit_compile,
        "steps_per_execution": steps_per_execution,
    }
    with contextlib.ExitStack() as stack:
        with strategy.together():
            stack.enter_context(folder.opened(spec.identity(per_epoch), spec.statistics, resume or strategy.rank > 0))
            run = RunCallback(folder, inputs, strategy, checkpoint_steps)
            run.restore()
            if not folder.finished:
                check_restored(run, steps_per_execution)
        strategy.check_same("the resumed step (run_dir must be on a file system of all processes)", run.completed_steps)
        spec.name_classes()
        inputs.model.compile(**compiled)
        build_optimizer(inputs.model.optimizer, inputs.model.trainable_variables, recipe.decay_norm_and_bias)
        if folder.finished and folder.progress is not None:
            run.assign(inputs.model, metrics=False)
            report = Report(**folder.progress["report"])
        else:
            with strategy.distributed(inputs.model):
                report = _train(spec, inputs, run, jit_compile, verbose, callbacks)
        if inputs.model is not model:
            model.compile(**compiled)
        with strategy.together():
            _write_results(model, folder, report)
    return report


def _train(spec, inputs, run, jit_compile, verbose, callbacks):
    """Train to the end, write the last checkpoint with the kept weights, and return the report."""
    model = inputs.model
    averages = None
    if spec.recipe.ema is not None:
        averages = AveragedWeights(BatchNormRecalibrator(inputs, spec.strategy, jit_compile))
    if run.completed_steps < run.steps:
        kept = KeptEpoch(run, averages, callbacks)
        _fit(spec, inputs, run, kept, verbose)
        epoch = kept.find(model)
    else:  # killed between the last step and the report
        run.assign(model, metrics=False)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        unshare_values(model.trainable_variables)
        epoch = run.history[-1]["epoch"]
        if averages is not None:
            averages.recalibrator.recalibrate(epoch - 1)
    report = _make_report(spec, run, epoch, _metrics_of_epoch(inputs, run, epoch))
    with spec.strategy.together():
        run.finish(model, dataclasses.asdict(report))
    return report


def _metrics_of_epoch(inputs, run, epoch):
    """Return the log's row of the epoch that ended with the model's weights; if there is none, evaluate them."""
    if epoch is not None:
        return next(row for row in run.history if row["epoch"] == epoch)
    if inputs.validation is None:
        return {}
    metrics = inputs.model.evaluate(inputs.validation, verbose=0, return_dict=True)
    return {f"val_{name}": float(value) for name, value in metrics.items()}


def _fit(spec, inputs, run, kept, verbose):
    model, batches, strategy = inputs.model, inputs.batches, spec.strategy
    verbose = verbose if strategy.rank == 0 else 0
    first_epoch, in_epoch = divmod(run.completed_steps, run.steps_per_epoch)
    batches.first_epoch, batches.first_step = first_epoch, run.completed_steps
    # Resuming inside an epoch restores metrics. Keras creates them with the first batch; on JAX, before it.
    if (in_epoch and keras.backend.backend() != "jax") or strategy.metrics_first:
        model.test_on_batch(*batches[in_epoch])
        model.reset_metrics()
    averages = [] if kept.averages is None else [kept.averages]
    progress_bar = [ProgressBar(run)] if verbose else []
    try:
        with run.attached(model):
            model.fit(
                batches.with_dynamic_shapes() if spec.recipe.image_sizes else batches,
                steps_per_epoch=run.steps_per_epoch,
                epochs=spec.recipe.length(run.steps_per_epoch),
                initial_epoch=first_epoch,
                validation_data=inputs.validation,
                callbacks=[*averages, run, *progress_bar, *kept.callbacks],
                shuffle=False,
                verbose=verbose,
            )
    except Exception:
        if batches.error is not None:  # an image that cannot be read, for instance
            raise batches.error from None
        raise
    finally:
        if kept.averages is not None:  # an error in a callback may have left them in the model
            kept.averages.swap_out()


def _make_report(spec, run, kept_epoch, metrics):
    dataset, recipe = spec.dataset, spec.recipe
    images = run.steps_per_epoch * recipe.batch_size if isinstance(dataset, BatchStream) else len(dataset)
    mean, std = spec.statistics
    return Report(
        network=spec.model.name,
        recipe=json.loads(recipe.to_json()),
        metrics=metrics,
        mean=mean,
        std=std,
        training_images=images,
        seconds=round(sum(row["seconds"] for row in run.history), 1),
        environment=environment(),
        history=run.history,
        best_on_validation=best_on_validation(run.history),
        precision=spec.model.dtype_policy.name,
        steps=run.completed_steps,
        processes=spec.strategy.processes,
        data_format=keras.config.image_data_format(),
        resize_mode=dataset.resize_mode,
        class_names=spec.class_names,
        kept_epoch=kept_epoch,
        stopped=run.completed_steps < run.steps,
    )


def _write_results(model, folder, report):
    """Write the results of a finished run. The report is written last; if it exists, nothing is changed."""
    if not folder.writes or (folder.path / REPORT).exists():
        return
    folder.write_log(report.history)  # the process may have been killed between the last checkpoint and its row
    # Without the optimizer, whose variables a compiled model would save too.
    network = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    with atomic_write(folder.path / WEIGHTS) as path:
        # HDF5 needs some kilobytes for each variable in addition to the values.
        reserve(path, sum(math.prod(v.shape) * 4 + 2**12 for v in network.weights))
        network.save_weights(path, overwrite=True)
    with contextlib.suppress(NotImplementedError, TypeError):  # the user's own layers may not be serialisable
        folder.write_json(ARCHITECTURE, json.loads(network.to_json()))
    if importlib.util.find_spec("matplotlib"):
        with atomic_write(folder.path / "history.png") as path:
            plot_history(report.history).savefig(path, dpi=100)
    folder.write_json(REPORT, dataclasses.asdict(report))
