r"""Release a finished run as a checkpoint: weights, record, model card, log, predictions and attention figure.

    python -m tools.release runs/cifar56 weights --tag cifar10_v1 --alias cifar10 --alias default \
        --data cifar10.npz --dataset cifar10 --data-name CIFAR-10 --classes airplane,automobile,... \
        --command "keras-resattn train ..."

This command evaluates the run on the test images. Do not select runs, epochs or hyperparameters by its output.
"""

import argparse
import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_resattn import evaluation
from keras_resattn.data import load_npz, read_image
from keras_resattn.data.images import as_images
from keras_resattn.data.labels import as_labels
from keras_resattn.layers import AttentionHead
from keras_resattn.models import registry
from keras_resattn.pretrained import records
from keras_resattn.pretrained.records import RECORD, TENSORS, Checkpoint
from keras_resattn.recipes import Recipe
from keras_resattn.recipes.run_files import WEIGHTS
from keras_resattn.recipes.run_folder import read_report
from keras_resattn.typing import PathLike
from keras_resattn.utils.io import sha256, user_path
from keras_resattn.utils.validation import check_class_names, check_count, some_names
from tools.cards import write_card
from tools.compress_weights import FLOAT16_MANTISSA, check_mantissa_bits
from tools.release_files import LOG, new_record, write_attention, write_saved_model, write_weights_and_record

NUM_SHOWN = 4  # test images in the attention figure
BUNDLED_BELOW = 5e6  # bytes; the weights of smaller checkpoints are part of the wheel

NOTES = "the weights are those of the last one."
TESTED = "The test images were used once, after the last epoch; no epoch or hyperparameter was chosen on them."
SIZES = "Images of other sizes run too, but the accuracy was not measured for them."


