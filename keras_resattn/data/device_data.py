"""Training images in device memory, augmented there with the same random parameters as on the host.

A step then transfers a few bytes per image instead of the image, and the augmentation of
`keras_resattn.data.augmentation` is part of the compiled step. `fit`, optimizer, loss, metrics and callbacks are those
of Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_resattn.data.augmentation import AugmentationParams
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.labels import smooth_labels
from keras_resattn.data.normalization import nonzero_std
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.typing import Shape, Size, Tensor
from keras_resattn.utils.data_format import image_size

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe

CHUNK = 1024  # images read at once
OUTSIDE = -(2**20)  # centre of a cutout square that touches no image


def build_device_model(
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
    """Store images on the device, and build a model that augments them and calls a network on them.

    Args:
        network: An image classifier. The model shares its variables, so training the model trains the network. The
            network, not the model, is saved afterwards.
        dataset: A `Dataset` of training images, all of which are read now. On the device, they take one byte per value
            (four if the dataset holds floats): 150 MB for CIFAR.
        recipe: A `Recipe` without `augment` and `image_sizes`, and with `crop="pad"`.
        mean: Mean of channels or pixels; see `normalization.normalize`. Normalisation uses float32; the network casts
            to its own policy.
        std: Standard deviation of channels.
        validation: A `Dataset` of validation images, or `None`.
        first_epoch: As in `TrainingBatches`.
        first_step: As in `TrainingBatches`.

    Returns:
        `(model, batches, validation_batches)`. The input of `model` is augmentation parameters; `batches` yields them
        for the same images and labels at the same steps as `TrainingBatches`. `validation_batches` is a
        `keras.utils.PyDataset`, or `None` without `validation`. The images are a weight of the model's layer
        `"images"`, which is left out of weight files.

    Raises:
        ValueError: If the data are a `BatchStream`, the recipe needs augmentation on the host, or neither the network
            nor the images have a fixed size.
    """
    _check(dataset, recipe)
    _check(validation, recipe)
    size, classes = _size(network, dataset), network.output_shape[-1]
    layer = DeviceImages(_read([dataset, validation], size), recipe, mean, std, name="images")
    inputs = _inputs(recipe)
    # Calling the network itself would make it keep a reference to the call, and so to the images, for its lifetime.
    inner = keras.Model(network.inputs, network.outputs[0], name=network.name)
    model = keras.Model(inputs, inner(layer(inputs)), name=f"{network.name}_on_device")
    model.dtype_policy = network.dtype_policy  # tells Keras whether to scale the loss
    batches = ParamBatches(dataset, recipe, size=size, classes=classes, first_epoch=first_epoch, first_step=first_step)
    if validation is None:
        return model, batches, None
    y = smooth_labels(validation.labels, classes) if recipe.mixes_labels else validation.labels.astype("int32")
    return model, batches, _UnaugmentedBatches(len(dataset), y, recipe)


class DeviceImages(keras.layers.Layer):
    """Images on the device, and their augmentation.

    The input is a dictionary of augmentation parameters from `param_inputs`. The output is normalised images in Keras'
    image data format, float32.

    Args:
        images: Images of shape `(n, h, w, c)`, 0 to 255. They are the layer's only weight, so that they are an argument
            of the compiled step instead of a constant in it.
        recipe: A `Recipe`.
        mean: Mean of each channel, `(c,)`, or of each pixel, `(h, w, c)`.
        std: Standard deviation of each channel, `(c,)`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, images: np.ndarray, recipe: Recipe, mean: Any, std: Any, **kwargs: Any) -> None:
        # Parameters must not be cast to half precision, and normalisation uses float32.
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.recipe = recipe
        self.mean, self.std = np.asarray(mean, "float32"), nonzero_std(std)
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
        """Return a batch of augmented images."""
        x = ops.take(self.images, params["indices"], axis=0)
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

    def compute_output_shape(self, params_shape: dict[str, Shape]) -> Shape:
        """Return the shape of a batch of images."""
        shape = (*self.size, self.images.shape[-1])
        if keras.config.image_data_format() == "channels_first":
            shape = (shape[-1], *shape[:-1])
        return (params_shape["indices"][0], *shape)

    def save_own_variables(self, store: Any) -> None:
        """Save nothing: images are data."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing: images are data."""

    def _crop_and_flip(self, x, params):
        """Crop and flip like `augmentation.crop_and_flip`, with a mask instead of zero padding."""
        height, width = self.size
        pad = self.recipe.pad if "offsets" in params else 0
        rows = ops.broadcast_to(ops.arange(height, dtype="int32"), (ops.shape(x)[0], height))
        columns = ops.broadcast_to(ops.arange(width, dtype="int32"), (ops.shape(x)[0], width))
        if "flips" in params:  # flips the crop, not the image before cropping
            columns = ops.where(params["flips"][:, None] > 0, width - 1 - columns, columns)
        if "offsets" in params:
            rows, columns = rows + params["offsets"][:, :1] - pad, columns + params["offsets"][:, 1:] - pad
        if pad and self.recipe.pad_mode == "reflect":
            return _gather(x, _reflect(rows, height), _reflect(columns, width))
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        x = _gather(x, ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1))
        return ops.where(inside[..., None], x, ops.zeros_like(x))

    def _mix(self, x, params):
        partners = ops.take(x, params["partner"], axis=0)
        mixed = x
        if "mix_weight" in params:
            weight = params["mix_weight"][:, None, None, None]
            mixed = weight * x + (1.0 - weight) * partners
        if "boxes" in params:
            boxes = params["boxes"]
            mixed = ops.where(self._box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]), partners, mixed)
        return mixed

    def _box(self, top, bottom, left, right):
        """Return whether each pixel is inside the box of its image, `(n, h, w, 1)`."""
        rows = ops.arange(self.size[0], dtype="int32")
        columns = ops.arange(self.size[1], dtype="int32")
        rows = (rows >= top[:, None]) & (rows < bottom[:, None])
        columns = (columns >= left[:, None]) & (columns < right[:, None])
        return (rows[:, :, None] & columns[:, None, :])[..., None]


