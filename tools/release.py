"""Turning a finished run into the folder that is released: tensors, record, card, log, predictions, attention.

    python tools/release.py runs/cifar56 weights --tag cifar10_v1 --alias cifar10 --alias default \\
        --data cifar10.npz --data-name CIFAR-10 --classes airplane,automobile,... --command "python examples/..."

The test images are touched here, once. Nothing that was chosen may depend on what is printed.
"""

import argparse
import contextlib
import importlib.util
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from keras_resattn import evaluation
from keras_resattn.data import check_images, load_npz, network_input
from keras_resattn.layers import AttentionHead, SoftMask
from keras_resattn.models import registry
from keras_resattn.models.profiling import count_macs
from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint
from keras_resattn.recipes import Recipe
from keras_resattn.recipes.run_folder import WEIGHTS, read_report
from keras_resattn.typing import PathLike
from keras_resattn.utils import network_ids
from keras_resattn.utils.io import sha256, user_path
from keras_resattn.utils.provenance import revision_of
from keras_resattn.utils.validation import some_names
from keras_resattn.visualize import plot_attention

ATTENTION = "attention.png"
BUNDLED_BELOW = 5e6  # bytes of a release whose tensors enter the wheel
SHOWN = 4  # test images, the first ones

CARD = """---
license: apache-2.0
library_name: keras
pipeline_tag: image-classification
tags: [keras, image-classification, attention, residual-attention]
metrics: [accuracy]
---

# {network}, {data_name} ({tag})

{kind} for Keras 3: {parameters:,} trainable parameters,
{macs:,} multiply-adds.

| measured on {images:,} test images, last epoch | accuracy | correct |
|---|---|---|
| float32 tensors, as trained | {accuracy_float32:.2%} | {correct_float32:,} |
| half-precision tensors, as released (computed in float32) | **{accuracy:.2%}** | {correct:,} |

{tested}

```python
from keras_resattn import {builder}

model = {call}
```

Inputs go through `keras_resattn.preprocess_input(x, weights="{id}")`: channel means {mean},
standard deviations {std}, on the scale 0 to 255. Outputs are, in order: {classes}.

## Measure it again

    keras-resattn evaluate --weights {id} --data FILE.npz

`FILE.npz` holds `x_test` (uint8, n x {height} x {width} x {channels}) and `y_test` in the dataset's official order.
`predictions.npy` holds labels and predicted classes of the release, so the command names every image that flips.

{attention}
## Training

    {command}

Recipe: `{recipe}`

{training_images:,} training images, {seconds:,.0f} s on {device} ({processors} processors),
computed in {precision}, {backend} {version}, Keras {keras}, seed {seed},
package revision or version `{revision}`.
`log.csv` holds every epoch; {notes}

SHA-256 of `model.weights.h5`: `{sha256}`
"""


#: What the card calls a network, by a pattern of its id.
KINDS = {
    "^WARN": "A Wide Attentional Residual Network (Rodriguez et al., ECCV 2018)",
    "Attention": "A Residual Attention Network (Wang et al., CVPR 2017)",
    "": "A baseline of attention networks",
}

NOTES = "the last one is what is released."
TESTED = "The test images were used once, after the last epoch; no epoch and no hyperparameter was chosen on them."

SEEN = f"""![The first test images and where the network looks]({ATTENTION})

The first {SHOWN} test images, with their classes, and the network's masks (`keras_resattn.plot_attention`).
"""


