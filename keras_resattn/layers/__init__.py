"""Registered Keras layers: the only place of this package where tensors are touched."""

from keras_resattn.layers.residual import PreActivationUnit
from keras_resattn.layers.resize import BilinearResize, CeilMaxPooling2D
from keras_resattn.layers.soft_mask import AttentionResidual, SoftMask

__all__ = ["AttentionResidual", "BilinearResize", "CeilMaxPooling2D", "PreActivationUnit", "SoftMask"]
