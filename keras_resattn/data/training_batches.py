"""Training batches: any dataset, shuffled and augmented according to a recipe."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resattn.data.augmentation import AugmentationParams, crop_and_flip, cutout, draw_params, mix, mix_labels
from keras_resattn.data.augmentation_layers import LayerAugmentation
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.data.labels import smooth_labels
from keras_resattn.data.normalization import in_data_format
from keras_resattn.data.prefetching import Prefetcher, ResumableIterator
from keras_resattn.typing import Size

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe


def check_batch_size(recipe: Recipe, images: int, argument: str = "recipe", option: str = "--set") -> None:
    """Raise a `ValueError` if there are fewer images than a batch of the recipe holds.

    Args:
        recipe: A `Recipe`.
        images: Number of training images.
        argument: Name of the argument that holds the recipe.
        option: Option of the command line that changes the recipe.
    """
    if images < recipe.batch_size:
        raise ValueError(
            f"Expected at least a batch of {recipe.batch_size} images for {argument}; received: {images}. Use smaller "
            f"batches: {argument}.replace(batch_size={images}) in Python, {option} batch_size={images} in a shell."
        )


class TrainingBatches(keras.utils.PyDataset):
    """Augmented batches of all epochs of a run, addressed by step and shuffled in each epoch.

    A batch depends only on the recipe's seed, the epoch and the step, so a resumed run sees the same batches as an
    uninterrupted run. (A `BatchStream` shuffles itself and is only as reproducible as its order.) This class prepares
    batches in advance in its own threads. Keras' workers would restart in each epoch, so `workers` of
    `keras.utils.PyDataset` stays 1.

    Index `i` is step `first_epoch * steps_per_epoch + i` of the run. Indices before `first_step` return the batch of
    `first_step` as a free placeholder; do not train on it.

    Args:
        dataset: A `Dataset` or a `BatchStream`.
        recipe: A `Recipe`: length, batch size, augmentation and seed.
        normalize: Function that maps cropped and flipped images `(n, h, w, c)`, 0 to 255, to a new float32 array of the
            same shape.
        size: `(height, width)` of the network's input; a recipe's `image_sizes` take precedence.
        classes: Number of classes. Labels are soft, `(batch, classes)` float32, if the recipe mixes or smooths them;
            else integers, `(batch,)`.
        first_epoch: The epoch of index 0.
        first_step: The first step that is still to be trained.
        shard: `(rank, world)`, which selects this process' part of each batch. Parameters are drawn for the whole
            batch, and the parts of all ranks make up the whole batch. A process reads its own images and their mixing
            partners, or the whole batch if `augment` has Keras layers. With a `BatchStream`, each process has its own
            batches, and draws and mixes within them.
        workers: Number of threads, and of batches they prepare in advance; 0 prepares batches on access. The default
            is the number of processors, at most 4. A `BatchStream` is read by at most one thread.

    Attributes:
        steps_per_epoch: Number of full batches in the dataset; each epoch leaves out the remainder.
        class_weight: List of the weights of classes in the loss, or `None`; set it before the first batch. With it, or
            with sample weights in the dataset, batches are `(images, labels, weights)`.
        error: The exception raised while a batch was prepared, or `None`; TensorFlow wraps it in an error of its own.

    Raises:
        ValueError: If the dataset has fewer images than a batch, its batches have another size, or the number of
            processes does not divide the batch size.
    """

    def __init__(
        self,
        dataset: Dataset | BatchStream,
        recipe: Recipe,
        normalize: Callable[[np.ndarray], np.ndarray],
        *,
        size: Size,
        classes: int,
        first_epoch: int = 0,
        first_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.class_weight: list[float] | None = None
        self.dataset: Any = dataset
        self.recipe, self.normalize = recipe, normalize
        self.size, self.classes = tuple(size), classes
        self.first_epoch, self.first_step = first_epoch, first_step
        self._stream: ResumableIterator | None = None
        self._own = _shard_slice(shard, recipe.batch_size)  # images of this process in a batch
        self._drawn = recipe.batch_size  # number of images for which parameters are drawn
        self._rank_in_seed = ()
        if isinstance(dataset, BatchStream):
            self._open_stream(dataset, shard)
        else:
            self._open_dataset(dataset)
        self._augment = LayerAugmentation(recipe.augment) if recipe.augment else None
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        steps = recipe.length(self.steps_per_epoch) * self.steps_per_epoch
        self._prefetcher = Prefetcher(self._batch, steps, min(workers, 1) if self._stream else workers)

    def _open_dataset(self, dataset):
        check_batch_size(self.recipe, len(dataset))
        self.steps_per_epoch = len(dataset) // self.recipe.batch_size

    def _open_stream(self, dataset, shard):
        recipe, (rank, world) = self.recipe, shard
        self._own, self._drawn = slice(None), recipe.batch_size // world
        self._rank_in_seed = (rank,) if world > 1 else ()
        if recipe.image_sizes:
            raise ValueError(
                "Expected data that is read by index for a recipe with image_sizes; received: batches, whose images "
                "have one size. Pass arrays, class folders or records, or recipe.replace(image_sizes=())."
            )
        if recipe.crop == "inception":
            raise ValueError(
                "Expected a recipe with crop='pad' for data in batches; received: crop='inception'. Crop the images "
                "before batching and use recipe.replace(crop='pad', pad=0), or pass a folder or records."
            )
        stream = dataset.prepared(self._drawn, size=self.size)
        # `batch` uses its own iterator, so that it does not disturb training.
        self._stream, self._stream_of_lookups = ResumableIterator(stream), ResumableIterator(stream)
        self.steps_per_epoch = stream.steps(self._drawn)

    def __len__(self) -> int:
        return (self.recipe.length(self.steps_per_epoch) - self.first_epoch) * self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        step = self.first_epoch * self.steps_per_epoch + index
        last = self.recipe.steps(self.steps_per_epoch) - 1  # may be inside an epoch
        try:
            return self._prefetcher[min(max(step, self.first_step), last)]
        except Exception as error:
            self.error = error
            raise

    def with_dynamic_shapes(self) -> Any:
        """Return the input of `Model.fit` if image sizes vary: on TensorFlow, a `tf.data.Dataset` without fixed sizes.

        Keras infers the shape of a `PyDataset` from its first two batches.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        x, *others = self[0]  # labels and, if images are weighted, weights
        images = [None] * 4
        axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        images[axis] = x.shape[axis]
        signature = [tf.TensorSpec(images, x.dtype)]
        signature += [tf.TensorSpec([None, *values.shape[1:]], values.dtype) for values in others]
        batches = tf.data.Dataset.from_generator(
            lambda: (self[i] for i in range(len(self))), output_signature=tuple(signature)
        )
        return batches.prefetch(tf.data.AUTOTUNE)

    def batch(self, global_step: int) -> tuple[Any, np.ndarray]:
        """Return the batch of a step, counted from the start of the run, without disturbing training."""
        return self._batch(global_step, self._stream_of_lookups if self._stream else None)

    def unaugmented_images(self, global_step: int) -> Any:
        """Return this process' images of a step as evaluation sees them, without disturbing training.

        They are cropped centrally to the network's size and normalised. Images of a stream are those of `batch`.
        """
        indices = self.indices(global_step)
        if indices is None:
            return self.batch(global_step)[0]
        return in_data_format(self.normalize(self.dataset.read(indices[self._own], size=self.size)))

    def indices(self, global_step: int) -> np.ndarray | None:
        """Return the indices of the images in a step, `(batch,)`, for all ranks together; `None` for a stream.

        Args:
            global_step: The step, counted from the start of the run.
        """
        if self._stream:
            return None
        epoch, step = divmod(global_step, self.steps_per_epoch)
        first = step * self.recipe.batch_size
        return _shuffled(self.recipe.seed, epoch, len(self.dataset))[first : first + self.recipe.batch_size]

    def augmentation_params(self, global_step: int) -> AugmentationParams:
        """Return the random parameters of the whole batch of a step, counted from the start of the run."""
        rng = np.random.default_rng(self._seed(global_step))
        return draw_params(self.recipe, self._drawn, self._size(global_step), rng)

    def _size(self, global_step):
        side = self.recipe.image_size(global_step, self.steps_per_epoch)
        return self.size if side is None else (side, side)

    def _seed(self, global_step):
        return (self.recipe.seed, *divmod(global_step, self.steps_per_epoch), *self._rank_in_seed)

    def _targets(self, y, indices, params):
        """Return this process' part of a batch's labels and, if there are any, their weights, as a tuple."""
        own, weights = self._own, self._weights(y, indices)
        if not self.recipe.mixes_labels:
            y = y.astype("int32")  # JAX warns of 64 bits
            return (y[own],) if weights is None else (y[own], weights[own])
        y = smooth_labels(y, self.classes, self.recipe.label_smoothing)
        labels = mix_labels(y, params)
        if weights is None:
            return (labels[own],)
        # The loss of a mixed image is the sum of the losses of both images, each with its own weight.
        weighted = mix_labels(y * weights[:, None], params)
        weights = weighted.sum(1, keepdims=True)
        labels = np.where(weights > 0, weighted / np.where(weights > 0, weights, 1), labels)
        return labels.astype("float32")[own], weights[own, 0]

    def _weights(self, y, indices):
        """Return the weights of a batch's images, `(batch,)` float32, or `None`."""
        weights = None if indices is None or self.dataset.weights is None else self.dataset.weights[indices]
        if self.class_weight is None:
            return weights
        class_weights = np.asarray(self.class_weight, "float32")[y]
        return class_weights if weights is None else class_weights * weights

    def _batch(self, global_step, stream=None) -> Any:
        params = self.augmentation_params(global_step)
        needed, own, partners = self._needed(params)
        needed_params = params.take(needed)
        indices: Any = self.indices(global_step)
        if self._stream:
            x, y = (stream or self._stream).batch(*divmod(global_step, self.steps_per_epoch))
            x = x[needed]
        else:
            x = self.dataset.read(indices[needed], size=self._size(global_step), crops=needed_params.crops)
            y = self.dataset.labels[indices]
        x = crop_and_flip(x, needed_params, self.recipe.pad, self.recipe.pad_mode)
        if self._augment:
            x = self._augment(x, self._seed(global_step))
        finish = functools.partial(self._normalize_and_cut, x, needed_params)
        is_mixed = params.partner is not None
        x = mix(finish, own, partners, params.take(self._own), x.shape[1:]) if is_mixed else finish(own)
        return in_data_format(x), *self._targets(y, indices, params)

    def _normalize_and_cut(self, x, params, positions):
        """Return the images at some positions in a batch, normalised and with cutout, as a new array."""
        x = self.normalize(x[positions])
        if params.cutout is not None:
            cutout(x, params.cutout[positions], self.recipe.cutout)
        return x

    def _needed(self, params):
        """Return the batch positions to read, and where this process' images and their partners are among them."""
        whole = np.arange(self._drawn)
        own = whole[self._own]
        partners = own if params.partner is None else params.partner[own]
        # Keras layers may draw for a batch as a whole; augmenting only part of it would give different images.
        needed = whole if self._augment else np.union1d(own, partners)
        return needed, np.searchsorted(needed, own), np.searchsorted(needed, partners)


@functools.lru_cache(maxsize=2)
def _shuffled(seed, epoch, count):
    return np.random.default_rng((seed, epoch)).permutation(count)


def _shard_slice(shard, batch_size):
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"Expected shard=(rank, world) with a rank from 0 to below world; received: shard={shard}.")
    if batch_size % world:
        raise ValueError(f"Expected a batch size divisible by {world} processes; received: batch_size={batch_size}.")
    count = batch_size // world
    return slice(rank * count, (rank + 1) * count)
