"""Shared by the tests of training: twenty images of three classes, and a recipe of three short epochs."""

import numpy as np

from keras_resattn.recipes import get_recipe

RECIPE = get_recipe("cifar_one_cycle").replace(epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 32, 32, 3), dtype="uint8"), RNG.integers(0, 3, 20)
