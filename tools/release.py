r"""Release a finished run as a checkpoint: weights, record, model card, log, predictions and attention figure.

    python -m tools.release runs/cifar56 weights --tag cifar10_v1 --alias cifar10 --alias default \
        --data cifar10.npz --data-name CIFAR-10 --classes airplane,automobile,... --command "keras-resattn train ..."

This command evaluates the run on the test images. Do not select runs, epochs or hyperparameters by its output.
"""

import argparse
import contextlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_resattn import evaluation
from keras_resattn.data import load_npz, network_input
from keras_resattn.data.images import as_images
from keras_resattn.data.labels import as_labels
from keras_resattn.layers import AttentionHead, SoftMask
from keras_resattn.models import registry
from keras_resattn.models.profiling import count_macs
from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint
from keras_resattn.recipes import Recipe
from keras_resattn.recipes.run_files import WEIGHTS
from keras_resattn.recipes.run_folder import read_report
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import sha256, user_path, write_json
from keras_resattn.utils.network_ids import python_call
from keras_resattn.utils.provenance import revision_of
from keras_resattn.utils.validation import some_names
from keras_resattn.visualize import plot_attention
from tools.compress_weights import FLOAT16_MANTISSA, compress

ATTENTION = "attention.png"
BUNDLED_BELOW = 5e6  # bytes; the weights of smaller checkpoints are part of the wheel
NUM_SHOWN = 4  # test images in the attention figure

CARD = Path(__file__).with_name("model_card.md")

