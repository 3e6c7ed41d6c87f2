"""`keras-resattn`: classify images and see where a network looks, evaluate, train and fine-tune networks from a shell.

One module for each command, with `add_arguments(parser)` and `run(arguments)`, which returns an exit code or `None`.
Modules are imported to parse the command line, so they import Keras only inside functions, after
`startup.start_keras()` and after whatever can be checked without it.
"""

import argparse
import contextlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence

import keras_resattn
from keras_resattn.cli import attend, evaluate, fine_tune, info, predict, reproduce, train, verify
from keras_resattn.cli import list as list_
from keras_resattn.cli.output import complain
from keras_resattn.cli.startup import DEBUG

COMMANDS = {
    "predict": (predict, "say what is in images"),
    "attend": (attend, "draw where the network looks"),
    "list": (list_, "list networks and released weights"),
    "info": (info, "tell all about a network, or about released weights"),
    "evaluate": (evaluate, "evaluate released weights, or a network of yours, on labelled images"),
    "verify": (verify, "check the bundled files against the SHA-256 of their release"),
    "train": (train, "train a network by a recipe, or resume a run"),
    "fine-tune": (fine_tune, "train released weights, or a network of yours, to tell other classes apart"),
    "reproduce": (reproduce, "run rows of the papers' tables"),
}
BROKEN_PIPE = 141  # as shells have it for a process that SIGPIPE ended: 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; `None` for those of the process.

    Returns:
        The exit code: 0; 2 after a line on standard error that says what was wrong, images that were skipped included;
        1 if `verify` found faults, and for unexpected errors; 130 after Ctrl-C; 141 if the reader of the output left.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with contextlib.suppress(AttributeError, ValueError):  # names may hold bytes that the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue] (suppressed)
    try:
        try:
            arguments = _parser().parse_args(argv)
            return arguments.run(arguments) or 0
        finally:
            sys.stdout.flush()  # here, and not when Python ends, a closed pipe or a full disk can be handled
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except KeyboardInterrupt as error:
        complain(error if str(error) else "stopped")
        return 130
    except Exception as error:
        return _failed(error)


def _failed(error):
    """Say in one line what went wrong. Returns the exit code."""
    _discard_output_that_fails()
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
        complain(error if str(error) else type(error).__name__)
        return 2
    complain(f"unexpected {type(error).__name__}: {error}. Please report it; {DEBUG}=1 shows where it happened.")
    return 1


def _discard_output_that_fails():
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()


def _discard_output():
    """Send what is still to be written nowhere: Python would try again when it ends, and print a traceback."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser():
    description = (__doc__ or "").splitlines()[0].partition(": ")[2].capitalize()
    parser = argparse.ArgumentParser(prog="keras-resattn", description=description)
    version = f"keras-resattn {keras_resattn.__version__}, Keras {importlib.metadata.version('keras')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, help_) in COMMANDS.items():
        command = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
