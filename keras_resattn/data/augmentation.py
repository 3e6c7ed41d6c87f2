"""What happens to training pictures: vectorised, drawn for each picture, and repeatable from a generator.

`keras.layers.RandomCrop` draws one place for a whole batch, and the other layers of `keras.layers` draw from a state
of their own; here a batch depends on its generator alone, so that a resumed run sees what the unbroken one would have.
"""

import numpy as np


def random_crop(x, pad, rng, mode="zeros"):
    """Pads each picture and crops it back to its size, at a place drawn for each.

    Args:
        x: Array of shape `(n, h, w, c)`.
        pad: Pixels of padding on each side; 0 returns `x`.
        rng: A `numpy.random.Generator`.
        mode: `"zeros"`, or `"reflect"` for the picture's own mirror image.
    """
    if pad == 0:
        return x
    n, height, width, _ = x.shape
    margins = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = np.pad(x, margins) if mode == "zeros" else np.pad(x, margins, mode=mode)
    rows = rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(height)
    columns = rng.integers(0, 2 * pad + 1, (n, 1)) + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_flip(x, rng):
    """Mirrors each picture left to right with probability one half."""
    flipped = rng.random(len(x)) < 0.5
    return np.where(flipped[:, None, None, None], x[:, :, ::-1], x)


def cutout(x, size, rng):
    """Sets a square of each picture to zero, the mean of normalised pictures.

    Args:
        x: Normalised pictures, `(n, h, w, c)`.
        size: Side of the square in pixels; its centre is any pixel, so that it may reach over the edge. 0 returns `x`.
        rng: A `numpy.random.Generator`.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).
    """
    if size == 0:
        return x
    n, height, width, _ = x.shape
    inside = _inside(rng.integers(0, height, n), size, height)[:, :, None]
    inside = inside & _inside(rng.integers(0, width, n), size, width)[:, None, :]
    return np.where(inside[..., None], np.zeros((), x.dtype), x)


def mixup(x, y, alpha, rng):
    """Averages each picture and its label with those of another of the batch, by a share drawn for each.

    Args:
        x: Normalised pictures, `(n, h, w, c)`.
        y: Labels as shares, `(n, classes)`.
        alpha: Both parameters of the beta distribution that shares are drawn from.
        rng: A `numpy.random.Generator`.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (ICLR 2018).
    """
    share = rng.beta(alpha, alpha, len(x)).astype(x.dtype)
    other = rng.permutation(len(x))
    by_picture = share[:, None, None, None]
    return by_picture * x + (1 - by_picture) * x[other], _mixed(y, other, share)


def cutmix(x, y, alpha, rng):
    """Pastes into each picture a box of another of the batch; labels are mixed by the box' area.

    Args:
        x: Pictures, `(n, h, w, c)`.
        y: Labels as shares, `(n, classes)`.
        alpha: Both parameters of the beta distribution that the share of what stays is drawn from.
        rng: A `numpy.random.Generator`.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers" (ICCV 2019).
    """
    n, height, width, _ = x.shape
    side = np.sqrt(1 - rng.beta(alpha, alpha, n))
    other = rng.permutation(n)
    inside = _inside(rng.integers(0, height, n), np.rint(side * height).astype(int), height)[:, :, None]
    inside = inside & _inside(rng.integers(0, width, n), np.rint(side * width).astype(int), width)[:, None, :]
    share = 1 - inside.mean((1, 2), dtype=x.dtype)
    return np.where(inside[..., None], x[other], x), _mixed(y, other, share)


def _inside(centre, size, length):
    """Whether each of `length` positions lies in an interval of `size` around `centre`: `(n, length)`."""
    first = (centre - np.asarray(size) // 2)[:, None]
    positions = np.arange(length)
    return (positions >= first) & (positions < first + np.reshape(size, (-1, 1)))


def _mixed(y, other, share):
    return (share[:, None] * y + (1 - share[:, None]) * y[other]).astype("float32")
