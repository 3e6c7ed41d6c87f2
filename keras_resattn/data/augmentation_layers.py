"""Reproducible augmentation by Keras layers, as listed in the field `augment` of a recipe."""

import contextlib
import copy
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


class LayerAugmentation:
    """Augmentation by Keras layers (`keras.layers.RandAugment`, `RandomErasing`, ...), reproducible from a seed.

    The seeds of all layers are set before each call, so their draws depend only on the given seed (and on the backend).
    A layer may draw for each image or once for the batch. Layers run on the CPU, one batch at a time, because setting
    their seeds changes shared state.

    Args:
        layers: Configurations from `keras.layers.serialize`.

    Raises:
        ValueError: If a layer mixes images (use a recipe's `mixup` and `cutmix`), does not draw from Keras' seeds
            (`AugMix`, keras-cv), or cannot be built from its configuration.
    """

    def __init__(self, layers: Sequence[dict[str, Any]]) -> None:
        self._lock = threading.Lock()
        for layer in layers:
            _check_library(layer)
        with keras.device("cpu"), _channels_last():
            self.layers = [keras.layers.deserialize(_in_channels_last(layer)) for layer in layers]
        for layer in self.layers:
            _check_layer(layer)

    def __call__(self, x: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Return an augmented batch of the same shape, 0 to 255, float32.

        Args:
            x: Images of shape `(n, h, w, c)`, 0 to 255.
            seed: Non-negative integers.

        Raises:
            ValueError: If a layer changes the shape or scale of images, or has weights.
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
                f"Expected layers that keep images between 0 and 255; received: layers that change a maximum of "
                f"{x.max():g} to {y.max():g}. Leave out layers such as Rescaling: recipes normalise images."
            )
        return y

    def _set_seeds(self, seed):
        states = [v for layer in self.layers for v in layer.variables if v.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            # 31 bits, because some backends store seeds in signed integers.
            word = int(np.random.SeedSequence((*seed, number)).generate_state(1)[0]) >> 1
            state.assign(np.array([word, 0], state.dtype))


def _check_library(layer):
    if str(layer.get("module", "")).startswith("keras_cv"):
        raise ValueError(
            f"Expected layers of keras.layers; received: keras_cv's {layer['class_name']}, whose random state cannot "
            "be set, so runs would not be reproducible. Map it over a tf.data.Dataset, and pass that as data."
        )


def _check_layer(layer):
    if isinstance(layer, (keras.layers.MixUp, keras.layers.CutMix)):
        raise ValueError(
            f"Expected layers that augment single images; received: {type(layer).__name__}, which mixes images. "
            "Use the recipe's mixup or cutmix, which also mix the labels."
        )
    if isinstance(layer, keras.layers.AugMix):  # it chooses operations with random.choice
        raise ValueError(
            "Expected layers that draw from Keras' seeds; received: AugMix, which draws from Python's random module, "
            "so runs would not be reproducible. Use RandAugment."
        )
    for inner in getattr(layer, "layers", ()):  # of a keras.layers.Pipeline
        _check_layer(inner)


@contextlib.contextmanager
def _channels_last():
    """Set Keras' image data format temporarily, because some layers read it instead of their own argument."""
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
