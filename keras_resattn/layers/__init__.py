"""Keras layers of the package, registered for saving. Networks operate on tensors only through layers."""

from keras_resattn.layers.attention_heads import AttentionHead, OutputHead
from keras_resattn.layers.batch_normalization import BatchNormalization
from keras_resattn.layers.gates import GatedSum, GlobalGate, GradientScale, HeadGate, Rectify
from keras_resattn.layers.residual import InceptionUnit, PostActivationUnit, PreActivationUnit
from keras_resattn.layers.resize import BilinearResize, CeilMaxPooling2D
from keras_resattn.layers.soft_mask import AttentionResidual, SoftMask
from keras_resattn.layers.spatial_transformer import AffineGrid, BilinearSampler
from keras_resattn.layers.wide_unit import WideUnit

__all__ = [
    "AffineGrid",
    "AttentionHead",
    "AttentionResidual",
    "BatchNormalization",
    "BilinearResize",
    "BilinearSampler",
    "CeilMaxPooling2D",
    "GatedSum",
    "GlobalGate",
    "GradientScale",
    "HeadGate",
    "InceptionUnit",
    "OutputHead",
    "PostActivationUnit",
    "PreActivationUnit",
    "Rectify",
    "SoftMask",
    "WideUnit",
]
