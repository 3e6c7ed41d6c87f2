"""Training on more than one device: `with distribution.scope(): ...` around building a model and training it."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Literal

import keras

from keras_resattn.recipes.distribution.strategy import Strategy

__all__ = ["Strategy", "current_strategy", "scope"]


@contextlib.contextmanager
def scope(
    kind: Literal["data"] = "data",
    *,
    address: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Iterator[None]:
    """Split each batch of `compile_and_fit` inside the block across devices, with the backend's own strategy.

    ```python
    with keras_resattn.recipes.distribution.scope():
        model = CifarResidualAttention56(weights=None)
        report = compile_and_fit(model, "cifar_one_cycle", (x, y), run_dir="runs/cifar56")
    ```

    | backend | strategy | devices |
    |---|---|---|
    | JAX | `keras.distribution.DataParallel` | all devices of one or several processes |
    | TensorFlow | `tf.distribute.MirroredStrategy` | all devices of one process |
    | PyTorch | `torch.nn.parallel.DistributedDataParallel` | one device per process |

    Build the model inside the block. The recipe's batch size is the total over all devices. With several processes,
    each runs the same program; only process 0 writes files and shows progress.

    By default, PyTorch reads the number of processes from `torchrun`'s environment, and JAX from
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`. The
    arguments below override them. On JAX, open the scope before any other computation.

    Args:
        kind: Kind of parallelism. Only `"data"` is supported: batches are split, and each device holds the whole model.
        address: `"host:port"` of process 0.
        processes: Number of processes.
        process: Rank of this process, from 0.

    Raises:
        ValueError: if `kind` is unknown, if only some of the three other arguments are given, if there are several
            processes on TensorFlow, or if PyTorch has neither `torchrun`'s environment nor the three arguments.
    """
    if kind != "data":
        raise ValueError(f"Expected kind='data'; received: kind={kind!r}.")
    given = (address, processes, process)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError(
            "Expected address, processes and process together, or none of them; received: "
            f"address={address!r}, processes={processes!r}, process={process!r}."
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ValueError(f"Expected process from 0 to below {processes}; received: process={process}.")
    with _backend_module().scope(*given):
        yield


def current_strategy() -> Strategy:
    """Return the strategy of the enclosing scope, whether opened by `scope` or by the backend's own API.

    Raises:
        ValueError: if the backend does not support the active kind of distribution, or would train incorrectly.
    """
    backend, distribution = keras.backend.backend(), keras.distribution.distribution()
    if distribution is not None and backend != "jax":
        raise ValueError(
            f"Expected no keras.distribution on {backend}, where it has no effect; received: "
            f"{type(distribution).__name__}. Use keras_resattn.recipes.distribution.scope()."
        )
    return _backend_module().current_strategy()


def _backend_module():
    return importlib.import_module(f"{__name__}.{keras.backend.backend()}")
