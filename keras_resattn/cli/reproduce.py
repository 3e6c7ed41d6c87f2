"""`keras-resattn reproduce`: tables of the papers, row by row."""

import argparse
import sys
from pathlib import Path
from typing import Any

from keras_resattn.cli import startup
from keras_resattn.cli.arguments import FIGURES, check_folder, check_output, expanded, path
from keras_resattn.cli.output import printable
from keras_resattn.reproduce import results
from keras_resattn.reproduce.published import TABLES, get_table
from keras_resattn.reproduce.rows import DATASETS, check_name
from keras_resattn.utils.io import atomic_write, read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `reproduce` to an `argparse` parser."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument("table", metavar="TABLE", nargs="?", help="such as resattn/table1 (default: list all tables)")
    parser.add_argument("--list", action="store_true", help="list the table's rows, published errors and costs")
    parser.add_argument("--row", metavar="ROW", default=[], help="rows to run (default: all rows of the table)", **many)
    parser.add_argument("--seeds", type=int, metavar="SEED", help="random seeds, one run each (default: 0)", **many)
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="FRACTION",
        help="fraction of the epochs and of the images, for a scaled-down run (default: 1)",
    )
    parser.add_argument(
        "--data",
        metavar="[DATASET=]DATA",
        default=[],
        help=".npz file, folder or dataset name; for rows with several datasets: cifar10=a.npz cifar100=b.npz",
        **many,
    )
    parser.add_argument("--base-weights", type=path, metavar="FILE", help="ImageNet weights, for rows that need them")
    parser.add_argument(
        "--run-dir", type=path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)"
    )
    parser.add_argument(
        "--results", type=path, default=Path("results"), metavar="DIR", help="folder of CSV files (default: results)"
    )
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="also write the table to this .md file, or the figure to this image"
    )
    parser.add_argument("--device-data", action="store_true", help="keep all images on the accelerator")


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: Before any training, for unknown tables, rows or datasets, invalid numbers, or missing data.
        FloatingPointError: At the end, if training of a row diverged; the other rows were run.
    """
    if arguments.table is None:
        return _print_tables()
    table = get_table(arguments.table)
    rows = table.select(dict.fromkeys(arguments.row))
    if arguments.list:
        return _print_rows(table, rows)
    seeds = list(dict.fromkeys(arguments.seeds or [0]))
    check_folder("--run-dir", arguments.run_dir)
    check_folder("--results", arguments.results)
    check_output("--output", arguments.output, FIGURES if table.draws_responses else (".md",))
    sources = _check(arguments, rows, seeds)
    file = arguments.results / f"{table.file_name}.csv"
    startup.start_keras()
    from keras_resattn.reproduce.runner import Options

    options = Options(
        scale=arguments.scale,
        sources=sources,
        run_dir=arguments.run_dir,
        base_weights=arguments.base_weights,
        device_data=arguments.device_data,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    finished, diverged = _run_rows(table, rows, seeds, options, file)
    text = results.markdown(table, read_rows(file))
    print(text)
    if arguments.output is not None and not table.draws_responses:
        with atomic_write(arguments.output) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"wrote {printable(str(arguments.output))}")
    if diverged:
        raise FloatingPointError("; ".join(diverged))
    if table.draws_responses:
        _draw(table, finished, options, arguments.output or arguments.results / f"{table.file_name}.png")


def _run_rows(table, rows, seeds, options, file):
    """Run all rows with all seeds and record the results. Return `(row, result)` of finished runs, and messages."""
    from keras_resattn.reproduce import runner

    finished, diverged = [], []
    for seed in seeds:
        for row in rows:
            try:
                result = runner.run(table, row, seed, options)
            except FloatingPointError as error:
                diverged.append(f"{row.name}, seed {seed}: {error}")
                continue
            finished.append((row, result))
            added = results.record(file, row, result)
            scale = "" if options.scale == 1 else f", scale {options.scale:g}"
            error = f"error {result['error']} % on {result['test_images']:,} test images"
            recorded = "" if added else f" (already in {printable(str(file))})"
            print(f"{row.name}, seed {seed}{scale}: {error}{recorded}", flush=True)
    return finished, diverged


def _draw(table, finished, options, figure):
    from keras_resattn.reproduce import figures, runner

    responses = []
    for row, result in finished:
        folder = runner.run_folder(table, row, result["seed"], options)
        responses.append(figures.run_responses(row.name, result, folder, options.source(row)))
    numbers = figures.draw(responses, figure)
    print(f"wrote {printable(str(figure))} and {printable(str(numbers))}")


def _print_tables():
    width = max(map(len, TABLES))
    for name, table in TABLES.items():
        print(f"{name:{width}}  {table.title} ({len(table.rows)} rows)")
    print("\nRun the rows of a table with keras-resattn reproduce TABLE; add --list to list them instead.")


def _print_rows(table, rows):
    lines = [["row", "network", "paper %", "M", "GMACs", "PMACs"]]
    for row in rows:
        costs = ((row.parameters, 1e6, ".2f"), (row.macs, 1e9, ".3f"), (row.training_macs(), 1e15, ",.1f"))
        formatted = ["-" if count is None else format(count / unit, style) for count, unit, style in costs]
        lines.append([row.name, row.network, results.percent(row.published), *formatted])
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    print(f"{table.name}: {table.title}\n{table.source}")
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        print(" ".join(left + right))
    for note in results.notes(table):
        print(note)
    print("paper %: published error. M: trainable parameters in millions. GMACs: multiply-adds per image, in 10^9.")
    print("PMACs: multiply-adds of the whole training, forward and backward, in 10^15.")


def _check(arguments, rows, seeds):
    """Check everything that needs no data. Return the data sources by dataset."""
    if not 0 < arguments.scale <= 1:
        raise ValueError(f"Expected --scale to be above 0 and at most 1; received: {arguments.scale:g}.")
    if min(seeds) < 0:
        raise ValueError(f"Expected --seeds of at least 0; received: {min(seeds)}.")
    weights = arguments.base_weights
    if weights is not None and not weights.is_file():
        problem = f"{weights} is a folder" if weights.is_dir() else f"{weights} does not exist"
        raise ValueError(f"Expected --base-weights to be a file; {problem}.")
    sources = _sources(arguments.data, rows)
    missing = {}
    for row in rows:
        if row.data not in sources and DATASETS[row.data].source is None:
            missing.setdefault(DATASETS[row.data].requirement, []).append(row.name)
        if row.base is not None and weights is None:
            missing.setdefault(row.requirements[-1], []).append(row.name)
    if missing:
        requirements = "; ".join(f"{requirement} ({', '.join(names)})" for requirement, names in missing.items())
        raise ValueError(f"Expected data or weights that these rows require; they are missing: {requirements}.")
    return sources


def _sources(given, rows):
    """Parse `--data` into data sources by dataset."""
    used = list(dict.fromkeys(row.data for row in rows))
    sources = {}
    for item in given:
        name, equals, source = item.partition("=")
        if not equals and len(used) > 1:
            example = " ".join(f"{data}=..." for data in used)
            raise ValueError(f"Expected --data {example}, as these rows use {len(used)} datasets; received: {item}.")
        name, source = (name, source) if equals else (used[0], item)
        check_name("dataset", name, used, " of these rows")
        source = expanded(source)
        if name in sources:
            raise ValueError(f"Expected one --data for {name}; received: {sources[name]} and {source}.")
        if ("/" in source or source.endswith(".npz")) and not Path(source).exists():
            raise ValueError(f"Expected --data to be an .npz file, a folder or a name; {source} does not exist.")
        sources[name] = source
    return sources
