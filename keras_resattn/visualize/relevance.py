"""Relevance of attention for a class: the gradient of its score with respect to each mask, times the mask."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_resattn.data.images import to_numpy
from keras_resattn.layers import AttentionHead, AttentionResidual, GradientScale
from keras_resattn.models.inspection import cached_on_model, last_layer, replay
from keras_resattn.typing import ArrayLike, Shape, Tensor
from keras_resattn.utils.gradients import input_gradients
from keras_resattn.visualize.attention import MASK, MERGE, find_attention

#: Activations of classifiers, before which the class scores are taken.
ACTIVATIONS = (keras.activations.softmax, keras.activations.log_softmax, keras.activations.sigmoid)


def attention_relevance(
    model: keras.Model, images: ArrayLike, classes: int | Sequence[int] | None = None, batch_size: int = 32
) -> dict[str, np.ndarray]:
    """Return how much each value of the attention masks adds to the score of a class, to first order.

    The relevance is `R = M * dS/dM`, for a mask M and the score S of a class. A soft mask adds `M * T` to the trunk's
    output T, so R is also this addition times the gradient of the score with respect to it, and its negative is the
    first-order estimate of the change of the score without the addition. Positive values support the class. The sum of
    R over channels is a map as in HiResCAM, for the addition of the mask instead of the last feature map; its sum over
    positions ranks channels, as in Grad-CAM, but without averaging the gradient.

    The score is the logit if the model ends in a `Dense` or `Activation` layer with softmax, log-softmax or sigmoid, or
    in a `Softmax` layer; otherwise it is the model's output. For gated attention, this is the output of `Rectify`.

    Args:
        model: A functional or sequential model, as in `attention_maps`, with an output of shape `(n, classes)`.
        images: Array of shape `(n, h, w, c)`, as for `attention_maps`.
        classes: Index of the class, or one index for each image. Defaults to the predicted class of each image.
        batch_size: Images per step.

    Returns:
        Dictionary with the names and shapes of `attention_maps`: float32 arrays of shape `(n, h, w, c)`, or
        `(n, c, h, w)` with `channels_first`, in units of the score.

    Raises:
        ValueError: if the model has no attention or another output, a class does not exist, or the images have another
            shape.

    Source: Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks" (2020); Selvaraju et al., "Grad-CAM" (ICCV 2017); Molchanov et al., "Pruning Convolutional Neural Networks
    for Resource Efficient Inference" (ICLR 2017), whose Taylor criterion ranks channels by the absolute value.
    """
    return relevance_of(model, images, classes, batch_size, stacklevel=5)


def relevance_of(
    model: keras.Model,
    images: ArrayLike,
    classes: int | Sequence[int] | None = None,
    batch_size: int = 32,
    stacklevel: int | None = 4,
) -> dict[str, np.ndarray]:
    """Return the result of `attention_relevance`; `stacklevel` is that of `Attention.predict`."""
    found = find_attention(model)
    masks, outputs = found.predict(
        "relevance", [found.masks, _class_output(model, found.outputs)], images, batch_size, stacklevel
    )
    weights = np.eye(outputs.shape[1], dtype="float32")[_checked_classes(classes, outputs)]
    names, gradients = cached_on_model(model, "relevance", lambda: _gradients(model))
    images, batches = to_numpy(images), []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        zeros = [np.zeros_like(masks[name][batch]) for name in names]
        batches.append(gradients([images[batch], *zeros], weights[batch]))
    by_name = dict(zip(names, map(np.concatenate, zip(*batches, strict=True)), strict=True))
    return {name: mask * by_name[name] for name, mask in masks.items()}


def _class_output(model, outputs):
    """Return the output of a model, which must have one, of shape `(n, classes)`."""
    flat = keras.tree.flatten(outputs)
    if len(flat) != 1 or len(flat[0].shape) != 2:
        raise ValueError(
            "Expected a model with one output of shape (n, classes), for whose classes attention is relevant; "
            f"{model.name} returns {', '.join(str(tuple(output.shape)) for output in flat)}."
        )
    return flat[0]


def _checked_classes(classes, outputs):
    """Return the index of a class for each image, the predicted one by default."""
    images, count = outputs.shape
    if classes is None:
        return outputs.argmax(1)
    indices = to_numpy(classes)
    fits = indices.dtype.kind in "iu" and indices.shape in ((), (images,))
    if not fits or indices.min() < 0 or indices.max() >= count:
        raise ValueError(
            f"Expected classes to be an index from 0 to {count - 1}, or {images} of them, one for each image; "
            f"received: classes={classes!r:.200}."
        )
    return np.broadcast_to(indices, (images,))


def _gradients(model: keras.Model) -> tuple[list[str], Callable[..., list[np.ndarray]]]:
    """Return the names of all masks, and a function that computes gradients of class scores with respect to them.

    It runs the model's layers in a graph with an additional input for each mask, which is added to the mask.
    """
    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    end, added, scores = last_layer(model), {}, []

    def plus_input(name, mask):
        added[name] = keras.Input(batch_shape=mask.shape, dtype=mask.dtype)
        return ops.add(mask, added[name])

    def visit(layer, args, outputs):
        if layer is end:
            scores.append(_class_scores(layer, args[0], outputs))
        if isinstance(layer, AttentionResidual):
            trunk, mask = args[0]
            return layer([trunk, plus_input(layer.name.removesuffix(MERGE) + MASK, mask)])
        if isinstance(layer, AttentionHead):
            return plus_input(layer.name, outputs)
        if isinstance(layer, GradientScale):  # it scales gradients in training; these are the true ones
            return args[0]
        return None

    outputs = _class_output(model, replay(model, inputs, visit))
    scored = keras.Model([inputs, *added.values()], scores[-1] if scores else outputs)
    return list(added), input_gradients(scored)


def _class_scores(layer, x, outputs):
    """Return the class scores of a model's last layer, called on `x`: logits if they can be found, else its outputs."""
    if isinstance(layer, keras.layers.Softmax):
        return x
    if getattr(layer, "activation", None) not in ACTIVATIONS:
        return outputs
    if isinstance(layer, keras.layers.Activation):
        return x
    plain = type(layer) is keras.layers.Dense and layer.quantization_mode is None
    return _Logits(layer)(x) if plain else outputs


class _Logits(keras.layers.Layer):
    """A `Dense` layer without its activation; the weights are shared."""

    def __init__(self, dense):
        super().__init__(dtype=dense.dtype_policy)
        self.dense = dense

    def call(self, x: Tensor) -> Tensor:
        logits = ops.matmul(x, self.dense.kernel)
        return logits if self.dense.bias is None else ops.add(logits, self.dense.bias)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.dense.units)
