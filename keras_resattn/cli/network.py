"""The network that a command uses: released, in a file, in a folder, on the Hub, or the end of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_resattn import pretrained
from keras_resattn.cli.selection import Choice
from keras_resattn.layers.names import CLASSIFIERS
from keras_resattn.models import registry
from keras_resattn.pretrained.records import RECORD, Checkpoint
from keras_resattn.typing import PathLike


@dataclass(frozen=True)
class Network:
    """A network that classifies images.

    Attributes:
        name: Its name in what is printed.
        model: The `keras.Model`.
        mean: Mean of images, 0 to 255: of each channel, or an image. 0 for a model that normalises images itself.
        std: Standard deviation of each channel, likewise 1.
        class_names: Names of the classes, or `None` where they are not known.
        resize_mode: How training images were resized, see `keras_resattn.data.open_dataset`.
        side: Height and width of the images, for a model that takes any.
    """

    name: str
    model: Any
    mean: Any
    std: Any
    class_names: list[str] | None
    resize_mode: str = "crop"
    side: int | None = None

    @property
    def size(self) -> tuple[Any, ...]:
        """Height and width of the images."""
        import keras

        axes = (1, 2) if keras.config.image_data_format() == "channels_last" else (2, 3)
        own = [self.model.input_shape[axis] for axis in axes]
        return tuple(self.side if length is None else length for length in own)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        import keras

        return self.model.input_shape[-1 if keras.config.image_data_format() == "channels_last" else 1]

    def input(self, images: np.ndarray) -> np.ndarray:
        """Return images `(n, h, w, c)`, 0 to 255, as the model takes them."""
        from keras_resattn.data import network_input

        return network_input(images, self.mean, self.std)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes for images `(n, h, w, c)`, 0 to 255, as `(n, classes)` float."""
        from keras_resattn.recipes.loss_and_metrics import returns_logits

        outputs = np.asarray(self.model.predict(self.input(images), verbose=0), "float64")
        if not returns_logits(self.model):
            return outputs
        exponentials = np.exp(outputs - outputs.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)

    def best(self, images: np.ndarray, top: int) -> list[list[tuple[int, str | None, float]]]:
        """Return the most probable classes of each image: lists of `(index, name or None, probability)`."""
        values = self.probabilities(images)
        order = np.argsort(-values, axis=1, kind="stable")[:, :top]
        names = self.class_names or [None] * values.shape[1]
        return [[(int(i), names[i], float(row[i])) for i in best] for row, best in zip(values, order, strict=True)]


def class_label(index: int, name: str | None) -> str:
    """Return what a class is called in tables and figures."""
    return f"class {index}" if name is None else name


def open_network(choice: Choice) -> Network:
    """Return the `Network` of a `Choice`.

    Raises:
        ValueError: if it is damaged, or not a classifier of images of one size.
        OSError: if a download fails.
    """
    network = _OPEN[choice.kind](choice)
    shape, outputs = network.model.input_shape, network.model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ValueError(
            "Expected a network that takes images and returns a score for each class; "
            f"{network.name} takes {shape} and returns {outputs}."
        )
    if outputs[1] == 1:
        raise ValueError(f"Expected a score for each class; {network.name} returns one number for an image.")
    if None in network.size:
        raise ValueError(f"Expected --size, the height and width of images, for {network.name}, which takes {shape}.")
    if choice.side is not None and network.size != (choice.side, choice.side):
        raise ValueError(f"Expected --size only for a network that takes any; {network.name} takes {shape}.")
    if network.channels not in (1, 3):
        raise ValueError(f"Expected a network of images with 1 or 3 channels; {network.name} takes {shape}.")
    if network.class_names is not None and len(network.class_names) != outputs[1]:
        raise ValueError(f"Expected {outputs[1]} class names with {network.name}; it has {len(network.class_names)}.")
    return network


