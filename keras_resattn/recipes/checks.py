"""Input checks of `compile_and_fit`, `fine_tune` and `evaluate`, run before any work."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.class_matching import match_classes
from keras_resattn.data.dataset import Dataset
from keras_resattn.models.class_names import model_class_names
from keras_resattn.models.inspection import iter_layers
from keras_resattn.models.normalization import normalization_of_input
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.typing import Size
from keras_resattn.utils.data_format import image_channels, image_size
from keras_resattn.utils.validation import is_integer, some_names

#: First words of the warning of `warn_of_empty_classes`.
EMPTY_CLASSES = "There are no training images"


def check_model(model: keras.Model, recipe: Recipe) -> None:
    """Raise a `ValueError` if a model is not a classifier, or its precision or dropout differ from the recipe's."""
    shape = getattr(model, "output_shape", None) if getattr(model, "built", False) else None
    if not isinstance(model, keras.Model) or not isinstance(shape, tuple) or len(shape) != 2 or len(model.inputs) != 1:
        received = repr(model) if shape is None else f"output shape {shape}"
        raise ValueError(
            f"Expected a keras.Model with one input and one output of shape (n, classes); received: {received}."
        )
    if shape[1] == 1:
        raise ValueError(
            f"Expected a network with an output for each class; received: {model.name} with one output. For two "
            "classes, give it two outputs:\n"
            '    outputs = keras.layers.Dense(2, activation="softmax")(model.layers[-1].input)\n'
            "    model = keras.Model(model.inputs, outputs)"
        )
    if not model.trainable_variables:
        raise ValueError(
            f"Expected a network with trainable weights; received: {model.name}, which has none. Set its layers to "
            "trainable=True; of a network from optimize_for_inference, train the original."
        )
    if recipe.precision not in (None, model.dtype_policy.name):
        raise ValueError(
            f"Expected a network built under keras.config.set_dtype_policy({recipe.precision!r}), as the recipe "
            f"requires; received: a network of {model.dtype_policy.name}."
        )
    rates = {layer.rate for layer in iter_layers(model) if isinstance(layer, keras.layers.Dropout)}
    if recipe.dropout is not None and rates != ({recipe.dropout} - {0}):
        raise ValueError(
            f"Expected a network built with dropout={recipe.dropout}, as the recipe requires; "
            f"received: a network with dropout rates {sorted(rates) or 'none'}."
        )


def check_callbacks(callbacks: Any, recipe: Recipe) -> list[keras.callbacks.Callback]:
    """Return callbacks as a list; raise a `ValueError` for other objects and callbacks that contradict the recipe."""
    callbacks = () if callbacks is None else callbacks
    listed = isinstance(callbacks, (list, tuple))
    if not listed or not all(isinstance(callback, keras.callbacks.Callback) for callback in callbacks):
        raise ValueError(f"Expected callbacks to be a list of keras.callbacks.Callback; received: {callbacks!r}.")
    schedule = f"the recipe's schedule ({recipe.schedule!r}) sets the learning rate: change the recipe"
    instead = {
        "BackupAndRestore": "run_dir keeps a checkpoint, from which the same call resumes exactly",
        "SwapEMAWeights": "recipe.replace(ema=0.999) averages weights, and validates and keeps the averaged weights",
        "LearningRateScheduler": schedule,
        "ReduceLROnPlateau": schedule,
    }
    for name, reason in instead.items():
        if any(isinstance(callback, getattr(keras.callbacks, name)) for callback in callbacks):
            raise ValueError(f"Expected no {name} among callbacks; {reason}.")
    return list(callbacks)


def check_class_weight(class_weight: Any, classes: int) -> list[float] | None:
    """Return the weight of each class as a list of floats, or `None`; raise a `ValueError` for anything else."""
    if class_weight is None:
        return None
    weights: list[Any] = [class_weight.get(label) for label in range(classes)] if isinstance(class_weight, dict) else []
    fits = bool(weights) and len(weights) == len(class_weight)
    fits = fits and all(isinstance(w, (int, float, np.number)) and np.isfinite(w) and w >= 0 for w in weights)
    if not fits or not any(weights):
        raise ValueError(
            "Expected class_weight to be a dictionary with a finite weight of at least 0 for each label from 0 to "
            f"{classes - 1}, not all of them 0; received: class_weight={class_weight!r}."
        )
    return [float(weight) for weight in weights]


