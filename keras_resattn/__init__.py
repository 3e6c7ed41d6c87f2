"""Residual Attention Networks and gated attention for Keras 3, on TensorFlow, JAX and PyTorch."""

from typing import TYPE_CHECKING

from keras_resattn.utils import lazy

if TYPE_CHECKING:  # for type checkers and editors; `MODULES` below does the same at run time
    from keras_resattn import layers, losses
    from keras_resattn.deployment import export, optimize_for_inference
    from keras_resattn.models.attend_and_rectify import attend_and_rectify
    from keras_resattn.models.baselines import ResNet164, ResNet1001, WideResNetAtt2
    from keras_resattn.models.class_names import set_class_names
    from keras_resattn.models.cluttered_mnist_cnn import ClutteredMnistCNN
    from keras_resattn.models.features import feature_pyramid, pyramid_backbone
    from keras_resattn.models.initialization import zero_init_residual
    from keras_resattn.models.inspection import freeze_batch_norm, iter_layers
    from keras_resattn.models.profiling import count_macs
    from keras_resattn.models.registry import create_model, list_models
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
    from keras_resattn.recipes.transfer import fine_tune, with_normalization
    from keras_resattn.visualize import (
        attention_gates,
        attention_maps,
        attention_relevance,
        plot_attention,
        plot_attention_montage,
        upsample_maps,
    )

__version__ = "0.2.0.dev0"

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
    "attention_relevance",
    "class_names_of",
    "compile_and_fit",
    "count_macs",
    "create_model",
    "decode_predictions",
    "export",
    "feature_pyramid",
    "fine_tune",
    "freeze_batch_norm",
    "iter_layers",
    "layers",
    "list_models",
    "losses",
    "optimize_for_inference",
    "plot_attention",
    "plot_attention_montage",
    "preprocess_input",
    "pyramid_backbone",
    "set_class_names",
    "upsample_maps",
    "with_normalization",
    "zero_init_residual",
]

#: The module that defines each public name, imported when the name is first used.
MODULES = {
    name: name
    for name in (
        "data",
        "deployment",
        "evaluation",
        "layers",
        "losses",
        "models",
        "pretrained",
        "preprocessing",
        "recipes",
        "reproduce",
        "visualize",
    )
}
MODULES |= {
    name: module
    for module, names in {
        "deployment": ("export", "optimize_for_inference"),
        "models.class_names": ("set_class_names",),
        "models.inspection": ("freeze_batch_norm", "iter_layers"),
        "models.attend_and_rectify": ("attend_and_rectify",),
        "models.baselines": ("ResNet164", "ResNet1001", "WideResNetAtt2"),
        "models.cluttered_mnist_cnn": ("ClutteredMnistCNN",),
        "models.features": ("feature_pyramid", "pyramid_backbone"),
        "models.profiling": ("count_macs",),
        "models.registry": ("create_model", "list_models"),
        "models.initialization": ("zero_init_residual",),
        "models.warn": ("WARN", "WARN50x2"),
        "models.wide_resnet": ("WideResNet", "WideResNet50x2"),
        "preprocessing": ("class_names_of", "decode_predictions", "preprocess_input"),
        "recipes": ("compile_and_fit",),
        "recipes.transfer": ("fine_tune", "with_normalization"),
        "visualize": (
            "attention_gates",
            "attention_maps",
            "attention_relevance",
            "plot_attention",
            "plot_attention_montage",
            "upsample_maps",
        ),
        "models.residual_attention": (
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
            "ResidualAttention56",
            "ResidualAttention92",
            "ResidualAttention128",
            "ResidualAttention164",
            "ResidualAttention200",
            "ResidualAttention236",
            "ResidualAttention452",
            "ResidualAttentionNet",
        ),
    }.items()
    for name in names
}

__getattr__, __dir__ = lazy.names(__name__, MODULES)

# `import keras_resattn` is then enough to load a model that was saved with layers of this package.
lazy.import_with_keras(
    "keras_resattn.layers",
    "keras_resattn.layers.global_attention",
    "keras_resattn.losses",
    "keras_resattn.models.class_names",
    "keras_resattn.models.features",
    "keras_resattn.recipes.optimizers",
    "keras_resattn.recipes.schedules",
)
