"""Deferred, quiet import of Keras, which takes seconds and prints harmless messages from TensorFlow."""

import contextlib
import os
import sys
import tempfile

#: Environment variable that shows tracebacks of errors and messages of libraries during their import.
DEBUG = "KERAS_RESATTN_TRACEBACK"


def start_keras() -> None:
    """Import Keras and its backend without their start-up messages.

    Raises:
        ImportError: If the backend cannot be imported.
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet():
            import keras  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Expected Keras with an installed backend; importing it failed: {error}. Install one, for instance with "
            "pip install 'keras-resattn[tensorflow]' (or jax, torch), or set KERAS_BACKEND to an installed one."
        ) from error


def set_random_seed(seed: int) -> None:
    """Call `keras.utils.set_random_seed` quietly: on every backend, it imports TensorFlow if installed."""
    import keras

    with quiet():
        keras.utils.set_random_seed(seed)


def quiet() -> contextlib.AbstractContextManager[None]:
    """Return a context that discards standard error, unless the environment variable `DEBUG` names is set."""
    return contextlib.nullcontext() if os.environ.get(DEBUG) else _discard_standard_error()


@contextlib.contextmanager
def _discard_standard_error():
    """Redirect file descriptor 2 to a temporary file.

    TensorFlow logs messages before it reads any setting, so nothing else suppresses them. Exceptions are not affected.
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
