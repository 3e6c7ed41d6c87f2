"""Every private attribute of Keras that this package uses, each behind one small function.

Keras has no public way to walk a graph backwards, to list the layers inside a layer that is not a model, or to write
the state of its JAX trainer. `tests/test_keras_internals.py` fails when Keras changes any of them; then only this
module has to be adapted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_resattn.typing import Tensor

JAX_STATE_GROUPS = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


def producer(tensor: keras.KerasTensor) -> tuple[Any, int, int]:
    """Return the operation that produced a KerasTensor.

    Returns:
        `(operation, node index, output index)`: the layer or bare operation, the number of the call, and the number of
        the tensor among the outputs of that call.
    """
    history: Any = tensor._keras_history
    return history.operation, history.node_index, history.tensor_index


def call_inputs(operation: Any, node_index: int) -> list[keras.KerasTensor]:
    """Return the tensors that call number `node_index` of a layer or operation received."""
    return list(operation._inbound_nodes[node_index].input_tensors)


def call_arguments(operation: Any, node_index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` of call number `node_index` of a layer or operation."""
    arguments = operation._inbound_nodes[node_index].arguments
    return arguments.args, arguments.kwargs


def symbolic_calls(operation: Any) -> list[tuple[list[keras.KerasTensor], list[keras.KerasTensor]]]:
    """Return `(inputs, outputs)` of each call of a layer or operation on KerasTensors."""
    return [(list(node.input_tensors), list(node.output_tensors)) for node in operation._inbound_nodes]


def direct_sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the layers that a layer holds itself, not those inside them."""
    return list(layer._layers)


def run_graph(model: keras.Model, inputs: Any, operation_fn: Callable[[Any], Callable[..., Any]]) -> Any:
    """Run a functional model with `operation_fn(operation)` called in place of each operation.

    Args:
        model: A functional model.
        inputs: Inputs of the model.
        operation_fn: Called on each layer or operation of the graph; returns the function that replaces it.
    """
    run: Any = model
    return run._run_through_graph(inputs, operation_fn=operation_fn)


def set_jax_state(model: keras.Model, values: Sequence[Sequence[Tensor]]) -> None:
    """Make values the training state of a model inside `fit` on JAX; Keras copies them into its variables afterwards.

    Args:
        model: A model inside `fit`.
        values: The state that its training step takes: values of the trainable, non-trainable, optimizer and metrics
            variables.
    """
    trainer: Any = model
    trainer._jax_state = dict(zip(JAX_STATE_GROUPS, values, strict=True))
    trainer._jax_state_synced = False
