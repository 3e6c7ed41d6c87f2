"""One small network of every kind, for what holds for all of them."""

import dataclasses
import functools
from collections.abc import Callable

import keras
from networks import base_of, narrow_residual, narrow_warn, narrow_wide, small_cnn

from keras_resattn import ClutteredMnistCNN, WideResNet, WideResNetAtt2, attend_and_rectify


@dataclasses.dataclass(frozen=True)
class NetworkCase:
    """A network, and what a test has to know about it.

    Args:
        build: Function that builds the network.
        image_shape: Height, width and channels of an image.
        float32: Layers that compute in float32 under a mixed policy; a trailing `*` stands for any ending.
        levels: Strides of the levels of its pyramid; empty for networks without stages.
    """

    build: Callable[..., keras.Model]
    image_shape: tuple[int, int, int] = (32, 32, 3)
    float32: tuple[str, ...] = ("predictions",)
    levels: tuple[int, ...] = ()

    def is_float32(self, name):
        return any(name == each or (each[-1] == "*" and name.startswith(each[:-1])) for each in self.float32)


GATED = ("classifier", "global_gate", "rectify", "predictions")
GATED += tuple(f"attention{i}_{node}" for i in range(1, 6) for node in ("gates", "logits"))
RESNEXT = {"unit": "resnext", "widths": (32, 32, 32), "filters": (16, 16, 16), "mask_depth": (1, 1, 1)}
ABLATION = {"gate": "linear", "head_gate": "mean", "mask_activation": "sigmoid", "attention_depth": 1}


def rectified():
    return attend_and_rectify(base_of(small_cnn(), "dense_softmax"), ["scale"], gradient_scale=0.5)


NETWORKS = {
    "cifar": NetworkCase(narrow_residual, levels=(1, 2, 4)),
    "imagenet": NetworkCase(functools.partial(narrow_residual, "imagenet"), levels=(4, 8, 16, 32)),
    "ablation": NetworkCase(
        functools.partial(narrow_residual, learning="naive", mask_activation="spatial", mask="local"), levels=(1, 2, 4)
    ),
    "resnext": NetworkCase(functools.partial(narrow_residual, **RESNEXT), levels=(1, 2, 4)),
    "wide": NetworkCase(functools.partial(narrow_wide, WideResNet, dropout=0.3), levels=(1, 2, 4)),
    "wide_att2": NetworkCase(functools.partial(narrow_wide, WideResNetAtt2)),
    "warn": NetworkCase(narrow_warn, float32=GATED, levels=(1, 2, 4)),
    "warn_ablation": NetworkCase(functools.partial(narrow_warn, **ABLATION), float32=GATED, levels=(1, 2, 4)),
    "cluttered_mnist": NetworkCase(
        functools.partial(ClutteredMnistCNN, 1, 2, transformer=True),
        image_shape=(40, 40, 1),
        float32=(*GATED, "transformer_theta", "transformer_grid"),
    ),
    "rectified": NetworkCase(
        rectified,
        image_shape=(16, 16, 3),
        float32=("attention1_gates", "attention1_logits", "global_gate", "rectif*"),
    ),
}
