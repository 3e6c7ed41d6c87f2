"""Version and git revision of the package, and the processor, to record with every result."""

import configparser
import os
import platform
import subprocess
from pathlib import Path

import keras_resattn

PACKAGE = "keras-resattn"


def package_version() -> str:
    """Return the version of the imported package."""
    return keras_resattn.__version__


def package_revision(root: str | os.PathLike | None = None) -> str | None:
    """Return the git commit of the package if it is imported from its own checkout.

    A package installed inside another repository, for example in a project's virtual environment, has no revision: the
    commit of that repository says nothing about it.

    Args:
        root: Folder with `keras_resattn/` and `setup.cfg`; defaults to that of the imported package.

    Returns:
        The commit in hexadecimal, followed by `-dirty` if files of the package have uncommitted changes; `None` if the
        package is not in its own checkout or git is not available.
    """
    root = Path(keras_resattn.__file__).resolve().parents[1] if root is None else Path(root).resolve()
    setup = configparser.ConfigParser()
    try:
        setup.read(root / "setup.cfg", encoding="utf-8")
        if setup.get("metadata", "name", fallback=None) != PACKAGE or not (root / ".git").exists():
            return None
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if not root.samefile(top):
            return None
        _git(root, "ls-files", "--error-unmatch", "--", "setup.cfg", "keras_resattn/__init__.py")
        changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", "keras_resattn")
    except (OSError, ValueError, configparser.Error, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def revision_of(environment: dict) -> str:
    """Return the git revision recorded in an `environment()`, or else the version of the package."""
    return environment.get("revision") or environment.get("versions", {}).get(PACKAGE) or ""


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(root, *arguments):
    # Git sets variables such as GIT_DIR for its hooks, which would point to another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "CONFIG" in name}
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=variables).stdout.strip()
