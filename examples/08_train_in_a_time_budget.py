"""Train within a time budget: fit the length of the schedule to the time available on an accelerator.

    python examples/08_train_in_a_time_budget.py cifar10.npz runs/warn --model WARN-16-8 --minutes 25 --call-minutes 9.5

The first call times two epochs. It writes to `plan.json` the number of epochs that fit into `--minutes`, in calls of at
most `--call-minutes`, including the start-up time of each call. Later calls follow this plan; delete the folder to plan
again. `--benchmark FILE.csv` also appends the measurements as a row. When its time is up, a call saves a checkpoint
and exits with status 143; rerun the same command to resume, until the schedule is complete. The run (log, checkpoint,
weights, report) is in the subfolder `run/`. All images stay on the device, and the network computes in bfloat16.
`matrix_utilisation`, the speed relative to the peak rate of matrix products, is meaningful on JAX and on a CPU. The
test images are not used here; docs/how-to/training.md explains how to evaluate a run on them. On a GPU, install
the backend with CUDA.
"""

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.monotonic()  # before the imports, which take time too
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from keras_resattn import compile_and_fit, count_macs
from keras_resattn.data import load_npz
from keras_resattn.models import registry
from keras_resattn.recipes import get_recipe
from keras_resattn.recipes.report import environment
from keras_resattn.utils.io import append_row, atomic_write, read_json, read_rows

RESERVE = 0.95  # fraction of the remaining time to use, as a margin for measurement error


class StopAt(keras.callbacks.Callback):
    """Ask the run to stop by SIGTERM, as a scheduler would."""

    def __init__(self, deadline):
        super().__init__()
        self.deadline, self.stopping = deadline, False

    def on_train_batch_begin(self, batch, logs=None):
        if not self.stopping and time.monotonic() > self.deadline:
            self.stopping = True
            print("The time of this call is over. Rerun the same command to resume.")
            os.kill(os.getpid(), signal.SIGTERM)


