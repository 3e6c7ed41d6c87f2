"""Comparison of optimised models with their originals."""

import keras
import numpy as np
from helpers import assert_close, predict, randomise, weights_of

from keras_resattn import iter_layers, optimize_for_inference


def randomised(model):
    return randomise(model, seed=3)


def kinds(model):
    """Count the layers of each class, at any depth."""
    names = [type(layer).__name__ for layer in iter_layers(model)]
    return {name: names.count(name) for name in sorted(set(names))}


def assert_same_outputs(model, x, tolerance=1e-5):
    """Optimise a model, compare it with the original, and return it."""
    before = weights_of(model)
    optimized = optimize_for_inference(model)
    for actual, expected in zip(*(keras.tree.flatten(predict(each, x)) for each in (optimized, model)), strict=True):
        assert_close(actual, expected, tolerance)
    for now, then in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(now, then)
    return optimized
