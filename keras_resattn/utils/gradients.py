"""Gradients of a model's output with respect to its inputs: the only code for this that depends on the backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def input_gradients(model: keras.Model) -> Callable[[Sequence[np.ndarray], np.ndarray], list[np.ndarray]]:
    """Return a function that differentiates a model's output with respect to all of its inputs except the first.

    The function runs the model in inference mode, with its current weights. TensorFlow and JAX compile it on first use.

    Args:
        model: A functional model with a list of inputs and one output.

    Returns:
        A function `(inputs, weights) -> gradients` of arrays: the inputs of the model, weights of the shape of its
        output, and the gradients of the weighted sum of the output, in float32.
    """
    backends = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients, "torch": _torch_gradients}
    compute = backends[keras.backend.backend()](model)

    def gradients(inputs, weights):
        first, *others = (
            ops.convert_to_tensor(array, dtype=tensor.dtype) for array, tensor in zip(inputs, model.inputs, strict=True)
        )
        found = compute(first, others, ops.convert_to_tensor(weights, dtype="float32"))
        return [np.asarray(ops.convert_to_numpy(ops.cast(gradient, "float32"))) for gradient in found]

    return gradients


def _tensorflow_gradients(model: Any) -> Callable[..., Any]:
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def compute(first, others, weights):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(others)
            total = tf.reduce_sum(weights * tf.cast(model([first, *others], training=False), "float32"))
        return tape.gradient(total, others, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return compute


def _jax_gradients(model: Any) -> Callable[..., Any]:
    import jax

    def total(others, first, weights, variables):
        outputs, _ = model.stateless_call(*variables, [first, *others], training=False)
        return jax.numpy.sum(weights * outputs.astype("float32"))

    gradient = jax.jit(jax.grad(total))

    def compute(first, others, weights):
        groups = model.trainable_variables, model.non_trainable_variables
        return gradient(others, first, weights, [[variable.value for variable in group] for group in groups])

    return compute


def _torch_gradients(model: Any) -> Callable[..., Any]:
    import torch

    def compute(first, others, weights):
        others = [tensor.requires_grad_() for tensor in others]
        with torch.enable_grad():
            total = (weights * model([first, *others], training=False).float()).sum()
        return torch.autograd.grad(total, others, allow_unused=True, materialize_grads=True)

    return compute
