"""`keras-resattn`: classify images, draw attention maps, and evaluate, train and fine-tune networks from a shell.

There is one module per command, with `add_arguments(parser)` and `run(arguments)`, which returns an exit code or
`None`. All of them are imported to parse the command line, so they import Keras only inside functions, after
`startup.start_keras()` and after every check that does not need it. The same holds for NumPy, whose import would take
a third of the time of `keras-resattn --help`.
"""

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import keras_resattn
from keras_resattn.cli import attend, download, evaluate, export, fine_tune, info, predict, reproduce, train, verify
from keras_resattn.cli import list as list_
from keras_resattn.cli.output import complain
from keras_resattn.cli.startup import DEBUG

COMMANDS = {
    "predict": (predict, "classify images"),
    "attend": (attend, "draw attention maps of images"),
    "list": (list_, "list networks and released weights"),
    "info": (info, "show details of a network or of released weights"),
    "evaluate": (evaluate, "evaluate released weights, or your own network, on labelled images"),
    "verify": (verify, "compare bundled and downloaded files with the SHA-256 of their release"),
    "download": (download, "copy released weights to a folder, for machines without network access"),
    "train": (train, "train a network with a recipe; safe to interrupt: rerun to resume"),
    "fine-tune": (fine_tune, "fine-tune released weights, or your own network, on other classes"),
    "export": (export, "export a network to a file of another runtime, and compare the file with Keras"),
    "reproduce": (reproduce, "list and run rows of the papers' tables; safe to interrupt: rerun to resume"),
}
BROKEN_PIPE = 141  # exit code of a process ended by SIGPIPE: 128 + 13


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments (default: those of the process).

    Returns:
        The exit code: 0 for success; 1 if `verify` found faults, if a result of `evaluate --all` differs, and for
        unexpected errors; 2 for expected errors and skipped images, with one line each on standard error; 130 after
        Ctrl-C; 141 if the output's reader closed it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed when the process started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with contextlib.suppress(AttributeError, ValueError):  # names may hold bytes that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue] (suppressed)
    try:
        try:
            arguments = _parse(argv)
            return arguments.run(arguments) or 0
        finally:
            sys.stdout.flush()  # a closed pipe or a full disk can be handled here, but not when Python exits
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except KeyboardInterrupt as error:
        complain(error if str(error) else "stopped")
        return 130
    except Exception as error:
        return _failed(error)


def _failed(error):
    """Print an error as one line. Return the exit code."""
    _discard_failing_output()
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, (ValueError, OSError, ImportError, FloatingPointError)):
        complain(error if str(error) else type(error).__name__)
        return 2
    complain(f"unexpected {type(error).__name__}: {error}. Please report it with the traceback that {DEBUG}=1 shows.")
    return 1


def _discard_failing_output():
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()


def _discard_output():
    """Discard buffered output; otherwise, Python would write it on exit, and print a traceback."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """Print the versions and exit. They are looked up only then, because that takes as long as parsing."""

    def __call__(self, parser, *_):
        import importlib.metadata

        print(f"keras-resattn {keras_resattn.__version__}, Keras {importlib.metadata.version('keras')}")
        parser.exit()


def _parse(argv):
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")  # with the usage of the command
    return arguments


def _parser():
    description = (__doc__ or "").splitlines()[0].partition(": ")[2].capitalize()
    parser = argparse.ArgumentParser(prog="keras-resattn", description=description)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions of the package and of Keras")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, help_) in COMMANDS.items():
        command = commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser
