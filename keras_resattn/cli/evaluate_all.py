"""`keras-resattn evaluate --all`: evaluate every released checkpoint again, and compare with its card."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_resattn import pretrained
from keras_resattn.cli import output, startup
from keras_resattn.cli.network_arguments import DEFAULT
from keras_resattn.pretrained.records import Checkpoint

EXCLUDED = ("data", "network_run", "model", "size", "mean", "std", "resize_mode")


def run(arguments: argparse.Namespace) -> int:
    """Run `evaluate --all`. Return 1 if a result differs from its card, else 0.

    Raises:
        ValueError: For an option that `--all` excludes, and for images that do not fit.
        FileNotFoundError: If a dataset is missing, before anything is evaluated.
    """
    excluded = [name for name in EXCLUDED if getattr(arguments, name) is not None]
    excluded += ["weights"] if arguments.weights != DEFAULT else []
    if excluded:
        option = {"network_run": "run-dir"}.get(excluded[0], excluded[0]).replace("_", "-")
        raise ValueError(f"Expected --all without --{option}: it evaluates every released checkpoint.")
    if arguments.data_dir is None:
        raise ValueError("Expected --data-dir with --all, the folder of the datasets; received: none.")
    paths = find_datasets(arguments.data_dir, pretrained.tags())
    startup.start_keras()
    comparisons = []
    for name, path in paths.items():
        comparisons += _compare(name, path, arguments)
    if arguments.format is None:
        _print_text(comparisons)
    else:
        output.print_records(arguments.format, comparisons)
    return 1 if any(each["differs"] for each in comparisons) else 0


def find_datasets(folder: Path, tags: Iterable[Checkpoint]) -> dict[str, Path]:
    """Return `{name: path}` of the datasets that released checkpoints were evaluated on.

    Args:
        folder: Folder with, for each dataset, `NAME.npz` (with `x_test` and `y_test`), or a folder `NAME`: prepared by
            TensorFlow Datasets, or with one folder of images per class.
        tags: The checkpoints.

    Raises:
        FileNotFoundError: If a dataset is missing.
        ValueError: If there are several versions of a dataset, or a record names none.
    """
    paths, missing = {}, []
    for tag in tags:
        if tag.dataset is None:
            raise ValueError(f"Expected the record of {tag.id} to name its dataset; it does not.")
    for name in sorted({str(tag.dataset) for tag in tags}):
        file = folder / f"{name}.npz"
        prepared = [path for depth in ("*", "*/*") for path in sorted(folder.glob(f"{name}/{depth}/dataset_info.json"))]
        if len(prepared) > 1 and not file.is_file():
            versions = ", ".join(str(path.parent) for path in prepared)
            raise ValueError(f"Expected one version of {name} in {folder}; received: {versions}.")
        if file.is_file():
            paths[name] = file
        elif prepared:
            paths[name] = prepared[0].parent
        elif (folder / name).is_dir():
            paths[name] = folder / name
        else:
            missing.append(str(file))
    if missing:
        raise FileNotFoundError(
            f"Expected the test images of all released checkpoints; missing: {', '.join(missing)}, an .npz file with "
            "x_test and y_test in the dataset's official order (or a folder of that name: prepared by TensorFlow "
            "Datasets, or with one folder of images per class)."
        )
    return paths


def _compare(name, path, arguments):
    """Evaluate the checkpoints of one dataset. Return a list of dictionaries."""
    from keras_resattn import evaluation
    from keras_resattn.data import Dataset, open_dataset

    dataset: Any = open_dataset(str(path.absolute()), split="test")
    if not isinstance(dataset, Dataset):
        raise ValueError(f"Expected data with access by index; received: {path}, a stream.")
    verbose = 1 if arguments.format is None and sys.stdout.isatty() else 0
    results = []
    for tag in pretrained.tags():
        if tag.dataset == name:
            result = evaluation.evaluate_checkpoint(tag, dataset, arguments.batch_size, verbose)
            results.append(_comparison(tag, result))
    return results


def _comparison(tag, result):
    card = tag.metrics
    released = {"images": card["test_images"], "correct": card["test_correct"]}
    released["correct_top5"] = card.get("test_correct_top5")
    measured = {"images": result.total, "correct": result.correct}
    measured["correct_top5"] = None if released["correct_top5"] is None else result.correct_top5
    return {
        "weights": tag.id,
        "dataset": tag.dataset,
        **{f"card_{key}": value for key, value in released.items()},
        **{f"measured_{key}": value for key, value in measured.items()},
        "card_loss": card["test_loss"],
        "measured_loss": result.loss,
        "changed": result.changed,
        "differs": measured != released or bool(result.changed),
    }


def _print_text(comparisons):
    import keras

    rows = [["", "card", "measured", ""]]
    for each in comparisons:
        rows.append([output.printable(each["weights"]), *_counts(each, ""), "differs" if each["differs"] else "equal"])
        if each["card_correct_top5"] is not None:
            rows.append(["  top-5", *_counts(each, "_top5"), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"Correct test images on {keras.backend.backend()}")
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for each in comparisons:
        if each["changed"]:
            print(
                f"{each['weights']}: {len(each['changed'])} predictions differ from the released ones: images "
                f"{', '.join(map(str, each['changed']))}"
            )
        elif each["changed"] is None:
            counts = each["measured_images"], each["card_images"]
            reason = "the labels are not in the order of the release"
            reason = (
                reason if counts[0] == counts[1] else f"there are {counts[0]:,} images, and {counts[1]:,} on the card"
            )
            print(f"{each['weights']}: individual predictions were not compared, because {reason}.")


def _counts(each, suffix):
    """Return the numbers of correct images on the card and measured, such as `"9,196 of 10,000"`."""
    counts = [(each[f"{by}_correct{suffix}"], each[f"{by}_images"]) for by in ("card", "measured")]
    return [f"{'none' if correct is None else f'{correct:,}'} of {total:,}" for correct, total in counts]
