"""Training pictures held in memory: uint8 arrays in, augmented float32 batches out."""

import keras
import numpy as np

from keras_resattn.data.augmentation import cutmix, cutout, mixup, random_crop, random_flip


def load_npz(path):
    """Reads `x_train`, `y_train`, `x_test`, `y_test` from an `.npz` file, those that it holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an `.npz` file, or holds none of these arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test") if name in file}
            found = file.files
    except (OSError, ValueError, AttributeError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"Expected {path} to be an .npz file; it cannot be read as one ({error}).") from error
    if not arrays:
        raise ValueError(
            f"Expected x_train, y_train, x_test or y_test in {path}; received: {', '.join(found) or 'nothing'}."
        )
    return arrays


def check_pictures(x, y, classes):
    """Checks pictures and labels before any work, and returns the labels as a flat int array.

    Raises:
        ValueError: if `x` is not `(n, h, w, c)` uint8 or float, the lengths differ, or a label is not in
            `[0, classes)`.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 4 or x.dtype.kind not in "uf":
        raise ValueError(
            f"Expected pictures of shape (n, height, width, channels), 0 to 255; received: shape {x.shape}, {x.dtype}."
        )
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label for each of {len(x)} pictures; received: shape {y.shape}, {y.dtype}."
        )
    if len(y) and not 0 <= y.min() <= y.max() < classes:
        raise ValueError(f"Expected labels from 0 to {classes - 1}; received: labels from {y.min()} to {y.max()}.")
    return y.astype("int64")


def channel_statistics(x):
    """Returns mean and standard deviation of each channel over all pictures, as lists of floats.

    Args:
        x: Pictures, `(n, h, w, c)`, 0 to 255.
    """
    pixels = x.reshape(-1, x.shape[-1])
    return pixels.mean(0, dtype="float64").tolist(), pixels.std(0, dtype="float64").tolist()


def statistics(x, normalization):
    """Returns what pictures are normalised with, as (nested) lists of floats: `(mean, std)`.

    Args:
        x: Training pictures, `(n, h, w, c)`, 0 to 255.
        normalization: `"channel"`, as `channel_statistics`; `"pixel_mean"`, the mean picture and 1; `"unit"`, 0 and
            255.
    """
    channels = x.shape[-1]
    if normalization == "channel":
        return channel_statistics(x)
    if normalization == "pixel_mean":
        return x.mean(0, dtype="float64").tolist(), [1.0] * channels
    return [0.0] * channels, [255.0] * channels


def normalize(x, mean, std):
    """Returns `(x - mean) / std` in float32.

    Args:
        x: Pictures, `(n, h, w, c)`, 0 to 255. Never changed.
        mean: Mean of each channel, or of each pixel, `(h, w, c)`.
        std: Standard deviation of each channel; a constant channel's 0 counts as 1.
    """
    std = np.where(np.asarray(std) == 0, 1, std)
    return (np.asarray(x, "float32") - np.asarray(mean, "float32")) / std.astype("float32")


def network_input(x, mean, std):
    """Returns pictures as a network takes them: normalised, float32, in Keras' image data format.

    Args and shapes as in `normalize`.
    """
    return _in_data_format(normalize(x, mean, std))


def _in_data_format(x):
    return np.moveaxis(x, -1, 1) if keras.config.image_data_format() == "channels_first" else x


class TrainingBatches(keras.utils.PyDataset):
    """A whole run's augmented batches, shuffled anew in each epoch, as one continuous stream.

    What a batch holds depends on the recipe's seed and the batch's index alone: a run that is
    resumed at some step sees exactly what the unbroken one would have seen.

    Args:
        x: Pictures, `(n, h, w, c)`, 0 to 255. Never changed.
        y: Integer labels, `(n,)`. Where the recipe mixes labels, batches hold shares, `(batch, classes)`.
        recipe: A `Recipe`: length, batch size, augmentation and seed.
        normalize: Called on each batch of cropped and flipped pictures; returns float32 of the same shape.
        classes: Number of classes, for recipes that mix labels.
        first_epoch: The epoch to begin with.
    """

    def __init__(self, x, y, recipe, normalize, classes=None, first_epoch=0, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y = x, y
        self.recipe = recipe
        self.normalize = normalize
        self.classes = classes
        self.first_epoch = first_epoch
        self.steps_per_epoch = len(x) // recipe.batch_size
        self._order = None

    def __len__(self):
        return (self.recipe.length(self.steps_per_epoch) - self.first_epoch) * self.steps_per_epoch

    def __getitem__(self, index):
        seed, size = self.recipe.seed, self.recipe.batch_size
        epoch, step = divmod(index, self.steps_per_epoch)
        epoch += self.first_epoch
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((seed, epoch)).permutation(len(self.x))
        rows = self._order[1][step * size : (step + 1) * size]
        return self._augmented(self.x[rows], self.y[rows], np.random.default_rng((seed, epoch, step)))

    def _augmented(self, x, y, rng):
        recipe = self.recipe
        x = random_crop(x, recipe.pad, rng, recipe.pad_mode)
        if recipe.flip:
            x = random_flip(x, rng)
        x = cutout(self.normalize(x), recipe.cutout, rng)
        if recipe.mixes_labels:
            y = smoothed(y, self.classes, recipe.label_smoothing)
            mixes = [mix for mix, alpha in ((mixup, recipe.mixup), (cutmix, recipe.cutmix)) if alpha]
            if mixes:
                mix = mixes[rng.integers(len(mixes))]
                x, y = mix(x, y, recipe.mixup if mix is mixup else recipe.cutmix, rng)
        return _in_data_format(x), y


def smoothed(y, classes, share=0.0):
    """Integer labels as shares, `(n, classes)` float32: `1 - share` for the label, and `share` spread over all."""
    return (1 - share) * np.eye(classes, dtype="float32")[y] + np.float32(share / classes)
