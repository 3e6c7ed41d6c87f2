"""Backbones for transfer learning: their input size and statistics, their last stage, and unfreezing it."""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

import keras

from keras_resattn.data import BatchStream, Dataset
from keras_resattn.layers import Rectify
from keras_resattn.layers.inference import InferenceConv2D
from keras_resattn.models import registry
from keras_resattn.models.inspection import freeze_batch_norm, iter_layers, tensors_of_layers
from keras_resattn.models.normalization import statistics_for
from keras_resattn.pretrained import find, hub
from keras_resattn.pretrained.resolution import record_at
from keras_resattn.recipes.checks import resolve_statistics
from keras_resattn.typing import PathLike, Size, Statistics
from keras_resattn.utils.data_format import image_channels, image_shape, image_size


@dataclass(frozen=True)
class Backbone:
    """A network without its top, with the size and normalisation of its images.

    Attributes:
        model: A `keras.Model` that returns feature maps or vectors.
        name: Id of a released checkpoint, or name of the model.
        statistics: `(mean, std)` that images from 0 to 255 are normalised with: one float for each channel.
        size: Height and width of the images.
    """

    model: keras.Model
    name: str
    statistics: Statistics
    size: Size

    @classmethod
    def find(
        cls,
        network: PathLike | keras.Model,
        dataset: Dataset | BatchStream,
        statistics: Statistics | None = None,
        size: Size | None = None,
    ) -> Self:
        """Build the network of a released checkpoint, or check a model, for the images of a dataset.

        Args:
            network: Tag, alias or id of a released checkpoint; a network's id, which means its best checkpoint; the
                folder or Hub repository (`"hf://owner/repo"`) of a checkpoint; or a `keras.Model`.
            dataset: A `Dataset` or `BatchStream`, which determines the number of channels and, for a network of
                variable input size, the image size.
            statistics: `(mean, std)` of the images of a `keras.Model`; `None` for a released checkpoint.
            size: Height and width; `None` to use those of the checkpoint or model.

        Raises:
            ValueError: If the checkpoint is unknown, the model includes its top, or the images do not fit the network.
            OSError: If a Hub repository cannot be downloaded.
        """
        channels = dataset.channels if isinstance(dataset, Dataset) else dataset.image_shape[-1]
        if not isinstance(network, (str, os.PathLike)) and isinstance(network, keras.Model):
            _check_model(network, channels)
            return cls(
                network,
                network.name,
                _checked_statistics(network, statistics, channels),
                _model_size(network, dataset, size),
            )
        tag, weights = _find_checkpoint(network)
        if statistics is not None:
            raise ValueError(f"Expected no statistics with {tag.id}, which has its own; received: {statistics!r}.")
        height, width = size or tag.input_shape[:2]
        shape = image_shape(height, width, channels)
        model = registry.create_model(tag.network, include_top=False, weights=weights, input_shape=shape)
        return cls(model, tag.id, statistics_for(tag, channels), (height, width))

    def layers(self, unfreeze: str | Iterable[str] | None) -> list[str]:
        """Return the names of the layers to unfreeze, in the model's order.

        Args:
            unfreeze: `"last_stage"`, patterns that match the beginning of layer names (`re.match`), or `None`.

        Raises:
            ValueError: If a pattern matches no layer, or the last stage cannot be determined.
        """
        names = [layer.name for layer in self.model.layers]
        if unfreeze is None:
            return []
        if any(isinstance(layer, InferenceConv2D) for layer in iter_layers(self.model)):
            raise ValueError(
                f"Expected a network whose layers can be trained; received: {self.model.name}, which was optimised for "
                "inference. Pass the original, or unfreeze=None."
            )
        if unfreeze == "last_stage":
            return names[_first_of_last_stage(self.model) :]
        missing = [pattern for pattern in unfreeze if not any(re.match(pattern, name) for name in names)]
        if missing:
            raise ValueError(
                f"Expected patterns that match layer names of {self.model.name}; received: "
                f"{', '.join(map(repr, missing))}. Its layers are {', '.join(names)}."
            )
        return [name for name in names if any(re.match(pattern, name) for pattern in unfreeze)]

    def unfreeze(self, names: Collection[str]) -> None:
        """Make the named layers trainable, except their batch normalisation, and freeze all others.

        Keras runs batch normalisation in inference mode if it is not trainable. Calling the network with
        `training=False` is not enough: inside `fit`, a functional model passes `training=True` to all its layers.
        """
        self.model.trainable = True
        for layer in self.model.layers:
            layer.trainable = layer.name in names
        freeze_batch_norm(self.model)


