"""The network that a command uses: a released checkpoint, a file, a folder, a Hub repository, or a finished run."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_resattn import pretrained
from keras_resattn.cli.network_arguments import NetworkChoice
from keras_resattn.models import registry
from keras_resattn.pretrained import hub
from keras_resattn.pretrained.records import Checkpoint
from keras_resattn.typing import PathLike

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Network:
    """A network that classifies images, with everything needed to preprocess images for it.

    Attributes:
        name: Name in printed output.
        model: The `keras.Model`.
        mean: Mean of images (0 to 255): per channel, or a mean image. 0 for a model that normalises images itself.
        std: Standard deviation per channel. 1 for a model that normalises images itself.
        class_names: Names of the classes, or `None` if unknown.
        resize_mode: Resize mode of the training images; see `keras_resattn.data.open_dataset`.
        default_size: Height and width of images, for a model of variable input size.
    """

    name: str
    model: Any
    mean: Any
    std: Any
    class_names: list[str] | None
    resize_mode: str = "crop"
    default_size: int | None = None

    @property
    def size(self) -> tuple[Any, ...]:
        """Height and width of the images."""
        from keras_resattn.utils.data_format import image_size

        lengths = image_size(self.model.input_shape)
        return tuple(self.default_size if length is None else length for length in lengths)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        from keras_resattn.utils.data_format import image_channels

        return image_channels(self.model.input_shape)

    def preprocess(self, images: "np.ndarray") -> "np.ndarray":
        """Return images `(n, h, w, c)`, 0 to 255, as input of the model."""
        from keras_resattn.data import network_input

        return network_input(images, self.mean, self.std)

    def probabilities(self, images: "np.ndarray") -> "np.ndarray":
        """Return class probabilities, `(n, classes)` float64, of images `(n, h, w, c)`, 0 to 255."""
        import numpy as np

        from keras_resattn.recipes.loss_and_metrics import returns_logits

        outputs = np.asarray(self.model.predict(self.preprocess(images), verbose=0), "float64")
        if not returns_logits(self.model):
            return outputs
        exponentials = np.exp(outputs - outputs.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def top_classes(self, images: "np.ndarray", top: int) -> list[list[tuple[int, str | None, float]]]:
        """Return the most probable classes of each image: lists of `(index, name or None, probability)`."""
        values = self.probabilities(images)
        order = (-values).argsort(axis=1, kind="stable")[:, :top]
        names = self.class_names or [None] * values.shape[1]
        return [[(int(i), names[i], float(row[i])) for i in best] for row, best in zip(values, order, strict=True)]


def class_label(index: int, name: str | None) -> str:
    """Return the label of a class in tables and figures."""
    return f"class {index}" if name is None else name


def load_network(choice: NetworkChoice) -> Network:
    """Return the `Network` of a `NetworkChoice`, of any input size and with any outputs.

    Raises:
        ValueError: If the network is damaged.
        OSError: If a download fails.
    """
    return _OPEN[choice.kind](choice)


def open_network(choice: NetworkChoice) -> Network:
    """Return the `Network` of a `NetworkChoice`.

    Raises:
        ValueError: If the network is damaged, or is not a classifier of images with one size.
        OSError: If a download fails.
    """
    network = load_network(choice)
    shape, outputs = network.model.input_shape, network.model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ValueError(
            "Expected a network with images as input and one score per class as output; "
            f"{network.name} has input {shape} and output {outputs}."
        )
    if outputs[1] == 1:
        raise ValueError(f"Expected one score per class; {network.name} returns one number per image.")
    if None in network.size:
        raise ValueError(f"Expected --size, the height and width of images, for {network.name} with input {shape}.")
    if choice.size is not None and network.size != (choice.size, choice.size):
        raise ValueError(f"Expected --size only for a network of any input size; {network.name} has input {shape}.")
    if network.channels not in (1, 3):
        raise ValueError(f"Expected a network for images with 1 or 3 channels; {network.name} has input {shape}.")
    if network.class_names is not None and len(network.class_names) != outputs[1]:
        raise ValueError(f"Expected {outputs[1]} class names with {network.name}; it has {len(network.class_names)}.")
    return network


def open_tag(choice: NetworkChoice) -> Checkpoint:
    """Return the released `Checkpoint` of a choice, downloaded from the Hub if necessary.

    Raises:
        ValueError: If files are damaged, or the record is invalid.
        OSError: If the download fails.
    """
    if choice.kind == "tag":
        return choice.source
    tag, address = hub.read_record(hub.Address.parse(choice.source))
    with hub.open_tensors(tag, address):
        return tag


def load_model(file: PathLike) -> Any:
    """Return the model of a `.keras` or `.h5` file, not compiled.

    Raises:
        ValueError: If the file cannot be read; the message names it.
    """
    import keras

    try:
        return keras.models.load_model(file, compile=False)
    except Exception as error:  # damaged files raise errors of many types
        raise ValueError(
            f"Expected {file} to be a saved Keras model; it cannot be loaded ({_first_line(error)})."
        ) from error


def normalization_of(model: Any, choice: NetworkChoice) -> tuple[Any, Any]:
    """Return the mean and standard deviation that normalise images for the model of a file.

    Raises:
        ValueError: If the model does not normalise images itself, and the choice has no mean and standard deviation.
    """
    if choice.mean is not None:
        return _per_channel("mean", choice.mean, model), _per_channel("std", choice.std, model)
    if _normalizes(model):
        return 0.0, 1.0
    raise ValueError(
        f"Expected {choice.source} to hold a model that normalizes images itself (with a Normalization or Rescaling "
        "layer; `fine-tune` saves such a model), or --mean and --std; received: neither."
    )


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _open_tag(choice):
    from keras_resattn import evaluation

    tag = open_tag(choice)
    return Network(tag.id, evaluation.load_checkpoint(tag), tag.mean, tag.std, list(tag.classes))


def _open_run(choice):
    from keras_resattn.evaluation import check_data_format, load_run
    from keras_resattn.preprocessing import class_names_of
    from keras_resattn.recipes.run_folder import read_report

    folder = choice.source
    report = read_report(folder)
    check_data_format(report, folder)
    sizes = report["recipe"].get("image_sizes") or [(None, choice.size)]
    return Network(
        choice.name,
        load_run(folder),
        report["mean"],
        report["std"],
        class_names_of(folder, None),
        resize_mode=report.get("resize_mode") or "crop",
        default_size=choice.size or sizes[-1][1],
    )


def _open_model(choice):
    from keras_resattn.preprocessing import class_names_of

    model = load_model(choice.source)
    mean, std = normalization_of(model, choice)
    return Network(str(choice.source), model, mean, std, class_names_of(model, None), default_size=choice.size)


def _open_weights(choice):
    from keras_resattn.layers.names import CLASSIFIERS

    file = choice.source
    tensors = pretrained.read_tensors(file)
    top = next((tensors[name] for name in CLASSIFIERS if name in tensors), None)
    if top is None:
        raise ValueError(f"Expected weights with a classifier in {file}; it has no layer `predictions`.")
    network = registry.create_model(choice.model, weights=str(file), classes=int(top["0"].shape[-1]))
    mean, std = normalization_of(network, choice)
    return Network(str(file), network, mean, std, None)


_OPEN = {"tag": _open_tag, "hub": _open_tag, "run": _open_run, "model": _open_model, "weights": _open_weights}


def _per_channel(option, values, model):
    """Return `--mean` or `--std` with one number per channel of a model's input."""
    from keras_resattn.utils.data_format import image_channels

    channels = image_channels(model.input_shape)
    if (
        len(values) not in (1, channels)
        or not all(map(math.isfinite, values))
        or (option == "std" and min(values) <= 0)
    ):
        raise ValueError(f"Expected --{option} with 1 or {channels} numbers; received: {' '.join(map(str, values))}.")
    return values * channels if len(values) == 1 else values


def _normalizes(model):
    import keras

    kinds = keras.layers.Normalization, keras.layers.Rescaling
    return any(
        isinstance(layer, kinds) or (isinstance(layer, keras.Model) and _normalizes(layer)) for layer in model.layers
    )
