"""The model that an export writes, made from a user's model without changing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_resattn.models.class_names import model_class_names
from keras_resattn.models.inspection import iter_layers
from keras_resattn.recipes.checks import resolve_statistics
from keras_resattn.recipes.loss_and_metrics import returns_logits
from keras_resattn.recipes.transfer import with_normalization
from keras_resattn.utils import provenance
from keras_resattn.utils.data_format import channel_axis, image_shape, image_size
from keras_resattn.utils.validation import check_class_names, check_count, some_names

OTHER_FLOATS = {"float16", "bfloat16", "float64"}


@dataclass(frozen=True)
class DeployedNetwork:
    """A network as it is exported.

    Attributes:
        model: Model to convert, in float32; it shares the layers of the user's model where that is in float32.
        reference: Model that computes the expected outputs; takes normalised images.
        input_shape: Shape of the input, with `None` for open sizes.
        statistics: `(mean, std)` of images from 0 to 255 that `reference` expects, or `None` if unknown.
        normalizes: Whether `model` normalises images and `reference` does not.
        class_names: Names of the classes, or `None` if unknown.
        outputs: `"probabilities"`, `"logits"`, or `None` for a network that is not recognised as a classifier.
    """

    model: keras.Model
    reference: keras.Model
    input_shape: tuple[int | None, ...]
    statistics: Any
    normalizes: bool
    class_names: list[str] | None
    outputs: str | None

    @property
    def metadata(self) -> dict[str, Any]:
        """Description of input and outputs that is stored in the file, for JSON.

        `mean` and `std` are those of `(image - mean) / std`, to apply to images from 0 to 255 before the file is run.
        """
        data: dict[str, Any] = {
            "name": self.reference.name,
            "input_shape": list(self.input_shape),
            "data_format": keras.config.image_data_format(),
        }
        if self.statistics is not None:
            mean, std = self.statistics
            if self.normalizes:
                mean, std = [0.0] * len(mean), [1.0] * len(std)
            data |= {"mean": mean, "std": std}
        if self.class_names is not None:
            data["class_names"] = self.class_names
        if self.outputs is not None:
            data["outputs"] = self.outputs
        return data | {"keras_resattn_version": provenance.package_version()}


def deployed_network(
    model: keras.Model,
    batch_size: int | None,
    size: int | tuple[int, int] | None,
    statistics: Any,
    include_preprocessing: bool,
    class_names: Sequence[str] | None,
) -> DeployedNetwork:
    """Return the network to export; the arguments are those of `keras_resattn.export`.

    Raises:
        ValueError: If the model or an argument cannot be exported.
    """
    check_model(model)
    if isinstance(model, keras.Sequential):  # one that was never called has no `input`
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    shape = _input_shape(model, batch_size, size)
    channels: Any = shape[channel_axis()]
    statistics = resolve_statistics(model, statistics, channels, image_size(shape))
    if include_preprocessing:
        _check_preprocessing(model, statistics, channels)
    names = _class_names(model, class_names)
    reference = in_float32(model)
    exported = with_normalization(reference, *statistics) if include_preprocessing else reference
    return DeployedNetwork(exported, reference, shape, statistics, include_preprocessing, names, _outputs(model))


def check_model(model: Any) -> None:
    """Raise a `ValueError` for models that cannot be exported: they take no images, or are not a static graph."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model; received: {type(model).__name__}.")
    if not isinstance(model, (keras.Function, keras.Sequential)) or not model.built:
        raise ValueError(
            f"Expected a functional or built sequential model; received: {model.name}, a {type(model).__name__} "
            "without a graph. Call it on a keras.Input and wrap both: keras.Model(inputs, outputs)."
        )
    if len(model.inputs) == 1 and model.inputs[0].shape[:1] != (None,):
        raise ValueError(
            f"Expected a model for batches of any size; {model.name} has input {tuple(model.inputs[0].shape)}. "
            "Build it on keras.Input(shape=...), and pass batch_size."
        )
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
        raise ValueError(f"Expected a model with one input, a batch of images; {model.name} has inputs {shapes}.")
    channels = model.inputs[0].shape[channel_axis()]
    if channels is None:
        raise ValueError(
            f"Expected a known number of channels, {keras.config.image_data_format()}; {model.name} has input "
            f"{tuple(model.inputs[0].shape)}. If its channels are elsewhere, call keras.config.set_image_data_format."
        )
    quantized = [layer.name for layer in iter_layers(model) if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise ValueError(
            f"Expected a model without quantised layers; received: {model.name}, with {quantized[0]}. Export the model "
            "as it was before, and quantise the file with the tools of its runtime."
        )


def in_float32(model: keras.Model) -> keras.Model:
    """Return a float32 model with the weights of `model`, not compiled, which shares its layers if possible.

    Runtimes choose their own precision, and not all of them know bfloat16, so a model under a mixed policy is rebuilt
    in float32. Its variables are float32 already.
    """
    if not any(OTHER_FLOATS & {layer.compute_dtype, layer.variable_dtype} for layer in iter_layers(model)):
        return keras.Model(model.input, model.output, name=model.name)
    config = _with_float32_layers(keras.saving.serialize_keras_object(model))
    config.pop("compile_config", None)
    copy: Any = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    return copy


def _with_float32_layers(config):
    """Return the configuration of a model with the dtype of each layer replaced by float32."""
    if isinstance(config, dict):
        return {
            key: "float32" if key == "dtype" and _is_float(value) else _with_float32_layers(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(_with_float32_layers, config))
    return config


def _is_float(dtype):
    name = dtype.get("config", {}).get("name", "") if isinstance(dtype, dict) else str(dtype)
    return "float" in name


def _input_shape(model, batch_size, size):
    batch = None if batch_size is None else check_count("batch_size", batch_size)
    shape = tuple(model.inputs[0].shape)
    own = image_size(shape)
    if size is not None:
        sides = size if isinstance(size, (tuple, list)) else (size, size)
        wanted = tuple(check_count("image_size", side) for side in sides)
        if len(wanted) != 2 or any(side not in (None, want) for side, want in zip(own, wanted, strict=True)):
            raise ValueError(
                f"Expected image_size=(height, width) that {model.name} accepts, whose input is {shape}; "
                f"received: image_size={size!r}."
            )
        own = wanted
    return batch, *image_shape(*own, shape[channel_axis()])


def check_open_size(network: DeployedNetwork, format: str) -> None:
    """Raise a `ValueError` if a format and the current backend cannot leave the image size open."""
    backend = keras.backend.backend()
    if backend != "tensorflow" and None in image_size(network.input_shape):
        raise ValueError(
            f"Expected image_size for an export to {format} on {backend}, because {network.reference.name} has input "
            f"shape {network.input_shape}. Only TensorFlow exports networks of open image size."
        )


def check_groups(network: DeployedNetwork, format: str) -> None:
    """Raise a `ValueError` for grouped convolutions that the format cannot get from the current backend.

    Keras compiles them with XLA on TensorFlow, which tf2onnx cannot convert.
    """
    if format != "onnx" or keras.backend.backend() != "tensorflow":
        return
    kinds = keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D
    grouped = [each.name for each in iter_layers(network.model) if isinstance(each, kinds) and each.groups > 1]
    if grouped:
        raise ValueError(
            f"Expected the backend torch for an export of grouped convolutions to ONNX; {network.reference.name} has "
            f"them ({some_names(grouped, 3)}), and the backend is tensorflow. Set KERAS_BACKEND before Keras is "
            "imported, and load the same weights."
        )


def _check_preprocessing(model, statistics, channels):
    if statistics is None:
        raise ValueError(
            "Expected statistics=(mean, std), for images from 0 to 255, with include_preprocessing=True; received: "
            "none. A released checkpoint has them: keras_resattn.pretrained.find(tag)[0].mean and .std."
        )
    if np.ndim(statistics[0]) > 1:
        raise ValueError(
            "Expected one mean for each channel with include_preprocessing=True; received: a mean image. Subtract it "
            "before the exported file is run."
        )
    if statistics == ([0.0] * channels, [1.0] * channels):
        raise ValueError(
            f"Expected include_preprocessing=False with {model.name}, which normalises its images itself or takes raw "
            "images."
        )


def _class_names(model, class_names):
    if class_names is None:
        return model_class_names(model)
    outputs = model.output_shape
    return check_class_names(class_names, outputs[-1] if isinstance(outputs, tuple) and len(outputs) == 2 else None)


def _outputs(model):
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        return None
    try:
        return "logits" if returns_logits(model) else "probabilities"
    except ValueError:  # its last layer does not show it
        return None
