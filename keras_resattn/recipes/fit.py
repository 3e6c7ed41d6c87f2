"""Training a network by a recipe: compile, fit, log, checkpoint, resume, report."""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path

import keras
import numpy as np

from keras_resattn.data.arrays import normalize
from keras_resattn.data.batches import TrainingBatches
from keras_resattn.data.label_noise import with_label_noise
from keras_resattn.data.named import is_name
from keras_resattn.data.on_device import on_device
from keras_resattn.data.ordered import OrderedBatches
from keras_resattn.data.sources import Stream, open_source
from keras_resattn.files import atomic_write
from keras_resattn.layers import Rectify
from keras_resattn.losses import NegativeLogLikelihood
from keras_resattn.recipes import engines
from keras_resattn.recipes.loop import Loop, Progress
from keras_resattn.recipes.named import get_recipe
from keras_resattn.recipes.report import Report, best_on_validation, environment, plot_history
from keras_resattn.recipes.run import CHECKPOINT, RunFolder

WEIGHTS = "model.weights.h5"


def compile_and_fit(
    model,
    recipe,
    data,
    *,
    validation_data=None,
    run_dir=None,
    resume=True,
    verbose=1,
    statistics=None,
    data_dir=None,
    device_data=False,
    checkpoint_steps=None,
    jit_compile="auto",
    steps_per_execution=1,
    callbacks=(),
):
    """Trains `model` by `recipe`.

    Pictures are normalised as the recipe says, by the training set's statistics, which the report holds. With
    `ema`, validation and the final weights are those of the moving average; batch normalisation's statistics are
    moving averages already.

    A run with a `run_dir` may be killed at any moment. The same call goes on from its last checkpoint, with the data
    in the order that it would have had, and ends with the same weights: bit for bit where the backend's arithmetic is
    repeatable, as it is on a CPU. There is a checkpoint at the end of each epoch and every five minutes. Ctrl-C
    finishes the running step, writes one, and leaves the model as it then is; a scheduler's SIGTERM does the same.

    Args:
        model: A classifier over `(n, h, w, c)` pictures that returns softmax probabilities or logits. With gated
            attention, `classifier_activation=None` trains by the authors' loss.
        recipe: A `Recipe`, or the name of one of `RECIPES`.
        data: What `keras_resattn.data.open_source` takes: `(x, y)`, the path of an `.npz` file or of a folder of class
            folders, a name such as `"cifar10"`, a `tf.data.Dataset`, `PyDataset`, PyTorch `DataLoader` and others.
            Pictures 0 to 255, integer labels.
        validation_data: Data measured after every epoch, or `None`.
        run_dir: Folder for `log.csv`, `checkpoint.npz`, `recipe.json` and, at the end, `model.weights.h5`,
            `report.json` and (with matplotlib) `history.png`; `None` writes nothing.
        resume: Whether to go on with the run that `run_dir` holds.
        verbose: Keras' verbosity: 1 is a progress bar, 2 a line for each epoch, 0 nothing.
        statistics: `(mean, std)` to normalise by in place of the training set's own, of pictures 0 to 255, for weights
            that were trained with them.
        data_dir: Where TensorFlow Datasets lie, for data by name.
        device_data: Whether all pictures lie on the device as uint8, and are cropped, flipped, normalised and mixed
            there in the compiled step: for accelerators, and data that fit their memory. Arrays only, without
            `augment` and Inception's crops.
        checkpoint_steps: Steps between checkpoints inside an epoch; `None`: one every five minutes.
        jit_compile: As in `keras.Model.compile`.
        steps_per_execution: As in `keras.Model.compile`; has to divide the steps of an epoch.
        callbacks: More Keras callbacks, such as `keras.callbacks.TensorBoard`.

    Returns:
        A `Report`. The model is trained in place and stays compiled.

    Raises:
        ValueError: before any work, for an unknown recipe or data set, data that does not fit the model, fewer
            pictures than a batch, a model of another precision or dropout than the recipe's, or a `run_dir` that holds
            another run.
        FloatingPointError: if the loss is no longer a finite number; it names the step, its pictures and the last good
            checkpoint.
        OSError: if a checkpoint cannot be written; the one before it stays.
        KeyboardInterrupt: after Ctrl-C, in good order.
    """
    recipe = get_recipe(recipe)
    _check_model(model, recipe)
    engine = engines.current()
    engine.check(model, recipe, jit_compile, device_data, steps_per_execution)
    classes = model.output_shape[-1]
    source, validation = (
        None if given is None else open_source(given, split=split, data_dir=folder)
        for given, split, folder in (
            (data, "train", data_dir),
            (validation_data, "validation", data_dir if is_name(validation_data) else None),
        )
    )
    size = _check_fits(model, source, recipe, classes)
    if validation is not None:
        _check_fits(model, validation, recipe, classes)
    source = with_label_noise(source, recipe.label_noise, classes, recipe.seed)
    if statistics is None:
        mean, std = _kept_statistics(run_dir) or source.statistics(recipe.normalization, size)
    else:
        mean, std = (np.asarray(values, "float64").tolist() for values in statistics)
    if isinstance(source, Stream):  # each process may have measured its own part
        mean, std = engine.first(mean, std)

    trained, batches, validation, left_out = _feeds(
        model, source, recipe, (mean, std), size, classes, validation, device_data, engine
    )
    per_epoch = batches.steps_per_epoch
    steps, epochs = recipe.steps(per_epoch), recipe.length(per_epoch)
    _check_loop(steps_per_execution, checkpoint_steps, per_epoch, steps)
    recipe.learning_rate_schedule(per_epoch)  # which may not fit the length
    identity = {
        "network": model.name,
        "precision": model.dtype_policy.name,
        "recipe": dataclasses.asdict(recipe),
        "data": source.fingerprint(),
        "steps_per_epoch": per_epoch,
        "statistics": None if statistics is None else [mean, std],
    }
    engine.same("the number of steps of an epoch", per_epoch)
    with engine.together():
        folder = RunFolder(run_dir, identity, resume or engine.rank > 0, writes=engine.rank == 0)
        loop = Loop(folder, steps, per_epoch, batches.rows, recipe.batch_size, checkpoint_steps, left_out, engine)
        loop.restore()
        if loop.done < steps and loop.done % steps_per_execution:
            raise ValueError(
                f"Expected steps_per_execution to divide the {loop.done} steps that are done; "
                f"received: steps_per_execution={steps_per_execution}."
            )
        folder.write_json("statistics.json", [mean, std])
    engine.same("the step to go on from (run_dir has to be on a file system of all processes)", loop.done)
    trained.compile(
        optimizer=engine.make_optimizer(recipe, per_epoch),
        loss=_loss(model, recipe.mixes_labels),
        weighted_metrics=["accuracy"],  # as unweighted ones where nothing has a weight
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    trained.optimizer.build(trained.trainable_variables)
    if loop.done < steps:
        with engine.around(trained):
            _fit(trained, batches, validation, loop, epochs, verbose, callbacks, recipe, engine)
    else:  # what `fit` ends with, where weights are averaged
        loop.assign(trained, metrics=False)
        trained.optimizer.finalize_variable_values(trained.trainable_variables)
    report = _report(model, recipe, source, loop, (mean, std), engine)
    with engine.together():
        _finish(model, folder, report)
    return report


def _kept_statistics(run_dir):
    """The statistics that a run was begun with: measured again, those of a stream might be others."""
    if run_dir is None or not (Path(run_dir) / CHECKPOINT).exists():
        return None
    return json.loads((Path(run_dir) / "statistics.json").read_text())


def _feeds(model, source, recipe, statistics, size, classes, validation, device_data, engine):
    """What `fit` is fed with: `(model to train, batches, validation batches, variables that no checkpoint holds)`."""
    mean, std = statistics
    if device_data:
        trained, batches, validation = on_device(model, source, recipe, mean, std, validation=validation)
        return trained, batches, validation, trained.get_layer("pictures").variables
    prepare = functools.partial(normalize, mean=mean, std=std)
    batches = TrainingBatches(source, recipe, prepare, size=size, classes=classes, shard=engine.shard)
    if validation is not None:
        ordered = OrderedBatches if engine.devices == 1 else engine.evaluation
        shares = classes if recipe.mixes_labels else None
        validation = ordered(validation, recipe.batch_size, prepare, size=size, shares=shares)
    return model, batches, validation, []


def _fit(model, batches, validation, loop, epochs, verbose, callbacks, recipe, engine):
    verbose = verbose if engine.rank == 0 else 0
    first_epoch, in_epoch = divmod(loop.done, loop.steps_per_epoch)
    batches.first_epoch, batches.first_step = first_epoch, loop.done
    if in_epoch or engine.metrics_first:  # metrics go on in their middle, and Keras makes them with the first batch
        model.test_on_batch(*batches[in_epoch])
        model.reset_metrics()
    averages = [keras.callbacks.SwapEMAWeights()] if recipe.ema is not None else []
    progress = [Progress(loop)] if verbose else []
    try:
        with loop.around(model):
            model.fit(
                batches,
                steps_per_epoch=loop.steps_per_epoch,
                epochs=epochs,
                initial_epoch=first_epoch,
                validation_data=validation,
                callbacks=[*averages, loop, *progress, *callbacks],
                shuffle=False,
                verbose=verbose,
            )
    except Exception:
        if batches.error is not None:  # a picture that cannot be read, say
            raise batches.error from None
        raise


def _report(model, recipe, source, loop, statistics, engine):
    pictures = loop.steps_per_epoch * recipe.batch_size if isinstance(source, Stream) else len(source)
    return Report(
        network=model.name,
        recipe=dataclasses.asdict(recipe),
        metrics=loop.rows[-1],
        mean=statistics[0],
        std=statistics[1],
        training_pictures=pictures,
        seconds=round(sum(row["seconds"] for row in loop.rows), 1),
        environment=environment(),
        history=loop.rows,
        best_on_validation=best_on_validation(loop.rows),
        precision=model.dtype_policy.name,
        steps=loop.done,
        processes=engine.processes,
    )


def _finish(model, folder, report):
    if not folder.writes:
        return
    with atomic_write(folder.path / WEIGHTS) as path:
        # Without the optimizer, whose variables a model saves with its own.
        keras.Model(model.inputs, model.outputs).save_weights(path, overwrite=True)
    folder.write_json("report.json", dataclasses.asdict(report))
    if importlib.util.find_spec("matplotlib"):
        with atomic_write(folder.path / "history.png") as path:
            plot_history(report.history).savefig(path, dpi=100)


def _check_model(model, recipe):
    shape = getattr(model, "output_shape", None) if getattr(model, "built", False) else None
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) != 2 or len(model.inputs) != 1:
        received = repr(model) if shape is None else f"output shape {shape}"
        raise ValueError(
            f"Expected a keras.Model with one input and one output of shape (n, classes); received: {received}."
        )
    if recipe.precision not in (None, model.dtype_policy.name):
        raise ValueError(
            f"Expected a network built under keras.config.set_dtype_policy({recipe.precision!r}), as the recipe says; "
            f"received: one of {model.dtype_policy.name}."
        )
    rates = {layer.rate for layer in engines.sublayers(model) if isinstance(layer, keras.layers.Dropout)}
    if recipe.dropout is not None and rates != ({recipe.dropout} - {0}):
        raise ValueError(
            f"Expected a network built with dropout={recipe.dropout}, as the recipe says; "
            f"received: one with rates {sorted(rates) or 'none'}."
        )


