"""Helpers shared by the benchmarks: rows in `results/`, and the versions and machine that a row describes."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

from keras_resattn.utils.io import append_row
from keras_resattn.utils.provenance import package_version, processor

RESULTS = Path(__file__).parents[1] / "results"
# Instructions for matrices that decide which precision pays on a CPU, by their names in /proc/cpuinfo.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "i8mm", "bf16")


def today():
    """Return the date as `YYYY-MM-DD`."""
    return datetime.date.today().isoformat()


def append_result(name, row):
    """Append a row with today's date to `results/<name>.csv`."""
    append_row(RESULTS / f"{name}.csv", {"date": today(), **row})


def versions(*packages):
    """Return the versions that a number depends on, as `name version` joined by semicolons."""
    found = [f"python {platform.python_version()}", f"keras_resattn {package_version()}"]
    for name in dict.fromkeys(packages):
        for distribution in (name, f"{name}-cpu"):
            try:
                found.append(f"{name} {importlib.metadata.version(distribution)}")
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return "; ".join(found)


def threads():
    """Return the number of processors that this process may use: the threads of every measured program."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine():
    """Return the columns that describe the machine: processor, its instructions for matrices, and threads."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = set(next(line for line in lines if line.lower().startswith(("flags", "features"))).split())
    except (OSError, StopIteration):
        known = set()
    instructions = " ".join(name for name in INSTRUCTIONS if name in known)
    return {"processor": processor(), "instructions": instructions, "threads": threads()}
