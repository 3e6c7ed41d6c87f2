"""Run exported files in their own runtimes, without Keras."""

import importlib.util
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from keras_resattn.typing import PathLike

#: Takes a batch of images; returns a list of the outputs, those of a dictionary in the order of its keys.
Runner: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]


def open_runtime(path: PathLike, format: str) -> Runner:
    """Load an exported file in its runtime, on the CPU in float32.

    Args:
        path: Path of the file; of the folder, for a SavedModel.
        format: A format of `keras_resattn.export`.

    Returns:
        A function that takes a batch of images and returns the list of outputs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the runtimes
        return _RUNTIMES[format](str(path))


def _onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def _openvino(path):
    import openvino

    # Without the hint, processors with bfloat16 instructions compute in bfloat16.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: [np.array(compiled(x)[port]) for port in compiled.outputs]


def _litert(path):
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]
    else:
        from tensorflow.lite import Interpreter
    runner = Interpreter(model_path=path).get_signature_runner()
    [name] = runner.get_input_details()

    def run(x):
        outputs = runner(**{name: x})
        return [outputs[name] for name in sorted(outputs, key=_natural)]

    return run


def _natural(name):
    """Sort key that orders `output_2` before `output_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _tf_saved_model(path):
    import tensorflow as tf

    loaded: Any = tf.saved_model.load(path)  # kept, or its variables are collected
    return lambda x: [np.asarray(tensor) for tensor in tf.nest.flatten(loaded.serve(x))]


def _torch(path):
    import torch

    program = torch.export.load(path)
    module = program.module()
    device = next((tensor.device for tensor in program.state_dict.values()), "cpu")

    def run(x):
        with torch.no_grad():
            outputs = module(torch.from_numpy(x).to(device))
        return [tensor.cpu().numpy() for tensor in _flat(outputs)]

    return run


def _flat(outputs):
    """Return the tensors of nested dictionaries, lists and tuples."""
    if isinstance(outputs, dict):
        outputs = [outputs[name] for name in sorted(outputs)]
    return [tensor for each in outputs for tensor in _flat(each)] if isinstance(outputs, (list, tuple)) else [outputs]


_RUNTIMES: dict[str, Callable[[str], Runner]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "tf_saved_model": _tf_saved_model,
    "torch": _torch,
}
