"""Train a Residual Attention Network on Tiny-ImageNet: in bfloat16 on TensorFlow and CPU cores.

    python -m tools.train_tiny_imagenet DATA.npz RUN_DIR
    python -m tools.train_tiny_imagenet DATA.npz RUN_DIR --network ResidualAttention92 \
        --grow-from ResidualAttention56 WEIGHTS --epochs 8

DATA.npz holds `x_train` (100,000 images of 64 x 64, uint8) and `y_train`. The script holds out 25 images of each class
for validation (`tools/hold_out.py`) and never trains on them. Safe to interrupt: rerun to resume. With --grow-from, the
network starts with the function of a smaller, trained one (`tools/grow_network.py`) instead of random weights.

TensorFlow's gradient of convolution kernels is replaced by matrix products where oneDNN's bfloat16 kernel is several
times slower (same values up to rounding).
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops

from keras_resattn import compile_and_fit, create_model, zero_init_residual
from keras_resattn.recipes import get_recipe
from tools.grow_network import grow
from tools.hold_out import hold_out


def matrix_product_gradients():
    """Compute gradients of 1x1 kernels, and of 3x3 kernels with 256 or more channels, as matrix products.

    At 64 pixels and batch 128, kernel gradients (`brgconv_bwd_w`) took half of a training step of Attention-56 on two
    cores with AMX. In isolation, on eight of these shapes, matrix products were 2.5 to 11 times faster. TensorFlow has
    no public way to replace a gradient.
    """
    default = ops.gradient_registry.lookup("Conv2D")

    def gradient(op, grad):
        x, kernel = op.inputs
        for_input, for_kernel = default(op, grad)  # the unused default gradient is pruned from the graph
        height, width, channels, filters = kernel.shape
        stride, padding = op.get_attr("strides")[1], op.get_attr("padding")
        fast = height == width and (height == 1 or (height == 3 and channels >= 256))
        if not fast or op.get_attr("data_format") != b"NHWC" or (height == 3 and padding == b"SAME" and stride != 1):
            return for_input, for_kernel
        if height == 3 and padding == b"SAME":
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        rows, columns = (stride * (tf.shape(grad)[axis] - 1) + 1 for axis in (1, 2))
        grad = tf.reshape(grad, (-1, filters))
        parts = [
            tf.matmul(
                tf.reshape(x[:, i : i + rows : stride, j : j + columns : stride], (-1, channels)),
                grad,
                transpose_a=True,
            )
            for i in range(height)
            for j in range(width)
        ]
        return for_input, tf.reshape(tf.stack(parts), (height, width, channels, filters))

    ops.gradient_registry._registry["Conv2D"]["type"] = gradient


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help=".npz file with x_train and y_train")
    parser.add_argument("run_dir", help="folder for log, checkpoint, weights and report")
    parser.add_argument("--network", default="ResidualAttention56", help="default: %(default)s")
    grow_from = "network and weights (a tag or a .weights.h5 file) to start from"
    parser.add_argument("--grow-from", nargs=2, metavar=("NETWORK", "WEIGHTS"), help=grow_from)
    parser.add_argument("--epochs", type=int, help="length of the schedule (default: that of the recipe)")
    parser.add_argument("--learning-rate", type=float, help="peak learning rate (default: that of the recipe)")
    parser.add_argument("--limit", type=int, help="number of training images, to try the command")
    arguments = parser.parse_args()

    with np.load(arguments.data) as file:
        x, y = file["x_train"], file["y_train"].astype("int64")
    kept, _ = hold_out(y)
    kept = kept[: arguments.limit]
    matrix_product_gradients()
    changes = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    recipe = get_recipe("tiny_imagenet").replace(
        precision="mixed_bfloat16", **{field: value for field, value in changes.items() if value is not None}
    )
    keras.config.set_dtype_policy(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    options = {"classes": 200, "input_shape": (None, None, 3), "classifier_activation": None}
    model = create_model(arguments.network, weights=None, **options)
    zero_init_residual(model)
    if arguments.grow_from:
        network, weights = arguments.grow_from
        grow(create_model(network, weights=weights, **options), model)
    report = compile_and_fit(model, recipe, (x[kept], y[kept]), run_dir=arguments.run_dir, verbose=2)
    print(report.metrics)


if __name__ == "__main__":
    main()
