"""Class names stored in a model in a way that survives saving, loading and rebuilding it.

`.keras` and `.h5` files, `clone_model`, `from_config` and `keras.Model(inputs, outputs)` all keep the configuration of
a model's layers, but lose attributes of the model, and some lose its subclass. Therefore the names are stored in a
layer: in the kernel initializer of the classifier, which has no other purpose once the weights exist.
"""

from collections.abc import Iterable
from typing import Any

import keras

from keras_resattn.layers.gates import Rectify
from keras_resattn.typing import Shape, Tensor
from keras_resattn.utils.keras_internals import call_inputs, producer
from keras_resattn.utils.validation import check_class_names


@keras.saving.register_keras_serializable(package="keras_resattn")
class NamedClasses(keras.initializers.Initializer):
    """Kernel initializer of a classifier that also stores the name of each class.

    Args:
        initializer: Initializer that draws the values, in any form that `keras.initializers.get` accepts.
        class_names: Names of the classes, in the order of the kernel's columns.

    Raises:
        ValueError: if the names are not different, non-empty strings.
    """

    def __init__(self, initializer: Any, class_names: Iterable[str]) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.class_names = check_class_names(class_names)

    def __call__(self, shape: Shape, dtype: str | None = None, **kwargs: Any) -> Tensor:
        """Return a new kernel, drawn by `initializer`."""
        return self.initializer(shape, dtype=dtype, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, which Keras stores in files."""
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "class_names": list(self.class_names),
        }


def set_class_names(model: keras.Model, class_names: list[str] | None) -> None:
    """Name the classes of a model, in place. The names are saved with the model.

    `class_names_of(model)` returns them, also after `model.save(...)` and `keras.models.load_model` in another process
    (which has to `import keras_resattn` first), after `clone_model` and `from_config`, and for a model that contains
    this one and ends in its output. `fine_tune` and `compile_and_fit` set the class names of the training data.

    Args:
        model: A functional or built sequential classifier whose class scores come from a `Dense` or convolution layer.
            Layers without weights, such as pooling or softmax, and gated attention may follow that layer.
        class_names: A name for each class, in the order of the outputs; `None` removes the names.

    Raises:
        ValueError: if the number of names differs from the number of outputs, the names are not different, non-empty
            strings, or the model has no such layer.
    """
    names = None if class_names is None else check_class_names(class_names, _output_count(model))
    layer = _classifier(model)
    if layer is None:
        if names is None:
            return
        raise ValueError(
            f"Expected a functional or built sequential model whose class scores come from a Dense or convolution "
            f"layer, which keeps the names; received: {getattr(model, 'name', model)!r}, which has none. "
            "Pass class_names where they are needed instead."
        )
    initializer = layer.kernel_initializer
    initializer = initializer.initializer if isinstance(initializer, NamedClasses) else initializer
    layer.kernel_initializer = initializer if names is None else NamedClasses(initializer, names)


def model_class_names(model: keras.Model) -> list[str] | None:
    """Return the class names that a model keeps, or `None` if it has none."""
    initializer = getattr(_classifier(model), "kernel_initializer", None)
    return list(initializer.class_names) if isinstance(initializer, NamedClasses) else None


def keeps_class_names(model: keras.Model) -> bool:
    """Return whether a model has a layer in which `set_class_names` can store names."""
    return _classifier(model) is not None


def _output_count(model):
    shape = getattr(model, "output_shape", None) if getattr(model, "built", False) else None
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def _classifier(model):
    """Return the layer whose kernel has a column for each of the model's outputs, or `None`."""
    is_graph = isinstance(model, (keras.Sequential, keras.Function)) and getattr(model, "outputs", None)
    classes = _output_count(model)
    if not is_graph or classes is None:
        return None
    layer = _last_layer_with_kernel(model.outputs[0])
    columns = getattr(layer, "units", getattr(layer, "filters", None))
    return layer if columns == classes else None


def _last_layer_with_kernel(tensor):
    """Return the last layer with a kernel before a tensor, or `None` if other weights or a merge come after it."""
    layer, node, index = producer(tensor)
    if isinstance(layer, (keras.Sequential, keras.Function)):
        return _last_layer_with_kernel(layer.outputs[index])
    if hasattr(layer, "kernel_initializer"):
        return layer
    inputs = call_inputs(layer, node)
    merges = len(inputs) != 1 and not isinstance(layer, Rectify)
    if merges or getattr(layer, "weights", ()):
        return None
    return _last_layer_with_kernel(inputs[-1])  # the last input of Rectify is the output of the base network
