"""What a fresh process does once: each function returns the seconds of the part that counts."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(action):
    """Run an action, `{"do": function, ...}`. Return its seconds."""
    action = dict(action)
    return {"command": command, "imports": imports, "build": build, "load": load, "export": export}[action.pop("do")](
        **action
    )


def command(arguments):
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def imports(statement):
    started = time.perf_counter()
    exec(statement, {})
    return time.perf_counter() - started


def build(network, size, classes):
    """Return the seconds to build a network, without the imports."""
    import _steps
    import _suites

    path = _suites.Path(network, "torch")
    if path.library == "pytorchcv":
        import pytorchcv.models.resattnet  # noqa: F401

        started = time.perf_counter()
        _steps.build_peer(network, size, classes)
    else:
        _import_builder(network)
        started = time.perf_counter()
        _steps.build_network(path, {"size": size, "classes": classes})
    return time.perf_counter() - started


def load(network):
    """Return the seconds to build a network with its released weights, without the imports."""
    _import_builder(network)
    import keras_resattn

    started = time.perf_counter()
    keras_resattn.create_model(network)
    return time.perf_counter() - started


def _import_builder(network):
    """Import everything that building a network needs; `import keras_resattn` alone does not import Keras."""
    import keras_resattn
    from keras_resattn.utils.network_ids import builder_call

    getattr(keras_resattn, builder_call(network)[0])


def export(network, size, classes, format, dtype="float32", target=None):
    """Export a network to a file. Return the seconds, without building the network."""
    import _steps
    import _suites
    import numpy as np

    path = _suites.Path(network, "tensorflow")
    model = _steps.build_network(path, {"size": size, "classes": classes})
    with tempfile.TemporaryDirectory() as folder:
        file = target or str(Path(folder) / f"network{SUFFIXES[format]}")
        started = time.perf_counter()
        if path.library == "keras_resattn":
            import keras_resattn

            options = {"tolerance": 1.0}  # with random weights, rounding may change the most probable class
            if dtype == "int8":
                images = np.random.default_rng(0).normal(size=(16, size, size, 3)).astype("float32")
                options |= {"quantization": "int8", "calibration_images": images}
            keras_resattn.export(model, file, format=format, **options)
        else:
            model(np.zeros((1, size, size, 3), "float32"))  # Keras exports only models that have been called
            model.export(file, format=format, verbose=False)
        return time.perf_counter() - started


SUFFIXES = {"openvino": ".xml", "onnx": ".onnx", "tf_saved_model": ""}
