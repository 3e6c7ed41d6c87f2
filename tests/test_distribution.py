"""Training on several devices gives the log and the weights of training on one, in every process.

`distributed_run.py` is the program that they run; it interrupts a run and resumes it.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_run
import keras
import numpy as np
import pytest
from distributed_run import RECIPE, X, Y, network

from keras_resattn import compile_and_fit
from keras_resattn.data import open_dataset
from keras_resattn.data.evaluation_batches import ShardedEvaluationBatches
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.recipes import distribution

BACKEND = keras.backend.backend()
DEVICES = 2 if BACKEND == "tensorflow" else 4  # TensorFlow traces every step for each device
PROGRAM = Path(__file__).parent / "distributed_run.py"


def run(folder, processes=1, **environment):
    """Run the program in several processes, and return what each of them wrote."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for rank in range(processes):
        command = [sys.executable, str(PROGRAM), str(folder / f"{rank}.json")]
        command += [address, str(processes), str(rank)] if processes > 1 else []
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        started.append(subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=600)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def assert_same_run(result, expected, tolerance=2e-6):
    np.testing.assert_allclose(result["log"], expected["log"], rtol=0, atol=tolerance)
    for a, b in zip(result["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def one_device():
    """The run that the others must equal: uninterrupted, on one device."""
    return distributed_run.outcome(*distributed_run.train())


@pytest.fixture(scope="module")
def several_devices(tmp_path_factory):
    [result] = run(tmp_path_factory.mktemp("devices"), XLA_FLAGS=f"--xla_force_host_platform_device_count={DEVICES}")
    return result


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("two"), processes=2)


on_jax_and_tensorflow = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch uses one device per process")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="on PyTorch")
# On JAX, several devices in one process cover the same code.
in_two_processes = pytest.mark.slow if BACKEND == "jax" else on_torch


@on_jax_and_tensorflow
def test_several_devices_train_like_one(several_devices, one_device):
    """With batch norm, averaged weights, images mixed across devices, and 13 validation images."""
    assert (several_devices["devices"], several_devices["processes"], several_devices["stopped"]) == (DEVICES, 1, 143)
    assert_same_run(several_devices, one_device)


@on_jax_and_tensorflow
def test_unsupported_arguments_on_several_devices(several_devices):
    errors = several_devices["errors"]
    assert f"a multiple of {DEVICES}, the number of devices; received: batch_size=9" in errors.pop("batch_size")
    assert "device_data=False" in errors.pop("device_data")
    assert "built inside the scope" in errors.pop("outside")
    if BACKEND == "tensorflow":
        assert "clip_norm=None" in errors.pop("clip_norm")
        assert "gradient_accumulation_steps=1" in errors.pop("gradient_accumulation_steps")
        assert "jit_compile='auto'" in errors.pop("jit_compile")
        assert "steps_per_execution=1" in errors.pop("steps_per_execution")
    assert not errors


@on_jax_and_tensorflow
def test_synchronized_batch_norm_does_not_stay_in_the_model(several_devices):
    """Other backends cannot load such a file."""
    assert several_devices["synchronized_layers"] == 0


@in_two_processes
def test_two_processes_end_with_the_same_state(two_processes):
    first, second = two_processes
    assert (first["devices"], first["processes"], first["stopped"]) == (2, 2, 143)
    assert first == second, "bit for bit"


@in_two_processes
@pytest.mark.skipif(BACKEND != "jax", reason="on PyTorch, batch norm uses the images of its own process")
def test_two_processes_train_like_one(two_processes, one_device):
    assert_same_run(two_processes[0], one_device)


@on_torch
def test_two_processes_without_batch_norm_train_like_one(two_processes):
    assert_same_run(two_processes[0]["without_norm"], distributed_run.outcome(*distributed_run.train(norm=False)))


@on_torch
def test_two_processes_normalize_their_own_images(two_processes, monkeypatch):
    """As one process that runs the halves of a batch separately and averages gradients and statistics."""
    model, loss = network(), keras.losses.CategoricalCrossentropy(from_logits=True)
    statistics = [variable for variable in model.non_trainable_variables if "moving" in variable.path]

    def step(data):
        (x, y), gradients, after = data, [], []
        before = [variable.numpy().copy() for variable in statistics]
        for half in (slice(0, 4), slice(4, 8)):
            for variable, value in zip(statistics, before, strict=True):
                variable.assign(value)
            model.zero_grad()
            loss(y[half], model(x[half], training=True)).backward()
            gradients.append([variable.value.grad.clone() for variable in model.trainable_variables])
            after.append([variable.numpy().copy() for variable in statistics])
        for variable, *values in zip(statistics, *after, strict=True):
            variable.assign(np.mean(values, axis=0))
        import torch

        with torch.no_grad():
            means = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
            model.optimizer.apply(means, model.trainable_variables)
        return {"loss": torch.zeros(())}

    measured = []
    read = TrainingBatches.unaugmented_images
    monkeypatch.setattr(
        TrainingBatches, "unaugmented_images", lambda *args: measured.append(read(*args)) or measured[-1]
    )
    model.train_step = step
    compile_and_fit(model, RECIPE, (X, Y), verbose=0)
    weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    convolve = keras.Model(model.inputs, model.layers[1].output)
    halves = [convolve.predict(x[half], verbose=0) for x in measured for half in (slice(0, 4), slice(4, 8))]
    places = [i for i, weight in enumerate(model.weights) if "moving" in weight.path]
    weights[places[0]] = np.mean([half.mean((0, 1, 2)) for half in halves], axis=0)
    weights[places[1]] = np.mean([half.var((0, 1, 2)) for half in halves], axis=0)
    for a, b in zip(two_processes[0]["weights"], weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


@in_two_processes
def test_unsupported_arguments_in_two_processes(two_processes):
    errors = two_processes[0]["errors"]
    assert "a multiple of 2, the number of devices; received: batch_size=9" in errors["batch_size"]
    assert "device_data=False" in errors["device_data"]
    assert ("jit_compile" in errors) == (BACKEND == "torch")


@pytest.mark.once
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [1, 13, 16])
def test_validation_counts_each_image_once(processes, count):
    """If 4 devices share 13 images, padding has weight zero, and means are those of the 13."""
    x = np.arange(count, dtype="uint8").reshape(-1, 1, 1, 1)
    datasets = [
        (open_dataset((x, np.arange(count))), "by index"),
        (open_dataset(Stream(x, np.arange(count))), "a stream"),
    ]
    for dataset, kind in datasets:
        of_rank = [
            ShardedEvaluationBatches(dataset, 8, np.float32, size=(1, 1), devices=4, shard=(rank, processes))
            for rank in range(processes)
        ]
        assert {batches.num_batches for batches in of_rank} == {-(-count // 8)}
        seen, total, filled = [], 0.0, 0
        for index in range(of_rank[0].num_batches):
            parts = [batches[index] for batches in of_rank]
            assert len({len(part[0]) for part in parts}) == 1, "all processes have as many images"
            images, labels, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
            assert len(weights) % 4 == 0
            np.testing.assert_array_equal(images.ravel(), labels)
            seen += labels[weights > 0].tolist()
            total, filled = total + (labels * weights).sum(), filled + len(weights)
        assert seen == list(range(count)), kind
        np.testing.assert_allclose(total / filled, np.arange(count).mean(), rtol=1e-6)


class Stream:
    """Batches of 8 images in a fixed order."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 8)

    def __iter__(self):
        for first in range(0, len(self.x), 8):
            yield self.x[first : first + 8], self.y[first : first + 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "model"}, "kind='data'"),
        ({"processes": 2}, "address, processes and process together"),
        ({"address": "localhost:1", "processes": 2, "process": 2}, "from 0 to below 2"),
    ],
)
def test_wrong_arguments_of_a_scope(arguments, message):
    with pytest.raises(ValueError, match=message), distribution.scope(**arguments):
        pass


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow only")
def test_several_processes_on_tensorflow(monkeypatch):
    with (
        pytest.raises(ValueError, match=r"MultiWorkerMirroredStrategy\. .*JAX or PyTorch"),
        distribution.scope(address="localhost:1", processes=2, process=0),
    ):
        pass
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="MultiWorkerMirroredStrategy"), distribution.scope():
        pass


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow only")
def test_other_strategies_of_tensorflow():
    import tensorflow as tf

    with tf.distribute.OneDeviceStrategy("CPU:0").scope(), pytest.raises(ValueError, match="MirroredStrategy"):
        compile_and_fit(network(), RECIPE, (X, Y))


@on_torch
def test_the_error_without_torchrun_shows_the_command(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"), distribution.scope():
        pass


@pytest.mark.skipif(BACKEND == "jax", reason="supported on JAX")
def test_keras_distribution_on_backends_that_ignore_it(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    with pytest.raises(ValueError, match="has no effect"):
        compile_and_fit(network(), RECIPE, (X, Y))


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
def test_model_parallelism():
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"))
    layout = keras.distribution.LayoutMap(mesh)
    parallel = keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    with parallel.scope(), pytest.raises(ValueError, match=r"DataParallel .*received: ModelParallel"):
        compile_and_fit(network(), RECIPE, (X, Y))


def test_the_strategy_outside_of_a_scope_is_one_device():
    strategy = distribution.current_strategy()
    assert type(strategy) is distribution.Strategy
    assert (strategy.rank, strategy.processes, strategy.devices) == (0, 1, 1)
    assert (strategy.signal(15, step=3), strategy.signal(None), strategy.broadcast([1.0])) == (15, None, [[1.0]])
