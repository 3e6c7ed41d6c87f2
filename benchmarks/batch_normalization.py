"""Speed of fused batch normalization relative to Keras' own, in training and inference steps of Attention-56.

    python benchmarks/batch_normalization.py [--backends tensorflow torch] [--dtypes float32 mixed_bfloat16] [--pairs 7]

For each backend and dtype policy, one process holds two copies of the network; in one copy every
`keras_resattn.layers.BatchNormalization` computes as `keras.layers.BatchNormalization` does. Their steps alternate, so
that a change in the machine's load affects both. The result is the ratio of the medians, Keras' time over ours. Rows
are appended to results/batch_normalization.csv. JAX is not measured, because the layer is Keras' own there.
"""

import argparse
import json
import statistics
import sys

from _harness import append_result, installed, run_on_backend, time_steps, versions

BACKENDS = ("tensorflow", "torch")


def measure(arguments):
    """Time the steps on the backend of this process. Return `{step: {"keras" or "fused": [seconds, ...]}}`."""
    import keras
    import numpy as np

    from keras_resattn import ResidualAttention56
    from keras_resattn.layers import BatchNormalization
    from keras_resattn.models.inspection import iter_layers

    keras.config.set_dtype_policy(arguments.dtypes[0])
    side, batch_size = arguments.size, arguments.batch_size
    networks = {
        name: ResidualAttention56(weights=None, classes=200, input_shape=(side, side, 3)) for name in ("keras", "fused")
    }
    for layer in iter_layers(networks["keras"]):
        if isinstance(layer, BatchNormalization):
            layer._fused = lambda *_: None
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch_size, side, side, 3)).astype("float32"), rng.integers(0, 200, batch_size)
    return time_steps(networks, x, y, arguments.pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all that are installed")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "mixed_bfloat16"], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=7, help="alternating steps of each (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=64, help="side of the images (default: %(default)s)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0

    from keras_resattn.recipes.report import environment

    backends = arguments.backends or installed(BACKENDS)
    for backend, dtype in [(backend, dtype) for backend in backends for dtype in arguments.dtypes]:
        command = [__file__, "--measure", "--dtypes", dtype, "--pairs", str(arguments.pairs)]
        command += ["--batch-size", str(arguments.batch_size), "--size", str(arguments.size)]
        for step, times in run_on_backend(backend, command).items():
            ours, theirs = (statistics.median(times[name]) for name in ("fused", "keras"))
            print(f"{backend:<12}{dtype:<16}{step:<11}{theirs:9.3f} s{ours:9.3f} s{theirs / ours:8.3f}", flush=True)
            row = {
                "backend": backend,
                "dtype": dtype,
                "step": step,
                "size": arguments.size,
                "batch_size": arguments.batch_size,
                "pairs": arguments.pairs,
                "keras_s": f"{theirs:.4f}",
                "fused_s": f"{ours:.4f}",
                "ratio": f"{theirs / ours:.3f}",
                "processor": environment()["processor"],
                "versions": versions(backend),
            }
            append_result("batch_normalization", row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
