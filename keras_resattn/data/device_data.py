"""Training pictures that lie on the device: augmented there, by the same plans as on the host.

A step then sends some bytes a picture and not the picture, and all that NumPy does in
`keras_resattn.data.augmentation` is part of the compiled step. `fit`, optimizer, loss, metrics and callbacks stay
Keras'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_resattn.data.arrays import nonzero, smoothed
from keras_resattn.data.augmentation import Plan
from keras_resattn.data.batch_stream import Stream
from keras_resattn.data.dataset import Source
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.typing import Shape, Size, Tensor
from keras_resattn.utils.data_format import spatial_axes

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe

CHUNK = 1024  # pictures read at once
FAR = -(2**20)  # centre of a square of cutout that touches no picture


def on_device(
    network: keras.Model,
    source: Source,
    recipe: Recipe,
    mean: Any,
    std: Any,
    *,
    validation: Source | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
) -> tuple[keras.Model, PlanBatches, keras.utils.PyDataset | None]:
    """Puts pictures on the device, and a network behind them.

    Args:
        network: A classifier over pictures. Its variables become the model's: training the model trains it, and it is
            the network that is saved afterwards.
        source: A `Source` of training pictures, all of which are read now. They take one byte a value on the device
            (four where the source holds floats): CIFAR's 150 MB.
        recipe: A `Recipe`, without `augment` and with `crop="pad"`.
        mean, std: What pictures are normalised with, as `data.arrays.statistics` returns it. It happens in float32;
            the network casts by its own policy.
        validation: A `Source` of pictures that are measured as they are, or `None`.
        first_epoch, first_step: As in `TrainingBatches`.

    Returns:
        `(model, batches, validation_batches)`. `model` takes plans of batches, and `batches` is a `TrainingBatches`
        of them: the same pictures and labels at the same steps. `validation_batches` is a `keras.utils.PyDataset`,
        or `None` without `validation`. The pictures are a weight of the model's layer `"pictures"`, which writes
        nothing into a file of weights and wants nothing from it.

    Raises:
        ValueError: for a stream, for `augment` or Inception's crops, and for pictures of no known size.
    """
    _check(source, recipe)
    _check(validation, recipe)
    size, classes = _size(network, source), network.output_shape[-1]
    layer = DevicePictures(_read([source, validation], size), recipe, mean, std, name="pictures")
    inputs = _inputs(recipe)
    # Through a model of its own: the network would keep the call, and with it the pictures, as long as it lives.
    inner = keras.Model(network.inputs, network.outputs[0], name=network.name)
    model = keras.Model(inputs, inner(layer(inputs)), name=f"{network.name}_on_device")
    model.dtype_policy = network.dtype_policy  # by which Keras knows whether the loss is to be scaled
    batches = PlanBatches(source, recipe, size=size, classes=classes, first_epoch=first_epoch, first_step=first_step)
    if validation is None:
        return model, batches, None
    y = smoothed(validation.labels, classes) if recipe.mixes_labels else validation.labels.astype("int32")
    return model, batches, _PlainBatches(len(source), y, recipe)


class DevicePictures(keras.layers.Layer):
    """Holds pictures, and makes augmented batches of them.

    Called on a plan as `plan_inputs` writes it, it returns normalised pictures in Keras' image data format, float32.

    Args:
        pictures: `(n, h, w, c)`, 0 to 255. The layer's only weight: an argument of the compiled step, which backends
            neither copy nor compile in.
        recipe: A `Recipe`.
        mean: Of each channel, or of each pixel, `(h, w, c)`.
        std: Of each channel.
    """

    def __init__(self, pictures: np.ndarray, recipe: Recipe, mean: Any, std: Any, **kwargs: Any) -> None:
        # Plans must not be cast to half precision, and normalisation is done in float32.
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.recipe = recipe
        self.mean, self.std = np.asarray(mean, "float32"), nonzero(std)
        self.size = pictures.shape[1:3]
        self.pictures = self.add_weight(
            shape=pictures.shape,
            dtype=str(pictures.dtype),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(pictures, dtype),
            trainable=False,
            autocast=False,
            name="pictures",
        )
        self.built = True

    def call(self, plan: dict[str, Tensor]) -> Tensor:
        x = ops.take(self.pictures, plan["rows"], axis=0)
        if "offsets" in plan or "flips" in plan:
            x = self._crop_and_flip(x, plan)
        x = (ops.cast(x, "float32") - ops.convert_to_tensor(self.mean)) / ops.convert_to_tensor(self.std)
        if "cutout" in plan:
            first = plan["cutout"] - self.recipe.cutout // 2
            last = first + self.recipe.cutout
            x = ops.where(self._box(first[:, 0], last[:, 0], first[:, 1], last[:, 1]), 0.0, x)
        if "partner" in plan:
            x = self._mix(x, plan)
        return ops.transpose(x, (0, 3, 1, 2)) if keras.config.image_data_format() == "channels_first" else x

    def compute_output_shape(self, plan_shape: dict[str, Shape]) -> Shape:
        shape = (*self.size, self.pictures.shape[-1])
        if keras.config.image_data_format() == "channels_first":
            shape = (shape[-1], *shape[:-1])
        return (plan_shape["rows"][0], *shape)

    def save_own_variables(self, store: Any) -> None:
        """Writes nothing: pictures are data."""

    def load_own_variables(self, store: Any) -> None:
        """Reads nothing."""

    def _crop_and_flip(self, x, plan):
        """As `augmentation.crop_and_flip`; where that pads with zeros, this masks them."""
        height, width = self.size
        pad = self.recipe.pad if "offsets" in plan else 0
        rows = ops.broadcast_to(ops.arange(height, dtype="int32"), (ops.shape(x)[0], height))
        columns = ops.broadcast_to(ops.arange(width, dtype="int32"), (ops.shape(x)[0], width))
        if "flips" in plan:  # the crop is mirrored, and not the picture before it
            columns = ops.where(plan["flips"][:, None] > 0, width - 1 - columns, columns)
        if "offsets" in plan:
            rows, columns = rows + plan["offsets"][:, :1] - pad, columns + plan["offsets"][:, 1:] - pad
        if pad and self.recipe.pad_mode == "reflect":
            return _gather(x, _reflected(rows, height), _reflected(columns, width))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        x = _gather(x, ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1))
        return ops.where(inside[..., None], x, ops.zeros_like(x))

    def _mix(self, x, plan):
        partners = ops.take(x, plan["partner"], axis=0)
        mixed = x
        if "share" in plan:
            share = plan["share"][:, None, None, None]
            mixed = share * x + (1.0 - share) * partners
        if "boxes" in plan:
            boxes = plan["boxes"]
            mixed = ops.where(self._box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]), partners, mixed)
        return mixed

    def _box(self, top, bottom, left, right):
        """Whether each pixel lies in its picture's box: `(n, h, w, 1)`."""
        rows = ops.arange(self.size[0], dtype="int32")
        columns = ops.arange(self.size[1], dtype="int32")
        rows = (rows >= top[:, None]) & (rows < bottom[:, None])
        columns = (columns >= left[:, None]) & (columns < right[:, None])
        return (rows[:, :, None] & columns[:, None, :])[..., None]