class ParamBatches(TrainingBatches):
    """`TrainingBatches` with augmentation parameters in place of images, for `build_device_model`."""

    def __init__(
        self, dataset: Dataset, recipe: Recipe, *, size: Size, classes: int, first_epoch: int = 0, first_step: int = 0
    ) -> None:
        super().__init__(
            dataset,
            recipe,
            normalize=lambda images: images,  # the device normalises
            size=size,
            classes=classes,
            first_epoch=first_epoch,
            first_step=first_step,
            workers=0,  # drawing parameters is faster than handing the work to a thread
        )

    def _batch(self, global_step, stream=None) -> Any:
        indices: Any = self.indices(global_step)
        params = self.augmentation_params(global_step)
        targets = self._targets(self.dataset.labels[indices], indices, params)
        return param_inputs(self.recipe, indices, params), *targets

    def unaugmented_images(self, global_step: int) -> Any:
        """Return parameters that leave the images of a step unchanged."""
        indices: Any = self.indices(global_step)
        return param_inputs(self.recipe, indices)


class _UnaugmentedBatches(keras.utils.PyDataset):
    """Parameters that leave consecutive images on the device unchanged."""

    def __init__(self, first_index, y, recipe):
        super().__init__()
        self.first_index, self.y, self.recipe = first_index, y, recipe

    def __len__(self):
        return -(-len(self.y) // self.recipe.batch_size)

    def __getitem__(self, index):
        first = index * self.recipe.batch_size
        y = self.y[first : first + self.recipe.batch_size]
        return param_inputs(self.recipe, self.first_index + first + np.arange(len(y))), y


def param_inputs(
    recipe: Recipe, indices: np.ndarray, params: AugmentationParams | None = None
) -> dict[str, np.ndarray]:
    """Return augmentation parameters as the input of a `DeviceImages` layer, with the same keys for each batch.

    Args:
        recipe: A `Recipe`, whose augmentations decide the keys.
        indices: Indices of the batch's images, `(n,)`.
        params: `AugmentationParams` of these images, or `None` for no augmentation.
    """
    n = len(indices)
    neutral = {
        "offsets": np.full((n, 2), recipe.pad),
        "flips": np.zeros(n),
        "cutout": np.full((n, 2), OUTSIDE),
        "partner": np.arange(n),
        "mix_weight": np.ones(n),
        "boxes": np.zeros((n, 4)),
    }
    inputs = {"indices": np.asarray(indices, "int32")}
    for name in _inputs(recipe):
        if name == "indices":
            continue
        drawn = None if params is None else getattr(params, name)
        if name == "mix_weight" and params is not None and params.boxes is not None:
            drawn = None  # with CutMix, the weight applies to labels only
        inputs[name] = np.asarray(neutral[name] if drawn is None else drawn, _dtype(name))
    return inputs


def _inputs(recipe):
    present = {
        "indices": True,
        "offsets": recipe.pad,
        "flips": recipe.flip,
        "cutout": recipe.cutout,
        "partner": recipe.mixup or recipe.cutmix,
        "mix_weight": recipe.mixup,
        "boxes": recipe.cutmix,
    }
    widths = {"offsets": (2,), "cutout": (2,), "boxes": (4,)}
    return {
        name: keras.Input(widths.get(name, ()), dtype=_dtype(name), name=name)
        for name, is_present in present.items()
        if is_present
    }


def _dtype(name):
    return "float32" if name == "mix_weight" else "int32"


def _gather(x, rows, columns):
    """Return the pixels of `x`, `(n, h, w, c)`, at `rows`, `(n, h)`, and `columns`, `(n, w)`."""
    _, height, width, channels = x.shape
    lines = ops.arange(ops.shape(x)[0], dtype="int32")[:, None] * height + rows
    positions = (lines * width)[:, :, None] + columns[:, None, :]
    return ops.take(ops.reshape(x, (-1, channels)), positions, axis=0)


def _reflect(positions, length):
    period = max(2 * length - 2, 1)
    positions = ops.mod(positions, period)
    return ops.minimum(positions, 2 * length - 2 - positions)


def _read(datasets, size):
    """Read all images of all datasets into one array."""
    datasets = [dataset for dataset in datasets if dataset is not None]
    dtype = np.result_type(*(dataset.read(np.arange(1), size=size) for dataset in datasets))
    images: Any = None
    count = 0
    for dataset in datasets:
        for first in range(0, len(dataset), CHUNK):
            x = dataset.read(np.arange(first, min(first + CHUNK, len(dataset))), size=size)
            if images is None:
                images = np.empty((sum(map(len, datasets)), *x.shape[1:]), dtype)
            images[count : count + len(x)] = x
            count += len(x)
    return images


def _size(network, dataset):
    size = image_size(network.input_shape)
    if None not in size:
        return size
    if dataset.image_shape is None:
        raise ValueError(
            f"Expected a network of fixed size, or images of one size; received: {network.name} with input shape "
            f"{network.input_shape}, and images of several sizes."
        )
    return tuple(dataset.image_shape[:2])


def _check(dataset, recipe):
    if isinstance(dataset, BatchStream):
        raise ValueError(
            "Expected data that are read by index for device_data=True; received: a BatchStream. Pass arrays, or train "
            "with device_data=False."
        )
    for field, expected in (("augment", ()), ("crop", "pad"), ("image_sizes", ())):
        if getattr(recipe, field) != expected:
            raise ValueError(
                f"Expected a recipe with {field}={expected!r} for device_data=True; "
                f"received: {field}={getattr(recipe, field)!r}. Train with device_data=False."
            )
