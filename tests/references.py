"""NumPy references of layers and modules, with channels last, in float64."""

import numpy as np
from helpers import weights_by_path


def resize_reference(x, height, width):
    """Bilinear resizing with aligned corners, one axis after the other."""
    for axis, size in ((1, height), (2, width)):
        at = np.linspace(0, x.shape[axis] - 1, size)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = (1 - share) * np.take(x, low, axis) + share * np.take(x, high, axis)
    return x


def pool_reference(x):
    """Caffe's max pooling: 3x3, stride 2, no padding, sizes rounded up; windows are cropped at the edge."""
    height, width = (int(np.ceil((size - 3) / 2)) + 1 for size in x.shape[1:3])
    windows = [
        [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(width)] for i in range(height)
    ]
    return np.moveaxis(np.array(windows), 2, 0)


def conv_reference(x, kernel, stride=1, pad=0):
    """Convolution as a sum over the positions of the kernel, on a map padded with `pad` zeros on all sides."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows, columns = ((size - kernel.shape[0]) // stride + 1 for size in x.shape[1:3])
    return sum(
        x[:, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :rows, :columns] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def grouped_conv_reference(x, kernel, groups, stride=1, pad=0):
    """Grouped convolution."""
    parts = zip(np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True)
    return np.concatenate([conv_reference(*part, stride, pad) for part in parts], axis=-1)


def norm_reference(x, weights, name):
    """Batch normalisation with moving statistics."""
    deviation = np.sqrt(weights[f"{name}/moving_variance"] + 1e-5)
    normalised = (x - weights[f"{name}/moving_mean"]) / deviation
    return weights[f"{name}/gamma"] * normalised + weights[f"{name}/beta"]


def norm_relu_reference(x, weights, name):
    return np.maximum(0, norm_reference(x, weights, name))


def unit_reference(x, weights, name, stride=1):
    """Pre-activation bottleneck unit, with weights named `{name}/bn1/gamma` and so on."""
    activated = norm_relu_reference(x, weights, f"{name}/bn1")
    y = conv_reference(activated, weights[f"{name}/conv1/kernel"])
    y = norm_relu_reference(y, weights, f"{name}/bn2")
    y = conv_reference(y, weights[f"{name}/conv2/kernel"], stride, pad=1)
    y = norm_relu_reference(y, weights, f"{name}/bn3")
    y = conv_reference(y, weights[f"{name}/conv3/kernel"])
    projection = weights.get(f"{name}/projection/kernel")
    return y + (x if projection is None else conv_reference(activated, projection, stride))


def next_unit_reference(x, weights, name, stride=1, groups=32):
    """Post-activation bottleneck unit."""
    y = norm_relu_reference(conv_reference(x, weights[f"{name}/conv1/kernel"]), weights, f"{name}/bn1")
    y = grouped_conv_reference(y, weights[f"{name}/conv2/kernel"], groups, stride, pad=1)
    y = norm_relu_reference(y, weights, f"{name}/bn2")
    y = norm_reference(conv_reference(y, weights[f"{name}/conv3/kernel"]), weights, f"{name}/bn3")
    projection = weights.get(f"{name}/projection/kernel")
    if projection is not None:
        x = norm_reference(conv_reference(x, projection, stride), weights, f"{name}/projection_bn")
    return np.maximum(0, y + x)


def inception_unit_reference(x, weights, name, stride=1):
    """Pre-activation inception unit, with branches of one, two and three convolutions."""

    def branch(number):
        y = activated
        for i in range(1, number + 1):
            kernel = weights[f"{name}/branch{number}_conv{i}/kernel"]
            y = conv_reference(y, kernel, stride if i == number else 1, pad=0 if i == 1 else 1)
            y = norm_relu_reference(y, weights, f"{name}/branch{number}_bn{i}")
        return y

    activated = norm_relu_reference(x, weights, f"{name}/bn1")
    y = conv_reference(np.concatenate([branch(1), branch(2), branch(3)], axis=-1), weights[f"{name}/conv/kernel"])
    projection = weights.get(f"{name}/projection/kernel")
    return y + (x if projection is None else conv_reference(activated, projection, stride))


def wide_unit_reference(x, weights, name, stride=1, activated=None):
    """Basic unit of a Wide ResNet, whose projection reads the raw input."""
    activated = norm_relu_reference(x, weights, f"{name}/bn1") if activated is None else activated
    y = conv_reference(activated, weights[f"{name}/conv1/kernel"], stride, pad=1)
    y = conv_reference(norm_relu_reference(y, weights, f"{name}/bn2"), weights[f"{name}/conv2/kernel"], pad=1)
    projection = weights.get(f"{name}/projection/kernel")
    return y + (x if projection is None else conv_reference(x, projection, stride))


UNIT_REFERENCES = {"preactivation": unit_reference, "resnext": next_unit_reference}


def chain_reference(x, weights, name, count, unit="preactivation"):
    for i in range(1, count + 1):
        x = UNIT_REFERENCES[unit](x, weights, f"{name}{i}")
    return x


def hourglass_reference(x, weights, depth, units, bottom_units, unit="preactivation", level=1):
    """Encoder-decoder of Fig. 2, one recursive call per level."""
    y = pool_reference(x)
    if level == depth:
        y = chain_reference(y, weights, "mask/bottom_unit", bottom_units, unit)
    else:
        y = chain_reference(y, weights, f"mask/down{level}_unit", units, unit)
        inside = hourglass_reference(y, weights, depth, units, bottom_units, unit, level + 1)
        y = inside + UNIT_REFERENCES[unit](y, weights, f"mask/skip{level}")
        y = chain_reference(y, weights, f"mask/up{level}_unit", units, unit)
    return resize_reference(y, *x.shape[1:3])


def linear_reference(y, weights):
    """Final two 1x1 convolutions of a mask; after post-activation units, the first has no BN-ReLU."""
    for i in (1, 2):
        if f"mask/bn{i}/gamma" in weights:
            y = norm_relu_reference(y, weights, f"mask/bn{i}")
        y = conv_reference(y, weights[f"mask/linear{i}/kernel"])
    return y


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


ACTIVATIONS = {
    "mixed": sigmoid,
    "channel": lambda y: y / np.sqrt(np.sum(y**2, axis=-1, keepdims=True) + 1e-5),
    "spatial": lambda y: sigmoid((y - y.mean((1, 2), keepdims=True)) / np.sqrt(y.var((1, 2), keepdims=True) + 1e-5)),
}


def float64_weights(layer):
    """Return the weights of a layer by path, in float64."""
    return {path: value.astype("float64") for path, value in weights_by_path(layer).items()}


def softmax(x, axis=-1):
    exponentials = np.exp(x - x.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def module_reference(x, weights, activation="softmax", head_gate="softmax", name=""):
    """Attention module as in the authors' code: three 3x3 convolutions at every position, then weighted sums."""
    x = x.astype("float64")
    masks = conv_reference(x, weights[f"{name}mask/conv/kernel"], pad=1)
    masks = softmax(masks, (1, 2)) if activation == "softmax" else sigmoid(masks)
    outputs = conv_reference(x, weights[f"{name}outputs/output_conv/kernel"], pad=1)
    outputs = outputs.reshape(*masks.shape, -1)
    outputs = (masks[..., None] * outputs).sum((1, 2))
    if head_gate == "mean":
        return {"masks": masks, "outputs": outputs, "logits": outputs.mean(1)}
    scores = conv_reference(x, weights[f"{name}outputs/score_conv/kernel"], pad=1)
    scores = (masks * scores).sum((1, 2))
    gates = softmax(np.tanh(scores))
    logits = (gates[..., None] * outputs).sum(1)
    return {"masks": masks, "outputs": outputs, "scores": scores, "gates": gates, "logits": logits}