def open_tag(choice: Choice) -> Checkpoint:
    """Return the `Checkpoint` of a choice of released weights, downloaded from the Hub if need be.

    Raises:
        ValueError: if the files are damaged, or the record is none.
        OSError: if the download fails.
    """
    if choice.kind == "tag":
        return choice.where
    from huggingface_hub import hf_hub_download

    from keras_resattn.pretrained.resolution import WeightsSource

    repository, _, revision = choice.where.removeprefix("hf://").partition("@")
    try:
        record = hf_hub_download(repository, RECORD, revision=revision or None)
        tag = Checkpoint.read(Path(record).parent)
        with WeightsSource(tag.network, repository=repository, revision=revision or None).open():
            pass  # the file is there now, with the hash of the record
    except ValueError:
        raise
    except Exception as error:  # the Hub's client raises errors of many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"Expected {choice.where} to be downloaded, which failed: {reason}") from error
    return tag


def _open_tag(choice):
    from keras_resattn import evaluation

    tag = open_tag(choice)
    return Network(tag.id, evaluation.load_checkpoint(tag), tag.mean, tag.std, list(tag.classes))


def _open_run(choice):
    from keras_resattn.evaluation import check_data_format, load_run
    from keras_resattn.preprocessing import class_names_of
    from keras_resattn.recipes.run_folder import read_report

    folder = choice.where
    report = read_report(folder)
    check_data_format(report, folder)
    sizes = report["recipe"].get("image_sizes") or [(None, choice.side)]
    return Network(
        str(folder),
        load_run(folder),
        report["mean"],
        report["std"],
        class_names_of(folder, None),
        resize_mode=report.get("resize_mode") or "crop",
        side=choice.side or sizes[-1][1],
    )


def _open_model(choice):
    from keras_resattn.preprocessing import class_names_of

    model = load_model(choice.where)
    mean, std = statistics_of(model, choice)
    return Network(str(choice.where), model, mean, std, class_names_of(model, None), side=choice.side)


def load_model(file: PathLike) -> Any:
    """Return the model of a `.keras` or `.h5` file, not compiled.

    Raises:
        ValueError: if it cannot be read; the message names the file.
    """
    import keras

    try:
        return keras.models.load_model(file, compile=False)
    except Exception as error:  # damaged files raise errors of many types
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"Expected {file} to be a model that Keras saved; it cannot be read as one ({reason})."
        ) from error


def statistics_of(model: Any, choice: Choice) -> tuple[Any, ...]:
    """Return the mean and standard deviation that images are normalised with for the model of a file.

    Raises:
        ValueError: if neither the model normalises images itself nor the choice says how.
    """
    import keras

    if choice.mean is not None:
        channels = model.input_shape[-1 if keras.config.image_data_format() == "channels_last" else 1]
        return tuple(_per_channel(option, getattr(choice, option), channels) for option in ("mean", "std"))
    if _normalises(model):
        return 0.0, 1.0
    raise ValueError(
        f"Expected {choice.where} to hold a model that normalises images itself (with a Normalization or Rescaling "
        "layer; `fine-tune` saves such a model), or --mean and --std; received: neither."
    )


def _per_channel(option, values, channels):
    if len(values) not in (1, channels) or not np.isfinite(values).all() or (option == "std" and min(values) <= 0):
        raise ValueError(f"Expected --{option} with 1 or {channels} numbers; received: {' '.join(map(str, values))}.")
    return values * channels if len(values) == 1 else values


def _normalises(model):
    import keras

    kinds = keras.layers.Normalization, keras.layers.Rescaling
    return any(
        isinstance(layer, kinds) or (isinstance(layer, keras.Model) and _normalises(layer)) for layer in model.layers
    )


def _open_weights(choice):
    file, model = choice.where, choice.model
    tensors = pretrained.read_tensors(file)
    top = next((tensors[name] for name in CLASSIFIERS if name in tensors), None)
    if top is None:
        raise ValueError(f"Expected weights with a classifier in {file}; it has no layer `predictions`.")
    network = registry.create_model(model, weights=str(file), classes=int(top["0"].shape[-1]))
    mean, std = statistics_of(network, choice)
    return Network(str(file), network, mean, std, None)


_OPEN = {"tag": _open_tag, "hub": _open_tag, "run": _open_run, "model": _open_model, "weights": _open_weights}