#: Descriptions of networks for the card, by a pattern of network ids; the first match counts.
DESCRIPTIONS = {
    "^WARN": "A Wide Attentional Residual Network (Rodriguez et al., ECCV 2018)",
    "Attention": "A Residual Attention Network (Wang et al., CVPR 2017)",
    "": "A baseline for attention networks",
}
NOTES = "the weights are those of the last one."
TESTED = "The test images were used once, after the last epoch; no epoch or hyperparameter was chosen on them."
ATTENTION_SECTION = f"""![The first test images and the network's attention]({ATTENTION})

The first {NUM_SHOWN} test images with their classes and attention masks (`keras_resattn.plot_attention`).
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
    mantissa_bits: int = FLOAT16_MANTISSA,
) -> Checkpoint:
    """Write the folder `destination/<network>-<tag>`, complete or not at all, and move the aliases to the tag.

    Args:
        run_dir: Folder of a finished `compile_and_fit` run.
        destination: Folder of released checkpoints.
        tag: Name of the new tag, such as `"cifar10_v1"`. Existing tags are never overwritten.
        aliases: Names that refer to the new tag from now on; `"default"` makes it the network's default.
        classes: Class names in the order of the labels.
        data: `.npz` file with `x_test` and `y_test`.
        data_name: Name of the dataset for the card.
        command: Command that trained the run.
        notes: End of the card's sentence about the log.
        tested: Sentence for the card about earlier use of the test images.
        mantissa_bits: Mantissa bits that the released weights keep; see `tools/compress_weights.py`.

    Returns:
        The released `Checkpoint`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the tag exists, the run is not finished, or a weight exceeds the range of float16.
    """
    run_dir, destination, aliases = user_path(run_dir), user_path(destination), list(aliases)
    report = read_report(run_dir)
    network = registry.id_of_model_name(report["network"])
    folder = destination / f"{report['network']}-{tag}"
    _check_run(run_dir, report, classes)
    _check_names(folder, network, tag, aliases)
    x, y = _test_images(data, len(classes))
    record = _new_record(report, network, tag, classes, x.shape[1:], data_name, command)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        predictions = _write_weights_and_record(partial, run_dir / WEIGHTS, record, x, y, mantissa_bits)
        dtype = np.min_scalar_type(len(classes) - 1)
        np.save(partial / evaluation.PREDICTIONS, np.stack([y, predictions]).astype(dtype))
        shutil.copy(run_dir / "log.csv", partial / "log.csv")
        model = evaluation.load_checkpoint(Checkpoint.read(partial))
        attention = ATTENTION_SECTION if _write_attention(partial, model, x, y) else ""
        (partial / "README.md").write_text(_card(record, model, notes, tested, attention), encoding="utf-8")
        partial.rename(folder)
    _register(folder, network, tag, aliases)
    return Checkpoint.read(folder)


def _check_run(run_dir, report, classes):
    """Raise a `ValueError` for a run that is unfinished, kept another epoch, or does not fit the arguments."""
    if "steps" in report:  # version 0.1.0 wrote reports of finished runs only, without steps
        recipe = Recipe.from_json(json.dumps(report["recipe"]))
        planned = recipe.steps(report["training_images"] // recipe.batch_size)
        if report["steps"] != planned:
            raise ValueError(f"Expected a finished run; {run_dir} stopped after step {report['steps']} of {planned}.")
        last = report["history"][-1]["epoch"] if "kept_epoch" in report else None
        if report.get("kept_epoch") != last:
            raise ValueError(
                f"Expected a run that kept the weights of its last epoch, {last}, because released figures are for the "
                f"last epoch; a callback kept others in {run_dir} (kept_epoch={report['kept_epoch']})."
            )
    if report.get("class_names") not in (None, list(classes)):
        raise ValueError(
            f"Expected the classes of {run_dir}, {some_names(report['class_names'])}, in this order; "
            f"received: {some_names(classes)}."
        )
    if report["recipe"].get("normalization") == "pixel_mean":
        raise ValueError(
            "Expected a run with images normalised by channel, because released weights serve any image size; "
            f"{run_dir} has normalization='pixel_mean'."
        )


def _check_names(folder, network, tag, aliases):
    """Raise a `ValueError` for a tag that exists, and for names that are invalid or ambiguous."""
    if folder.exists():
        raise ValueError(f"Expected a new tag, because released tags are immutable; {folder} exists.")
    for name in (tag, *aliases):
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"Expected tags and aliases of letters, digits, '.', '_' and '-'; received: {name!r}.")
    if tag in records.read_aliases(folder.parent).get(network, {}):
        raise ValueError(f"Expected a tag that is not an alias of {network}; received: {tag}.")
    tags = {tag, *(Checkpoint.read(record.parent).tag for record in folder.parent.glob(f"*/{RECORD}"))}
    if taken := sorted(tags.intersection(aliases)):
        raise ValueError(f"Expected aliases that are not tags; received: {', '.join(taken)}.")


def _test_images(data, num_classes):
    arrays = load_npz(data)
    if not {"x_test", "y_test"} <= arrays.keys():
        raise ValueError(f"Expected x_test and y_test in {data}; received: {', '.join(arrays)}.")
    x = as_images(arrays["x_test"])
    return x, as_labels(arrays["y_test"], len(x), num_classes)


def _new_record(report, network, tag, classes, input_shape, data_name, command):
    """Return the contents of `config.json`, without the hash and the metrics."""
    return {
        "network": network,
        "tag": tag,
        "classes": list(classes),
        "preprocessing": {"mean": report["mean"], "std": report["std"]},
        "input_shape": list(input_shape),
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
        "metrics": {},
    }


def _write_weights_and_record(folder, weights, record, x, y, mantissa_bits):
    """Evaluate the weights in float32 and float16, write float16 weights and the record; return the predictions."""
    shutil.copy(weights, folder / TENSORS)
    full = _evaluate(folder, record, x, y)
    compress(weights, folder / TENSORS, mantissa_bits)
    half = _evaluate(folder, record, x, y)
    record["metrics"] = {"test_images": half.total}
    for suffix, result in (("", half), ("_float32", full)):
        values = {"test_correct": result.correct, "test_accuracy": result.accuracy, "test_loss": result.loss}
        record["metrics"] |= {f"{name}{suffix}": value for name, value in values.items()}
    write_json(folder / RECORD, record)
    return half.predictions


def _evaluate(folder, record, x, y):
    record["sha256"] = sha256(folder / TENSORS)
    write_json(folder / RECORD, record)
    return evaluation.evaluate(Checkpoint.read(folder), x, y)


def _write_attention(folder, model, x, y):
    """Plot the attention of the checkpoint in `folder`; return whether the network has any."""
    if not any(isinstance(layer, (SoftMask, AttentionHead)) for layer in model.layers):
        return False
    tag, images = Checkpoint.read(folder), x[:NUM_SHOWN]
    titles = [tag.classes[label] for label in y[:NUM_SHOWN]]
    figure = plot_attention(model, network_input(images, tag.mean, tag.std), display_images=images, titles=titles)
    figure.savefig(folder / ATTENTION, dpi=80)
    return True


def _card(record, model, notes, tested, attention):
    training, network = record["training"], record["network"]
    environment, row = training["environment"], registry.NETWORKS[network]
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return CARD.read_text(encoding="utf-8").format(
        record=record,
        training=training,
        environment=environment,
        description=next(text for pattern, text in DESCRIPTIONS.items() if re.search(pattern, network)),
        builder=row.builder.__name__,
        call=python_call(network, f'weights="{record["tag"]}"'),
        parameters=parameters,
        macs=row.macs if parameters == row.parameters else count_macs(model),
        mean=[round(value, 2) for value in record["preprocessing"]["mean"]],
        std=[round(value, 2) for value in record["preprocessing"]["std"]],
        classes=", ".join(record["classes"]),
        recipe=json.dumps(training["recipe"]),
        device=environment.get("device") or environment["processor"],
        version=environment["versions"][environment["backend"]],
        revision=revision_of(environment) or "unknown",
        notes=notes,
        tested=tested,
        attention=attention,
    )


def _register(folder, network, tag, aliases):
    """Add the released files to `SHA256SUMS` and move the aliases; after an error, delete the folder again."""
    bundled = sum(path.stat().st_size for path in folder.iterdir()) < BUNDLED_BELOW
    names = [RECORD, evaluation.PREDICTIONS, *([TENSORS] if bundled else [])]
    sums = {f"{folder.name}/{name}": sha256(folder / name) for name in names}
    try:
        records.write_sums(folder.parent, sums)
        records.move_aliases(folder.parent, network, tag, aliases)
    except BaseException:
        shutil.rmtree(folder)  # so that the same call can be repeated
        with contextlib.suppress(OSError):
            records.write_sums(folder.parent, dict.fromkeys(sums))
        raise


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir", help="folder of a finished compile_and_fit run")
    parser.add_argument("destination", help="folder of released checkpoints")
    parser.add_argument("--tag", required=True, help="name of the new tag, such as cifar10_v1")
    parser.add_argument("--alias", action="append", default=[], help="name to move to the new tag; repeatable")
    parser.add_argument("--classes", required=True, type=lambda text: text.split(","), help="names, comma-separated")
    parser.add_argument("--data", required=True, help=".npz file with x_test and y_test")
    parser.add_argument("--data-name", required=True, help="name of the dataset for the card")
    parser.add_argument("--command", required=True, help="command that trained the run")
    parser.add_argument("--notes", default=NOTES, help="end of the card's sentence about the log")
    parser.add_argument("--tested", default=TESTED, help="sentence for the card about the use of the test images")
    bits = "mantissa bits of the released weights (default: %(default)s); see tools/compress_weights.py"
    parser.add_argument("--mantissa-bits", type=int, default=FLOAT16_MANTISSA, help=bits)
    arguments = vars(parser.parse_args())
    tag = release(arguments.pop("run_dir"), arguments.pop("destination"), aliases=arguments.pop("alias"), **arguments)
    print(f"{tag.id}: {tag.metrics}")


if __name__ == "__main__":
    main()
