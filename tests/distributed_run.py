"""A program for `test_distribution.py`: train on more than one device, and write the result.

    python distributed_run.py RESULT [ADDRESS PROCESSES PROCESS]

The tests call `train` on one device in their own process, to compare.
"""

import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from helpers import randomise

from keras_resattn import compile_and_fit
from keras_resattn.recipes import distribution, get_recipe
from keras_resattn.recipes.distribution import strategy as strategy_module

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (27, 8, 8, 3), dtype="uint8"), RNG.integers(0, 3, 27)
# 2 epochs of 3 steps, with averaged weights, an L2 penalty, and images mixed with those of another device.
RECIPE = get_recipe("cifar_one_cycle").replace(
    epochs=2, batch_size=8, warmup_epochs=0, learning_rate=0.1, l2=0.01, ema=0.5, mixup=0.2, cutout=4, pad=1
)


class Terminate(keras.callbacks.Callback):
    """Send SIGTERM to one process after some steps, like a scheduler."""

    def __init__(self, step, process):
        super().__init__()
        self.left, self.process = step, process

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0 and distribution.current_strategy().rank == self.process:
            os.kill(os.getpid(), signal.SIGTERM)


def network(norm=True):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer="zeros")(inputs)
    if norm:  # inside a nested model
        x = keras.Sequential([keras.layers.BatchNormalization(momentum=0.5), keras.layers.ReLU()])(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(3, kernel_initializer="zeros")(x)
    return randomise(keras.Model(inputs, outputs, name="network"))


def train(norm=True, **arguments):
    """Return `(report, model)`. The 13 validation images are not a multiple of the number of devices."""
    model = network(norm)
    report = compile_and_fit(model, RECIPE, (X, Y), validation_data=(X[:13], Y[:13]), verbose=0, **arguments)
    return report, model


def outcome(report, model):
    """Return what two runs are compared by: the metrics in the log, and all weights."""
    keys = ("loss", "accuracy", "val_loss", "val_accuracy")
    weights = [keras.ops.convert_to_numpy(weight).tolist() for weight in model.weights]
    return {"log": [[row[key] for key in keys] for row in report.history], "weights": weights}


def errors_for_unsupported_arguments(outside):
    """Return `{name: message}` of what the scope's strategy does not support. `outside` was built before the scope."""
    cases = {
        "batch_size": {"recipe": RECIPE.replace(batch_size=9)},
        "device_data": {"device_data": True},
        "jit_compile": {"jit_compile": True},
        "steps_per_execution": {"steps_per_execution": 2},
        "clip_norm": {"recipe": RECIPE.replace(clip_norm=1.0)},
        "gradient_accumulation_steps": {"recipe": RECIPE.replace(gradient_accumulation_steps=2)},
        "outside": {"model": outside},
    }
    defaults = {"model": network(), "recipe": RECIPE}
    messages = {}
    for name, arguments in cases.items():
        try:
            distribution.current_strategy().check(**{**defaults, **arguments})
        except ValueError as error:
            messages[name] = str(error)
    return messages


def main(path, address=None, processes=None, process=None):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    strategy_module.STEPS_BETWEEN_SIGNAL_CHECKS = 1
    arguments = {} if address is None else {"processes": int(processes), "process": int(process)}
    # With several processes, JAX must not compute anything before the scope.
    outside = network() if address is None else None
    run_dir = Path(path).parent / "run"  # shared by all processes
    with distribution.scope("data", address=address, **arguments):
        strategy = distribution.current_strategy()
        result = {"devices": strategy.devices, "errors": errors_for_unsupported_arguments(outside or network())}
        try:
            train(run_dir=run_dir, callbacks=[Terminate(4, strategy.processes - 1)])
        except SystemExit as stopped:
            result["stopped"] = stopped.code
        report, model = train(run_dir=run_dir)
        result.update(outcome(report, model), processes=report.processes)
        result["synchronized_layers"] = model.to_json().count('"synchronized": true')
        if keras.backend.backend() == "torch":
            result["without_norm"] = outcome(*train(norm=False))
    Path(path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