def _as_they_are(pictures):
    return pictures


class PlanBatches(TrainingBatches):
    """`TrainingBatches` that hold plans in place of pictures, for a model of `on_device`."""

    def __init__(
        self, source: Source, recipe: Recipe, *, size: Size, classes: int, first_epoch: int = 0, first_step: int = 0
    ) -> None:
        super().__init__(
            source,
            recipe,
            _as_they_are,
            size=size,
            classes=classes,
            first_epoch=first_epoch,
            first_step=first_step,
            workers=0,  # a plan is drawn faster than a thread is asked for it
        )

    def _batch(self, global_step, passes=None) -> Any:
        rows: Any = self.rows(global_step)
        plan = self.plan(global_step)
        return plan_inputs(recipe=self.recipe, rows=rows, plan=plan), *self._targets(
            self.source.labels[rows], rows, plan
        )


class _PlainBatches(keras.utils.PyDataset):
    """Pictures of the device in their order and as they are: plans in which nothing happens."""

    def __init__(self, first_row, y, recipe):
        super().__init__()
        self.first_row, self.y, self.recipe = first_row, y, recipe

    def __len__(self):
        return -(-len(self.y) // self.recipe.batch_size)

    def __getitem__(self, index):
        first = index * self.recipe.batch_size
        y = self.y[first : first + self.recipe.batch_size]
        return plan_inputs(self.recipe, self.first_row + first + np.arange(len(y))), y


def plan_inputs(recipe: Recipe, rows: np.ndarray, plan: Plan | None = None) -> dict[str, np.ndarray]:
    """Returns a plan as a model of `on_device` takes it: a dictionary of arrays, the same ones for each batch.

    Args:
        recipe: A `Recipe`, which says what there is to draw.
        rows: Pictures of the batch, `(n,)`.
        plan: A `Plan` for them; `None` for nothing to happen.
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
        drawn = None if plan is None else getattr(plan, name)
        if name == "share" and plan is not None and plan.boxes is not None:
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


def _read(sources, size):
    """All pictures of all sources, in one array."""
    sources = [source for source in sources if source is not None]
    dtype = np.result_type(*(source.read(np.arange(1), size=size) for source in sources))
    pictures: Any = None
    place = 0
    for source in sources:
        for first in range(0, len(source), CHUNK):
            x = source.read(np.arange(first, min(first + CHUNK, len(source))), size=size)
            if pictures is None:
                pictures = np.empty((sum(map(len, sources)), *x.shape[1:]), dtype)
            pictures[place : place + len(x)] = x
            place += len(x)
    return pictures


def _size(network, source):
    size = [network.input_shape[axis] for axis in spatial_axes(keras.config.image_data_format())]
    if None not in size:
        return tuple(size)
    if source.picture_shape is None:
        raise ValueError(
            f"Expected a network with a fixed size, or pictures of one; received: {network.name} with input shape "
            f"{network.input_shape}, and pictures of several sizes."
        )
    return tuple(source.picture_shape[:2])


def _check(source, recipe):
    if isinstance(source, Stream):
        raise ValueError(
            "Expected a source that is read by index, to put it on the device; received: a Stream. Pass arrays, or "
            "train from the host."
        )
    for field, expected in (("augment", ()), ("crop", "pad"), ("image_sizes", ())):
        if getattr(recipe, field) != expected:
            raise ValueError(
                f"Expected a recipe with {field}={expected!r} for pictures on the device; "
                f"received: {field}={getattr(recipe, field)!r}. Train it from the host."
            )
