"""Every layer of the package, with the shapes of its inputs."""

import keras
from helpers import random_array

from keras_resattn.layers import (
    AffineGrid,
    AttentionHead,
    AttentionResidual,
    BatchNormalization,
    BilinearResize,
    BilinearSampler,
    CeilMaxPooling2D,
    GatedSum,
    GlobalGate,
    GradientScale,
    HeadGate,
    InceptionUnit,
    OutputHead,
    PostActivationUnit,
    PreActivationUnit,
    Rectify,
    SoftMask,
    WideUnit,
)
from keras_resattn.layers.global_attention import AttendedSum, GlobalAttentionMap

# Function that creates the layer, and input shapes without the batch.
LAYERS = {
    "resize": (BilinearResize, [(3, 4, 8), (7, 6, 8)]),
    "pool": (CeilMaxPooling2D, [(7, 6, 8)]),
    "unit": (lambda **kwargs: PreActivationUnit(2, **kwargs), [(7, 6, 8)]),
    "projecting_unit": (lambda **kwargs: PreActivationUnit(2, **kwargs), [(7, 6, 4)]),
    "strided_unit": (lambda **kwargs: PreActivationUnit(2, strides=2, **kwargs), [(7, 6, 8)]),
    "next_unit": (lambda **kwargs: PostActivationUnit(4, strides=2, groups=2, **kwargs), [(7, 6, 4)]),
    "inception_unit": (lambda **kwargs: InceptionUnit(2, strides=2, filters=5, **kwargs), [(7, 6, 4)]),
    "wide_unit": (
        lambda **kwargs: WideUnit(4, strides=2, dropout=0.1, preactivated=True, **kwargs),
        [(7, 6, 8), (7, 6, 8)],
    ),
    "mask": (lambda **kwargs: SoftMask(2, depth=2, bottom_units=1, **kwargs), [(7, 6, 8)]),
    "channel_mask": (lambda **kwargs: SoftMask(2, activation="channel", **kwargs), [(7, 6, 8)]),
    "spatial_mask": (
        lambda **kwargs: SoftMask(2, mask="local", local_units=2, activation="spatial", **kwargs),
        [(7, 6, 8)],
    ),
    "merge": (AttentionResidual, [(7, 6, 8), (7, 6, 8)]),
    "naive_merge": (lambda **kwargs: AttentionResidual("naive", **kwargs), [(7, 6, 8), (7, 6, 8)]),
}

# The layers of gated attention, global attention and spatial transformers.
OTHERS = {
    "head": (lambda **kwargs: AttentionHead(2, **kwargs), [(7, 6, 8)]),
    "sigmoid_head": (lambda **kwargs: AttentionHead(2, "sigmoid", regularization=0.1, **kwargs), [(7, 6, 8)]),
    "outputs": (lambda **kwargs: OutputHead(3, **kwargs), [(7, 6, 8), (7, 6, 2)]),
    "outputs_alone": (lambda **kwargs: OutputHead(3, scores=False, **kwargs), [(7, 6, 8), (7, 6, 2)]),
    "head_gate": (HeadGate, [(2,)]),
    "gated_sum": (GatedSum, [(2, 3), (2,)]),
    "mean": (lambda **kwargs: GatedSum("mean", **kwargs), [(2, 3)]),
    "gate": (lambda **kwargs: GlobalGate(3, **kwargs), [(4,)]),
    "sigmoid_gate": (lambda **kwargs: GlobalGate(3, "sigmoid", **kwargs), [(4,)]),
    "linear_gate": (lambda **kwargs: GlobalGate(3, "linear", **kwargs), [(4,)]),
    "mean_gate": (lambda **kwargs: GlobalGate(3, "mean", **kwargs), [(4,)]),
    "rectify": (Rectify, [(2,), (3,), (3,)]),
    "rectify_softmax": (lambda **kwargs: Rectify(base="softmax", **kwargs), [(2,), (3,), (3,)]),
    "rectify_prob": (lambda **kwargs: Rectify("prob", normalize=True, **kwargs), [(2,), (3,), (3,)]),
    "gradient": (lambda **kwargs: GradientScale(0.5, **kwargs), [(3,)]),
    "global_map": (GlobalAttentionMap, [(7, 6, 8), (5,)]),
    "attended_sum": (AttendedSum, [(7, 6, 8), (7, 6, 1)]),
    "grid": (AffineGrid, [(6,), (7, 6, 3)]),
    "sampler": (BilinearSampler, [(7, 6, 3), (4, 4, 2)]),
    "batch_norm": (BatchNormalization, [(7, 6, 8)]),
}


def inputs_for(shapes):
    arrays = [random_array(4, *shape, seed=i) for i, shape in enumerate(shapes)]
    return arrays if len(arrays) > 1 else arrays[0]


def model_of(layer, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], layer(inputs if len(inputs) > 1 else inputs[0]))