def release(
    run_dir: PathLike,
    destination: PathLike,
    *,
    tag: str,
    aliases: Iterable[str],
    classes: Sequence[str],
    data: PathLike,
    data_name: str,
    command: str,
    notes: str = NOTES,
    tested: str = TESTED,
) -> Checkpoint:
    """Writes `destination/<network>-<tag>`, complete or not at all, and moves its aliases.

    A kill in the very end may leave the tag without them; `records.move_aliases` moves them then.

    Args:
        run_dir: Folder of a finished `compile_and_fit` run.
        destination: Folder of released tags.
        tag: Name of the tag, `"cifar10_v1"`. Released tags are never overwritten.
        aliases: Its other names, which no longer mean another tag then; `"default"` makes it the builder's default.
        classes: Class names in the order of the labels.
        data: `.npz` file with `x_test` and `y_test`.
        data_name: What the card calls the dataset.
        command: The command that trained it.
        notes: A sentence for the card, about the log.
        tested: Another one, about how the test images were used, where it was not here alone.

    Returns:
        The `Checkpoint` that was written.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the tag exists, the run is not finished, or a tensor leaves half precision's range.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("A release includes a figure of attention: pip install 'keras-resattn[viz]'.")
    run_dir, destination = user_path(run_dir), user_path(destination)
    report = read_report(run_dir)
    network = registry.id_of_model_name(report["network"])
    _check_finished(run_dir, report)
    if report.get("class_names") not in (None, list(classes)):
        raise ValueError(
            f"Expected the classes of {run_dir}, {some_names(report['class_names'])}, in this order; "
            f"received: {some_names(classes)}."
        )
    if report["recipe"].get("normalization") == "pixel_mean":
        raise ValueError(
            "Expected a run whose images are normalised by channel, as released weights serve any size; "
            f"{run_dir} has normalization='pixel_mean'."
        )
    folder = Path(destination) / f"{report['network']}-{tag}"
    if folder.exists():
        raise ValueError(f"Expected a new tag, as released ones are immutable; {folder} exists.")
    for name in (tag, *aliases):
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"Expected tags and aliases of letters, digits, '.', '_' and '-'; received: {name!r}.")
    if tag in records.read_aliases(destination).get(network, {}):
        raise ValueError(f"Expected a tag that is no alias of {network}; received: {tag}.")
    taken = {tag, *(Checkpoint.read(record.parent).tag for record in Path(destination).glob(f"*/{RECORD}"))} & set(
        aliases
    )
    if taken:
        raise ValueError(f"Expected aliases that are no tags; received: {', '.join(sorted(taken))}.")
    arrays = load_npz(data)
    if not {"x_test", "y_test"} <= arrays.keys():
        raise ValueError(f"Expected x_test and y_test in {data}; received: {', '.join(arrays)}.")
    Path(destination).mkdir(parents=True, exist_ok=True)
    x, y = arrays["x_test"], check_images(arrays["x_test"], arrays["y_test"], len(classes))
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        record = {
            "network": network,
            "tag": tag,
            "classes": list(classes),
            "preprocessing": {"mean": report["mean"], "std": report["std"]},
            "input_shape": list(x.shape[1:]),
            "repository": None,
            "revision": None,
            "training": {
                "data": data_name,
                "training_images": report["training_images"],
                "recipe": report["recipe"],
                "precision": report.get("precision", "float32"),
                "last_epoch": report["metrics"],
                "seconds": report["seconds"],
                "environment": report["environment"],
                "command": command,
                "measured_by": f"keras-resattn evaluate --weights {network}/{tag} --data FILE.npz",
            },
        }
        full = _measure(partial, run_dir / WEIGHTS, record, x, y)
        half_precision(run_dir / WEIGHTS, Path(temporary) / TENSORS)
        half = _measure(partial, Path(temporary) / TENSORS, record, x, y)
        record["metrics"] = {
            "test_images": half.total,
            "test_correct": half.correct,
            "test_accuracy": half.accuracy,
            "test_loss": half.loss,
            "test_correct_float32": full.correct,
            "test_accuracy_float32": full.accuracy,
            "test_loss_float32": full.loss,
        }
        _write_record(partial, record)
        np.save(
            partial / evaluation.PREDICTIONS,
            np.stack([y, half.predictions]).astype("uint8" if len(classes) <= 256 else "uint16"),
        )
        shutil.copy(run_dir / "log.csv", partial / "log.csv")
        model = evaluation.build(Checkpoint.read(partial))
        seen = SEEN if _draw_attention(partial, model, x[:SHOWN], y[:SHOWN]) else ""
        (partial / "README.md").write_text(_card(record, model, notes, tested, seen), encoding="utf-8")
        partial.rename(folder)
    sums = _sums(folder)
    try:
        records.write_sums(destination, sums)
        records.move_aliases(destination, network, tag, aliases)
    except BaseException:
        shutil.rmtree(folder)  # so that the same call can be repeated
        with contextlib.suppress(OSError):
            records.write_sums(destination, dict.fromkeys(sums))
        raise
    return Checkpoint.read(folder)


def _check_finished(run_dir, report):
    if "steps" not in report:  # of 0.1.0, which wrote no report before the end
        return
    recipe = Recipe.from_json(json.dumps(report["recipe"]))
    planned = recipe.steps(report["training_images"] // recipe.batch_size)
    if report["steps"] != planned:
        raise ValueError(f"Expected a finished run; {run_dir} stopped after step {report['steps']} of {planned}.")
    last = report["history"][-1]["epoch"] if "kept_epoch" in report else None
    if report.get("kept_epoch") != last:
        raise ValueError(
            f"Expected a run that kept the weights of its last epoch, {last}, as figures of released weights are that "
            f"epoch's; a callback left others in {run_dir} (kept_epoch={report['kept_epoch']})."
        )


def half_precision(source: PathLike, target: PathLike) -> None:
    """Copies a `.weights.h5` file with its tensors in float16 and everything else as it is.

    Raises:
        ValueError: if a value is not finite, or overflows or vanishes in float16.
    """
    with h5py.File(source, "r") as full, h5py.File(target, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                group = half.require_group(name)
                group.attrs.update(item.attrs)
                return
            values = np.asarray(item)
            with np.errstate(over="ignore"):
                rounded = values.astype("float16")
            # Beside a batch normalisation's epsilon of 1e-5, what is below half of float16's smallest step is zero.
            if not np.isfinite(rounded).all() or np.any((rounded == 0) & (np.abs(values) > 2**-24)):
                raise ValueError(f"Expected tensors within the range of float16; {name} of {source} is not.")
            half.create_dataset(name, data=rounded)

        full.visititems(copy)


def _sums(folder):
    """`{path: SHA-256}` of the files of a release that the package contains: tensors of small ones alone."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    names = [RECORD, evaluation.PREDICTIONS, *([TENSORS] if size < BUNDLED_BELOW else [])]
    return {f"{folder.name}/{name}": sha256(folder / name) for name in names}