class Clock(keras.callbacks.Callback):
    """Record when epochs began, and when the first step was compiled and running."""

    def __init__(self):
        super().__init__()
        self.epochs, self.first_step = [], None

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(time.monotonic())

    def on_train_batch_begin(self, batch, logs=None):
        if batch and self.first_step is None:
            self.first_step = time.monotonic()

    def on_train_end(self, logs=None):
        self.epochs.append(time.monotonic())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("run_dir", type=Path, help="folder for the plan and, in run/, the run")
    parser.add_argument("--model", default="CifarResidualAttention92", help="network (default: %(default)s)")
    parser.add_argument("--recipe", default="resattn_cifar_modern", help="recipe (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images per step (default: that of the recipe)")
    parser.add_argument("--ema", type=float, help="momentum of the weight average (default: that of the recipe)")
    parser.add_argument(
        "--minutes", type=float, required=True, help="time for the whole training, including the measurement"
    )
    parser.add_argument("--call-minutes", type=float, default=math.inf, help="time for this call (default: no limit)")
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras policy (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="use only the first LIMIT training images")
    parser.add_argument(
        "--holdout", type=int, default=0, help="number of training images, from the end, held out for validation"
    )
    parser.add_argument(
        "--steps-per-execution", type=int, default=1, help="must divide the steps of an epoch (default: %(default)s)"
    )
    parser.add_argument("--measure", type=int, default=2, help="epochs to time, two or more (default: 2)")
    parser.add_argument("--benchmark", type=Path, help="CSV file to which the measuring call appends a row")
    parser.add_argument("--seed", type=int, default=0, help="seed for weights, order and augmentation")
    args = parser.parse_args()

    args.run_dir.mkdir(parents=True, exist_ok=True)
    if keras.backend.backend() == "jax":  # compile a step once, not in each call
        import jax

        jax.config.update("jax_compilation_cache_dir", str(args.run_dir / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    keras.config.set_dtype_policy(args.precision)
    arrays = load_npz(args.data)
    x, y = arrays["x_train"][: args.limit], arrays["y_train"][: args.limit]
    kept = len(x) - args.holdout
    validation = (x[kept:], y[kept:]) if args.holdout else None
    changes = {"batch_size": args.batch_size, "ema": args.ema, "seed": args.seed}
    recipe = get_recipe(args.recipe).replace(**{k: v for k, v in changes.items() if v is not None})

    steps_per_epoch = kept // recipe.batch_size
    if args.measure < 2 or args.holdout < 0:
        sys.exit(f"Expected --measure from 2 and --holdout from 0; received: {args.measure} and {args.holdout}.")
    if steps_per_epoch < 1:
        sys.exit(f"Expected --batch-size of at most the {max(kept, 0)} training images; received: {recipe.batch_size}.")
    if args.steps_per_execution < 1 or steps_per_epoch % args.steps_per_execution:
        sys.exit(
            f"Expected --steps-per-execution to divide the {steps_per_epoch} steps of an epoch; "
            f"received: {args.steps_per_execution}."
        )

    if args.benchmark is not None:
        check_table(args.benchmark)

    plan = args.run_dir / "plan.json"
    if not plan.exists():
        measured = measure(args, recipe, (x[:kept], y[:kept]), validation)
        epochs = affordable_epochs(args, measured, time.monotonic() - STARTED)
        if epochs > recipe.warmup_epochs:
            with atomic_write(plan) as partial:
                partial.write_text(json.dumps({"epochs": epochs, **measured}, indent=2) + "\n")
        if args.benchmark is not None:
            append_row(args.benchmark, {"date": time.strftime("%Y-%m-%d"), **measured, **machine()})
        if epochs <= recipe.warmup_epochs:
            sys.exit(
                f"Expected --minutes to allow more than {recipe.warmup_epochs} epochs; received: time for {epochs}, as "
                f"an epoch takes {measured['seconds_per_epoch']} s and a call {measured['startup_seconds']} s to start."
            )
    elif args.benchmark is not None:
        print(f"{plan} exists, so nothing is measured and {args.benchmark} gets no row.")
    print(plan.read_text())
    recipe = recipe.replace(epochs=read_json(plan, f"Delete {plan} to plan again.").get("epochs"))

    report = compile_and_fit(
        build(args, x, y),
        recipe,
        (x[:kept], y[:kept]),
        validation_data=validation,
        run_dir=args.run_dir / "run",
        verbose=2,
        device_data=True,
        steps_per_execution=args.steps_per_execution,
        callbacks=[StopAt(STARTED + args.call_minutes * 60)],
    )
    print(report.metrics)


def check_table(path):
    """Exit if a file cannot hold the rows of this script."""
    if path.is_dir():
        sys.exit(f"Expected --benchmark to be a file; received: {path}, a folder.")
    rows = read_rows(path)
    if rows and "matrix_utilisation" not in rows[0]:
        sys.exit(
            f"Expected --benchmark to be a new file or one written by this script; {path} has {', '.join(rows[0])}."
        )


def affordable_epochs(args, measured, spent):
    """Return the number of epochs that fit into the time left after the seconds spent and the start-up of all calls.

    The current call starts up a second time, because the schedule is part of the compiled step.
    """
    calls = math.ceil(args.minutes / min(args.minutes, max(args.call_minutes, 0.1)))
    seconds = args.minutes * 60 - spent - calls * measured["startup_seconds"]
    return max(0, int(seconds * RESERVE / measured["seconds_per_epoch"]))


def build(args, x, y):
    keras.utils.set_random_seed(args.seed)
    classes = int(y.max()) + 1
    shape = x.shape[1:]
    return registry.create_model(
        args.model, weights=None, input_shape=shape, classes=classes, classifier_activation=None
    )


def measure(args, recipe, training, validation):
    """Time the epochs of a short run with checkpoints and validation, except the first, which compiles."""
    clock = Clock()
    model = build(args, *training)
    with tempfile.TemporaryDirectory(dir=args.run_dir) as folder:
        report = compile_and_fit(
            model,
            recipe.replace(epochs=args.measure, warmup_epochs=0),
            training,
            validation_data=validation,
            run_dir=Path(folder) / "run",
            verbose=0,
            device_data=True,
            steps_per_execution=args.steps_per_execution,
            callbacks=[clock],
        )
    ends = clock.epochs[1:]
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    rate = report.steps / args.measure * recipe.batch_size / seconds
    operations = 6 * count_macs(model) * rate  # forward once, backward twice, two operations per multiply-add
    return {
        "model": args.model,
        "backend": keras.backend.backend(),
        "precision": args.precision,
        "batch_size": recipe.batch_size,
        "steps_per_epoch": report.steps // args.measure,
        "seconds_per_epoch": round(seconds, 3),
        "images_per_second": round(rate, 1),
        "matrix_utilisation": round(operations / matrix_peak(args.precision), 4),
        "startup_seconds": round((clock.first_step or ends[0]) - STARTED, 1),
        "memory_bytes": memory(),
    }


def machine():
    """Return the columns that describe the machine and the versions."""
    where = environment()
    versions = {"python": where["python"], **where["versions"]}
    return {
        "device": where["device"],
        "processors": where["processors"],
        "versions": "; ".join(f"{name} {version}" for name, version in versions.items()),
    }


def matrix_peak(precision, seconds=2.0):
    """Return operations per second of large matrix products, in the compute precision of the network."""
    dtype = keras.DTypePolicy(precision).compute_dtype
    side = 512 if memory() is None else 8192
    a = keras.ops.cast(keras.random.normal((side, side)), dtype)
    rates, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        started, product = time.monotonic(), a
        for _ in range(10):
            product = keras.ops.matmul(a, product)
        float(keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32")))  # waits for the result
        rates.append(10 * 2 * side**3 / (time.monotonic() - started))
    return max(rates)


def memory():
    """Return the peak number of bytes in use on the device, or `None` where JAX does not report it."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    statistics = jax.local_devices()[0].memory_stats()
    return None if statistics is None else statistics.get("peak_bytes_in_use")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
