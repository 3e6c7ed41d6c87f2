"""How strongly each stage of a network responds: the measure of Fig. 4 of the Residual Attention Network paper."""

import re
from collections.abc import Mapping
from numbers import Real
from textwrap import fill
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.models.inspection import cached_on_model, convolution_on_raw_input, tensors_of_layers
from keras_resattn.preprocessing import warn_of_raw
from keras_resattn.typing import ArrayLike
from keras_resattn.utils.validation import check_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: A stage, or a block of one.
BLOCK = re.compile(r"(stage|group)(\d+)(?:_(unit|attention)(\d+))?")


def stage_responses(
    model: keras.Model, images: ArrayLike, batch_size: int = 32, blocks: bool = False
) -> dict[str, float]:
    """Return the mean absolute response of each stage's output, over images, positions and channels.

    Multiplying by masks between 0 and 1 again and again (naive attention learning) makes responses vanish with depth;
    attention residual learning keeps them up.

    Args:
        model: A network of this package with stages (`stage1_...`) or groups (`group1_...`) in its own graph.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`, with at least one image. Images
            that look raw (integers, or 0 to 255) get a warning if nothing in the model normalises them.
        batch_size: Images in a step.
        blocks: Whether to return the response of each unit and each attention module, in the order of the graph, and
            not only of the last one of each stage.

    Returns:
        Dictionary of floats: `{"stage1": 0.8, ...}`, or with `blocks` `{"stage1_unit1": 0.3, "stage1_attention1": 0.5,
        ...}`. Units are raw sums in pre-activation networks, before normalisation and ReLU.

    Raises:
        ValueError: if the model has no stages, or there is no image or one of another shape.

    Source: Wang et al., "Residual Attention Network for Image Classification" (CVPR 2017), Sec. 4.1, Fig. 4.
    """
    check_count("batch_size", batch_size)
    images = to_numpy(images)
    outputs = _block_outputs(model)
    if images.ndim != len(model.input_shape) or not len(images):
        raise ValueError(f"Expected images of shape {model.input_shape}; received: shape {images.shape}.")
    warn_of_raw(images, convolution_on_raw_input(model), stacklevel=3)
    measuring = cached_on_model(model, "responses", lambda: _means(model, outputs))
    arrays = measuring.predict(images, batch_size=batch_size, verbose=0)
    responses = {name: float(np.mean(arrays[name], dtype="float64")) for name in outputs}
    if blocks:
        return responses
    return {name.partition("_")[0]: value for name, value in responses.items()}  # of a stage, the last remains


def plot_responses(responses: Mapping[str, Any]) -> "Figure":
    """Draws the responses of one or several networks, in the order of the graph, with the stages marked.

    The scale is logarithmic where the largest response is more than a hundred times the smallest.

    Args:
        responses: What `stage_responses` returns, with `blocks` or without; or for several networks
            `{label: responses}`, each such a dictionary, or a list of those for several seeds: their mean is a line,
            and each of them a thin one. All have the same stages or blocks.

    Returns:
        A `matplotlib.figure.Figure`. Needs the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are no responses, they are not as `stage_responses` returns them, or networks have
            different blocks.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_responses needs matplotlib: pip install 'keras-resattn[viz]'.") from error
    runs = _by_label(responses)
    blocks = {tuple(run) for of_label in runs.values() for run in of_label}
    if len(blocks) != 1:
        raise ValueError(f"Expected responses of the same blocks; received: {len(blocks)} different sets of blocks.")
    blocks = list(blocks.pop())
    width = max(6.0, 0.45 * len(blocks))
    # At 9 points, some 13 letters to the inch; the marker before a label takes the place of ten.
    labels: dict[Any, str] = {label: fill(str(label), int(13 * width) - 10) for label in runs if label is not None}
    lines = sum(label.count("\n") + 1 for label in labels.values())
    figure = Figure(figsize=(width, 3.8 + 0.2 * lines), layout="constrained")
    axes = figure.subplots()
    for i, (label, of_label) in enumerate(runs.items()):
        values = np.array([list(run.values()) for run in of_label])
        for line in values if len(values) > 1 else ():
            axes.plot(line, color=f"C{i}", linewidth=0.6, alpha=0.5)
        axes.plot(values.mean(0), "o-", color=f"C{i}", markersize=4, label=labels.get(label))
    if any("_" in block for block in blocks):
        _mark_stages(axes, blocks)
    axes.set_xticks(range(len(blocks)), [_readable(block) for block in blocks], rotation=60, ha="right", fontsize=8)
    _scale(axes, [value for of_label in runs.values() for run in of_label for value in run.values()])
    if labels:
        legend = figure.legend(loc="outside lower center", fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a label may have dollar signs
    return figure


def _by_label(responses):
    """`{label: [responses of a run, ...]}`, checked; the label of a single network is `None`."""
    if _are_responses(responses):
        return {None: [responses]}
    if not hasattr(responses, "items") or not responses:
        raise ValueError(f"Expected responses, or {{label: responses}}; received: {responses!r}.")
    runs = {label: list(of) if isinstance(of, (list, tuple)) else [of] for label, of in responses.items()}
    wrong = [label for label, of_label in runs.items() if not of_label or not all(map(_are_responses, of_label))]
    if wrong:
        raise ValueError(
            "Expected responses as stage_responses returns them, such as {'stage1': 0.8} or {'stage1_unit1': 0.3}; "
            f"received: {wrong[0]!r}: {responses[wrong[0]]!r}."
        )
    return runs


def _are_responses(run):
    return (
        hasattr(run, "items")
        and len(run) > 0
        and all(BLOCK.fullmatch(str(block)) and isinstance(value, Real) for block, value in run.items())
    )


def _scale(axes, drawn):
    axes.set_ylabel("mean absolute response")
    if 0 < 100 * min(drawn) < max(drawn):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)


def _block_outputs(model):
    """What each unit outside modules, and each attention module, returns, in the order of the graph."""
    last = {}
    for layer in getattr(model, "layers", ()):
        block = re.match(r"(?:stage|group)\d+_(?:unit|attention)\d+", layer.name)
        if block:
            last[block[0]] = layer.name
    if not last:
        raise ValueError(
            f"Expected a network of keras_resattn with its stages in its own graph; received: {model.name}. "
            "If the network is a layer of another model, pass that layer."
        )
    tensors = tensors_of_layers(model)
    return {block: tensors[name][0] for block, name in last.items()}


def _means(model, outputs):
    """A model that returns the mean absolute value of each output for each image."""
    means = {
        name: keras.ops.mean(keras.ops.abs(keras.ops.cast(tensor, "float32")), axis=(1, 2, 3))
        for name, tensor in outputs.items()
    }
    return keras.Model(model.input, means)


def _mark_stages(axes, blocks):
    stages = [block.partition("_")[0] for block in blocks]
    first = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for start, end in zip(first, [*first[1:], len(stages)], strict=True):
        if start:
            axes.axvline(start - 0.5, color="0.7", linewidth=0.8)
        title = re.sub(r"(\d+)$", r" \1", stages[start])
        axes.text((start + end - 1) / 2, 1.02, title, transform=axes.get_xaxis_transform(), ha="center")


def _readable(block):
    [(stage, of_stage, kind, number)] = BLOCK.findall(block)
    if not kind:
        return f"{stage} {of_stage}"
    return f"{'module' if kind == 'attention' else kind} {number}"