def _write_record(folder, record):
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _measure(folder, tensors, record, x, y):
    """Evaluates `tensors` as they would be once released in `folder`."""
    shutil.copy(tensors, folder / TENSORS)
    record["sha256"] = sha256(folder / TENSORS)
    record.setdefault("metrics", {})
    _write_record(folder, record)
    return evaluation.evaluate(Checkpoint.read(folder), x, y)


def _draw_attention(folder, model, images, labels):
    """Draws where the tag in `folder` looks; returns whether it has attention at all."""
    if not any(isinstance(layer, (SoftMask, AttentionHead)) for layer in model.layers):
        return False
    tag = Checkpoint.read(folder)
    titles = [tag.classes[label] for label in labels]
    figure = plot_attention(model, network_input(images, tag.mean, tag.std), display_images=images, titles=titles)
    figure.savefig(folder / ATTENTION, dpi=80)
    return True


def _counts(network, model):
    """Trainable parameters and multiply-adds: those of the papers' tables where the number of classes is theirs."""
    row, parameters = registry.NETWORKS[network], sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return parameters, row.macs if parameters == row.parameters else count_macs(model)


def _card(record, model, notes, tested, attention):
    training, metrics, row = record["training"], record["metrics"], registry.NETWORKS[record["network"]]
    parameters, macs = _counts(record["network"], model)
    environment = training["environment"]
    height, width, channels = record["input_shape"]
    weights = f'weights="{record["tag"]}"'
    return CARD.format(
        network=record["network"],
        kind=next(kind for pattern, kind in KINDS.items() if re.search(pattern, record["network"])),
        builder=row.builder.__name__,
        call=network_ids.python_call(record["network"], weights),
        tag=record["tag"],
        id=f"{record['network']}/{record['tag']}",
        data_name=training["data"],
        parameters=parameters,
        macs=macs,
        images=metrics["test_images"],
        accuracy=metrics["test_accuracy"],
        correct=metrics["test_correct"],
        accuracy_float32=metrics["test_accuracy_float32"],
        correct_float32=metrics["test_correct_float32"],
        mean=[round(value, 2) for value in record["preprocessing"]["mean"]],
        std=[round(value, 2) for value in record["preprocessing"]["std"]],
        classes=", ".join(record["classes"]),
        height=height,
        width=width,
        channels=channels,
        command=training["command"],
        recipe=json.dumps(training["recipe"]),
        training_images=training["training_images"],
        seconds=training["seconds"],
        device=environment.get("device") or environment["processor"],
        processors=environment["processors"],
        backend=environment["backend"],
        version=environment["versions"][environment["backend"]],
        keras=environment["versions"]["keras"],
        precision=training["precision"],
        seed=training["recipe"]["seed"],
        revision=revision_of(environment) or "unknown",
        notes=notes,
        tested=tested,
        attention=attention,
        sha256=record["sha256"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir")
    parser.add_argument("destination")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--alias", action="append", default=[])
    parser.add_argument("--classes", required=True, type=lambda text: text.split(","))
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-name", required=True)
    parser.add_argument("--command", required=True, help="the command that trained it")
    parser.add_argument("--notes", default=NOTES, help="a sentence for the card, about the log")
    parser.add_argument("--tested", default=TESTED, help="how the test images were used, where it was not here alone")
    arguments = vars(parser.parse_args())
    tag = release(arguments.pop("run_dir"), arguments.pop("destination"), aliases=arguments.pop("alias"), **arguments)
    print(f"{tag.id}: {tag.metrics}")


if __name__ == "__main__":
    main()