def check_fits(model: keras.Model, dataset: Dataset | BatchStream, recipe: Recipe | None = None) -> Size:
    """Check that a dataset fits a network, and return the size of the network's images, `(h, w)`.

    Args:
        model: A classifier that has passed `check_model`.
        dataset: A `Dataset` or `BatchStream`.
        recipe: A `Recipe`, which may crop or resize images to the network's size; `None` if images are only evaluated.

    Raises:
        ValueError: If images have another shape or number of channels, or labels exceed the network's classes.
    """
    channels, size = image_channels(model.input_shape), list(image_size(model.input_shape))
    shape: Any = dataset.image_shape
    expected = (*size, channels)
    unresized = dataset.resize_mode is None and (recipe is None or recipe.crop == "pad")
    if shape is not None and unresized and not _same_shape(expected, shape):
        hint = " To resize them, pass open_dataset(data, resize_mode='crop'), 'squash' or 'pad'."
        hint = hint if isinstance(dataset, Dataset) and shape[-1] == channels else ""
        raise ValueError(f"Expected images of shape {expected} for {model.name}; received: {shape}.{hint}")
    received = getattr(dataset, "channels", None) if shape is None else shape[-1]
    if received != channels:
        raise ValueError(f"Expected images of {channels} channels for {model.name}; received: {received}.")
    if recipe is not None and recipe.image_sizes:
        if size != [None, None]:
            raise ValueError(
                f"Expected a network of variable size for a recipe with image_sizes; received: {model.name} of size "
                f"{tuple(size)}. Build it with input_shape=(None, None, 3) (channels last)."
            )
        size = [recipe.image_sizes[-1][1]] * 2
    if None in size:
        if shape is None:
            raise ValueError(
                f"Expected a network of fixed size for images of different sizes; received: {model.name} of size "
                f"{tuple(size)}. Build it with input_shape."
            )
        size = [got if want is None else want for want, got in zip(size, shape[:2], strict=True)]
    dataset.check_labels(model.output_shape[-1])
    return tuple(size)


def check_classes(
    model: keras.Model, dataset: Dataset | BatchStream, validation: Dataset | BatchStream | None
) -> tuple[Any, Any, list[str] | None]:
    """Match the class names of training data, validation data and network, and renumber labels where needed.

    Args:
        model: A classifier that has passed `check_model`.
        dataset: Training data, a `Dataset` or `BatchStream`.
        validation: Validation data, or `None`.

    Returns:
        `(dataset, validation, class_names)`, with labels in the order of the network's outputs. `class_names` is `None`
        if neither the network nor the training data have names.

    Raises:
        ValueError: If the training data have classes that a network with class names does not have, or another number
            of classes than the network, or the validation data have classes that the training data do not have.
    """
    outputs, names = model.output_shape[-1], model_class_names(model)
    if names is not None:
        remedy = f"To teach it other classes, call set_class_names({model.name}, None) first."
        dataset = match_classes(dataset, names, f"the network {model.name}", remedy)
    elif dataset.class_names is not None and len(dataset.class_names) != outputs:
        raise ValueError(
            f"Expected a network of {len(dataset.class_names)} classes, as the training data have "
            f"({some_names(dataset.class_names)}); received: {model.name} with {outputs} classes. "
            f"Build it with classes={len(dataset.class_names)}."
        )
    else:
        names = dataset.class_names
    return dataset, match_classes(validation, names, "the training data"), names


def warn_of_empty_classes(
    dataset: Dataset | BatchStream, classes: int, class_names: Sequence[str] | None = None
) -> None:
    """Warn about classes without training images, for example because labels start at 1.

    Args:
        dataset: Training data. A `BatchStream` is not checked, because its labels are not known in advance.
        classes: Number of classes.
        class_names: Names of the classes, or `None`.
    """
    if not isinstance(dataset, Dataset):
        return
    empty = np.flatnonzero(np.bincount(dataset.labels, minlength=classes) == 0)
    if len(empty):
        shown = [class_names[number] if class_names else number for number in empty.tolist()]
        received = f"labels from {dataset.labels.min()} to {dataset.labels.max()}" if len(dataset) else "no images"
        warnings.warn(
            f"{EMPTY_CLASSES} for {len(empty)} of {classes} classes: {some_names(shown)}; received: {received}. "
            "The network has an output for each of them. Labels must count from 0 up without gaps.",
            stacklevel=4,
        )


