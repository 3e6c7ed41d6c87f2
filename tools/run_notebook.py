"""Execute notebooks and store their outputs, which are part of the files.

    python -m tools.run_notebook examples/02_transfer_to_your_images.ipynb
    python -m tools.run_notebook examples/04_gated_attention.ipynb --set DATA=cifar10.npz TRAINING=500

`--set` replaces values of the cell tagged `parameters` for this execution; the stored cell does not change. Notebooks
run in a temporary folder beside `photos`. A notebook is stored only if its outputs hold no error, no warning and no
path of this machine.
"""

import argparse
import ast
import base64
import io
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

LARGEST = 500_000  # bytes of a notebook
# Messages of TensorFlow: of its C++ code when it starts, and about functions that several models compile.
NOISE = re.compile(
    r"^(?:WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} |WARNING:tensorflow:\d+ out of the last )"
    r".*\n?",
    re.MULTILINE,
)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="values of parameters")
    args = parser.parse_args()
    parameters = {name: _value(text) for name, _, text in (pair.partition("=") for pair in args.set)}
    for path in args.notebooks:
        notebook = executed(path, parameters)
        found = problems(notebook)
        if found:
            raise SystemExit(f"{path} was not stored, because of its outputs:\n" + "\n".join(found))
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def executed(path, parameters=None):
    """Return a notebook with the outputs of a new process in a temporary folder.

    Args:
        path: The notebook.
        parameters: `{name: value}` that replace values of the cell tagged `parameters`, for this execution.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    index = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    if parameters:
        _check_names(notebook.cells[index].source, parameters)
        assignments = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(assignments))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").symlink_to((Path(path).parent / "photos").resolve())
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.execute(env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    if parameters:
        del notebook.cells[index + 1]
    notebook.metadata = metadata
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(cells, 1):
        cell.execution_count = count
        cell.outputs = _without_noise(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            _as_jpeg(output.get("data", {}))
    return notebook


def problems(notebook):
    """Return what the outputs of a notebook should not hold: errors, warnings, paths of a machine, too many bytes."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if output.output_type == "error" or output.get("name") == "stderr" or "WARNING" in text:
                found.append(f"{cell.id}: {output.get('evalue') or text}")
            elif ABSOLUTE_PATH.search(text):
                found.append(f"{cell.id}: {ABSOLUTE_PATH.search(text).group()}")
    size = len(nbformat.writes(notebook))
    return found + [f"{size:,} bytes, more than {LARGEST:,}"] * (size > LARGEST)


def _value(text):
    """Return the Python value of an argument; a path of this folder becomes absolute, other text stays as it is."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return str(Path(text).resolve()) if Path(text).exists() else text


def _check_names(source, parameters):
    targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    known = {name.id for nodes in targets for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}
    if unknown := parameters.keys() - known:
        raise ValueError(f"Expected parameters among {sorted(known)}; received: {sorted(unknown)}.")


def _without_noise(outputs):
    for output in outputs:
        if output.output_type == "stream":
            output.text = NOISE.sub("", output.text)
    return [output for output in outputs if output.output_type != "stream" or output.text.strip()]


def _as_jpeg(data):
    """Replace the PNG of an output by a JPEG, which is several times smaller for photographs."""
    if "image/png" not in data:
        return
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
    image.save(buffer, "JPEG", quality=85, subsampling=0)
    data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main()
