"""Type aliases of the public signatures. Does not import Keras."""

import os
from typing import Any, Literal, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]

#: A tensor of the current backend, a NumPy array, or a KerasTensor while a model is built; these share no base class.
Tensor: TypeAlias = Any

#: A NumPy array, a tensor of any backend, or nested sequences of numbers.
ArrayLike: TypeAlias = Any

#: A shape; unknown sizes are `None`.
Shape: TypeAlias = tuple[int | None, ...]

#: Height and width in pixels.
Size: TypeAlias = tuple[int, ...]

#: Mean and standard deviation, each a number, a list with one number per channel, or nested lists.
Statistics: TypeAlias = tuple[Any, Any] | list[Any]

#: Any input that `keras_resattn.data.open_dataset` accepts.
DataLike: TypeAlias = Any

DataFormat: TypeAlias = Literal["channels_last", "channels_first"]
Pooling: TypeAlias = Literal["avg", "max"]
ResizeMode: TypeAlias = Literal["crop", "squash", "pad"]

#: Rank of channels in figures of attention.
Rank: TypeAlias = Literal["energy", "gradient"]

# Options of residual attention (Wang et al., CVPR 2017).
Topology: TypeAlias = Literal["imagenet", "cifar"]
Mask: TypeAlias = Literal["encoder_decoder", "local"]
MaskActivation: TypeAlias = Literal["mixed", "channel", "spatial"]
Learning: TypeAlias = Literal["residual", "naive"]
Unit: TypeAlias = Literal["preactivation", "resnext", "inception"]

# Options of gated attention (Rodriguez et al., ECCV 2018).
GatedMaskActivation: TypeAlias = Literal["softmax", "sigmoid"]
HeadGating: TypeAlias = Literal["softmax", "mean"]
GlobalGating: TypeAlias = Literal["softmax", "sigmoid", "linear", "mean", "base"]
Aggregation: TypeAlias = Literal["log_prob", "prob"]
BaseOutput: TypeAlias = Literal["logits", "softmax"]

# Options of exports.
ExportFormat: TypeAlias = Literal["onnx", "openvino", "litert", "tf_saved_model", "torch"]
Quantization: TypeAlias = Literal["int8"]
