"""What the tests of broken-off runs share: a tiny network, a recipe full of state, and ways to break off."""

import keras
import numpy as np
from helpers import tiny

from keras_resattn import compile_and_fit
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (40, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 40)
# Everything that has a state: momentum, averages of weights, dropout, draws, labels as shares. 3 epochs of 5 steps.
RECIPE = get_recipe("cifar_one_cycle").replace(
    epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05, ema=0.5, cutout=8, mixup=0.2, cutmix=1.0
)
STEPS = 15


class Killed(BaseException):
    pass


class Stop(keras.callbacks.Callback):
    """Does something in the middle of a step."""

    def __init__(self, step, action):
        super().__init__()
        self.left, self.action = step, action

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.action()


def kill():
    raise Killed


def train(run_dir=None, recipe=RECIPE, **arguments):
    model = tiny(dropout=0.3)
    report = compile_and_fit(model, recipe, (X, Y), run_dir=run_dir, verbose=0, **arguments)
    return model, report


def files_of(folder):
    """Content and time of every file of a folder: what reading must not change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
