"""Datasets that TensorFlow Datasets has prepared as tfrecord files, and that are too large for memory: ImageNet."""

import contextlib
import copy
import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Self

import keras
import numpy as np

from keras_resattn.data.augmentation import draw_crops
from keras_resattn.data.batch_stream import BatchStream, check_range, share_of
from keras_resattn.data.dataset import as_labels
from keras_resattn.data.images import check_resize_mode, load_image
from keras_resattn.data.statistics import SAMPLE, accumulated_statistics, in_threads
from keras_resattn.typing import ResizeMode, Size, Statistics
from keras_resattn.utils.validation import check_class_names

BATCH = 64  # images in a batch where no recipe says so: for statistics


class RecordStream(BatchStream):
    """tfrecord files, read by tf.data and decoded by Pillow in threads, as a folder's images are.

    What pass k holds depends on the seed, k and the shard alone: files are read, and images mixed in a buffer, in an
    order drawn from these; so are the crops. Each of several processes reads its own part, of equal length.

    Args:
        builder: A prepared `tfds.core.DatasetBuilder`.
        split: A split, or a slice of one.
        keys: Names of the features that are image and label.
        class_names: Names of the classes, or `None`.
        classes: Number of classes, where they have no names.
        channels: Number of channels: 3 or 1.
        buffer: Encoded images among which the next one is drawn: about 110 kB each for ImageNet.
    """

    # Attributes here, set by `prepared`; properties of a `BatchStream`.
    image_shape: Any = None  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    batch_size: Any = None  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    resize_mode: ResizeMode | None = "crop"

    def __init__(
        self,
        builder: Any,
        split: str,
        keys: tuple[str, str],
        *,
        class_names: Sequence[str] | None = None,
        classes: int | None = None,
        channels: int = 3,
        buffer: int = 8192,
    ) -> None:
        self.builder, self.split, self.keys = builder, split, keys
        self.class_names = None if class_names is None else check_class_names(class_names, classes)
        self.classes = classes if self.class_names is None else len(self.class_names)
        self._numbers = None
        self.channels, self.buffer = channels, buffer
        self.count = builder.info.splits[split].num_examples
        self._run: Any = None

    def prepared(
        self,
        batch_size: int,
        *,
        size: Size | None = None,
        train: bool = True,
        crop: str | None = None,
        central: float = 1.0,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Self:
        """Returns the stream as a run needs it.

        Args:
            batch_size: Images in a step, of all processes together.
            size: `(h, w)` that images are cropped and resized to.
            train: Whether to shuffle, and leave out the remainder of a pass; otherwise it is a last, smaller batch.
            crop: `"inception"` for random crops; otherwise all are central.
            central: Share of the short side that a central crop leaves.
            seed: Of order and crops.
            shard: `(process, processes)`.

        Raises:
            ValueError: without `size`, or if there is no full batch.
        """
        share = share_of(batch_size, shard)
        if size is None:
            raise ValueError("Expected size=(height, width) for images of different shapes; received: size=None.")
        if train and self.count // shard[1] < share:
            raise ValueError(f"Expected at least a batch of {batch_size} images; received: {self.count}.")
        other = copy.copy(self)
        other.batch_size, other.image_shape = share, (*size, self.channels)
        other._run = {"train": train, "crop": crop, "central": central, "seed": seed, "shard": tuple(shard)}
        return other

    def with_resize_mode(self, resize_mode: ResizeMode) -> Self:
        """Return this stream with another way to resize images; see `Dataset.with_resize_mode`."""
        check_resize_mode(resize_mode)
        other = copy.copy(self)
        other.resize_mode = resize_mode
        return other

    def steps(self, batch_size: int) -> int:
        return self.count // (self._run["shard"][1] if self._run else 1) // batch_size

    def length(self) -> int:
        process, processes = self._run["shard"]
        share = self.count // processes
        if self._run["train"]:
            return share // self.batch_size
        share += process < self.count % processes  # what does not divide goes to the first ones
        return -(-share // self.batch_size)

    def check_labels(self, classes: int) -> None:
        if self.classes is not None and self.classes > classes:
            raise ValueError(
                f"Expected labels from 0 to {classes - 1}; received: {self.builder.name} with {self.classes} classes."
            )

    def statistics(self, normalization: str, size: Size | None = None) -> Statistics:
        def first_batches():
            whole = self.prepared(BATCH, size=size or (self.image_shape or ())[:2] or None, train=False)
            for i, (x, _) in enumerate(whole.epoch(0)):
                if i * BATCH >= SAMPLE:
                    return
                yield x

        return accumulated_statistics(first_batches, normalization, self.channels)

    def fingerprint(self) -> str:
        described = f"{self.builder.info.full_name} {self.split} {self.count}"
        described += "" if self.resize_mode == "crop" else f" {self.resize_mode}"
        return hashlib.sha256(described.encode()).hexdigest()

    def epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self._run is None:
            raise ValueError("Expected prepared(batch_size, size=...) of this stream before a pass; received: none.")
        size, central = self.image_shape[:2], self._run["central"]
        labels, x = deque(), []

        def encoded():
            for index, (images, y, names) in enumerate(self._encoded(epoch)):
                labels.append(as_labels(y, len(images)))
                check_range(labels[-1], self.classes)
                labels[-1] = self._own_numbers(labels[-1])
                yield from zip(images, names, self._crops(epoch, index, len(images)), strict=True)

        def decoded(item):
            image, name, crop = item
            name = f"image {name.decode()} of {self.builder.name}"
            return load_image(image, name, size, crop, central, self.channels, self.resize_mode)

        # The next batch, and one more, are decoded while this one is used.
        with contextlib.closing(in_threads(decoded, encoded(), 2 * self.batch_size)) as images:
            for image in images:
                x.append(image)
                if len(x) == len(labels[0]):
                    yield np.stack(x), labels.popleft()
                    x = []

    def _encoded(self, epoch):
        """Batches of encoded images, their labels, and their names."""
        tfds, tf = require_tensorflow(self.builder.name)
        process, processes = self._run["shard"]
        train = self._run["train"]
        split = tfds.even_splits(self.split, n=processes, drop_remainder=train)[process]
        seeds = np.random.SeedSequence((self._run["seed"], epoch, process)).generate_state(2) >> 1
        config = tfds.ReadConfig(add_tfds_id=True, shuffle_seed=int(seeds[0]), try_autocache=False)
        data = self.builder.as_dataset(
            split=split,
            shuffle_files=train,
            read_config=config,
            decoders={self.keys[0]: tfds.decode.SkipDecoding()},
        )
        if train:
            data = data.shuffle(min(self.buffer, self.count), seed=int(seeds[1]))
        data = data.map(lambda record: tuple(record[key] for key in (*self.keys, "tfds_id")))
        return data.batch(self.batch_size, drop_remainder=train).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()

    def _crops(self, epoch, index, count):
        if self._run["crop"] != "inception":
            return [None] * count
        rng = np.random.default_rng((self._run["seed"], epoch, index, self._run["shard"][0]))
        return draw_crops(count, rng)


def require_tensorflow(name: str) -> tuple[Any, Any]:
    """Returns the modules `(tensorflow_datasets, tensorflow)`.

    Raises:
        ImportError: if there is no TensorFlow.
    """
    try:
        import tensorflow
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"Expected TensorFlow, to read {name}, which is prepared as tfrecord files; received: {error}. "
            'Install it (pip install "keras-resattn[tensorflow]"), or have the data prepared as array_record files, '
            "which need none: tfds.builder(name, data_dir=..., file_format='array_record').download_and_prepare()."
        ) from error
    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # it has been used already
            tensorflow.config.set_visible_devices([], "GPU")  # or it would take all their memory from the backend
    return tensorflow_datasets, tensorflow
