"""Train as long as a borrowed accelerator allows: the schedule is sized to the time that there is.

    python examples/07_train_in_a_time_budget.py cifar10.npz runs/warn --model WARN-16-8 --minutes 25 --call-minutes 9.5

The first call measures two epochs, and writes into `plan.json` how many epochs fit into `--minutes` of calls of
`--call-minutes`, each of which takes some time to begin. The plan holds for all later calls: delete the folder to plan
anew. `--benchmark FILE.csv` keeps what was measured as a row, too. Each call stops in good order (exit status 143) and
the same command goes on; the schedule ends where it should. The run (log, checkpoint, weights, report) lies in `run/`
of the folder. All images lie on the device, and the network computes in bfloat16; `share_of_matrix_peak` means
something on JAX and on a CPU. The test images are not touched: docs/training.md says how to measure a run on them. On
a GPU the backend has to be installed with CUDA.
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

BEGUN = time.monotonic()  # importing takes time, too
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from keras_resattn import compile_and_fit, count_macs
from keras_resattn.data import load_npz
from keras_resattn.models import registry
from keras_resattn.recipes import get_recipe
from keras_resattn.recipes.report import environment
from keras_resattn.utils.io import append_row, atomic_write, read_json, read_rows

RESERVE = 0.95  # of the time that is left, for what the measurement did not see


class StopAt(keras.callbacks.Callback):
    """Asks the run to stop, as a scheduler would."""

    def __init__(self, deadline):
        super().__init__()
        self.deadline, self.asked = deadline, False

    def on_train_batch_begin(self, batch, logs=None):
        if not self.asked and time.monotonic() > self.deadline:
            self.asked = True
            print("The time of this call is over; the same command goes on.")
            os.kill(os.getpid(), signal.SIGTERM)


class Clock(keras.callbacks.Callback):
    """When epochs began, and when the first step was compiled and on its way."""

    def __init__(self):
        super().__init__()
        self.epochs, self.begun = [], None

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(time.monotonic())

    def on_train_batch_begin(self, batch, logs=None):
        if batch and self.begun is None:
            self.begun = time.monotonic()

    def on_train_end(self, logs=None):
        self.epochs.append(time.monotonic())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("run_dir", type=Path, help="folder for the plan and, in run/, all of the run")
    parser.add_argument("--model", default="CifarResidualAttention92", help="network (default: %(default)s)")
    parser.add_argument("--recipe", default="resattn_cifar_modern", help="recipe (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images in a step (default: the recipe's)")
    parser.add_argument("--ema", type=float, help="momentum of the average of the weights (default: the recipe's)")
    parser.add_argument("--minutes", type=float, required=True, help="for the whole training, measuring included")
    parser.add_argument("--call-minutes", type=float, default=math.inf, help="for this call (default: no limit)")
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras policy (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="use only the first so many training images")
    parser.add_argument("--holdout", type=int, default=0, help="training images, the last ones, to validate on")
    parser.add_argument(
        "--steps-per-execution", type=int, default=1, help="divides the steps of an epoch (default: %(default)s)"
    )
    parser.add_argument("--measure", type=int, default=2, help="epochs to measure first, two or more (default: 2)")
    parser.add_argument("--benchmark", type=Path, help="CSV file to which the call that measures adds a row")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    args = parser.parse_args()

    args.run_dir.mkdir(parents=True, exist_ok=True)
    if keras.backend.backend() == "jax":  # a step is compiled once, and not in each call
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
        epochs = fitting(args, measured, time.monotonic() - BEGUN)
        if epochs > recipe.warmup_epochs:
            with atomic_write(plan) as partial:
                partial.write_text(json.dumps({"epochs": epochs, **measured}, indent=2) + "\n")
        if args.benchmark is not None:
            append_row(args.benchmark, {"date": time.strftime("%Y-%m-%d"), **measured, **machine()})
        if epochs <= recipe.warmup_epochs:
            sys.exit(
                f"Expected --minutes for more than {recipe.warmup_epochs} epochs; there is time for {epochs}: an epoch "
                f"takes {measured['seconds_per_epoch']} s here, and a call {measured['seconds_to_begin']} s to begin."
            )
    elif args.benchmark is not None:
        print(f"{plan} is there, so nothing is measured, and {args.benchmark} gets no row.")
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
        callbacks=[StopAt(BEGUN + args.call_minutes * 60)],
    )
    print(report.metrics)


def check_table(path):
    """Exits where a file cannot be a table of such rows."""
    if path.is_dir():
        sys.exit(f"Expected --benchmark to be a file; {path} is a folder.")
    rows = read_rows(path)
    if rows and "share_of_matrix_peak" not in rows[0]:
        sys.exit(f"Expected --benchmark to be a new file or one of this script's; {path} has {', '.join(rows[0])}.")


def fitting(args, measured, spent):
    """How many epochs fit, after the seconds that are spent, and those in which each call begins.

    This call begins once more, too: the schedule is a part of the compiled step.
    """
    calls = math.ceil(args.minutes / min(args.minutes, max(args.call_minutes, 0.1)))
    seconds = args.minutes * 60 - spent - calls * measured["seconds_to_begin"]
    return max(0, int(seconds * RESERVE / measured["seconds_per_epoch"]))


def build(args, x, y):
    keras.utils.set_random_seed(args.seed)
    classes = int(y.max()) + 1
    shape = x.shape[1:]
    return registry.create_model(
        args.model, weights=None, input_shape=shape, classes=classes, classifier_activation=None
    )


def measure(args, recipe, training, validation):
    """What an epoch costs, as the run will do it, with its checkpoint and validation; the first one also compiles."""
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
    operations = 6 * count_macs(model) * rate  # forwards once, backwards twice, two operations each
    return {
        "model": args.model,
        "backend": keras.backend.backend(),
        "precision": args.precision,
        "batch_size": recipe.batch_size,
        "steps_per_epoch": report.steps // args.measure,
        "seconds_per_epoch": round(seconds, 3),
        "images_per_second": round(rate, 1),
        "share_of_matrix_peak": round(operations / matrix_peak(args.precision), 4),
        "seconds_to_begin": round((clock.begun or ends[0]) - BEGUN, 1),
        "memory_bytes": memory(),
    }


def machine():
    """What the figures depend on besides the network, for a row of a table."""
    where = environment()
    versions = {"python": where["python"], **where["versions"]}
    return {
        "device": where["device"],
        "processors": where["processors"],
        "versions": "; ".join(f"{name} {version}" for name, version in versions.items()),
    }


def matrix_peak(precision, seconds=2.0):
    """Operations a second of large products of matrices, in the precision that the network computes in."""
    dtype = keras.DTypePolicy(precision).compute_dtype
    side = 512 if memory() is None else 8192
    a = keras.ops.cast(keras.random.normal((side, side)), dtype)
    rates, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun, product = time.monotonic(), a
        for _ in range(10):
            product = keras.ops.matmul(a, product)
        float(keras.ops.convert_to_numpy(keras.ops.cast(product[0, 0], "float32")))  # waits for it
        rates.append(10 * 2 * side**3 / (time.monotonic() - begun))
    return max(rates)


def memory():
    """The largest number of bytes in use on the device so far, where JAX tells it."""
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
