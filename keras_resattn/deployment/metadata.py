"""Write class names and the normalisation of images into exported files, where each format has a place for them."""

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_resattn.deployment.formats import INPUT_NAME

#: Name of the JSON file inside LiteRT, SavedModel and PyTorch exports.
METADATA = "metadata.json"
#: Section of OpenVINO's runtime information.
SECTION = "keras_resattn"


def write_metadata(path: Path, format: str, data: Mapping[str, Any]) -> None:
    """Add metadata to an exported file.

    Args:
        path: Path of the file or folder, which is changed.
        format: Its format.
        data: JSON values by name.
    """
    _WRITERS[format](path, data)


def as_text(value: Any) -> str:
    """Return a value of the metadata as a string: itself if it is one, otherwise as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _onnx(path, data):
    import onnx

    model = onnx.load(path)
    _rename_outputs(model.graph)
    for node in model.graph.node:
        node.ClearField("metadata_props")  # from PyTorch, stack traces with paths of this machine
    onnx.helper.set_model_props(model, {name: as_text(value) for name, value in data.items()})
    onnx.save(model, path)


def _rename_outputs(graph):
    """Name the outputs of an ONNX graph `output_0`, `output_1` and so on; converters use names of inner nodes."""
    names = {output.name: f"output_{i}" for i, output in enumerate(graph.output)}
    for output in graph.output:
        output.name = names[output.name]
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]


def _openvino(path, data):
    import openvino

    runtime: Any = openvino
    converted = runtime.Core().read_model(path)
    model = runtime.Model(_openvino_results(converted), converted.get_parameters(), data["name"])
    for i, output in enumerate(model.outputs):
        output.tensor.set_names({f"output_{i}"})
    # From PyTorch, every size is open.
    model.reshape(openvino.PartialShape([-1 if size is None else size for size in data["input_shape"]]))
    model.inputs[0].tensor.set_names({INPUT_NAME})
    for name, value in data.items():
        model.set_rt_info(as_text(value), [SECTION, name])
    rewritten = path.with_name("rewritten.xml")
    openvino.serialize(model, rewritten)
    del converted, model  # they map the weights of the file into memory
    for suffix in (".xml", ".bin"):
        rewritten.with_suffix(suffix).replace(path.with_suffix(suffix))


def _openvino_results(model):
    """Return the nodes of the outputs. From TensorFlow, inner tensors without consumers are outputs too."""
    named = {}
    for output in model.outputs:
        for name in output.names:
            if found := re.fullmatch(r"Identity(?:_(\d+))?(?::0)?", name):  # TensorFlow's name of an output
                named[int(found[1] or 0)] = output.get_node()
    return [named[i] for i in sorted(named)] or model.get_results()


def _litert(path, data):
    # LiteRT's place for files that belong to a model: a ZIP archive after the model's own bytes.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(data, indent=2))
        if "class_names" in data:
            archive.writestr("labels.txt", "\n".join(data["class_names"]))


def _tf_saved_model(path, data):
    folder = path / "assets.extra"  # TensorFlow's folder for files that the graph does not read
    folder.mkdir()
    (folder / METADATA).write_text(json.dumps(data, indent=2), encoding="utf-8")


def _torch(path, data):
    import torch

    program = torch.export.load(path)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine
    torch.export.save(program, path, extra_files={METADATA: json.dumps(data, indent=2)})


_WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "litert": _litert,
    "tf_saved_model": _tf_saved_model,
    "torch": _torch,
}
