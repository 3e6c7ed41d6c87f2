"""Export networks from the current backend, compare the files with Keras, and append the results to a table.

    KERAS_BACKEND=tensorflow python tools/measure_exports.py    # then jax and torch
    make tables                                                 # the documentation, from results/exports.csv

Measured rows are kept: delete those of results/exports.csv that are to be measured again.
"""

import functools
import os
import tempfile
from pathlib import Path

from keras_resattn.deployment.formats import FORMATS
from keras_resattn.utils.io import append_row, read_rows
from keras_resattn.utils.provenance import processor

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "exports.csv"
MEASURED = ("difference", "relative_difference", "agreement")
OPEN = "CifarResidualAttention56, cifar10, any image size"
TITLES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def networks():
    """Return `{name: function that builds it}`. Random networks return logits, as their softmax is nearly constant."""
    import keras

    import keras_resattn

    def rectified_mobilenet():
        base = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=10)
        return keras_resattn.attend_and_rectify(base, classes=10)

    random = {"weights": None, "classifier_activation": None}
    create = keras_resattn.create_model
    return {
        "CifarResidualAttention56, cifar10": functools.partial(create, "CifarResidualAttention56"),
        OPEN: functools.partial(create, "CifarResidualAttention56", input_shape=(None, None, 3)),
        "ResidualAttention56": functools.partial(create, "ResidualAttention56", **random),
        "WARN-16-4": functools.partial(create, "WARN-16-4", **random),
        "WideResNet-16-4": functools.partial(create, "WideResNet-16-4", **random),
        "attend_and_rectify(MobileNetV2)": rectified_mobilenet,
    }


def cases():
    """Return `(network, backend, format)` of all exports. Only TensorFlow exports a network of open image size."""
    return [
        (network, backend, name)
        for network in networks()
        for name, each in FORMATS.items()
        for backend in each.packages
        if network != OPEN or backend == "tensorflow"
    ]


def measure():
    """Append a row to the results for each network and format that the current backend can write."""
    import keras

    backend = keras.backend.backend()
    known = {(row["network"], row["backend"], row["format"]) for row in read_rows(RESULTS)}
    for name, build in networks().items():
        formats = [case[2] for case in cases() if case[:2] == (name, backend) and case not in known]
        keras.utils.set_random_seed(0)
        model = build() if formats else None
        for file_format in formats:
            row = {"network": name, "backend": backend, "format": file_format, **exported(model, file_format)}
            append_row(RESULTS, row)
            print(row, flush=True)
        keras.utils.clear_session()


def exported(model, file_format):
    """Export a model to a temporary folder and return the results of the comparison."""
    import keras

    from keras_resattn import export

    environment = {"keras": keras.__version__, "processor": processor()}
    statistics = [125.0] * 3, [63.0] * 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{FORMATS[file_format].suffix}"
        try:
            report = export(model, path, file_format, statistics=statistics)
        except ValueError as error:
            return {**dict.fromkeys(MEASURED, ""), **environment, "error": str(error)}
    measured = f"{report.max_difference:.2g}", f"{report.relative_difference:.2g}", f"{report.agreement:.3f}"
    return {**dict(zip(MEASURED, measured, strict=True)), **environment, "error": ""}


def table(rows):
    """Return the Markdown table of the results: networks and backends by formats."""
    cells = {(row["network"], row["backend"], row["format"]): cell(row) for row in rows}
    names = dict.fromkeys(row["network"] for row in rows)
    lines = [
        f"| network | backend | {' | '.join(f'`{name}`' for name in FORMATS)} |",
        "| --- | --- |" + " ---: |" * len(FORMATS),
    ]
    for name in names:
        for backend, title in TITLES.items():
            columns = [cells.get((name, backend, each), "-") for each in FORMATS]
            if set(columns) == {"-"}:
                continue
            lines.append(f"| {name} | {title} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def cell(row):
    if row["error"]:
        return "error"
    agreement = "" if float(row["agreement"]) == 1 else f" ({float(row['agreement']):.0%} agree)"
    return f"{row['relative_difference']}{agreement}"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    measure()
