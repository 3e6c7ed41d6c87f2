"""Augmentation layers of Keras, as a recipe's `augment` has them, made repeatable."""

import contextlib
import copy
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


class LayerAugmentation:
    """Augmentation layers of Keras, made repeatable: `keras.layers.RandAugment`, `RandomErasing` and so on.

    Before each call the seeds of all layers are set, so that what they draw depends on the given seed alone (and on
    the backend: each draws other numbers). Whether a layer draws for each image or once for the batch is its own
    affair. They run on the CPU, one batch at a time: their seeds are state.

    Args:
        layers: Layers as `keras.layers.serialize` writes them.

    Raises:
        ValueError: for a layer that mixes images (see `mixup` and `cutmix` of a recipe), for `AugMix`, which cannot
            be repeated, for layers of keras-cv, which cannot either, or one that cannot be made from its configuration.
    """

    def __init__(self, layers: Sequence[dict[str, Any]]) -> None:
        self._lock = threading.Lock()
        for layer in layers:
            _check_repeatable(layer)
        with keras.device("cpu"), _channels_last():
            self.layers = [keras.layers.deserialize(_in_channels_last(layer)) for layer in layers]
        for layer in self.layers:
            _check_layer(layer)

    def __call__(self, x: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Augments a batch.

        Args:
            x: Images, `(n, h, w, c)`, 0 to 255.
            seed: A tuple of integers from 0 up.

        Returns:
            Images of the same shape, 0 to 255, float32.

        Raises:
            ValueError: if a layer changes the images' shape.
        """
        with self._lock, keras.device("cpu"):
            self._set_seeds(seed)
            y = keras.ops.convert_to_tensor(x.astype("float32"))
            for layer in self.layers:
                y = layer(y, training=True)
                if tuple(y.shape) != x.shape or layer.trainable_variables:
                    has = "weights" if layer.trainable_variables else f"an output of shape {tuple(y.shape)}"
                    raise ValueError(
                        f"Expected layers that augment images and keep their shape {x.shape}; "
                        f"received: {type(layer).__name__}, which has {has}."
                    )
            y = np.array(keras.ops.convert_to_numpy(y), "float32")
        if y.max() <= 1 < x.max():
            raise ValueError(
                f"Expected layers that leave images between 0 and 255; received: what was up to {x.max():g} came "
                f"back up to {y.max():g}. Recipes normalise by themselves: leave layers such as Rescaling out."
            )
        return y

    def _set_seeds(self, seed):
        states = [v for layer in self.layers for v in layer.variables if v.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            # 31 bits: backends keep seeds in unsigned and in signed numbers.
            word = int(np.random.SeedSequence((*seed, number)).generate_state(1)[0]) >> 1
            state.assign(np.array([word, 0], state.dtype))


def _check_repeatable(layer):
    if str(layer.get("module", "")).startswith("keras_cv"):
        raise ValueError(
            f"Expected layers of keras.layers; received: keras_cv's {layer['class_name']}, which draws from a state "
            "that cannot be set, so that no run could be repeated or resumed. Map it over a tf.data.Dataset of yours, "
            "and pass that as data."
        )


def _check_layer(layer):
    if isinstance(layer, (keras.layers.MixUp, keras.layers.CutMix)):
        raise ValueError(
            f"Expected layers that change images alone; received: {type(layer).__name__}, which mixes them. "
            "Use the recipe's mixup or cutmix, which mix the labels too."
        )
    if isinstance(layer, keras.layers.AugMix):  # its choice of operations is random.choice's
        raise ValueError(
            "Expected layers that draw from Keras' seeds; received: AugMix, which draws from Python's, so that no run "
            "could be repeated or resumed. Use RandAugment."
        )
    for inner in getattr(layer, "layers", ()):  # of a keras.layers.Pipeline
        _check_layer(inner)


@contextlib.contextmanager
def _channels_last():
    """Keras' image data format for what is made inside: some layers of `keras.layers` know no other way."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def _in_channels_last(layer):
    layer = copy.deepcopy(layer)
    if isinstance(layer, dict) and "data_format" in layer.get("config", {}):
        layer["config"]["data_format"] = "channels_last"
    return layer
