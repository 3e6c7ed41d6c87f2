"""Training images that lie on the device: augmented there, by the same params as on the host.

A step then sends some bytes a image and not the image, and all that NumPy does in
`keras_resattn.data.augmentation` is part of the compiled step. `fit`, optimizer, loss, metrics and callbacks stay
Keras'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_resattn.data.arrays import nonzero, smoothed
from keras_resattn.data.augmentation import AugmentationParams
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.typing import Shape, Size, Tensor
from keras_resattn.utils.data_format import spatial_axes

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe

CHUNK = 1024  # images read at once
FAR = -(2**20)  # centre of a square of cutout that touches no image


def on_device(
    network: keras.Model,
    dataset: Dataset,
    recipe: Recipe,
    mean: Any,
    std: Any,
    *,
    validation: Dataset | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
) -> tuple[keras.Model, ParamBatches, keras.utils.PyDataset | None]:
    """Puts images on the device, and a network behind them.

    Args:
        network: A classifier over images. Its variables become the model's: training the model trains it, and it is
            the network that is saved afterwards.
        dataset: A `Dataset` of training images, all of which are read now. They take one byte a value on the device
            (four where the dataset holds floats): CIFAR's 150 MB.
        recipe: A `Recipe`, without `augment` and with `crop="pad"`.
        mean, std: What images are normalised with, as `data.arrays.statistics` returns it. It happens in float32;
            the network casts by its own policy.
        validation: A `Dataset` of images that are measured as they are, or `None`.
        first_epoch, first_step: As in `TrainingBatches`.

    Returns:
        `(model, batches, validation_batches)`. `model` takes params of batches, and `batches` is a `TrainingBatches`
        of them: the same images and labels at the same steps. `validation_batches` is a `keras.utils.PyDataset`,
        or `None` without `validation`. The images are a weight of the model's layer `"images"`, which writes
        nothing into a file of weights and wants nothing from it.

    Raises:
        ValueError: for a stream, for `augment` or Inception's crops, and for images of no known size.
    """
    _check(dataset, recipe)
    _check(validation, recipe)
    size, classes = _size(network, dataset), network.output_shape[-1]
    layer = DeviceImages(_read([dataset, validation], size), recipe, mean, std, name="images")
    inputs = _inputs(recipe)
    # Through a model of its own: the network would keep the call, and with it the images, as long as it lives.
    inner = keras.Model(network.inputs, network.outputs[0], name=network.name)
    model = keras.Model(inputs, inner(layer(inputs)), name=f"{network.name}_on_device")
    model.dtype_policy = network.dtype_policy  # by which Keras knows whether the loss is to be scaled
    batches = ParamBatches(dataset, recipe, size=size, classes=classes, first_epoch=first_epoch, first_step=first_step)
    if validation is None:
        return model, batches, None
    y = smoothed(validation.labels, classes) if recipe.mixes_labels else validation.labels.astype("int32")
    return model, batches, _PlainBatches(len(dataset), y, recipe)


class DeviceImages(keras.layers.Layer):
    """Holds images, and makes augmented batches of them.

    Called on a params as `param_inputs` writes it, it returns normalised images in Keras' image data format, float32.

    Args:
        images: `(n, h, w, c)`, 0 to 255. The layer's only weight: an argument of the compiled step, which backends
            neither copy nor compile in.
        recipe: A `Recipe`.
        mean: Of each channel, or of each pixel, `(h, w, c)`.
        std: Of each channel.
    """

    def __init__(self, images: np.ndarray, recipe: Recipe, mean: Any, std: Any, **kwargs: Any) -> None:
        # Plans must not be cast to half precision, and normalisation is done in float32.
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.recipe = recipe
        self.mean, self.std = np.asarray(mean, "float32"), nonzero(std)
        self.size = images.shape[1:3]
        self.images = self.add_weight(
            shape=images.shape,
            dtype=str(images.dtype),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(images, dtype),
            trainable=False,
            autocast=False,
            name="images",
        )
        self.built = True

    def call(self, params: dict[str, Tensor]) -> Tensor:
        x = ops.take(self.images, params["rows"], axis=0)
        if "offsets" in params or "flips" in params:
            x = self._crop_and_flip(x, params)
        x = (ops.cast(x, "float32") - ops.convert_to_tensor(self.mean)) / ops.convert_to_tensor(self.std)
        if "cutout" in params:
            first = params["cutout"] - self.recipe.cutout // 2
            last = first + self.recipe.cutout
            x = ops.where(self._box(first[:, 0], last[:, 0], first[:, 1], last[:, 1]), 0.0, x)
        if "partner" in params:
            x = self._mix(x, params)
        return ops.transpose(x, (0, 3, 1, 2)) if keras.config.image_data_format() == "channels_first" else x

    def compute_output_shape(self, plan_shape: dict[str, Shape]) -> Shape:
        shape = (*self.size, self.images.shape[-1])
        if keras.config.image_data_format() == "channels_first":
            shape = (shape[-1], *shape[:-1])
        return (plan_shape["rows"][0], *shape)

    def save_own_variables(self, store: Any) -> None:
        """Writes nothing: images are data."""

    def load_own_variables(self, store: Any) -> None:
        """Reads nothing."""

    def _crop_and_flip(self, x, params):
        """As `augmentation.crop_and_flip`; where that pads with zeros, this masks them."""
        height, width = self.size
        pad = self.recipe.pad if "offsets" in params else 0
        rows = ops.broadcast_to(ops.arange(height, dtype="int32"), (ops.shape(x)[0], height))
        columns = ops.broadcast_to(ops.arange(width, dtype="int32"), (ops.shape(x)[0], width))
        if "flips" in params:  # the crop is mirrored, and not the image before it
            columns = ops.where(params["flips"][:, None] > 0, width - 1 - columns, columns)
        if "offsets" in params:
            rows, columns = rows + params["offsets"][:, :1] - pad, columns + params["offsets"][:, 1:] - pad
        if pad and self.recipe.pad_mode == "reflect":
            return _gather(x, _reflected(rows, height), _reflected(columns, width))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        x = _gather(x, ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1))
        return ops.where(inside[..., None], x, ops.zeros_like(x))

    def _mix(self, x, params):
        partners = ops.take(x, params["partner"], axis=0)
        mixed = x
        if "share" in params:
            share = params["share"][:, None, None, None]
            mixed = share * x + (1.0 - share) * partners
        if "boxes" in params:
            boxes = params["boxes"]
            mixed = ops.where(self._box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]), partners, mixed)
        return mixed

    def _box(self, top, bottom, left, right):
        """Whether each pixel lies in its image's box: `(n, h, w, 1)`."""
        rows = ops.arange(self.size[0], dtype="int32")
        columns = ops.arange(self.size[1], dtype="int32")
        rows = (rows >= top[:, None]) & (rows < bottom[:, None])
        columns = (columns >= left[:, None]) & (columns < right[:, None])
        return (rows[:, :, None] & columns[:, None, :])[..., None]


