"""`keras-resattn reproduce`: the papers' tables, row by row."""

import sys
from pathlib import Path

from rich.console import Console

from keras_resattn.files import atomic_write
from keras_resattn.reproduce import figures, report
from keras_resattn.reproduce.published import TABLES, get_table, home
from keras_resattn.reproduce.rows import DATA_SETS, check_name
from keras_resattn.reproduce.runs import Options, run, run_folder
from keras_resattn.tables import read_rows


def add_arguments(parser):
    """Adds the arguments of `reproduce` to an `argparse` parser."""
    parser.add_argument("table", nargs="?", help="such as resattn/table1; without one, all tables are listed")
    parser.add_argument("--list", action="store_true", help="only list rows, published errors, and what they cost")
    parser.add_argument("--row", nargs="+", default=[], metavar="ROW", help="rows to run (default: all of the table)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="default: 0")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the passes and of the pictures, for a rehearsal"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="[SET=]WHERE",
        help="name, .npz file or folder; for each data set where rows use several: cifar10=a.npz cifar100=b.npz",
    )
    parser.add_argument("--base-weights", type=Path, metavar="FILE", help="ImageNet weights, for rows that need some")
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), help="folder of runs (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of tables (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table as .md, or the figure")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="ROW=FOLDER", help="for a figure: finished runs in place of the rows'"
    )
    parser.add_argument("--device-data", action="store_true", help="keep all pictures on the accelerator")


def reproduce(arguments):
    """Runs the subcommand.

    Raises:
        ValueError: before any work, for an unknown table, row or data set, a number out of range, or a row that needs
            what is not there.
        FloatingPointError: at the end, if a training diverged; the other rows were run.
    """
    if arguments.table is None or arguments.list:
        names = [get_table(arguments.table).name] if arguments.table else TABLES
        console = Console()
        for line in report.listing(names):
            console.print(line)
        return
    table = get_table(arguments.table)
    rows = table.select(arguments.row)
    output = _check_output(arguments.output, table, arguments.results)
    if arguments.runs:
        return _draw_runs(table, rows, arguments, output)
    options = _check(arguments, rows)
    of_table = home(table, rows[0])[0] if table.figure else table  # a figure's runs are rows of another table
    path = report.results_file(of_table, arguments.results)
    report.check_file(path, report.columns(of_table))
    diverged = []
    for seed in dict.fromkeys(arguments.seeds):
        for row in rows:
            recorded = home(table, row)[1] if table.figure else row
            try:
                result = run(table, row, seed, options)
            except FloatingPointError as error:
                diverged.append(f"{row.name}, seed {seed}: {error}")
                continue
            added = report.record(path, report.result_row(of_table, recorded, result))
            rehearsal = "" if options.scale == 1 else f" at scale {options.scale:g}"
            print(f"{row.name}, seed {seed}{rehearsal}: error {result['error']} %", end="")
            print("" if added else f" (in {path} already)", flush=True)
    if not table.figure:
        text = report.markdown(table, read_rows(path))
        print(text)
        if output is not None:
            with atomic_write(output) as partial:
                partial.write_text(text, encoding="utf-8")
            print(f"wrote {output}")
    if diverged:
        raise FloatingPointError("; ".join(diverged))
    if table.figure:
        folders = [(row, run_folder(table, row, seed, options)) for row in rows for seed in arguments.seeds]
        _draw(table, folders, options.data(rows[0]), output)


def _check(arguments, rows):
    """The options of the runs, after all checks that need no data."""
    if not 0 < arguments.scale <= 1:
        raise ValueError(f"Expected --scale above 0, up to 1; received: {arguments.scale:g}.")
    if min(arguments.seeds) < 0:
        raise ValueError(f"Expected --seeds of at least 0; received: {min(arguments.seeds)}.")
    where = _check_where(arguments.data, rows)
    missing = {}
    for row in rows:
        if where.get(row.data, DATA_SETS[row.data].where) is None:
            missing.setdefault(DATA_SETS[row.data].need, []).append(row.name)
        if row.base is not None and (arguments.base_weights is None or not arguments.base_weights.is_file()):
            missing.setdefault(row.needs[-1], []).append(row.name)
    if missing:
        lacking = "; ".join(f"{need} ({', '.join(names)})" for need, names in missing.items())
        received = f"--base-weights {arguments.base_weights}" if arguments.base_weights else "none of it"
        raise ValueError(f"Expected what these rows need: {lacking}; received: {received}.")
    return Options(
        scale=arguments.scale,
        where=where,
        run_dir=arguments.run_dir,
        base_weights=arguments.base_weights,
        device_data=arguments.device_data,
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _check_where(given, rows):
    """`--data` as `{data set: where}`."""
    used = list(dict.fromkeys(row.data for row in rows))
    where = {}
    for item in given:
        name, equals, place = item.partition("=")
        if equals:
            where[check_name("data set", name, used, " of these rows")] = place
        elif len(used) > 1 or len(given) > 1:
            example = " ".join(f"{data}=..." for data in used)
            raise ValueError(f"Expected --data {example}, as these rows use {len(used)} data sets; received: {item}.")
        else:
            where[used[0]] = item
    for place in where.values():
        if ("/" in place or place.endswith(".npz")) and not Path(place).exists():
            raise ValueError(f"Expected --data to be a name, an .npz file or a folder; there is no {place}.")
    return where


def _check_output(output, table, results):
    """Where the table or the figure goes; checked before any work."""
    formats = figures.FORMATS if table.figure else (".md",)
    if output is None:
        return results / f"{table.name.replace('/', '_')}.png" if table.figure else None
    if output.suffix.lower() not in formats:
        raise ValueError(f"Expected --output to end in {', '.join(formats)} for {table.name}; received: {output}.")
    if not output.parent.is_dir():
        raise ValueError(f"Expected --output in a folder that there is; received: {output}.")
    return output


def _draw_runs(table, rows, arguments, output):
    if not table.figure:
        raise ValueError(f"Expected --runs with a figure, such as resattn/fig4; received: {table.name}.")
    names = [row.name for row in rows]
    folders = []
    for item in arguments.runs:
        name, _, folder = item.partition("=")
        row = table.select([check_name("row", name, names, f" of {table.name}, as ROW=FOLDER")])[0]
        folders.append((row, folder))
    where = _check_where(arguments.data, rows).get(rows[0].data, DATA_SETS[rows[0].data].where)
    _draw(table, folders, where, output)


def _draw(table, folders, where, output):
    measured = [figures.measure(row, folder, where) for row, folder in folders]
    beside = figures.write(measured, output, table)
    print(f"wrote {output} and {beside}")