def check_statistics(statistics: Any, channels: int, size: Size | None = None) -> tuple[list[Any], list[float]]:
    """Return `(mean, std)` as lists of floats, or raise a `ValueError`.

    Args:
        statistics: Mean and standard deviation of each channel, from 0 to 255.
        channels: Number of channels.
        size: Height and width of a mean image, which is then accepted in place of the mean of each channel.
    """
    try:
        mean, std = (np.asarray(values, "float64") for values in statistics)
        shapes = [(channels,)] if size is None else [(channels,), (*size, channels)]
        fits = mean.shape in shapes and std.shape == (channels,)
        if fits and np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all():
            return mean.tolist(), std.tolist()
    except (TypeError, ValueError):
        pass  # not a pair of arrays of numbers
    raise ValueError(f"Expected statistics=(mean, std), {channels} finite numbers each; received: {statistics!r}.")


def resolve_statistics(model: keras.Model, statistics: Any, channels: int, size: Size | None = None) -> Any:
    """Return checked statistics: mean 0 and standard deviation 1 for a network that normalises its input itself.

    Args:
        model: A functional or built sequential `keras.Model`.
        statistics: `(mean, std)`, or `None`.
        channels: Number of channels.
        size: As in `check_statistics`.

    Returns:
        `(mean, std)`, or `None` if the network does not normalise its input and no statistics are given.

    Raises:
        ValueError: If statistics are invalid, or would normalise images that the network normalises again.
    """
    inside, identity = normalization_of_input(model), ([0.0] * channels, [1.0] * channels)
    checked = None if statistics is None else check_statistics(statistics, channels, size)
    if inside is None or checked == identity:
        return checked
    if checked is not None:
        raise ValueError(
            f"Expected no statistics for {model.name}, which normalises its images itself (layer {inside}); "
            f"received: {statistics}."
        )
    return identity


def _same_shape(expected, shape):
    return all(want in (None, got) for want, got in zip(expected, shape, strict=True))


def check_lengths(recipe: Recipe, steps_per_epoch: int, steps_per_execution: int, checkpoint_steps: int | None) -> None:
    """Raise a `ValueError` if numbers of steps are not positive integers, or do not fit the length of the run."""
    for name, value in (("steps_per_execution", steps_per_execution), ("checkpoint_steps", checkpoint_steps)):
        if not is_integer(value) and (value is not None or name == "steps_per_execution"):
            raise ValueError(f"Expected {name} to be a positive integer; received: {name}={value!r}.")
    size, steps = steps_per_execution, recipe.steps(steps_per_epoch)
    if keras.backend.backend() == "torch" and size != 1:
        raise ValueError(f"Expected steps_per_execution=1 on PyTorch; received: steps_per_execution={size}.")
    if size < 1 or steps_per_epoch % size or steps % size:
        raise ValueError(
            f"Expected steps_per_execution to divide the {steps_per_epoch} steps of an epoch and the {steps} of the "
            f"run; received: steps_per_execution={size}."
        )
    if recipe.image_sizes and size != 1:
        raise ValueError(
            "Expected steps_per_execution=1 for a recipe with image_sizes, whose batches differ in shape; "
            f"received: steps_per_execution={size}."
        )
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise ValueError(
            "Expected checkpoint_steps to be a positive integer, or None; "
            f"received: checkpoint_steps={checkpoint_steps}."
        )
    recipe.learning_rate_schedule(steps_per_epoch)  # raises if the schedule does not fit the length of the run


def check_restored(run: Any, steps_per_execution: int) -> None:
    """Raise a `ValueError` if a run cannot resume from its checkpoint with `steps_per_execution`."""
    if run.completed_steps < run.steps and run.completed_steps % steps_per_execution:
        raise ValueError(
            f"Expected steps_per_execution to divide the {run.completed_steps} completed steps; "
            f"received: steps_per_execution={steps_per_execution}."
        )
