"""Table of the Residual Attention Networks: one row per network, and the two topologies that rows refer to.

Counts are trainable parameters and multiply-adds at the row's default size and number of classes. They equal those of
the authors' Caffe files (ImageNet 56 and 92, both units) and, up to rounding, of the paper (CIFAR);
`tests/test_counts.py` compares every network with them.
"""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class Topology:
    """Stem and stages that a family of networks shares.

    Attributes:
        stem_width: Channels of the stem's convolution.
        widths: Inner width of each stage's units.
        strides: Stride of each stage's entry unit.
        exit_units: Units after each stage's modules.
        mask_depth: Poolings in each stage's masks (paper: 3, 2, 1).
        default_size: Default height and width of the input, in pixels.
        classes: Default number of classes, that of the paper's dataset for this family.
    """

    stem_width: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    exit_units: tuple[int, ...]
    mask_depth: tuple[int, ...]
    default_size: int
    classes: int


TOPOLOGIES = {
    # Table 2 and the authors' prototxt: 7x7/2 stem and pooling; three units at the smallest map.
    "imagenet": Topology(64, (64, 128, 256, 512), (1, 2, 2, 2), (0, 0, 0, 2), (3, 2, 1, 0), 224, 1000),
    # Sec. 4.1: three stages, 36m + 20 layers. The entry and the exit unit of each stage are the "20".
    "cifar": Topology(16, (16, 32, 64), (1, 2, 2), (1, 1, 1), (3, 2, 1), 32, 10),
}


@dataclass(frozen=True)
class Variant:
    """A Residual Attention Network: a topology, the modules in each stage, and the paper's p, t and r.

    Attributes:
        name: Name of the public builder.
        topology: Key of `TOPOLOGIES`.
        modules: Attention modules in each stage.
        p: Pre-processing units before the split, and post-processing units after the merge.
        t: Trunk units between them.
        r: Mask units between adjacent poolings.
        bottom_units: Mask units at the smallest map; `None` means 2 * r.
        unit: Key of `keras_resattn.layers.residual.UNITS`.
        widths: Inner width of each stage's units; `None` means the topology's.
        filters: Channels that each stage returns; `None` means the unit's `expansion` times its width.
        mask_depth: Poolings in each stage's masks; `None` means the topology's.
        default_size: Default height and width of the input; `None` means the topology's.
        parameters: Trainable parameters, or `None` for a custom network.
        macs: Multiply-adds of convolutions and dense layers, or `None` for a custom network.
    """

    name: str
    topology: str
    modules: tuple[int, ...]
    p: int = 1
    t: int = 2
    r: int = 1
    bottom_units: int | None = None
    unit: str = "preactivation"
    widths: tuple[int, ...] | None = None
    filters: tuple[int, ...] | None = None
    mask_depth: tuple[int, ...] | None = None
    default_size: int | None = None
    parameters: int | None = None
    macs: int | None = None

    def resolved(self) -> Self:
        """Return this row with every `None` replaced by the default that it stands for."""
        from keras_resattn.layers.residual import UNITS  # imports Keras, which the table itself does not need

        topology = TOPOLOGIES[self.topology]
        widths = self.widths or topology.widths
        return replace(
            self,
            widths=widths,
            filters=self.filters or tuple(UNITS[self.unit].expansion * width for width in widths),
            mask_depth=self.mask_depth or topology.mask_depth,
            default_size=self.default_size or topology.default_size,
            bottom_units=self.bottom_units or 2 * self.r,
        )


def _row(name, topology, modules, parameters, macs, **rules):
    return Variant(name, topology, modules, parameters=parameters, macs=macs, **rules)


# The masks of Attention-452 have three units at the smallest map: only this matches the paper's 8.6 M parameters
# (2 * r = 6 would give 10.2 M).
_DEEPEST = {"p": 2, "t": 4, "r": 3, "bottom_units": 3}

# From the authors' prototxt: 32 groups of 4, 8, 16 and 32 channels.
_NEXT = {"unit": "resnext", "widths": (128, 256, 512, 1024)}

# No file was released, and the paper only says "simplified": these widths give the parameters of Attention-56 and, at
# 224 pixels, its multiply-adds. The paper evaluates at 299 pixels.
_INCEPTION = {
    "unit": "inception",
    "widths": (28, 56, 124, 240),
    "filters": (256, 512, 1024, 2048),
    "default_size": 299,
}

VARIANTS = {
    row.name: row
    for row in (
        _row("ResidualAttention56", "imagenet", (1, 1, 1, 0), 31_810_728, 6_270_836_736),
        _row("ResidualAttention92", "imagenet", (1, 2, 3, 0), 52_466_344, 10_533_789_696),
        _row("ResidualAttention128", "imagenet", (2, 3, 4, 0), 65_294_504, 14_899_101_696),
        _row("ResidualAttention164", "imagenet", (3, 4, 5, 0), 78_122_664, 19_264_413_696),
        _row("ResidualAttention200", "imagenet", (4, 5, 6, 0), 90_950_824, 23_629_725_696),
        _row("ResidualAttention236", "imagenet", (5, 6, 7, 0), 103_778_984, 27_995_037_696),
        _row("ResidualAttention452", "imagenet", (5, 6, 7, 0), 162_579_880, 46_873_456_640, **_DEEPEST),
        _row("AttentionNeXt56", "imagenet", (1, 1, 1, 0), 31_318_824, 6_419_106_816, **_NEXT),
        _row("AttentionNeXt92", "imagenet", (1, 2, 3, 0), 52_102_952, 10_704_337_920, **_NEXT),
        _row("AttentionInception56", "imagenet", (1, 1, 1, 0), 31_827_368, 11_619_876_512, **_INCEPTION),
        _row("CifarResidualAttention56", "cifar", (1, 1, 1), 1_030_362, 122_825_216),
        _row("CifarResidualAttention92", "cifar", (2, 2, 2), 1_841_242, 211_913_216),
        _row("CifarResidualAttention128", "cifar", (3, 3, 3), 2_652_122, 301_001_216),
        _row("CifarResidualAttention164", "cifar", (4, 4, 4), 3_463_002, 390_089_216),
        _row("CifarResidualAttention200", "cifar", (5, 5, 5), 4_273_882, 479_177_216),
        _row("CifarResidualAttention236", "cifar", (6, 6, 6), 5_084_762, 568_265_216),
        _row("CifarResidualAttention452", "cifar", (6, 6, 6), 8_511_962, 958_065_152, **_DEEPEST),
    )
}
