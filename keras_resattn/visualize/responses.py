"""Mean absolute responses of a network's stages, and their plot (Fig. 4 of the Residual Attention Network paper)."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_resattn.data.images import to_numpy
from keras_resattn.models.inspection import cached_on_model, tensors_of_layers
from keras_resattn.models.normalization import convolution_on_raw_input
from keras_resattn.preprocessing import warn_if_raw
from keras_resattn.typing import ArrayLike
from keras_resattn.utils.validation import check_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Name of a stage, or of a block (unit or attention module) in a stage.
BLOCK = re.compile(r"(stage|group)(\d+)(?:_(unit|attention)(\d+))?")
LOG_SCALE_FROM = 100  # ratio of the largest to the smallest response


def stage_responses(
    model: keras.Model, images: ArrayLike, batch_size: int = 32, blocks: bool = False
) -> dict[str, float]:
    """Return the mean absolute output of each stage, averaged over images, positions and channels.

    With naive attention learning, repeated multiplication by masks between 0 and 1 makes responses vanish with depth;
    attention residual learning preserves them.

    Args:
        model: A network of this package with stages (`stage1_...`) or groups (`group1_...`) in its own graph.
        images: Array of shape `(n, h, w, c)`, preprocessed as for `model.predict`, with at least one image. Images
            that look raw (integers, or 0 to 255) raise a warning if no layer of the model normalises them.
        batch_size: Images per step.
        blocks: Whether to return the response of every unit and attention module in the order of the graph, instead of
            the last one of each stage.

    Returns:
        Dictionary of floats: `{"stage1": 0.8, ...}`, or with `blocks` `{"stage1_unit1": 0.3, "stage1_attention1": 0.5,
        ...}`. In pre-activation networks, the outputs are raw sums before normalisation and ReLU.

    Raises:
        ValueError: if the model has no stages, or the images are missing or have another shape.

    Source: Wang et al., "Residual Attention Network for Image Classification" (CVPR 2017), Sec. 4.1, Fig. 4.
    """
    check_count("batch_size", batch_size)
    images = to_numpy(images)
    outputs = _block_outputs(model)
    if images.ndim != len(model.input_shape) or not len(images):
        raise ValueError(f"Expected images of shape {model.input_shape}; received: shape {images.shape}.")
    warn_if_raw(images, convolution_on_raw_input(model), stacklevel=3)
    mean_model = cached_on_model(model, "responses", lambda: _mean_model(model, outputs))
    arrays = mean_model.predict(images, batch_size=batch_size, verbose=0)
    responses = {name: float(np.mean(arrays[name], dtype="float64")) for name in outputs}
    if blocks:
        return responses
    return {name.partition("_")[0]: value for name, value in responses.items()}  # the last block of a stage wins


def plot_responses(responses: Mapping[str, Mapping[str, float] | Sequence[Mapping[str, float]]]) -> "Figure":
    """Plot the responses of several networks, one line each, in the order of the graph.

    The scale is logarithmic if the largest response is more than 100 times the smallest.

    Args:
        responses: `{label: responses}`, with the result of `stage_responses` for each network, or a list of results
            for several seeds, whose mean is plotted. All must have the same stages or blocks.

    Returns:
        A `matplotlib.figure.Figure`. Requires the extra `viz`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there are no responses, or the networks have different stages or blocks.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot_responses needs matplotlib: pip install 'keras-resattn[viz]'.") from error
    blocks, lines = _mean_over_seeds(responses)
    figure = Figure(figsize=(max(6.0, 0.45 * len(blocks)), 3.8 + 0.2 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for label, values in lines.items():
        axes.plot(values, "o-", markersize=4, label=label)
    if any("_" in block for block in blocks):
        _mark_stages(axes, blocks)
    axes.set_xticks(range(len(blocks)), [_tick_label(block) for block in blocks], rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("mean absolute response")
    axes.grid(axis="y", alpha=0.3)
    plotted = np.concatenate(list(lines.values()))
    if 0 < LOG_SCALE_FROM * plotted.min() < plotted.max():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", fontsize=9)
    return figure


def _mean_over_seeds(responses):
    """Return the block names, and `{label: mean over seeds, in the order of the blocks}`."""
    runs = {label: of if isinstance(of, (list, tuple)) else [of] for label, of in responses.items()}
    names = {tuple(run) if isinstance(run, Mapping) else () for of in runs.values() for run in of}
    blocks = list(names.pop()) if len(names) == 1 else []
    if not blocks or not all(runs.values()) or not all(map(BLOCK.fullmatch, blocks)):
        raise ValueError(
            "Expected {label: responses} with results of stage_responses that have the same stages or blocks; "
            f"received: {responses!r:.300}."
        )
    return blocks, {label: np.mean([list(run.values()) for run in of], 0) for label, of in runs.items()}


def _block_outputs(model):
    """Return `{block: output}` for each unit outside attention modules and each attention module, in graph order."""
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


def _mean_model(model, outputs):
    """Build a model that returns the mean absolute value of each output for each image."""
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


def _tick_label(block):
    [(stage, stage_number, kind, number)] = BLOCK.findall(block)
    if not kind:
        return f"{stage} {stage_number}"
    return f"{'module' if kind == 'attention' else kind} {number}"
