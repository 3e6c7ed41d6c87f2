"""Shared by the tests of interrupted runs: a tiny network, a recipe full of state, and ways to interrupt it."""

import keras
import numpy as np
from helpers import tiny

from keras_resattn import compile_and_fit
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (40, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 40)
# Everything that has state: momentum, weight averages, dropout, random draws, soft labels. 3 epochs of 5 steps.
RECIPE = get_recipe("cifar_one_cycle").replace(
    epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05, ema=0.5, cutout=8, mixup=0.2, cutmix=1.0
)
STEPS = 15


class Killed(BaseException):
    pass


class AtStep(keras.callbacks.Callback):
    """Call `action` at the end of a step, counted from 1 over the whole run, before it is completed."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def on_epoch_begin(self, epoch, logs=None):
        self.first = epoch * self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        if self.first + batch + 1 == self.step:
            self.action()


def kill():
    raise Killed


def killed_at(step):
    return [AtStep(step, kill)]


def train(run_dir=None, recipe=RECIPE, **arguments):
    model = tiny(dropout=0.3)
    report = compile_and_fit(model, recipe, (X, Y), run_dir=run_dir, verbose=0, **arguments)
    return model, report


def files_of(folder):
    """Content and modification time of every file of a folder, which reading must not change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
