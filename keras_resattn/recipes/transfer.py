"""Transfer learning in two phases: train a new classifier on the frozen network, then fine-tune the last stage."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_resattn.data import Dataset, open_dataset
from keras_resattn.data.class_matching import match_classes
from keras_resattn.data.open_dataset import open_validation
from keras_resattn.data.training_batches import check_batch_size
from keras_resattn.models._build import full_precision
from keras_resattn.models.normalization import normalization
from keras_resattn.recipes import Recipe, Report, distribution, get_recipe
from keras_resattn.recipes.backbone import Backbone
from keras_resattn.recipes.checks import (
    check_callbacks,
    check_class_weight,
    check_statistics,
    warn_of_empty_classes,
)
from keras_resattn.recipes.frozen_features import resized
from keras_resattn.recipes.transfer_phases import TransferRun
from keras_resattn.typing import DataLike, PathLike, Pooling, Size, Statistics
from keras_resattn.utils.data_format import image_channels
from keras_resattn.utils.io import user_path
from keras_resattn.utils.validation import check_choice, check_count, check_number, some_names


@dataclass(frozen=True)
class TransferReport:
    """Result of `fine_tune`.

    Attributes:
        network: Id of the released checkpoint, or name of the given network.
        classes: Number of classes.
        class_names: Class names in the order of the model's outputs, or `None` if the data have none.
        mean: Mean of each channel that is subtracted from images of 0 to 255.
        std: Standard deviation of each channel that images are then divided by.
        size: Height and width that images are resized to.
        unfrozen: Names of the network's layers that were trained in the second phase.
        head: Report of the first phase.
        fine_tune: Report of the second phase, or `None` without one.
        resize_mode: How images of another aspect ratio were resized; see `keras_resattn.data.open_dataset`.
    """

    network: str
    classes: int
    mean: list[Any]
    std: list[Any]
    size: tuple[int, ...]
    unfrozen: list[str]
    head: Report
    fine_tune: Report | None
    class_names: list[str] | None = None
    resize_mode: str = "crop"


def fine_tune(
    network: PathLike | keras.Model,
    data: DataLike,
    *,
    validation_data: DataLike | None = None,
    classes: int | None = None,
    statistics: Statistics | None = None,
    size: Size | None = None,
    head_recipe: str | Recipe = "transfer_head",
    fine_tune_recipe: str | Recipe = "transfer_fine_tune",
    unfreeze: str | Sequence[str] | None = "last_stage",
    pooling: Pooling = "avg",
    dropout: float = 0.0,
    run_dir: PathLike | None = None,
    resume: bool = True,
    data_dir: PathLike | None = None,
    verbose: int = 1,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    class_weight: dict[int, float] | None = None,
) -> tuple[keras.Model, TransferReport]:
    """Train a pretrained network to classify other classes, in two phases.

    1. The network is frozen, and a new dense classifier is trained on its pooled features. If `head_recipe` does not
       augment images (`"transfer_head"` does not), each image goes through the network once and the classifier trains
       on the standardised features: seconds instead of minutes on a CPU. With a recipe that augments (`flip`, `pad`,
       `cutout` ...), the classifier trains on images, which go through the network in every epoch.
    2. The layers that `unfreeze` selects are trained with the classifier, on augmented images.

    Batch normalisation inside the network stays frozen in both phases (`trainable=False`, which in Keras is inference
    mode): means and variances of small batches would be noisy. This includes scales and offsets.

    An interrupted run resumes in its phase and at its step; repeating the call for a finished run trains nothing and
    returns the stored result. The initial weights of the classifier are random: call `keras.utils.set_random_seed` for
    a reproducible run.

    Args:
        network: A released checkpoint, such as `"CifarResidualAttention56/cifar10"`, or the id of a network, which
            means its default checkpoint; the folder or Hub repository (`"hf://owner/repo"`) of a checkpoint; or a
            `keras.Model` without its top that returns feature maps or vectors. A model is trained in place. The gated
            attention of a WARN is part of its top, so the result has none; `attend_and_rectify` adds new modules.
        data: Training images and labels, in any form that `compile_and_fit` accepts.
        validation_data: Validation data, evaluated after each epoch of both phases, or `None`.
        classes: Number of classes; by default that of the data, or the largest label plus one.
        statistics: `(mean, std)` of each channel, 0 to 255, that the network's images are normalised with. Required for
            a `keras.Model`: `([0, 0, 0], [1, 1, 1])` for one that normalises its images itself. Released checkpoints
            have their own.
        size: `(height, width)` that images are resized to; by default that of the checkpoint or model.
        head_recipe: A `Recipe` or the name of a preset, for the first phase.
        fine_tune_recipe: A `Recipe` or the name of a preset, for the second phase.
        unfreeze: `"last_stage"` for the layers after the last change of resolution; a list of patterns that match the
            beginning of layer names (`re.match`; `[""]` is the whole network); `None` for no second phase.
        pooling: `"avg"` or `"max"`, for networks that return feature maps.
        dropout: Dropout rate before the classifier.
        run_dir: Folder for the files of both phases (`head/` and `fine_tune/`, see `compile_and_fit`); `None` writes
            nothing.
        resume: Whether to resume the run in `run_dir`.
        data_dir: Folder of TensorFlow Datasets, for data by name.
        verbose: Keras' verbosity: 1 shows a progress bar, 2 a line for each epoch, 0 nothing.
        callbacks: Keras callbacks for both phases, as in `compile_and_fit`. If the first phase trains on features, its
            callbacks get the classifier as their model.
        class_weight: `{label: weight}` for both phases, as in `compile_and_fit`.

    Returns:
        `(model, report)`: a `keras.Model` for images that are normalised by the report's `mean` and `std` (for a
        released checkpoint, by `preprocess_input(x, weights=tag)`), and a `TransferReport`. For a model that takes
        images from 0 to 255, call `with_normalization(model, report.mean, report.std)`. The model is not compiled;
        compile it before `evaluate` or `fit`.

    Raises:
        ValueError: Before any work, for an unknown checkpoint, recipe or layer, a model with its top, missing
            statistics, or a `run_dir` that holds another run or damaged files.
        OSError: If a Hub repository cannot be downloaded.
        BlockingIOError: If another process trains in `run_dir`.
    """
    head_recipe, fine_tune_recipe = get_recipe(head_recipe), get_recipe(fine_tune_recipe)
    for recipe in (head_recipe, fine_tune_recipe):
        callbacks = check_callbacks(callbacks, recipe)
    _check(unfreeze, pooling, dropout, classes)
    dataset = open_dataset(data, data_dir=data_dir)
    validation = open_validation(validation_data, data_dir, dataset)
    classes = _classes(dataset, classes)
    check_class_weight(class_weight, classes)
    validation = match_classes(validation, dataset.class_names, "the training data")
    recipes = (head_recipe,) if unfreeze is None else (head_recipe, fine_tune_recipe)
    _check_data(dataset, validation, classes, recipes)
    backbone = Backbone.find(network, dataset, statistics, size)
    run = TransferRun(
        backbone=backbone,
        unfrozen=backbone.layers(unfreeze),
        dataset=resized(dataset, backbone.size),
        validation=resized(validation, backbone.size),
        classes=classes,
        pooling=pooling,
        dropout=dropout,
        folder=None if run_dir is None else user_path(run_dir),
        fit_options={"resume": resume, "verbose": verbose, "callbacks": callbacks, "class_weight": class_weight},
        strategy=distribution.current_strategy(),
    )
    with contextlib.ExitStack() as stack:
        with run.strategy.together():
            stack.enter_context(run.opened_folder())
        model = run.build_model()
        head = run.train_head(model, head_recipe)
        tuned = run.train_unfrozen(model, fine_tune_recipe)
    mean, std = backbone.statistics
    report = TransferReport(
        network=backbone.name,
        classes=classes,
        mean=mean,
        std=std,
        size=backbone.size,
        unfrozen=run.unfrozen,
        head=head,
        fine_tune=tuned,
        class_names=dataset.class_names,
        resize_mode=dataset.resize_mode or "crop",
    )
    return _uncompiled(model), report


def with_normalization(model: keras.Model, mean: Sequence[float], std: Sequence[float]) -> keras.Model:
    """Return a model that takes images from 0 to 255 and normalises them itself.

    Use it to save the result of `fine_tune` as a self-contained file:

        with_normalization(model, report.mean, report.std).save("classifier.keras")

    Args:
        model: A `keras.Model` for normalised images. It is shared, not copied.
        mean: Mean of each channel, 0 to 255.
        std: Standard deviation of each channel, 0 to 255; 0 counts as 1.

    Returns:
        A functional `keras.Model` for images of the same shape, in Keras' image data format.

    Raises:
        ValueError: If there is not one mean and one standard deviation for each channel.
    """
    mean, std = check_statistics((mean, std), image_channels(model.input_shape))
    inputs = keras.Input(model.input_shape[1:], name="images")
    normalize = normalization(mean, std, dtype=full_precision())
    return keras.Model(inputs, _uncompiled(model)(normalize(inputs)), name=f"{model.name}_on_images")


def _uncompiled(model):
    """Return the model without its optimizer, whose state cannot be loaded into a model with other trainable layers."""
    return keras.Model(model.input, model.output, name=model.name) if isinstance(model, keras.Function) else model


def _check_data(dataset, validation, classes, recipes):
    for data in (dataset, validation):
        if data is not None:
            data.check_labels(classes)
    # `recipes` holds the second recipe only if there is a second phase.
    arguments = (("head_recipe", "--head-set"), ("fine_tune_recipe", "--set"))
    for (argument, option), recipe in zip(arguments, recipes, strict=False):
        if isinstance(dataset, Dataset):
            check_batch_size(recipe, len(dataset), argument, option)
    warn_of_empty_classes(dataset, classes, dataset.class_names)


def _classes(dataset, classes):
    if classes is not None:
        if dataset.class_names is not None and len(dataset.class_names) != classes:
            raise ValueError(
                f"Expected classes={len(dataset.class_names)}, as the data have ({some_names(dataset.class_names)}), "
                f"or classes=None; received: classes={classes}."
            )
        return int(classes)
    if dataset.classes is None and not isinstance(dataset, Dataset):
        raise ValueError(
            "Expected classes with batches, whose labels are not known in advance; received: classes=None."
        )
    found = int(dataset.labels.max()) + 1 if dataset.classes is None else dataset.classes
    if found < 2:
        names = "" if dataset.class_names is None else f" ({some_names(dataset.class_names)})"
        raise ValueError(f"Expected training data of at least two classes; received: {found}{names}.")
    return found


def _check(unfreeze, pooling, dropout, classes):
    is_list = isinstance(unfreeze, (list, tuple)) and unfreeze and all(isinstance(name, str) for name in unfreeze)
    if not is_list and unfreeze not in (None, "last_stage"):
        raise ValueError(
            "Expected unfreeze to be 'last_stage', a list of patterns of layer names, or None; "
            f"received: unfreeze={unfreeze!r}."
        )
    check_choice("pooling", pooling, ("avg", "max"))
    check_number("dropout", dropout, below=1)
    if classes is not None:
        check_count("classes", classes, least=2)
