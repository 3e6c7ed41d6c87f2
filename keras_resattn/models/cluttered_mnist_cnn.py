"""Networks that "Attend and Rectify" compares on Cluttered Translated MNIST."""

from typing import Literal

import keras

from keras_resattn.layers.initializers import HeGaussian
from keras_resattn.layers.spatial_transformer import AffineGrid, BilinearSampler
from keras_resattn.models._arguments import check_head, resolve_input
from keras_resattn.models._build import batch_norm, classifier, convolution, relu
from keras_resattn.models.gated_attention import check_attention, rectified
from keras_resattn.typing import Aggregation, GatedMaskActivation, GlobalGating, HeadGating, Shape
from keras_resattn.utils.data_format import image_shape, image_size
from keras_resattn.utils.validation import check_count

SIZE = 40
#: Filters, kernel size, padding, and whether a 2x2 max pooling follows, for each convolution.
CONVOLUTIONS = (
    (32, 5, "valid", True),
    (64, 3, "valid", True),
    (128, 3, "valid", False),
    (128, 3, "same", False),
    (128, 3, "valid", False),
)
LOCALISATION = ((8, 7, "valid", True), (10, 5, "valid", True), (10, 3, "valid", False))


def ClutteredMnistCNN(
    attention_depth: int = 4,
    attention_width: int = 4,
    *,
    transformer: bool = False,
    classes: int = 10,
    classifier_activation: Literal["softmax"] | None = "softmax",
    input_shape: Shape | None = None,
    name: str = "cluttered_mnist_cnn",
    mask_activation: GatedMaskActivation = "softmax",
    head_gate: HeadGating = "softmax",
    gate: GlobalGating = "softmax",
    aggregation: Aggregation = "log_prob",
    regularization: float = 1e-3,
) -> keras.Model:
    """Build the CNN for Cluttered Translated MNIST: plain, with attention, or after a spatial transformer.

    The network follows the authors' code, which differs from their paper: the paper has five 3x3 convolutions, with
    pooling and batch normalisation after the first three; in the code the first convolution is 5x5, pooling follows
    the first two, and the order is convolution, pooling, ReLU, batch normalisation. The regulariser follows the paper
    and covers all modules; a bug in the code omits some of them (with four modules, all but that of `conv5`).

    Inputs are images divided by 255. Further normalisation is left to `input_bn`.

    Reference:
        Rodriguez et al., "Attend and Rectify", ECCV 2018 (https://arxiv.org/abs/1807.07320).

    Args:
        attention_depth: Number of modules: 1 taps the output of `conv5` (after its batch normalisation), 5 all five
            convolutions, 0 none. Module `attention{i}` reads `conv{i}`.
        attention_width: Heads of each module, K.
        transformer: Whether a spatial transformer (Jaderberg et al., 2015), initialised to the identity, transforms
            the image first.
        classes: Number of classes.
        classifier_activation: `"softmax"`, or `None` for logits or, with attention, the output of `Rectify`.
        input_shape: Shape of one image, `(40, 40, 1)` by default under `channels_last`. Any size of at least 32.
        name: Name of the model.
        mask_activation: As in `attend_and_rectify`; this and the following arguments have no effect without attention.
        head_gate: `"softmax"`, or `"mean"` for modules without gates.
        gate: Activation of the global gate, which reads the 256 features.
        aggregation: Combination of the class scores, `"log_prob"` or `"prob"`.
        regularization: Strength of the overlap regulariser.

    Returns:
        A functional `keras.Model`. `get_layer("transformer_sampler").output` is the transformed image.

    Raises:
        ValueError: before anything is built, if an argument is invalid.
    """
    attention_depth = check_count("attention_depth", attention_depth, 0)
    if attention_depth > len(CONVOLUTIONS):
        raise ValueError(
            f"Expected attention_depth of at most {len(CONVOLUTIONS)}, one module for each convolution; "
            f"received: attention_depth={attention_depth}."
        )
    if not isinstance(transformer, bool):
        raise ValueError(f"Expected transformer to be True or False; received: transformer={transformer!r}.")
    classes = check_head(True, None, classes, classifier_activation)
    options = {
        "attention_width": attention_width,
        "mask_activation": mask_activation,
        "head_gate": head_gate,
        "gate": gate,
        "aggregation": aggregation,
        "regularization": regularization,
        "classifier_activation": classifier_activation,
    }
    if attention_depth:
        check_attention(**options)
    inputs = _resolve_input(input_shape)

    x = batch_norm("input_bn")(_transform(inputs) if transformer else inputs)
    maps = _convolutions(x, CONVOLUTIONS)
    features = _features(maps[-1], 256, use_bias=True)
    if attention_depth:
        names = [f"attention{i}" for i in range(1, len(maps) + 1)]
        x = classifier(features, classes, None, name="classifier")
        taps = {"taps": maps[-attention_depth:], "names": names[-attention_depth:]}
        x = rectified(x, features=features, classes=classes, **taps, **options)
    else:
        x = classifier(features, classes, classifier_activation)
    return keras.Model(inputs, x, name=name)


def _resolve_input(input_shape):
    inputs = resolve_input(None, image_shape(SIZE, SIZE, 1) if input_shape is None else input_shape, SIZE)
    if None in image_size(inputs.shape):
        raise ValueError(
            "Expected a known height and width, as the network ends in a dense layer over all positions; "
            f"received: input_shape={input_shape}."
        )
    return inputs


def _convolutions(x, rows, prefix=""):
    """Apply convolution, pooling, ReLU and batch normalisation for each row, and return the output of each row."""
    outputs = []
    for i, (filters, kernel_size, padding, pooled) in enumerate(rows, 1):
        x = convolution(f"{prefix}conv{i}", filters, kernel_size, padding=padding)(x)
        if pooled:
            x = keras.layers.MaxPooling2D(2, name=f"{prefix}pool{i}")(x)
        x = relu(f"{prefix}relu{i}")(x)
        x = batch_norm(f"{prefix}bn{i}")(x)
        outputs.append(x)
    return outputs


def _features(x, units, use_bias, prefix=""):
    """Apply a dense layer over all positions and channels, ReLU and batch normalisation; returns `(n, units)`."""
    x = keras.layers.Flatten(name=f"{prefix}flatten")(x)
    x = keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=HeGaussian(), name=f"{prefix}fc1")(x)
    x = relu(f"{prefix}fc1_relu")(x)
    return batch_norm(f"{prefix}fc1_bn")(x)


def _transform(image):
    """Apply a spatial transformer, which localises the digit and resamples the image on an affine grid."""
    x = _convolutions(image, LOCALISATION, prefix="transformer_")[-1]
    x = _features(x, 32, use_bias=False, prefix="transformer_")
    identity = keras.initializers.Constant([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    options = {"kernel_initializer": "zeros", "bias_initializer": identity}
    theta = classifier(x, 6, None, name="transformer_theta", **options)
    grid = AffineGrid(name="transformer_grid")([theta, image])
    return BilinearSampler(name="transformer_sampler")([image, grid])
