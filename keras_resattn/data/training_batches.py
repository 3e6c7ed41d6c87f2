"""The batches that a run trains on: a recipe's order and augmentation of any dataset of images."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resattn.data.arrays import in_data_format, smoothed
from keras_resattn.data.augmentation import AugmentationParams, crop_and_flip, cutout, draw_params, mix, mixed_labels
from keras_resattn.data.augmentation_layers import LayerAugmentation
from keras_resattn.data.batch_stream import BatchStream
from keras_resattn.data.dataset import Dataset
from keras_resattn.typing import Size

if TYPE_CHECKING:
    from keras_resattn.recipes.recipe import Recipe


class TrainingBatches(keras.utils.PyDataset):
    """A whole run's augmented batches, shuffled anew in each epoch, as one continuous stream.

    What a batch holds depends on the recipe's seed, the epoch and the step alone: a run that is resumed at some step
    sees exactly what the unbroken one would have seen. (A `BatchStream` shuffles itself and is only as
    reproducible as its source.) Batches are made ahead by threads of this class: Keras' own workers would begin anew in each
    epoch, so that `workers` of `keras.utils.PyDataset` stays 1.

    Index `i` is the run's step `first_epoch * steps_per_epoch + i`. Steps before `first_step` have been done already:
    in their place stands the batch of `first_step`, which costs nothing more and is not to be trained on.

    Args:
        dataset: A `Dataset` or a `BatchStream` of `keras_resattn.data`.
        recipe: A `Recipe`: length, batch size, augmentation and seed.
        normalize: Called on each batch of cropped and flipped images, `(n, h, w, c)`, 0 to 255; returns a new
            float32 array of the same shape.
        size: `(height, width)` of the images that the network takes; a recipe's `image_sizes` go before it.
        classes: Number of classes. Where the recipe mixes labels, batches hold shares, `(batch, classes)` float32;
            else integers, `(batch,)`.
        first_epoch: The epoch that index 0 begins.
        first_step: The run's first step that is still to be done.
        shard: `(rank, world)`: this process' part of each batch, for training in several. All draws are those of the
            whole batch, and the parts of all ranks one after the other are the whole batch; a process reads its part
            and what is mixed into it, or, with layers of Keras in `augment`, the whole batch. Of a `BatchStream` each
            process has a part of its own, of which it draws and mixes by itself.
        workers: Threads that make batches ahead, as many batches as threads; 0 makes them when they are asked for.
            The default is one for each processor, up to 4. A `BatchStream` is read in order, by one thread at most.

    Attributes:
        steps_per_epoch: Whole batches in the dataset; the remainder of a pass is left out of that pass.
        class_weight: Weight of each class' images in the loss, a list, or `None`; to be set before the first batch.
            With it, or sample weights in the dataset, batches are `(images, labels, weights)`.
        error: What was raised while a batch was made, or `None`: TensorFlow tells it in an error of its own.

    Raises:
        ValueError: if the dataset has less than a batch, or other batches than the recipe; if `shard` does not divide
            the batch.
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
        self._open(shard)
        self._augment = LayerAugmentation(recipe.augment) if recipe.augment else None
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        steps = recipe.length(self.steps_per_epoch) * self.steps_per_epoch
        self._ahead = _Prefetcher(self._batch, steps, min(workers, 1) if self._stream else workers)

    def _open(self, shard):
        """Sets what depends on the kind of dataset: epochs' length, how many images a params is for, which are ours."""
        recipe, dataset = self.recipe, self.dataset
        self._own, self._planned = _part(shard, recipe.batch_size), recipe.batch_size
        self._stream, self._apart, self._part_of_seed = None, None, ()
        if not isinstance(dataset, BatchStream):
            self.steps_per_epoch = len(dataset) // recipe.batch_size
            if not self.steps_per_epoch:
                raise ValueError(
                    f"Expected at least a batch of {recipe.batch_size} images; received: {len(dataset)}. "
                    f"Pass recipe=get_recipe({recipe.name!r}).replace(batch_size={len(dataset)})."
                )
            return
        rank, world = shard
        self._planned = recipe.batch_size // world
        self._own = slice(None)
        self._part_of_seed = (rank,) if world > 1 else ()
        if recipe.image_sizes:
            raise ValueError(
                "Expected data that is read by index for a recipe with image_sizes; received: a stream, which resizes "
                "its images itself. Pass arrays, class folders or records, or recipe.replace(image_sizes=())."
            )
        stream = dataset.prepared(
            recipe.batch_size, size=self.size, crop=recipe.crop, seed=recipe.seed, shard=(rank, world)
        )
        self._stream, self._apart = ResumableIterator(stream), ResumableIterator(stream)
        self.steps_per_epoch = stream.steps(self._planned)

    def __len__(self) -> int:
        return (self.recipe.length(self.steps_per_epoch) - self.first_epoch) * self.steps_per_epoch

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        step = self.first_epoch * self.steps_per_epoch + index
        last = self.recipe.steps(self.steps_per_epoch) - 1  # may lie inside an epoch
        try:
            return self._ahead[min(max(step, self.first_step), last)]
        except Exception as error:
            self.error = error
            raise

    def of_several_sizes(self) -> Any:
        """Returns what `Model.fit` takes where images differ in size: on TensorFlow a dataset that says so.

        Keras takes the shape of a `PyDataset` from its first two batches.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        x, *others = self[0]  # labels and, where images have them, weights
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
        """Returns the batch of a step, counted from the beginning of the run, whatever is being read meanwhile."""
        return self._batch(global_step, self._apart)

    def rows(self, global_step: int) -> np.ndarray | None:
        """Returns which images of the dataset make up a step, `(batch,)`, all ranks' of them; `None` for a stream.

        Args:
            global_step: The step, counted from the beginning of the run.
        """
        if self._stream:
            return None
        epoch, step = divmod(global_step, self.steps_per_epoch)
        first = step * self.recipe.batch_size
        return _order(self.recipe.seed, epoch, len(self.dataset))[first : first + self.recipe.batch_size]

    def params(self, global_step: int) -> AugmentationParams:
        """Returns the `AugmentationParams` of a step: all that is drawn for its whole batch."""
        rng = np.random.default_rng(self._seed(global_step))
        return draw_params(self.recipe, self._planned, self._size(global_step), rng)

    def _size(self, global_step):
        side = self.recipe.image_size(global_step, self.steps_per_epoch)
        return self.size if side is None else (side, side)

    def _seed(self, global_step):
        return (self.recipe.seed, *divmod(global_step, self.steps_per_epoch), *self._part_of_seed)

    def _targets(self, y, rows, params):
        """This process' part of the labels of a batch, in a tuple, with their weights where there are some."""
        own, weights = self._own, self._weights(y, rows)
        if not self.recipe.mixes_labels:
            y = y.astype("int32")  # JAX warns of 64 bits
            return (y[own],) if weights is None else (y[own], weights[own])
        y = smoothed(y, self.classes, self.recipe.label_smoothing)
        labels = mixed_labels(y, params)
        if weights is None:
            return (labels[own],)
        # The loss of a mixture is that of its parts, each with its own weight: soft labels move to the heavier part.
        weighted = mixed_labels(y * weights[:, None], params)
        weights = weighted.sum(1, keepdims=True)
        labels = np.where(weights > 0, weighted / np.where(weights > 0, weights, 1), labels)
        return labels.astype("float32")[own], weights[own, 0]

    def _weights(self, y, rows):
        """What the images of a batch weigh, `(batch,)` float32, or `None`."""
        weights = None if rows is None or self.dataset.weights is None else self.dataset.weights[rows]
        if self.class_weight is None:
            return weights
        of_classes = np.asarray(self.class_weight, "float32")[y]
        return of_classes if weights is None else of_classes * weights

    def _batch(self, global_step, passes=None) -> Any:
        params = self.params(global_step)
        needed, own, partners = self._needed(params)
        part = params.take(needed)
        rows: Any = self.rows(global_step)
        if self._stream:
            x, y = (passes or self._stream).batch(*divmod(global_step, self.steps_per_epoch))
            x = x[needed]
        else:
            x, y = (
                self.dataset.read(rows[needed], size=self._size(global_step), crops=part.crops),
                self.dataset.labels[rows],
            )
        x = crop_and_flip(x, part, self.recipe.pad, self.recipe.pad_mode)
        if self._augment:
            x = self._augment(x, self._seed(global_step))
        images = functools.partial(self._finished, x, part)
        mixes, shape = params.partner is not None, x.shape[1:]
        x = mix(images, own, partners, params.take(self._own), shape) if mixes else images(own)
        return in_data_format(x), *self._targets(y, rows, params)

    def _finished(self, x, params, rows):
        """Some images of a batch, normalised and cut out; a new array."""
        x = self.normalize(x[rows])
        if params.cutout is not None:
            cutout(x, params.cutout[rows], self.recipe.cutout)
        return x

    def _needed(self, params):
        """Which images of the batch this process needs, and where its own and their partners are among them."""
        whole = np.arange(self._planned)
        own = whole[self._own]
        partners = own if params.partner is None else params.partner[own]
        # Layers of Keras may draw for a batch as a whole: the part of it is not the augmented part.
        needed = whole if self._augment else np.union1d(own, partners)
        return needed, np.searchsorted(needed, own), np.searchsorted(needed, partners)


