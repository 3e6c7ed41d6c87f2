"""The private attributes of Keras that the package uses: a failure here means that this Keras has changed them."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_resattn
from keras_resattn.utils import keras_internals


def two_branches():
    """A model whose shared layer is called twice."""
    inputs = keras.Input((4,), name="inputs")
    shared = layers.Dense(3, name="shared")
    first = shared(inputs)
    second = shared(layers.Rescaling(2.0, name="twice")(inputs))
    return keras.Model(inputs, layers.Add(name="sum")([first, second])), shared


def test_producer_is_the_operation_the_call_and_the_output():
    model, shared = two_branches()
    operation, node, index = keras_internals.producer(model.output)
    assert (operation.name, node, index) == ("sum", 0, 0)
    first, second = keras_internals.call_inputs(operation, node)
    assert keras_internals.producer(first) == (shared, 0, 0)
    assert keras_internals.producer(second) == (shared, 1, 0)


def test_symbolic_calls_lists_what_each_call_received_and_returned():
    model, shared = two_branches()
    [(first_in, first_out), (second_in, second_out)] = keras_internals.symbolic_calls(shared)
    assert [first_in[0] is model.input, second_in[0] is model.get_layer("twice").output] == [True, True]
    add = model.get_layer("sum")
    received = keras_internals.call_inputs(add, 0)
    assert [first_out[0] is received[0], second_out[0] is received[1]] == [True, True]


def test_direct_sublayers_of_a_model_a_wrapper_and_a_layer():
    model, shared = two_branches()
    assert {layer.name for layer in keras_internals.direct_sublayers(model)} >= {"shared", "twice", "sum"}
    assert keras_internals.direct_sublayers(layers.TimeDistributed(shared)) == [shared]
    unit = keras_resattn.layers.WideUnit(4)
    assert {layer.name for layer in keras_internals.direct_sublayers(unit)} >= {"bn1", "conv1", "bn2", "conv2"}
    assert keras_internals.direct_sublayers(shared) == []


def test_run_graph_replaces_every_operation():
    model, _ = two_branches()
    names = []

    def replace(operation):
        def call(*args, **kwargs):
            names.append(operation.name)
            return operation(*args, **kwargs)

        return call

    x = np.ones((2, 4), "float32")
    outputs = keras_internals.run_graph(model, x, replace)
    assert sorted(names) == ["shared", "shared", "sum", "twice"]
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (outputs, model(x))), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the state of the JAX trainer")
def test_set_jax_state_is_what_the_model_holds_after_fit():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    kernel = np.array([[3.0], [5.0]], "float32")

    class Replace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            groups = [model._jax_state[name] for name in keras_internals.JAX_STATE_GROUPS]
            groups[0] = [keras.ops.convert_to_tensor(kernel)]
            keras_internals.set_jax_state(model, groups)

    model.fit(np.ones((2, 2), "float32"), np.ones((2, 1), "float32"), verbose=0, callbacks=[Replace()])
    np.testing.assert_array_equal(model.get_weights()[0], kernel)


@pytest.mark.once
def test_no_other_module_uses_a_private_attribute_of_keras():
    package = Path(keras_resattn.__file__).parent
    private = re.compile(r"\._(keras_history|inbound_nodes|outbound_nodes|jax_state|run_through_graph|tracker)\w*")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if private.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"utils/keras_internals.py"}