def _as_they_are(images):
    return images


class ParamBatches(TrainingBatches):
    """`TrainingBatches` that hold params in place of images, for a model of `on_device`."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, size: Size, classes: int, first_epoch: int = 0, first_step: int = 0
    ) -> None:
        super().__init__(
            dataset,
            recipe,
            _as_they_are,
            size=size,
            classes=classes,
            first_epoch=first_epoch,
            first_step=first_step,
            workers=0,  # a params is drawn faster than a thread is asked for it
        )

    def _batch(self, global_step, passes=None) -> Any:
        rows: Any = self.rows(global_step)
        params = self.params(global_step)
        return param_inputs(recipe=self.recipe, rows=rows, params=params), *self._targets(
            self.dataset.labels[rows], rows, params
        )


class _PlainBatches(keras.utils.PyDataset):
    """Images of the device in their order and as they are: params in which nothing happens."""

    def __init__(self, first_row, y, recipe):
        super().__init__()
        self.first_row, self.y, self.recipe = first_row, y, recipe

    def __len__(self):
        return -(-len(self.y) // self.recipe.batch_size)

    def __getitem__(self, index):
        first = index * self.recipe.batch_size
        y = self.y[first : first + self.recipe.batch_size]
        return param_inputs(self.recipe, self.first_row + first + np.arange(len(y))), y


def param_inputs(recipe: Recipe, rows: np.ndarray, params: AugmentationParams | None = None) -> dict[str, np.ndarray]:
    """Returns a params as a model of `on_device` takes it: a dictionary of arrays, the same ones for each batch.

    Args:
        recipe: A `Recipe`, which says what there is to draw.
        rows: Images of the batch, `(n,)`.
        params: A `AugmentationParams` for them; `None` for nothing to happen.
    """
    n = len(rows)
    neutral = {
        "offsets": np.full((n, 2), recipe.pad),
        "flips": np.zeros(n),
        "cutout": np.full((n, 2), FAR),
        "partner": np.arange(n),
        "share": np.ones(n),
        "boxes": np.zeros((n, 4)),
    }
    inputs = {"rows": np.asarray(rows, "int32")}
    for name in _inputs(recipe):
        if name == "rows":
            continue
        drawn = None if params is None else getattr(params, name)
        if name == "share" and params is not None and params.boxes is not None:
            drawn = None  # CutMix' share is the labels' alone
        inputs[name] = np.asarray(neutral[name] if drawn is None else drawn, _dtype(name))
    return inputs


def _inputs(recipe):
    present = {
        "rows": True,
        "offsets": recipe.pad,
        "flips": recipe.flip,
        "cutout": recipe.cutout,
        "partner": recipe.mixup or recipe.cutmix,
        "share": recipe.mixup,
        "boxes": recipe.cutmix,
    }
    widths = {"offsets": (2,), "cutout": (2,), "boxes": (4,)}
    return {
        name: keras.Input(widths.get(name, ()), dtype=_dtype(name), name=name)
        for name, there in present.items()
        if there
    }


def _dtype(name):
    return "float32" if name == "share" else "int32"


def _gather(x, rows, columns):
    """Pixels of `x` `(n, h, w, c)` at `rows` `(n, h)` and `columns` `(n, w)`."""
    _, height, width, channels = x.shape
    lines = ops.arange(ops.shape(x)[0], dtype="int32")[:, None] * height + rows
    places = (lines * width)[:, :, None] + columns[:, None, :]
    return ops.take(ops.reshape(x, (-1, channels)), places, axis=0)


def _reflected(positions, length):
    period = max(2 * length - 2, 1)
    positions = ops.mod(positions, period)
    return ops.minimum(positions, 2 * length - 2 - positions)


def _read(datasets, size):
    """All images of all datasets, in one array."""
    datasets = [dataset for dataset in datasets if dataset is not None]
    dtype = np.result_type(*(dataset.read(np.arange(1), size=size) for dataset in datasets))
    images: Any = None
    place = 0
    for dataset in datasets:
        for first in range(0, len(dataset), CHUNK):
            x = dataset.read(np.arange(first, min(first + CHUNK, len(dataset))), size=size)
            if images is None:
                images = np.empty((sum(map(len, datasets)), *x.shape[1:]), dtype)
            images[place : place + len(x)] = x
            place += len(x)
    return images


def _size(network, dataset):
    size = [network.input_shape[axis] for axis in spatial_axes(keras.config.image_data_format())]
    if None not in size:
        return tuple(size)
    if dataset.image_shape is None:
        raise ValueError(
            f"Expected a network with a fixed size, or images of one; received: {network.name} with input shape "
            f"{network.input_shape}, and images of several sizes."
        )
    return tuple(dataset.image_shape[:2])


def _check(dataset, recipe):
    if isinstance(dataset, BatchStream):
        raise ValueError(
            "Expected a dataset that is read by index, to put it on the device; received: a BatchStream. Pass arrays, "
            "or train from the host."
        )
    for field, expected in (("augment", ()), ("crop", "pad"), ("image_sizes", ())):
        if getattr(recipe, field) != expected:
            raise ValueError(
                f"Expected a recipe with {field}={expected!r} for images on the device; "
                f"received: {field}={getattr(recipe, field)!r}. Train it from the host."
            )
