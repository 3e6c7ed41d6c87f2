"""`keras-resattn reproduce`: the papers' tables, row by row."""

import argparse
import sys
from pathlib import Path
from typing import Any

from keras_resattn.cli import startup
from keras_resattn.cli.arguments import FIGURES, check_folder, check_output, expanded, path
from keras_resattn.cli.output import printable
from keras_resattn.reproduce import results
from keras_resattn.reproduce.published import TABLES, get_table, home
from keras_resattn.reproduce.rows import DATASETS, check_name
from keras_resattn.utils.io import atomic_write, read_rows

#: What runs go by; the list of tables takes none of it.
DEFAULTS = {
    "row": [],
    "seeds": None,  # a list here would stay before the seeds given
    "scale": 1.0,
    "data": [],
    "base_weights": None,
    "run_dir": Path("runs"),
    "results": Path("results"),
    "output": None,
    "runs": [],
    "device_data": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `reproduce` to an `argparse` parser."""
    many: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument("table", nargs="?", help="such as resattn/table1; without one, all tables are listed")
    parser.add_argument("--list", action="store_true", help="only list rows, published errors, and what they cost")
    parser.add_argument("--row", metavar="ROW", help="rows to run (default: all of the table)", **many)
    parser.add_argument("--seeds", type=int, metavar="SEED", help="default: 0", **many)
    parser.add_argument("--scale", type=float, help="share of the passes and of the images, for a rehearsal")
    parser.add_argument(
        "--data",
        metavar="[SET=]WHERE",
        help="name, .npz file or folder; for each dataset where rows use several: cifar10=a.npz cifar100=b.npz",
        **many,
    )
    parser.add_argument("--base-weights", type=path, metavar="FILE", help="ImageNet weights, for rows that need some")
    parser.add_argument("--run-dir", type=path, help="folder of runs (default: %(default)s)")
    parser.add_argument("--results", type=path, help="folder of tables (default: %(default)s)")
    parser.add_argument("--output", type=path, metavar="FILE", help="write the table as .md, or the figure")
    parser.add_argument(
        "--runs", metavar="ROW=FOLDER", help="for a figure: finished runs in place of the rows'", **many
    )
    parser.add_argument("--device-data", action="store_true", help="keep all images on the accelerator")
    parser.set_defaults(**DEFAULTS)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ValueError: before any work, for an unknown table, row or dataset, a number out of range, or a row that needs
            what is not there.
        FloatingPointError: at the end, if a training diverged; the other rows were run.
    """
    if arguments.table is None or arguments.list:
        return _list(arguments)
    table = get_table(arguments.table)
    rows = table.select(dict.fromkeys(arguments.row))
    seeds = list(dict.fromkeys(arguments.seeds or [0]))
    check_folder("--run-dir", arguments.run_dir)
    check_folder("--results", arguments.results)
    output = _output(arguments.output, table, arguments.results)
    if arguments.runs:
        return _draw_runs(table, rows, arguments, output)
    where = _check(arguments, rows, seeds)
    startup.start_keras()
    from keras_resattn.reproduce import runner

    options = runner.Options(
        scale=arguments.scale,
        where=where,
        run_dir=arguments.run_dir,
        base_weights=arguments.base_weights,
        device_data=arguments.device_data,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    of_table = home(table, rows[0])[0] if table.figure else table  # a figure's runs are rows of another table
    file = results.results_file(of_table, arguments.results)
    results.check_file(file, results.columns(of_table))
    diverged = []
    for seed in seeds:
        for row in rows:
            recorded = home(table, row)[1] if table.figure else row
            try:
                result = runner.run(table, row, seed, options)
            except FloatingPointError as error:
                diverged.append(f"{row.name}, seed {seed}: {error}")
                continue
            added = results.record(file, results.result_row(of_table, recorded, result))
            rehearsal = "" if options.scale == 1 else f" at scale {options.scale:g}"
            error = f"error {result['error']} % of {result['test_images']:,} test images"
            print(f"{row.name}, seed {seed}{rehearsal}: {error}", end="")
            print("" if added else f" (in {file} already)", flush=True)
    if not table.figure:
        text = results.markdown(table, read_rows(file))
        print(text)
        if output is not None:
            with atomic_write(output) as partial:
                partial.write_text(text, encoding="utf-8")
            print(f"wrote {printable(str(output))}")
    if diverged:
        raise FloatingPointError("; ".join(diverged))
    if table.figure:
        folders = [(row, runner.run_folder(table, row, seed, options)) for row in rows for seed in seeds]
        _draw(table, folders, options.data(rows[0]), output)


def _list(arguments):
    if arguments.list:
        _check_only(arguments, (), "no more than a table with --list")
    else:
        _check_only(arguments, (), "a table to run, such as resattn/table1")
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        for line in results.listing([get_table(arguments.table).name] if arguments.table else TABLES):
            console.print(line)
    print(capture.get(), end="")


def _check_only(arguments, used, expected):
    """Refuses options that would be ignored, as they are not among `used`."""
    given = [name for name, default in DEFAULTS.items() if getattr(arguments, name) != default and name not in used]
    if given:
        raise ValueError(
            f"Expected {expected}; received: {', '.join('--' + name.replace('_', '-') for name in given)}."
        )


def _check(arguments, rows, seeds):
    """Where the datasets are, after all checks that need no data."""
    if not 0 < arguments.scale <= 1:
        raise ValueError(f"Expected --scale above 0, up to 1; received: {arguments.scale:g}.")
    if min(seeds) < 0:
        raise ValueError(f"Expected --seeds of at least 0; received: {min(seeds)}.")
    weights = arguments.base_weights
    if weights is not None and not weights.is_file():
        wrong = f"{weights} is a folder" if weights.is_dir() else f"there is no {weights}"
        raise ValueError(f"Expected --base-weights to be a file; {wrong}.")
    where = _check_where(arguments.data, rows)
    missing = {}
    for row in rows:
        if where.get(row.data, DATASETS[row.data].where) is None:
            missing.setdefault(DATASETS[row.data].need, []).append(row.name)
        if row.base is not None and weights is None:
            missing.setdefault(row.needs[-1], []).append(row.name)
    if missing:
        lacking = "; ".join(f"{need} ({', '.join(names)})" for need, names in missing.items())
        received = f"--base-weights {weights}" if weights else "none of it"
        raise ValueError(f"Expected what these rows need: {lacking}; received: {received}.")
    return where


def _check_where(given, rows):
    """`--data` as `{dataset: where}`."""
    used = list(dict.fromkeys(row.data for row in rows))
    where = {}
    for item in given:
        name, equals, place = item.partition("=")
        place = expanded(place)
        if equals and name in where:
            raise ValueError(f"Expected one --data {name}=...; received: {where[name]} and {place}.")
        if equals:
            where[check_name("dataset", name, used, " of these rows")] = place
        elif len(used) > 1 or len(given) > 1:
            example = " ".join(f"{data}=..." for data in used)
            sets = "one dataset" if len(used) == 1 else f"{len(used)} datasets"
            received = " ".join(given)
            raise ValueError(f"Expected --data {example}, as these rows use {sets}; received: {received}.")
        else:
            where[used[0]] = expanded(item)
    for place in where.values():
        if ("/" in place or place.endswith(".npz")) and not Path(place).exists():
            raise ValueError(f"Expected --data to be a name, an .npz file or a folder; there is no {place}.")
    return where


def _output(output, table, results):
    """The file for the table or the figure, or `None`; checked before any work."""
    check_output("--output", output, FIGURES if table.figure else (".md",))
    return results / f"{table.name.replace('/', '_')}.png" if output is None and table.figure else output


def _draw_runs(table, rows, arguments, output):
    if not table.figure:
        raise ValueError(f"Expected --runs with a figure, such as resattn/fig4; received: {table.name}.")
    _check_only(arguments, ("row", "data", "results", "output", "runs"), "--runs without what only a training takes")
    names = [row.name for row in rows]
    startup.start_keras()
    from keras_resattn.reproduce import figures

    folders = []
    for item in arguments.runs:
        name, _, folder = item.partition("=")
        folder = expanded(folder)
        row = table.select([check_name("row", name, names, f" of {table.name}, as ROW=FOLDER")])[0]
        _, _, recorded = figures.open_run(row, folder)
        if recorded is None:
            print(f"{folder} is no run of `reproduce`, and does not say how its attention learns: drawn as {name}")
        folders.append((row, folder))
    where = _check_where(arguments.data, rows).get(rows[0].data, DATASETS[rows[0].data].where)
    _draw(table, folders, where, output)


def _draw(table, folders, where, output):
    from keras_resattn.reproduce import figures

    measured = [figures.measure(row, folder, where) for row, folder in folders]
    beside = figures.write(measured, output, table)
    print(f"wrote {printable(str(output))} and {printable(str(beside))}")