def overlap_reference(masks):
    """Mean over images of the squared products of masks of different heads, after 2x2 average pooling."""
    heads = masks.shape[-1]
    if min(masks.shape[1:3]) > 1:
        rows, columns = (size // 2 for size in masks.shape[1:3])
        masks = masks[:, : 2 * rows, : 2 * columns].reshape(-1, rows, 2, columns, 2, heads).mean((2, 4))
    total = 0.0
    for image in masks.reshape(len(masks), -1, heads):
        total += sum((image[:, i] @ image[:, j]) ** 2 for i in range(heads) for j in range(heads) if i != j)
    return total / (len(masks) * heads**2)


def gates_reference(features, weights, gate, name="gate"):
    scores = features.astype("float64") @ weights[f"{name}/linear/kernel"]
    scores = np.tanh(norm_reference(scores, weights, f"{name}/bn"))
    if gate == "softmax":
        return softmax(scores)
    return sigmoid(scores) / (1e-6 + sigmoid(scores).sum(-1, keepdims=True))


def rectified_reference(gates, scores, aggregation):
    if aggregation == "log_prob":
        return sum(gates[:, [i]] * log_softmax(each) for i, each in enumerate(scores))
    return np.log(sum(gates[:, [i]] * softmax(each) for i, each in enumerate(scores)))


def groups_reference(x, weights, attended=False):
    """Three groups of WRN-10-1, and the taps of the first two in an attended body."""
    x = conv_reference(x, weights["stem_conv/kernel"], pad=1)
    if attended:
        x = norm_relu_reference(x, weights, "stem_bn")
    x = wide_unit_reference(x, weights, "group1_unit1")
    maps = []
    for group in (2, 3):
        a = norm_relu_reference(x, weights, f"group{group}_preact_bn") if attended else None
        maps.append(a if attended else x)
        x = wide_unit_reference(x, weights, f"group{group}_unit1", 2, a)
    return [*maps, x]
