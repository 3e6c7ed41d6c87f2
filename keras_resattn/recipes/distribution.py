"""Training on more than one device: `with distribution.scope(): ...` around building a model and training it."""

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import keras


@contextlib.contextmanager
def scope(
    kind: Literal["data"] = "data",
    *,
    address: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> Iterator[None]:
    """Makes `compile_and_fit` inside the block share each batch between devices, with the backend's own strategy.

    ```python
    with keras_resattn.recipes.distribution.scope():
        model = CifarResidualAttention56(weights=None)
        report = compile_and_fit(model, "cifar_one_cycle", (x, y), run_dir="runs/cifar56")
    ```

    | backend | strategy | devices |
    |---|---|---|
    | JAX | `keras.distribution.DataParallel` | all of one process, or of several processes |
    | TensorFlow | `tf.distribute.MirroredStrategy` | all of one process |
    | PyTorch | `torch.nn.parallel.DistributedDataParallel` | one of each process |

    The model has to be built inside the block. The recipe's batch size is that of all devices together. In several
    processes every one runs the same program; process 0 alone writes files and shows progress.

    PyTorch reads how many processes there are from `torchrun`'s environment; JAX from
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`. The
    arguments stand in their place. With JAX, open the scope before anything else computes.

    Args:
        kind: What is shared: `"data"`. Every device holds the whole model.
        address: `"host:port"` of process 0.
        processes: Number of processes.
        process: Number of this one, from 0.

    Raises:
        ValueError: for another `kind`, some of the three other arguments without the rest, several processes on
            TensorFlow, and one without `torchrun` on PyTorch.
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
    scopes = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    with scopes[keras.backend.backend()](*given):
        yield


@contextlib.contextmanager
def _jax(address, processes, process):
    import jax

    several = processes is not None or "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ
    if several and not jax.distributed.is_initialized():
        keras.distribution.initialize(address, processes, process)
    # Each process makes its own part of a batch.
    with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
        yield


@contextlib.contextmanager
def _tensorflow(address, processes, process):
    if processes is not None or "TF_CONFIG" in os.environ:
        raise ValueError(
            "Expected one process on TensorFlow: with tf.distribute.MultiWorkerMirroredStrategy Keras 3.15 does not "
            "train. Use all devices of one machine, or the JAX or PyTorch backend for several processes."
        )
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    with tf.distribute.MirroredStrategy([device.name for device in devices]).scope():
        yield


@contextlib.contextmanager
def _torch(address, processes, process):
    import torch
    from torch import distributed

    if distributed.is_initialized():
        yield
        return
    if processes is None and not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise ValueError(
            "Expected a process for each device on PyTorch; received: neither torchrun's environment nor address, "
            "processes and process. Start the program with: torchrun --nproc-per-node DEVICES program.py."
        )
    rank = int(os.environ["RANK"]) if processes is None else process
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank % torch.cuda.device_count())))
    how = {} if processes is None else {"init_method": f"tcp://{address}", "world_size": processes, "rank": process}
    # Both, because numbers of the host are exchanged, too.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", **how)
    try:
        yield
    finally:
        distributed.destroy_process_group()
