"""Residual Attention Networks and gated attention for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_resattn import layers, losses
from keras_resattn.layers.class_names import set_class_names
from keras_resattn.models.attend import attend_and_rectify
from keras_resattn.models.baselines import ResNet164, ResNet1001, WideResNetAtt2
from keras_resattn.models.cluttered_mnist import ClutteredMnistCNN
from keras_resattn.models.graph import count_macs, feature_pyramid
from keras_resattn.models.residual_attention import (
    AttentionInception56,
    AttentionNeXt56,
    AttentionNeXt92,
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
from keras_resattn.models.warn import WARN, WARN50x2
from keras_resattn.models.wide_resnet import WideResNet, WideResNet50x2
from keras_resattn.preprocessing import class_names_of, decode_predictions, preprocess_input
from keras_resattn.recipes import compile_and_fit
from keras_resattn.transfer import fine_tune, with_normalization
from keras_resattn.visualize import attention_gates, attention_maps, plot_attention

__version__ = "0.1.0"

__all__ = [
    "WARN",
    "AttentionInception56",
    "AttentionNeXt56",
    "AttentionNeXt92",
    "CifarResidualAttention56",
    "CifarResidualAttention92",
    "CifarResidualAttention128",
    "CifarResidualAttention164",
    "CifarResidualAttention200",
    "CifarResidualAttention236",
    "CifarResidualAttention452",
    "ClutteredMnistCNN",
    "ResNet164",
    "ResNet1001",
    "ResidualAttention56",
    "ResidualAttention92",
    "ResidualAttention128",
    "ResidualAttention164",
    "ResidualAttention200",
    "ResidualAttention236",
    "ResidualAttention452",
    "ResidualAttentionNet",
    "WARN50x2",
    "WideResNet",
    "WideResNet50x2",
    "WideResNetAtt2",
    "attend_and_rectify",
    "attention_gates",
    "attention_maps",
    "class_names_of",
    "compile_and_fit",
    "count_macs",
    "decode_predictions",
    "feature_pyramid",
    "fine_tune",
    "layers",
    "losses",
    "plot_attention",
    "preprocess_input",
    "set_class_names",
    "with_normalization",
]