def _check_fits(model, source, recipe, classes):
    """Returns the size of pictures that the network takes, `(h, w)`, after checking that `source` gives them."""
    *size, channels = model.input_shape[1:]
    if keras.config.image_data_format() == "channels_first":
        channels, *size = model.input_shape[1:]
    shape = source.picture_shape
    expected = (*size, channels)
    if shape is not None and recipe.crop == "pad" and not _same(expected, shape):
        raise ValueError(f"Expected pictures of shape {expected} for {model.name}; received: {shape}.")
    if shape is None and source.channels != channels:
        raise ValueError(f"Expected pictures of {channels} channels for {model.name}; received: {source.channels}.")
    if None in size:
        if shape is None:
            raise ValueError(
                f"Expected a network with a fixed size for pictures of different ones; received: {model.name}, "
                f"{tuple(size)}. Build it with input_shape."
            )
        size = [got if want is None else want for want, got in zip(size, shape[:2], strict=True)]
    source.check_labels(classes)
    return tuple(size)


def _same(expected, shape):
    return all(want in (None, got) for want, got in zip(expected, shape, strict=True))


def _check_loop(size, checkpoint_steps, per_epoch, steps):
    if keras.backend.backend() == "torch" and size != 1:
        raise ValueError(f"Expected steps_per_execution=1 on PyTorch; received: steps_per_execution={size}.")
    if size < 1 or per_epoch % size or steps % size:
        raise ValueError(
            f"Expected steps_per_execution to divide the {per_epoch} steps of an epoch and the {steps} of the run; "
            f"received: steps_per_execution={size}."
        )
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise ValueError(
            "Expected checkpoint_steps to be a positive integer, or None; "
            f"received: checkpoint_steps={checkpoint_steps}."
        )


def _returns_logits(model):
    layer = model
    while isinstance(layer, keras.Model):
        layer = layer.layers[-1]
    if isinstance(layer, keras.layers.Softmax):
        return False
    if not hasattr(layer, "activation"):
        raise ValueError(
            "Expected a classifier that ends in a layer with an activation, or in Softmax, to know whether it returns "
            f"probabilities; received: {type(layer).__name__} in the end of {model.name}."
        )
    return layer.activation is keras.activations.linear


def _loss(model, mixes_labels):
    """The cross-entropy of probabilities or logits; that of gated log-probabilities is their authors'."""
    returns_logits = _returns_logits(model)
    if returns_logits and any(isinstance(layer, Rectify) for layer in engines.sublayers(model)):
        return NegativeLogLikelihood()
    if mixes_labels:
        return keras.losses.CategoricalCrossentropy(from_logits=returns_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=returns_logits)
