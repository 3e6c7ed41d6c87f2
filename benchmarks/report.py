"""Tables and plot of the measured benchmarks, results/benchmarks.csv.

    python benchmarks/report.py     # draws docs/images/benchmarks.png

`make tables` writes the tables to docs/results/benchmarks.md.
"""

import sys
from pathlib import Path

from _goals import goal_rows, verdict
from _harness import RESULTS
from _suites import STARTING, SUITES

from keras_resattn.utils.io import atomic_write, read_rows

ROOT = Path(__file__).parents[1]
PLOT = ROOT / "docs" / "images" / "benchmarks.png"
MISSING = "Not measured yet.\n"
COLORS = {"keras_resattn": "#2a6fb0", "pytorchcv": "#d9822b", "keras.applications": "#8a8a8a"}


def tables(rows):
    """Return `{name: Markdown}` of rows of results."""
    found = {suite.name: _table_of_suite(suite, rows) for suite in SUITES if not suite.name.startswith("warn_")}
    found["plot"] = (
        f"![Relative speed of each path](../images/{PLOT.name})\n" if _good(rows, SUITES[0].name) else MISSING
    )
    found["warn"] = _table_of_warn(rows)
    found[STARTING[0]] = _table_of_starting(rows)
    return found | {"goals": _table_of_goals(rows), "machine": _machine(rows), "failed": _failed(rows)}


def _markdown(header, alignment, lines):
    if not lines:
        return MISSING
    rows = [header, alignment, *lines]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def _good(rows, suite):
    return [row for row in rows if row["suite"] == suite and not row["error"]]


def _table_of_suite(suite, rows):
    """Fastest first."""
    found = sorted(_good(rows, suite.name), key=lambda row: -float(row["ratio"]))
    header = ("network", "engine", "precision", "options", "images/s", "ms per step", "speed", "first step, s", "MB")
    lines = [
        (
            row["network"],
            row["engine"],
            row["dtype"],
            row["options"].replace("_", "-"),
            f"{float(row['images_per_s']):.1f}",
            f"{float(row['seconds']) * 1000:.0f}",
            f"{float(row['ratio']):.2f}",
            f"{float(row['first_step_s']):.1f}",
            f"{float(row['peak_mb']):,.0f}",
        )
        for row in found
    ]
    return _markdown(header, ("---",) * 4 + ("---:",) * 5, lines)


def _table_of_warn(rows):
    lines = [
        (row["mode"], row["engine"], *(f"{float(row[name]):.3f}" for name in ("peer_seconds", "seconds")),
         f"{1 / float(row['ratio']):.3f}")
        for row in rows
        if row["suite"].startswith("warn_") and not row["error"]
    ]  # fmt: skip
    header = ("step", "backend", "WRN-28-10, s", "WARN-28-10, s", "WARN's time relative to WRN's")
    return _markdown(header, ("---",) * 2 + ("---:",) * 3, lines)


def _table_of_starting(rows):
    lines = []
    for row in _good(rows, STARTING[0]):
        action = row["name"].removesuffix(f" {row['engine']}")
        peer = f"{row['peer']}: {float(row['peer_seconds']):.2f}" if row["peer"] else ""
        lines.append(
            (f"`{action}`", row["engine"], f"{float(row['seconds']):.2f}", peer, f"{float(row['peak_mb']):,.0f}")
        )
    return _markdown(
        ("action", "backend", "s", "for comparison, s", "MB"), ("---", "---", "---:", "---:", "---:"), lines
    )


def _table_of_goals(rows):
    if not rows:
        return MISSING
    lines = []
    for goal, value in goal_rows(rows):
        number = "" if value is None else f"{value:.2f}"
        lines.append((goal.name, f"{'≥' if goal.at_least else '≤'} {goal.target:g}", number, verdict(goal, value)))
    return _markdown(("goal", "target", "measured", ""), ("---", "---:", "---:", "---"), lines)


def _machine(rows):
    """Return a list of the machines and the package versions of all rows."""
    if not rows:
        return MISSING
    machines = {(row["processor"], row["threads"], row["instructions"]) for row in rows}
    dates = sorted(row["date"] for row in rows)
    packages = sorted({package for row in rows for package in row["versions"].split("; ")})
    lines = [
        f"- {processor}, {threads} threads ({instructions})" for processor, threads, instructions in sorted(machines)
    ]
    lines += [f"- measured from {dates[0]} to {dates[-1]}", f"- {', '.join(packages)}"]
    return "\n".join(lines) + "\n"


def _failed(rows):
    failed = [row for row in rows if row["error"]]
    if not failed:
        return "None.\n" if rows else MISSING
    return "".join(f"- `{row['suite']}`: {row['name']}: {row['error']}\n" for row in failed)


def plot(rows, path):
    """Draw the relative speed of the forward pass at 224 pixels, batch size 8: a bar per path.

    Images per second are not drawn: a change in the machine's load affects them, but not the ratio of a pair.
    """
    from matplotlib.figure import Figure

    suite = SUITES[0]
    found = sorted(_good(rows, suite.name), key=lambda row: float(row["ratio"]))
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    speeds = [float(row["ratio"]) for row in found]
    bars = axes.barh(range(len(found)), speeds, color=[COLORS[row["library"]] for row in found])
    axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=3, fontsize=8)
    axes.set_yticks(range(len(found)), [row["name"].replace("_", "-") for row in found], fontsize=8)
    axes.set_xlabel(f"speed relative to {suite.peer.name.replace('_', '-')}: inference, batch size {suite.batch_size}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.01)
    handles = [bars[0].__class__((0, 0), 1, 1, color=color) for color in COLORS.values()]
    axes.legend(handles, COLORS, loc="lower right", frameon=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def main():
    rows = read_rows(RESULTS / "benchmarks.csv")
    if _good(rows, SUITES[0].name):
        plot(rows, PLOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
