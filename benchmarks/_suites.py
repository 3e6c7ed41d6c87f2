"""The measurements of `benchmarks/run.py`, as data: suites of paths that are measured in turn with one peer."""

import dataclasses
from dataclasses import dataclass

BACKENDS = ("tensorflow", "jax", "torch")
RUNTIMES = ("openvino", "onnxruntime")
PEERS = ("resattnet56", "resattnet92", "resattnet452")
APPLICATIONS = ("ResNet50V2", "ResNet152V2")


@dataclass(frozen=True)
class Path:
    """A way to run a network.

    Attributes:
        network: A network id of this package, a function of pytorchcv, or a class of `keras.applications`.
        engine: A Keras backend, `"openvino"` or `"onnxruntime"`; pytorchcv's networks run on `"torch"`.
        dtype: `"float32"`, `"bfloat16"` or `"int8"`.
        options: Any of `"channels_last"`, `"channels_first"` (the default is the library's own), `"compiled"` (XLA or
            `torch.compile`), `"optimized"` (`optimize_for_inference`), and `"keras_bn"` (Keras' own batch
            normalization).
    """

    network: str
    engine: str
    dtype: str = "float32"
    options: tuple[str, ...] = ()

    @property
    def library(self):
        if self.network in PEERS:
            return "pytorchcv"
        return "keras.applications" if self.network in APPLICATIONS else "keras_resattn"

    @property
    def name(self):
        return " ".join((self.network, self.engine, self.dtype, *self.options))

    @property
    def backend(self):
        """The Keras backend of the process; runtimes do not import Keras."""
        return self.engine if self.engine in BACKENDS else "tensorflow"

    def columns(self):
        """Return the columns that describe the path in a row of results."""
        described = {"network": self.network, "library": self.library, "engine": self.engine}
        return {**described, "dtype": self.dtype, "options": " ".join(self.options)}


@dataclass(frozen=True)
class Suite:
    """Steps of several paths on one kind of batch, each measured in turn with the same peer.

    Attributes:
        name: Name of the suite.
        mode: `"inference"` or `"training"`.
        size: Side of the images.
        batch_size: Number of images in a step.
        classes: Number of classes.
        peer: The path that all others are compared with.
        paths: The measured paths. The peer itself may be one: the ratio is then the noise of the measurement.
    """

    name: str
    mode: str
    size: int
    batch_size: int
    classes: int
    peer: Path
    paths: tuple[Path, ...]

    def task(self):
        """Return the settings of a step, as JSON content."""
        return {"mode": self.mode, "size": self.size, "batch_size": self.batch_size, "classes": self.classes}


@dataclass(frozen=True)
class Once:
    """Something that a fresh process does once: importing, building, loading, exporting, or a whole command.

    Attributes:
        name: Name in the results.
        action: `{"do": function of _once.py, and its arguments}`.
        backend: Keras backend of the process; `""` for a command that imports none.
        peer: Name and action of the peer, or `None`.
        repeats: Number of processes of each.
    """

    name: str
    action: dict
    backend: str = "tensorflow"
    peer: tuple[str, dict] | None = None
    repeats: int = 5

    def columns(self):
        """Return the columns that describe the row of results."""
        return {"network": self.action.get("network", ""), "library": "keras_resattn", "engine": self.backend}


def paths(network, engine, dtypes=("float32",), *options):
    """Return the paths of one network and engine in several dtypes."""
    return tuple(Path(network, engine, dtype, options) for dtype in dtypes)


BOTH = ("float32", "bfloat16")
OURS, PEER = "ResidualAttention56", "resattnet56"
REFERENCE = Path(PEER, "torch", "float32", ("channels_last",))