def release(
    run_dir: PathLike,
    destination: PathLike,
    *,
    tag: str,
    aliases: Iterable[str],
    classes: Sequence[str],
    data: PathLike,
    dataset: str,
    data_name: str,
    command: str,
    hub_dataset: str | None = None,
    test_split: str = "test",
    held_out: int = 0,
    notes: str = NOTES,
    tested: str = TESTED,
    sizes: str = SIZES,
    attention_images: Sequence[PathLike] = (),
    attention_credit: str = "",
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
        dataset: Id of the dataset, such as `"cifar10"`; `keras-resattn evaluate --all` reads `<dataset>.npz`.
        data_name: Name of the dataset for the card.
        command: Command that trained the run.
        hub_dataset: `owner/name` of the dataset on the Hub, for the card.
        test_split: The dataset's own name for the split that the test images are from.
        held_out: Number of training images that were held out for validation, for the card.
        notes: End of the card's sentence about the log.
        tested: Sentence for the card about earlier use of the test images.
        sizes: Sentence for the card about the image sizes that the network is good at.
        attention_images: Image files for the attention figure; by default, the first test images are shown.
        attention_credit: Sentence for the card about origin and licence of these images.
        mantissa_bits: Mantissa bits that the released weights keep; see `tools/compress_weights.py`.

    Returns:
        The released `Checkpoint`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the tag exists, the run is not finished, an image cannot be read, or a weight exceeds the range
            of float16.
    """
    run_dir, destination, aliases = user_path(run_dir), user_path(destination), list(aliases)
    report = read_report(run_dir)
    network = registry.id_of_model_name(report["network"])
    folder = destination / f"{report['network']}-{tag}"
    classes = check_class_names(classes)
    if padded := [name for name in classes if name != name.strip()]:
        raise ValueError(f"Expected class names without spaces around them; received: {some_names(padded)}.")
    check_mantissa_bits(mantissa_bits)
    _check_run(run_dir, report, classes)
    _check_validation(report, tested, held_out)
    _check_names(folder, network, tag, aliases, dataset)
    if hub_dataset is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_dataset):
        raise ValueError(f"Expected hub_dataset to be owner/name; received: {hub_dataset!r}.")
    x, y = _test_images(data, len(classes))
    photos = [read_image(path, channels=x.shape[3]) for path in attention_images]
    record = new_record(report, network, tag, classes, x.shape[1:], mantissa_bits)
    record |= {"dataset": dataset, "hub_dataset": hub_dataset, "test_split": test_split}
    record["training"] |= {"data": data_name, "command": command, "held_out_images": held_out}
    record["card"] = {"tested": tested, "log": notes, "sizes": sizes, "attention": None}
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        predictions = write_weights_and_record(partial, run_dir / WEIGHTS, record, x, y)
        dtype = np.min_scalar_type(len(classes) - 1)
        np.save(partial / evaluation.PREDICTIONS, np.stack([y, predictions]).astype(dtype))
        shutil.copy(run_dir / LOG, partial / LOG)
        model = evaluation.load_checkpoint(Checkpoint.read(partial))
        names = [Path(path).name for path in attention_images]
        record["card"]["attention"] = _attention(partial, model, x, y, photos, names, attention_credit)
        write_saved_model(partial, record, model)
        write_card(partial)
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


def _check_validation(report, tested, held_out):
    """Raise a `ValueError` if the run may have been validated on the test images, which the card would deny."""
    check_count("held_out", held_out, least=0)
    validated = any(key.startswith("val_") for row in report.get("history", []) for key in row)
    if validated and not held_out and tested == TESTED:
        raise ValueError(
            "Expected held_out, the number of training images that the run was validated on, or tested, a sentence for "
            "the card about the use of the test images; received: neither, and the run has validation metrics."
        )


def _check_names(folder, network, tag, aliases, dataset):
    """Raise a `ValueError` for a tag that exists, and for names that are invalid or ambiguous."""
    if folder.exists():
        raise ValueError(f"Expected a new tag, because released tags are immutable; {folder} exists.")
    for name in (tag, *aliases, dataset):
        if not re.fullmatch(r"\w[\w.-]*", name) or name.endswith(".h5") or registry.is_network(name):
            raise ValueError(
                "Expected tags, aliases and dataset ids of letters, digits, '.', '_' and '-' that start with a letter "
                f"or digit and are neither networks nor files; received: {name!r}."
            )
    if tag == "default":
        raise ValueError("Expected a tag such as cifar10_v1; received: 'default', which is an alias.")
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


def _attention(folder, model, x, y, photos, names, credit):
    """Write the attention figure. Return its caption, or `None` for a network without attention."""
    part = "head" if any(isinstance(layer, AttentionHead) for layer in model.layers) else "channel"
    by_gradient = (
        f'relevance for the predicted class, and the {part} that adds most (`plot_attention`, `rank="gradient"`).'
    )
    if photos:
        caption = f"{', '.join(names)}, with predicted classes, and attention masks: {by_gradient} {credit}".strip()
        images = np.stack([read_image(photo, x.shape[1:3], channels=x.shape[3]) for photo in photos])
        return write_attention(folder, model, images, None, caption, photos)
    caption = f"The first {NUM_SHOWN} test images with their classes, and attention masks: {by_gradient}"
    return write_attention(folder, model, x[:NUM_SHOWN], y[:NUM_SHOWN], caption)


def _register(folder, network, tag, aliases):
    """Add the released files to `SHA256SUMS` and move the aliases; after an error, delete the folder again."""
    bundled = sum(path.stat().st_size for path in folder.iterdir()) < BUNDLED_BELOW
    files = [path for path in folder.iterdir() if bundled or path.name != TENSORS]
    sums = {f"{folder.name}/{path.name}": sha256(path) for path in files}
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
    parser = argparse.ArgumentParser(
        description=f"{(__doc__ or '').splitlines()[0]} Evaluates the run on the test images."
    )
    parser.add_argument("run_dir", help="folder of a finished compile_and_fit run")
    parser.add_argument("destination", help="folder of released checkpoints: weights")
    parser.add_argument("--tag", required=True, help="name of the new tag, such as cifar10_v1")
    parser.add_argument("--alias", action="append", default=[], help="name to move to the new tag; repeatable")
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument(
        "--classes",
        type=lambda text: [name.strip() for name in text.split(",")],
        help="names of the classes, comma-separated",
    )
    classes.add_argument(
        "--classes-file", dest="classes", type=_read_names, metavar="FILE", help="file with one class name on each line"
    )
    parser.add_argument("--data", required=True, help=".npz file with x_test and y_test")
    parser.add_argument("--dataset", required=True, help="id of the dataset, such as cifar10")
    parser.add_argument("--data-name", required=True, help="name of the dataset for the card")
    parser.add_argument("--hub-dataset", help="owner/name of the dataset on the Hub, for the card")
    parser.add_argument("--test-split", default="test", help="split that the test images are from (default: test)")
    parser.add_argument("--held-out", type=int, default=0, help="training images that were held out for validation")
    parser.add_argument("--command", required=True, help="command that trained the run")
    parser.add_argument("--notes", default=NOTES, help="end of the card's sentence about the log")
    parser.add_argument(
        "--tested",
        default=TESTED,
        help="sentence for the card about the use of the test images (default: used once, after the last epoch)",
    )
    parser.add_argument("--sizes", default=SIZES, help="sentence for the card about image sizes")
    images = "images for the attention figure (default: the first test images)"
    parser.add_argument("--attention-images", nargs="+", default=[], metavar="FILE", help=images)
    parser.add_argument("--attention-credit", default="", help="sentence for the card about the origin of these images")
    bits = "mantissa bits of the released weights (default: %(default)s); see tools/compress_weights.py"
    parser.add_argument("--mantissa-bits", type=int, default=FLOAT16_MANTISSA, help=bits)
    arguments = vars(parser.parse_args())
    positional = [arguments.pop(name) for name in ("run_dir", "destination")]
    try:
        tag = release(*positional, aliases=arguments.pop("alias"), **arguments)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"release: {error}")
    print(f"{tag.id}: {tag.metrics}")


def _read_names(path):
    try:
        return [name.strip() for name in user_path(path).read_text(encoding="utf-8").strip().splitlines()]
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read ({error})") from error


if __name__ == "__main__":
    main()
