"""Residual Attention Networks (Wang et al., CVPR 2017): the general builder, and a builder for each network."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_resattn.layers import AttentionResidual, CeilMaxPooling2D, SoftMask
from keras_resattn.layers.residual import UNITS, check_groups
from keras_resattn.layers.soft_mask import LEARNING, MASK_ACTIVATIONS, MASKS, check_mask_depth
from keras_resattn.models._arguments import check_counts
from keras_resattn.models._build import Builder, batch_norm, build_model, builder, convolution, relu, snake_case
from keras_resattn.models.variants import TOPOLOGIES, VARIANTS, Variant
from keras_resattn.typing import Learning, Mask, MaskActivation, PathLike, Pooling, Shape, Topology, Unit
from keras_resattn.utils.data_format import image_size
from keras_resattn.utils.validation import check_choice, check_count


def ResidualAttentionNet(
    include_top: bool = True,
    weights: PathLike | None = "default",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = False,
    variant: str | None = None,
    topology: Topology | None = None,
    modules: Sequence[int] | None = None,
    p: int | None = None,
    t: int | None = None,
    r: int | None = None,
    mask_depth: Sequence[int] | None = None,
    bottom_units: int | None = None,
    mask: Mask = "encoder_decoder",
    local_units: int = 3,
    mask_activation: MaskActivation = "mixed",
    learning: Learning = "residual",
    unit: Unit | None = None,
    widths: Sequence[int] | None = None,
    filters: Sequence[int] | None = None,
) -> keras.Model:
    """Build any Residual Attention Network; every ablation of the paper is an argument.

    Start from a published network with `variant`, or from a `topology` and the number of `modules` in each stage. All
    further arguments override the values of that network.

    Reference:
        Wang et al., "Residual Attention Network for Image Classification", CVPR 2017
        (https://arxiv.org/abs/1704.06904).

    Args:
        include_top: Whether to end in global average pooling and a classifier.
        weights: `"default"` for the best released checkpoint (a `ValueError` if there is none), `None` for random
            initialisation, a tag or alias such as `"cifar10"`, the path of a `.weights.h5` file, or
            `"hf://owner/repo[@revision]"`. Weights are released for unmodified variants only.
        input_tensor: A KerasTensor to build on, or `None` for a new input.
        input_shape: Shape of one image, `(height, width, channels)` under `channels_last`. Height and width can be any
            size of at least 32, or `None`, also with a top, as the head averages over all positions. Defaults to the
            size of the released weights or, without them, of the variant or topology (224 or 32), and three channels.
            If weights for three channels are loaded into a network with one channel, the stem's kernel is summed over
            RGB, with a warning.
        pooling: Output with `include_top=False`: `None` for the 4-D feature map (after the last ReLU), or `"avg"` or
            `"max"` for global pooling of it.
        classes: Number of classes. Defaults to that of the released weights or, without them, of the topology (1000 or
            10).
        classifier_activation: Activation of the classifier; `None` returns logits. With pretrained
            weights, `"softmax"` or `None`.
        name: Name of the model; defaults to the name of the variant in snake case.
        include_preprocessing: Whether the network normalises images from 0 to 255 itself, in a layer `preprocessing`
            with the mean and standard deviation of the released checkpoint; requires `weights` to be one.
        variant: Name of a row of `keras_resattn.models.variants.VARIANTS`, such as `"CifarResidualAttention92"`.
        topology: `"imagenet"` (four stages, 7x7/2 stem) or `"cifar"` (three stages, 3x3 stem).
        modules: Number of attention modules in each stage.
        p: Units before the split and after the merge of each module (paper: 1).
        t: Trunk units between them (paper: 2).
        r: Mask units between adjacent poolings (paper: 1).
        mask_depth: Number of poolings in the masks of each stage (paper: 3, 2, 1).
        bottom_units: Mask units at the smallest map; defaults to `2 * r` (Fig. 2).
        mask: `"encoder_decoder"` or `"local"` (Table 4).
        local_units: Units of the local mask: 3 for equal parameters, 1 for equal FLOPs.
        mask_activation: `"mixed"`, `"channel"` or `"spatial"` (Eq. 4 to 6, Table 1).
        learning: `"residual"` for (1 + M) T, `"naive"` for M T (Table 3's NAL).
        unit: The residual unit: `"preactivation"` (bottleneck), `"resnext"` (post-activation, 32 groups) or
            `"inception"`.
        widths: Inner width of the units in each stage; multiples of 32 for `"resnext"`.
        filters: Output channels of each stage; defaults to those of the variant, or to the widths times 4, 2
            (`"resnext"`) or 8 (`"inception"`).

    Returns:
        A functional `keras.Model`. Masks are nodes: `model.get_layer("stage1_attention1_mask").output`.

    Raises:
        ValueError: before anything is built, if an argument is invalid; after building, if the weights are missing or
            do not match the network.
    """
    row = _resolve_row(
        variant,
        topology=topology,
        modules=modules,
        p=p,
        t=t,
        r=r,
        mask_depth=mask_depth,
        bottom_units=bottom_units,
        unit=unit,
        widths=widths,
        filters=filters,
    )
    check_choice("mask", mask, MASKS)
    check_choice("mask_activation", mask_activation, MASK_ACTIVATIONS)
    check_choice("learning", learning, LEARNING)
    local_units = check_count("local_units", local_units)
    mask_options = {"mask": mask, "local_units": local_units, "activation": mask_activation}

    is_paper_network = mask == "encoder_decoder" and mask_activation == "mixed" and learning == "residual"
    return build_model(
        row.name if is_paper_network and row.name in VARIANTS and row == _published(row.name) else None,
        functools.partial(_body, row=row, mask_options=mask_options, learning=learning),
        row.default_size,
        TOPOLOGIES[row.topology].classes,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=name or snake_case(row.name),
        include_preprocessing=include_preprocessing,
    )


def _resolve_row(variant, **changes) -> Any:  # a Variant with all fields filled in
    """Return the row to build: that of a variant or a custom one, with the caller's changes checked and applied."""
    changes = {field: value for field, value in changes.items() if value is not None}
    if variant is not None:
        check_choice("variant", variant, VARIANTS)
        row = VARIANTS[variant]
        if changes.get("topology", row.topology) != row.topology:
            raise ValueError(
                f"Expected topology={row.topology!r} or None with variant={variant!r}; "
                f"received: topology={changes['topology']!r}."
            )
    else:
        if "topology" not in changes or "modules" not in changes:
            raise ValueError(
                "Expected a variant, or a topology and the modules of each stage; received: variant=None, "
                f"topology={changes.get('topology')!r}, modules={changes.get('modules')!r}."
            )
        row = Variant("ResidualAttentionNet", "imagenet", ())
    check_choice("topology", changes.get("topology", row.topology), TOPOLOGIES)
    changes = _checked(changes, stages=len(TOPOLOGIES[changes.get("topology", row.topology)].widths))
    row: Any = replace(row, **changes).resolved()
    if row.unit == "resnext":
        for width in row.widths:
            check_groups(width)
    return row


def _checked(changes, stages):
    """Check the changes, and return them with Python integers."""
    changes = dict(changes)
    for field, least in (("modules", 0), ("mask_depth", 0), ("widths", 1), ("filters", 1)):
        if field in changes:
            changes[field] = check_counts(field, changes[field], stages, least)
    for field, least in (("p", 0), ("t", 1), ("r", 1), ("bottom_units", 1)):
        if field in changes:
            changes[field] = check_count(field, changes[field], least)
    if "unit" in changes:
        check_choice("unit", changes["unit"], UNITS)
    return changes


def _check_mask_depths(row, inputs):
    """Check, before any layer is called, that the masks of every stage fit its map."""
    sizes = image_size(inputs.shape)
    if row.topology == "imagenet":  # in the stem, the convolution rounds up and the pooling down
        sizes = [size and (size + 1) // 2 // 2 for size in sizes]
    for stage, stride in enumerate(TOPOLOGIES[row.topology].strides, start=1):
        sizes = [size and -(-size // stride) for size in sizes]
        if row.modules[stage - 1]:
            check_count(f"mask_depth of stage {stage}", row.mask_depth[stage - 1])
            check_mask_depth(f"the masks of stage {stage}", row.mask_depth[stage - 1], sizes)


def _published(name) -> Any:  # a Variant with all fields filled in
    return VARIANTS[name].resolved()


def _body(inputs, row, mask_options, learning):
    """Build stem, stages and the final batch normalisation and ReLU."""
    if mask_options.get("mask") != "local":
        _check_mask_depths(row, inputs)
    x = _stem(inputs, row)
    for stage in range(1, len(row.modules) + 1):
        x = _stage(x, row, stage, mask_options, learning)
    return relu("post_relu")(batch_norm("post_bn")(x)) if UNITS[row.unit].preactivation else x


def _stem(x, row):
    plan = TOPOLOGIES[row.topology]
    if row.topology == "cifar":
        return convolution("stem_conv", plan.stem_width, 3, padding="same")(x)
    x = keras.layers.ZeroPadding2D(3, name="stem_pad")(x)
    x = convolution("stem_conv", plan.stem_width, 7, strides=2)(x)
    x = batch_norm("stem_bn")(x)
    x = relu("stem_relu")(x)
    return CeilMaxPooling2D(name="stem_pool")(x)


def _stage(x, row, stage, mask_options, learning):
    """Build the entry unit, attention modules and exit units of a stage."""
    plan = TOPOLOGIES[row.topology]
    x = _unit(row, stage, f"stage{stage}_unit1", plan.strides[stage - 1])(x)
    for module in range(1, row.modules[stage - 1] + 1):
        x = _attention_module(x, row, stage, f"stage{stage}_attention{module}", mask_options, learning)
    for i in range(plan.exit_units[stage - 1]):
        x = _unit(row, stage, f"stage{stage}_unit{i + 2}")(x)
    return x


def _unit(row, stage, name, strides=1):
    return UNITS[row.unit](row.widths[stage - 1], strides, filters=row.filters[stage - 1], name=name)


def _attention_module(x, row, stage, name, mask_options, learning):
    """Build an attention module: p units, trunk (t units) and soft mask in parallel, merge, p units (Fig. 2)."""

    def units(x, part, count):
        for i in range(1, count + 1):
            x = _unit(row, stage, f"{name}_{part}{i}")(x)
        return x

    x = units(x, "pre", row.p)
    mask = SoftMask(
        row.widths[stage - 1],
        depth=row.mask_depth[stage - 1],
        units=row.r,
        bottom_units=row.bottom_units,
        unit=row.unit,
        filters=row.filters[stage - 1],
        name=f"{name}_mask",
        **mask_options,
    )(x)
    trunk = units(x, "trunk", row.t)
    x = AttentionResidual(learning, name=f"{name}_merge")([trunk, mask])
    return units(x, "post", row.p)


def _builder(variant) -> Builder:
    """Return the public builder of one variant."""
    row = _published(variant)
    classes = TOPOLOGIES[row.topology].classes
    docstring = _DOCSTRING.format(
        name=variant,
        family=_FAMILIES[row.topology] + _UNITS[row.unit],
        parameters=row.parameters / 1e6,
        gmacs=row.macs / 1e9,
        size=row.default_size,
        classes=classes,
    )
    body = functools.partial(_body, row=row, mask_options={}, learning="residual")
    return builder(variant, body, row.default_size, classes, snake_case(variant), docstring)


_FAMILIES = {"imagenet": "the ImageNet topology (Table 2)", "cifar": "the CIFAR topology (Sec. 4.1)"}

_UNITS = {
    "preactivation": "",
    "resnext": " with ResNeXt units (Table 7, 32x4d)",
    "inception": " with Inception units (Table 7; widths are this package's)",
}

_DOCSTRING = """Build {name}: {family}.

    {parameters:.2f} M trainable parameters and {gmacs:.2f} G multiply-adds at {size} x {size} and {classes} classes.
    With pretrained weights, normalise images with `keras_resattn.preprocess_input`, or inside the network with
    `include_preprocessing=True`.

    Reference:
        Wang et al., "Residual Attention Network for Image Classification", CVPR 2017
        (https://arxiv.org/abs/1704.06904)."""

ResidualAttention56 = _builder("ResidualAttention56")
ResidualAttention92 = _builder("ResidualAttention92")
ResidualAttention128 = _builder("ResidualAttention128")
ResidualAttention164 = _builder("ResidualAttention164")
ResidualAttention200 = _builder("ResidualAttention200")
ResidualAttention236 = _builder("ResidualAttention236")
ResidualAttention452 = _builder("ResidualAttention452")
AttentionNeXt56 = _builder("AttentionNeXt56")
AttentionNeXt92 = _builder("AttentionNeXt92")
AttentionInception56 = _builder("AttentionInception56")
CifarResidualAttention56 = _builder("CifarResidualAttention56")
CifarResidualAttention92 = _builder("CifarResidualAttention92")
CifarResidualAttention128 = _builder("CifarResidualAttention128")
CifarResidualAttention164 = _builder("CifarResidualAttention164")
CifarResidualAttention200 = _builder("CifarResidualAttention200")
CifarResidualAttention236 = _builder("CifarResidualAttention236")
CifarResidualAttention452 = _builder("CifarResidualAttention452")