class _Prefetcher:
    """What `make(i)` returns, made by threads for the next few `i` before they are asked for.

    Threads that are waiting end when the object is gone.
    """

    def __init__(self, make, count, threads):
        self._make, self._count, self._threads = make, count, threads
        self._pool: Any = ThreadPoolExecutor(threads, "batches") if threads else None
        self._lock = threading.Lock()
        self._futures: dict[int, Future] = {}

    def __getitem__(self, i):
        if self._pool is None:
            return self._make(i)
        with self._lock:
            if i not in self._futures:  # a jump: a stream begins its pass anew, and so does what is made of it
                self._futures = {}
            for j in range(i, max(min(i + 1 + self._threads, self._count), i + 1)):
                if j not in self._futures:
                    self._futures[j] = self._pool.submit(self._make, j)
            self._futures = {j: future for j, future in self._futures.items() if j >= i}
            future = self._futures[i]
        return future.result()


class ResumableIterator:
    """A `BatchStream`, asked for a batch by epoch and step: the pass goes on, or begins anew for an earlier step."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._next = 0
        self._batches: Any = None

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels as they come. Steps that are left out are read and dropped."""
        with self._lock:
            if epoch != self._epoch or step < self._next:
                self._epoch, self._next, self._batches = epoch, 0, iter(self._stream.epoch(epoch))
            for x, y in self._batches:
                self._next += 1
                if self._next > step:
                    return np.asarray(x), np.asarray(y)
            ended, self._epoch = self._next, None
        raise ValueError(f"Expected more than {step} batches in a pass over the stream; received: {ended}.")


@functools.lru_cache(maxsize=2)
def _order(seed, epoch, count):
    return np.random.default_rng((seed, epoch)).permutation(count)


def _part(shard, batch_size):
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"Expected shard=(rank, world) with a rank from 0 to below world; received: shard={shard}.")
    if batch_size % world:
        raise ValueError(
            f"Expected a batch size that {world} processes can share evenly; received: batch_size={batch_size}."
        )
    share = batch_size // world
    return slice(rank * share, (rank + 1) * share)
