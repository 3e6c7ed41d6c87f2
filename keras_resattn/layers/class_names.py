"""Names of the classes, kept by the model that tells them apart.

Every way of rebuilding a model (`.keras` and `.h5` files, `clone_model`, `from_config`, `keras.Model(inputs, outputs)`)
keeps the configuration of its layers. Attributes of a model are lost by all of them, and subclasses of `keras.Model` by
some. So the names belong to the layer whose kernel has a column for each class, whatever its type: they are part of the
kernel's initializer, which has nothing else to do once the weights exist.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from keras_resattn.layers.gates import Rectify
from keras_resattn.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_resattn")
class NamedClasses(keras.initializers.Initializer):
    """Initializer of a classifier's kernel that knows which class each column stands for.

    Args:
        initializer: The initializer that draws the values: whatever `keras.initializers.get` takes.
        class_names: Names of the classes, in the order of the columns.

    Raises:
        ValueError: for anything but different, non-empty strings.
    """

    def __init__(self, initializer: Any, class_names: Iterable[str]) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.class_names = check_class_names(class_names)

    def __call__(self, shape: Shape, dtype: str | None = None, **kwargs: Any) -> Tensor:
        return self.initializer(shape, dtype=dtype, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "class_names": list(self.class_names),
        }


def set_class_names(model: keras.Model, class_names: list[str] | None) -> None:
    """Name the classes of a model, in place: the names are saved with it.

    `class_names_of(model)` returns them, also after `model.save(...)` and `keras.models.load_model` in another process
    (which has to `import keras_resattn` first), `clone_model`, `from_config`, and from a model that contains this one
    and ends in its output. `fine_tune` and `compile_and_fit` call it with the names that the training data have.

    Args:
        model: A functional or built sequential classifier whose class scores come from a `Dense` or convolution layer;
            pooling, softmax, gated attention and the like may follow it.
        class_names: A name for each class, in the order of the outputs; `None` removes the names.

    Raises:
        ValueError: for another number of names than the model has outputs, for anything but different, non-empty
            strings, and for a model without such a layer.
    """
    names = None if class_names is None else check_class_names(class_names, _outputs(model))
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
    """Whether a model has a layer that `set_class_names` can use."""
    return _classifier(model) is not None


def check_class_names(class_names: Any, classes: int | None = None) -> list[str]:
    """Return class names as a list of Python strings.

    Args:
        class_names: A list, tuple or one-dimensional array of strings.
        classes: Expected number of names, or `None` for any.

    Raises:
        ValueError: for anything but different, non-empty strings, and for another number of them.
    """
    names = class_names.tolist() if hasattr(class_names, "tolist") else class_names
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"Expected class_names to be a list of strings; received: {class_names!r}.")
    wrong = [name for name in names if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise ValueError(
            f"Expected class_names to be strings that are not empty; received among them: {some_names(wrong)}."
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"Expected class_names to be different; received several times: {some_names(repeated)}.")
    if classes is not None and len(names) != classes:
        raise ValueError(
            f"Expected {classes} class names, one for each class; received: {len(names)}, {some_names(names)}."
        )
    return [str(name) for name in names]


def some_names(names: Sequence[object], most: int = 10) -> str:
    """Return names for a message: all of them, or the first ones and how many there are."""
    shown = [repr(name) for name in names]
    return ", ".join(shown if len(shown) <= most else [*shown[: most - 1], f"... ({len(shown)} in all)"])


def _outputs(model):
    shape = getattr(model, "output_shape", None) if getattr(model, "built", False) else None
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def _classifier(model):
    """The layer whose kernel has a column for each of the model's outputs, or `None`."""
    is_graph = isinstance(model, (keras.Sequential, keras.Function)) and getattr(model, "outputs", None)
    classes = _outputs(model)
    if not is_graph or classes is None:
        return None
    layer = _source(model.outputs[0])
    columns = getattr(layer, "units", getattr(layer, "filters", None))
    return layer if columns == classes else None


def _source(tensor):
    """The last layer with a kernel before a tensor, unless another layer with weights or a join of several follows."""
    # Keras has no public way to read a graph backwards.
    layer, node, index = tensor._keras_history
    if isinstance(layer, (keras.Sequential, keras.Function)):
        return _source(layer.outputs[index])
    if hasattr(layer, "kernel_initializer"):
        return layer
    inputs = layer._inbound_nodes[node].input_tensors
    joins = len(inputs) != 1 and not isinstance(layer, Rectify)
    if joins or getattr(layer, "weights", ()):
        return None
    return _source(inputs[-1])  # the last input of Rectify is the output of the network that it rectifies