def _find_checkpoint(network):
    """Return the record of a checkpoint, and the `weights` argument with which its builder loads it."""
    if isinstance(network, str) and network.startswith(hub.PREFIX):
        tag, address = hub.read_record(hub.Address.parse(network))
        return tag, str(address)  # with the commit of the record
    is_name = isinstance(network, str) and find(network)
    if not is_name and network and isinstance(network, (str, os.PathLike)) and (tag := record_at(network)):
        return tag, network
    tag = registry.find_checkpoint(
        network,
        "network to be a keras.Model without its top, the folder of a released checkpoint, 'hf://owner/repo', or one "
        "of the released checkpoints",
    )
    return tag, tag.tag


def _check_model(model, channels):
    # A model that is not built, or a subclassed one, has no shapes.
    shape, outputs = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or not isinstance(outputs, tuple) or len(outputs) not in (2, 4):
        raise ValueError(
            f"Expected {model.name} to take images and to return feature maps or vectors; "
            f"received: input {shape}, output {outputs}."
        )
    if any(isinstance(layer, Rectify) for layer in iter_layers(model)):
        raise ValueError(
            f"Expected {model.name} without its top; received: a network with gated attention, which is part of the "
            "top. Build it with include_top=False."
        )
    if getattr(model.layers[-1], "activation", None) is keras.activations.softmax:
        raise ValueError(
            f"Expected {model.name} without its top; it ends in a softmax. Build it with include_top=False, or pass "
            "keras.Model(model.input, model.layers[-2].output)."
        )
    expected = image_channels(shape)
    if channels != expected:
        raise ValueError(f"Expected images of {expected} channels for {model.name}; received: {channels}.")


def _checked_statistics(model, statistics, channels):
    checked = resolve_statistics(model, statistics, channels)
    if checked is None:
        raise ValueError(
            f"Expected statistics=(mean, std), those of the images that {model.name} was trained on; received: None. "
            f"For a model that normalises its images itself, pass statistics=({[0] * channels}, {[1] * channels})."
        )
    return checked


def _model_size(model, dataset, size):
    own = image_size(model.input_shape)
    if size is None:
        size = own if None not in own or dataset.image_shape is None else dataset.image_shape[:2]
    size = tuple(size)
    if None in size or any(fixed not in (None, side) for fixed, side in zip(own, size, strict=True)):
        raise ValueError(f"Expected size=(height, width) for {model.name}, which takes {own}; received: {size}.")
    return size


def _first_of_last_stage(model):
    """Return the index of the first layer after the last feature map that is larger than the final one.

    Smaller maps before it, such as those of squeeze-and-excitation, are ignored.
    """
    sizes = {}
    if isinstance(model, (keras.Sequential, keras.Function)):
        for name, (tensor, *_) in tensors_of_layers(model).items():
            if len(tensor.shape) == 4 and None not in tensor.shape[1:]:
                sizes[name] = image_size(tensor.shape)
    maps = [(index, sizes[layer.name]) for index, layer in enumerate(model.layers) if layer.name in sizes]
    larger = [index for index, size in maps if size > maps[-1][1]]
    if not larger:
        raise ValueError(
            "Expected a network with feature maps of known and decreasing size for unfreeze='last_stage'; "
            f"{model.name} has none. Pass patterns of its layer names instead."
        )
    return larger[-1] + 1