# The fastest paths first, and each path of a peer beside the path of ours that competes with it.
INFERENCE = (
    *paths(PEER, "torch", BOTH, "channels_last"),
    *paths(OURS, "openvino", ("bfloat16", "float32", "int8")),
    *paths(PEER, "torch", BOTH, "channels_last", "compiled"),
    *paths(OURS, "tensorflow", BOTH, "optimized"),
    *paths(OURS, "torch", BOTH, "optimized"),
    *paths(OURS, "torch", BOTH, "optimized", "compiled"),
    *paths(OURS, "onnxruntime", ("float32", "int8")),
    *paths(OURS, "tensorflow", BOTH),
    *paths(PEER, "torch", BOTH),
    *paths(PEER, "torch", ("float32",), "compiled"),
    *paths("ResNet152V2", "openvino", BOTH),
    *paths("ResNet152V2", "tensorflow", BOTH),
    *paths(OURS, "torch", BOTH),
    *paths(OURS, "torch", BOTH, "channels_first"),
    *paths(OURS, "jax", BOTH),
    *paths(OURS, "jax", ("float32",), "optimized"),
    *paths(OURS, "tensorflow", ("float32",), "compiled"),
    *paths(OURS, "tensorflow", ("float32",), "channels_first"),
    *paths("ResNet50V2", "openvino"),
    *paths("ResNet50V2", "tensorflow"),
    *paths("resattnet92", "torch", ("bfloat16",), "channels_last"),
    *paths("ResidualAttention92", "openvino", ("bfloat16",)),
)
TRAINING = (
    *paths(PEER, "torch", BOTH, "channels_last"),
    *paths(OURS, "tensorflow", BOTH),
    *paths(PEER, "torch", BOTH, "channels_last", "compiled"),
    *paths(OURS, "torch", BOTH),
    *paths(OURS, "torch", BOTH, "channels_first"),
    *paths(OURS, "jax"),
    *paths(PEER, "torch"),
)
# For other batch sizes: the fastest paths that need no compiler.
SHORT = (
    *paths(PEER, "torch", BOTH, "channels_last"),
    *paths(OURS, "openvino", ("float32", "bfloat16", "int8")),
    *paths(OURS, "tensorflow", ("bfloat16",), "optimized"),
    *paths(OURS, "torch", ("bfloat16",), "optimized"),
)
SMALL = (
    *paths(PEER, "torch", BOTH, "channels_last"),
    *paths(OURS, "tensorflow", BOTH),
    *paths(OURS, "tensorflow", BOTH, "keras_bn"),
    *paths(OURS, "torch", BOTH),
    *paths(OURS, "torch", ("bfloat16",), "keras_bn"),
    *paths(OURS, "jax"),
)
CIFAR = "CifarResidualAttention56"
CIFAR_TRAINING = (
    *paths(CIFAR, "tensorflow", BOTH),
    *paths(CIFAR, "torch", BOTH),
    *paths(CIFAR, "jax"),
)
CIFAR_INFERENCE = (
    *CIFAR_TRAINING,
    *paths(CIFAR, "tensorflow", ("bfloat16",), "optimized"),
    *paths(CIFAR, "openvino", ("float32", "bfloat16", "int8")),
)
CIFAR_PEER = Path(CIFAR, "tensorflow")


def warn(backend, mode):
    """Return the suite that compares WARN with the Wide ResNet that it extends, on one backend."""
    wide = Path("WideResNet-28-10", backend)
    return Suite(f"warn_{backend}_{mode}", mode, 32, 16, 10, wide, (Path("WARN-28-10", backend),))


SUITES = (
    Suite("inference_224_b8", "inference", 224, 8, 1000, REFERENCE, INFERENCE),
    Suite("training_224_b8", "training", 224, 8, 1000, REFERENCE, TRAINING),
    *(warn(backend, mode) for backend in BACKENDS for mode in ("inference", "training")),
    Suite("inference_224_b1", "inference", 224, 1, 1000, REFERENCE, SHORT),
    Suite("inference_224_b32", "inference", 224, 32, 1000, REFERENCE, SHORT),
    Suite("training_64_b64", "training", 64, 64, 200, REFERENCE, SMALL),
    Suite("inference_32_b128", "inference", 32, 128, 10, CIFAR_PEER, CIFAR_INFERENCE),
    Suite("training_32_b128", "training", 32, 128, 10, CIFAR_PEER, CIFAR_TRAINING),
)


def _starting():
    nothing = ("python -c pass", {"do": "command", "arguments": ["-c", "pass"]})
    for command in ("--help", "list"):
        action = {"do": "command", "arguments": ["-m", "keras_resattn", command]}
        yield Once(f"keras-resattn {command}", action, "", nothing, repeats=9)
    for backend in BACKENDS:
        keras = ("import keras", {"do": "imports", "statement": "import keras"})
        ours = {"do": "imports", "statement": "from keras_resattn import *"}
        yield Once("import keras_resattn", ours, backend, keras, repeats=7)
    for backend in BACKENDS:
        for network in (OURS, "ResidualAttention452"):
            action = {"do": "build", "network": network, "size": 224, "classes": 1000}
            theirs = network.replace("ResidualAttention", "resattnet")
            peer = (f"build {theirs}", {**action, "network": theirs}) if backend == "torch" else None
            yield Once(f"build {network}", action, backend, peer, repeats=2)
    for backend in BACKENDS:
        yield Once(f"load {CIFAR}/cifar10", {"do": "load", "network": CIFAR}, backend, repeats=2)
    for kind in ("openvino", "onnx", "tf_saved_model"):
        action = {"do": "export", "network": OURS, "size": 224, "classes": 1000, "format": kind}
        yield Once(f"export {OURS} to {kind}", action, repeats=1)


STARTING = ("starting", tuple(_starting()))
NAMES = (SUITES[0].name, SUITES[1].name, STARTING[0], *(suite.name for suite in SUITES[2:]))


def tiny(suite):
    """Return a suite whose steps take little time, to try the benchmark: small images and batches."""
    return dataclasses.replace(suite, size=min(suite.size, 64), batch_size=min(suite.batch_size, 2))
