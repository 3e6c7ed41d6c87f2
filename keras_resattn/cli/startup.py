"""Importing Keras late and quietly: it takes seconds, and TensorFlow's start-up lines are no errors."""

import contextlib
import os
import sys
import tempfile

#: Set to show tracebacks of errors, and what libraries print while they are imported.
DEBUG = "KERAS_RESATTN_TRACEBACK"


def start_keras() -> None:
    """Import Keras and its backend without their start-up lines.

    Raises:
        ImportError: if the backend cannot be imported.
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with contextlib.nullcontext() if os.environ.get(DEBUG) else _standard_error_dropped():
            import keras  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Expected Keras with a backend that is installed; received: {error}. Install one, such as "
            "pip install 'keras-resattn[tensorflow]' (or jax, torch), or set KERAS_BACKEND to one that is installed."
        ) from error


def set_random_seed(seed: int) -> None:
    """Call `keras.utils.set_random_seed` quietly: whatever the backend, it imports TensorFlow where it is installed."""
    import keras

    with contextlib.nullcontext() if os.environ.get(DEBUG) else _standard_error_dropped():
        keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def _standard_error_dropped():
    """Send what is written to file descriptor 2 to a temporary file that nobody reads.

    TensorFlow logs some lines before it reads any setting, so nothing else keeps them away. What Python raises is not
    affected.
    """
    try:
        kept = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    try:
        with tempfile.TemporaryFile() as dropped:
            os.dup2(dropped.fileno(), 2)
            try:
                yield
            finally:
                if sys.stderr is not None:
                    sys.stderr.flush()
                os.dup2(kept, 2)
    finally:
        os.close(kept)
