"""Residual Attention Networks for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_resattn import layers
from keras_resattn.models.graph import count_macs, feature_pyramid
from keras_resattn.models.residual_attention import (
    CifarResidualAttention56,
    CifarResidualAttention92,
    CifarResidualAttention128,
    CifarResidualAttention164,
    CifarResidualAttention200,
    CifarResidualAttention236,
    CifarResidualAttention452,
    ResidualAttention56,
    ResidualAttention92,
    ResidualAttention128,
    ResidualAttention164,
    ResidualAttention200,
    ResidualAttention236,
    ResidualAttention452,
    ResidualAttentionNet,
)
from keras_resattn.preprocessing import decode_predictions, preprocess_input
from keras_resattn.recipes import compile_and_fit
from keras_resattn.visualize import attention_maps, plot_attention

__version__ = "0.1.0"

__all__ = [
    "CifarResidualAttention56",
    "CifarResidualAttention92",
    "CifarResidualAttention128",
    "CifarResidualAttention164",
    "CifarResidualAttention200",
    "CifarResidualAttention236",
    "CifarResidualAttention452",
    "ResidualAttention56",
    "ResidualAttention92",
    "ResidualAttention128",
    "ResidualAttention164",
    "ResidualAttention200",
    "ResidualAttention236",
    "ResidualAttention452",
    "ResidualAttentionNet",
    "attention_maps",
    "compile_and_fit",
    "count_macs",
    "decode_predictions",
    "feature_pyramid",
    "layers",
    "plot_attention",
    "preprocess_input",
]
