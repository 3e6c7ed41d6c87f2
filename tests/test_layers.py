"""The layers, against references that are written here with plain NumPy."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    channels_first,
    channels_last,
    forward,
    random_array,
    randomise,
    undrawn,
    weights_by_path,
)

from keras_resattn.layers import (
    AttentionResidual,
    BilinearResize,
    CeilMaxPooling2D,
    InceptionUnit,
    PostActivationUnit,
    PreActivationUnit,
    SoftMask,
    WideUnit,
)

# --- References, channels last, in float64 -------------------------------------------------------


def resize_reference(x, height, width):
    """Bilinear resize with aligned corners: one axis after the other, by its two neighbours."""
    for axis, size in ((1, height), (2, width)):
        at = np.linspace(0, x.shape[axis] - 1, size)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = (1 - share) * np.take(x, low, axis) + share * np.take(x, high, axis)
    return x


def pool_reference(x):
    """Caffe's max pooling: 3x3, stride 2, no padding, sizes rounded up; windows are cut off at the edge."""
    height, width = (int(np.ceil((size - 3) / 2)) + 1 for size in x.shape[1:3])
    windows = [
        [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(width)] for i in range(height)
    ]
    return np.moveaxis(np.array(windows), 2, 0)


def conv_reference(x, kernel, stride=1, pad=0):
    """A convolution as a sum over the kernel's positions, on a map padded by `pad` zeros on all four sides."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    rows, columns = ((size - kernel.shape[0]) // stride + 1 for size in x.shape[1:3])
    return sum(
        x[:, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :rows, :columns] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def grouped_conv_reference(x, kernel, groups, stride=1, pad=0):
    """Each group of channels convolved by itself."""
    parts = zip(np.split(x, groups, axis=-1), np.split(kernel, groups, axis=-1), strict=True)
    return np.concatenate([conv_reference(*part, stride, pad) for part in parts], axis=-1)


def norm_reference(x, weights, name):
    """Batch normalisation by the running statistics."""
    deviation = np.sqrt(weights[f"{name}/moving_variance"] + 1e-5)
    normalised = (x - weights[f"{name}/moving_mean"]) / deviation
    return weights[f"{name}/gamma"] * normalised + weights[f"{name}/beta"]


def norm_relu_reference(x, weights, name):
    return np.maximum(0, norm_reference(x, weights, name))


def unit_reference(x, weights, name, stride=1):
    """The pre-activation bottleneck whose weights are `{name}/bn1/gamma` and so on."""
    activated = norm_relu_reference(x, weights, f"{name}/bn1")
    y = conv_reference(activated, weights[f"{name}/conv1/kernel"])
    y = norm_relu_reference(y, weights, f"{name}/bn2")
    y = conv_reference(y, weights[f"{name}/conv2/kernel"], stride, pad=1)
    y = norm_relu_reference(y, weights, f"{name}/bn3")
    y = conv_reference(y, weights[f"{name}/conv3/kernel"])
    projection = weights.get(f"{name}/projection/kernel")
    return y + (x if projection is None else conv_reference(activated, projection, stride))


def next_unit_reference(x, weights, name, stride=1, groups=32):
    """The post-activation bottleneck."""
    y = norm_relu_reference(conv_reference(x, weights[f"{name}/conv1/kernel"]), weights, f"{name}/bn1")
    y = grouped_conv_reference(y, weights[f"{name}/conv2/kernel"], groups, stride, pad=1)
    y = norm_relu_reference(y, weights, f"{name}/bn2")
    y = norm_reference(conv_reference(y, weights[f"{name}/conv3/kernel"]), weights, f"{name}/bn3")
    projection = weights.get(f"{name}/projection/kernel")
    if projection is not None:
        x = norm_reference(conv_reference(x, projection, stride), weights, f"{name}/projection_bn")
    return np.maximum(0, y + x)


def inception_unit_reference(x, weights, name, stride=1):
    """The pre-activation unit of three branches, one, two and three convolutions long."""

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
    """The basic block of a Wide ResNet, whose projection reads the raw map."""
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
    """The encoder-decoder of Fig. 2, each level as a call on what is inside it."""
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
    """The two 1x1 convolutions that end every mask, the first without BN-ReLU after post-activation units."""
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


def weights_of(layer):
    """The layer's weights by path, in float64."""
    return {path: value.astype("float64") for path, value in weights_by_path(layer).items()}


# --- BilinearResize and CeilMaxPooling2D ---------------------------------------------------------

SIZE_PAIRS = [
    ((4, 4), (8, 8)),
    ((7, 7), (15, 15)),
    ((9, 9), (18, 18)),
    ((8, 8), (8, 8)),
    ((1, 1), (3, 3)),
    ((2, 2), (5, 5)),
    ((3, 5), (7, 10)),
    ((5, 1), (4, 6)),
    ((5, 4), (1, 1)),
]


@pytest.mark.parametrize(("size", "target"), SIZE_PAIRS)
def test_resize_aligns_corners(size, target, data_format):
    x = random_array(2, *size, 3)
    expected = resize_reference(x, *target)
    if data_format == "channels_last":
        resized = forward(BilinearResize(), [x, np.zeros((2, *target, 1), "float32")])
    else:
        resized = channels_last(forward(BilinearResize(), [channels_first(x), np.zeros((2, 1, *target), "float32")]))
    assert_close(resized, expected, 1e-6)
    corners = np.ix_([0, 1], [0, -1] if target[0] > 1 else [0], [0, -1] if target[1] > 1 else [0])
    assert_close(resized[corners], x[corners], 1e-6)


def test_resize_to_the_same_size_is_a_copy():
    x = random_array(1, 8, 8, 2)
    np.testing.assert_array_equal(forward(BilinearResize(), [x, x]), x)


def test_resize_uses_only_the_size_of_its_reference():
    x, size = random_array(1, 3, 4, 2), (1, 6, 9, 1)
    noise = forward(BilinearResize(), [x, 1e3 * random_array(*size)])
    np.testing.assert_array_equal(noise, forward(BilinearResize(), [x, np.zeros(size, "float32")]))


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4), (5, 5), (7, 4), (2, 9), (32, 15)])
@pytest.mark.parametrize("offset", [0, -10], ids=["signed", "all_negative"])
def test_pooling_rounds_up_as_caffe_does(size, offset, data_format):
    x = random_array(2, *size, 3) + np.float32(offset)
    expected = pool_reference(x)
    if data_format == "channels_last":
        pooled = forward(CeilMaxPooling2D(), x)
    else:
        pooled = channels_last(forward(CeilMaxPooling2D(), channels_first(x)))
    np.testing.assert_array_equal(pooled, expected)
    assert expected.shape[1:3] == (size[0] // 2, size[1] // 2)


@pytest.fixture
def dynamic_hourglass():
    """kernel * x, pooled, and resized to x again, on pictures of any size."""
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones", name="scale")(inputs)
    model = keras.Model(inputs, BilinearResize()([CeilMaxPooling2D()(x), x]))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (9, 4), (2, 3)])
def test_pooling_and_resize_of_dynamic_sizes(dynamic_hourglass, size):
    assert dynamic_hourglass.output_shape == (None, None, None, 1)
    x = random_array(2, *size, 1)
    assert_close(dynamic_hourglass.predict(x, verbose=0), resize_reference(pool_reference(x), *size), 1e-6)


def test_gradients_pass_pooling_and_resize_of_dynamic_sizes(dynamic_hourglass):
    (kernel,) = dynamic_hourglass.get_layer("scale").trainable_weights
    scale = 1.0
    for size in [(8, 8), (7, 5)]:
        x = random_array(2, *size, 1)
        resized = resize_reference(pool_reference(x), *size)
        dynamic_hourglass.train_on_batch(x, np.zeros_like(x))
        scale -= 0.1 * 2 * scale * np.mean(resized**2)  # both are linear in a positive kernel
        assert_close(keras.ops.convert_to_numpy(kernel), np.full((1, 1, 1, 1), scale))


@pytest.mark.parametrize(
    "shapes",
    [(2, 4, 4, 3), [(2, 4, 4, 3)], [(2, 4, 4, 3)] * 3, [(2, 4, 4), (2, 8, 8)], [(2, 4, 4, 3), (2, 8, 8)]],
    ids=["one_tensor", "list_of_one", "three_tensors", "3d", "3d_reference"],
)
def test_resize_takes_two_maps(shapes):
    inputs = (
        [keras.Input(batch_shape=shape) for shape in shapes] if isinstance(shapes, list) else keras.Input(shapes[1:])
    )
    with pytest.raises(ValueError, match=r"\[x, reference\], two 4-D tensors; received shapes"):
        BilinearResize()(inputs)


@pytest.mark.parametrize("layer", [BilinearResize, CeilMaxPooling2D, lambda **kwargs: SoftMask(2, **kwargs)])
def test_unknown_data_format(layer):
    with pytest.raises(ValueError, match="'channels_last', 'channels_first' or None; received: data_format='NHWC'"):
        layer(data_format="NHWC")


# --- Residual units ------------------------------------------------------------------------------

UNITS = {
    "identity": (16, 1, (7, 6)),
    "projection": (6, 1, (7, 6)),
    "stride_2_even": (16, 2, (8, 6)),
    "stride_2_odd": (6, 2, (7, 5)),
}


@pytest.mark.parametrize(("channels", "strides", "size"), UNITS.values(), ids=UNITS)
def test_unit(channels, strides, size, data_format):
    unit = PreActivationUnit(4, strides, name="unit")
    x = random_array(2, *size, channels)
    expected_shape = (2, -(-size[0] // strides), -(-size[1] // strides), 16)
    if data_format == "channels_last":
        unit.build(x.shape)
        y = forward(randomise(unit), x)
    else:
        unit.build(channels_first(x).shape)
        y = channels_last(forward(randomise(unit), channels_first(x)))
    assert_close(y, unit_reference(x.astype("float64"), weights_of(unit), "unit", strides))
    assert y.shape == expected_shape
    assert (unit.projection is not None) == (strides == 2 or channels != 16)


def test_unit_weights():
    unit = PreActivationUnit(4, strides=2, name="unit")
    unit.build((None, 8, 8, 6))
    shapes = {variable.path: tuple(variable.shape) for variable in unit.trainable_weights}
    assert shapes == {
        **{f"unit/bn1/{name}": (6,) for name in ("gamma", "beta")},
        "unit/conv1/kernel": (1, 1, 6, 4),
        **{f"unit/bn2/{name}": (4,) for name in ("gamma", "beta")},
        "unit/conv2/kernel": (3, 3, 4, 4),
        **{f"unit/bn3/{name}": (4,) for name in ("gamma", "beta")},
        "unit/conv3/kernel": (1, 1, 4, 16),
        "unit/projection/kernel": (1, 1, 6, 16),
    }


def by_format(function, arrays, data_format):
    """Calls `function` on channels-last arrays in the data format of the test."""
    if data_format == "channels_last":
        return function(arrays)
    return channels_last(function(keras.tree.map_structure(channels_first, arrays)))


# A function that makes the unit, the channels that it returns, and its reference.
OTHER_UNITS = {
    "next": (
        lambda strides: PostActivationUnit(8, strides, groups=4, name="unit"),
        16,
        lambda *arguments: next_unit_reference(*arguments, groups=4),
    ),
    "inception": (lambda strides: InceptionUnit(3, strides, 10, name="unit"), 10, inception_unit_reference),
    "wide": (lambda strides: WideUnit(6, strides, dropout=0.5, name="unit"), 6, wide_unit_reference),
}


@pytest.mark.parametrize("strides", [1, 2], ids=["identity", "stride_2"])
@pytest.mark.parametrize(("make", "filters", "reference"), OTHER_UNITS.values(), ids=OTHER_UNITS)
def test_other_units(make, filters, reference, strides, data_format):
    unit, x = make(strides), random_array(2, 7, 6, filters if strides == 1 else 5)

    def call(x):
        unit.build(x.shape)
        return forward(randomise(unit), x)

    y = by_format(call, x, data_format)
    assert_close(y, reference(x.astype("float64"), weights_of(unit), "unit", strides))
    assert y.shape == ((2, 7, 6, filters) if strides == 1 else (2, 4, 3, filters))
    assert (unit.projection is None) == (strides == 1)


def test_wide_unit_on_what_the_graph_activated(data_format):
    unit = WideUnit(6, strides=2, preactivated=True, name="unit")
    x, activated = random_array(2, 7, 6, 5), np.abs(random_array(2, 7, 6, 5, seed=1))

    def call(inputs):
        unit.build([array.shape for array in inputs])
        return forward(randomise(unit), inputs)

    y = by_format(call, [x, activated], data_format)
    expected = wide_unit_reference(x.astype("float64"), weights_of(unit), "unit", 2, activated.astype("float64"))
    assert_close(y, expected)
    assert {path.split("/")[1] for path in weights_by_path(unit)} == {"conv1", "bn2", "conv2", "projection"}


def test_wide_unit_drops_whole_channels():
    unit = WideUnit(64, dropout=0.5, name="unit")
    x = random_array(1, 4, 4, 64)
    unit.build(x.shape)
    unit.bn2.beta.assign(np.full(64, 9.0))  # all are positive before they are dropped
    unit.conv2.kernel.assign(np.pad(np.eye(64)[None, None], [(1, 1), (1, 1), (0, 0), (0, 0)]))  # and copied after
    branch = keras.ops.convert_to_numpy(unit(x, training=True)) - x
    dropped = np.all(np.abs(branch) < 1e-5, axis=(0, 1, 2))
    assert 16 < dropped.sum() < 48
    assert np.all(branch[..., ~dropped] > 1)


NEXT_UNIT = {
    "conv1/kernel": (1, 1, 6, 4),
    "bn1": 4,
    "conv2/kernel": (3, 3, 2, 4),
    "bn2": 4,
    "conv3/kernel": (1, 1, 4, 8),
    "bn3": 8,
    "projection/kernel": (1, 1, 6, 8),
    "projection_bn": 8,
}

INCEPTION_UNIT = {
    "bn1": 6,
    "branch1_conv1/kernel": (1, 1, 6, 2),
    "branch1_bn1": 2,
    "branch2_conv1/kernel": (1, 1, 6, 2),
    "branch2_bn1": 2,
    "branch2_conv2/kernel": (3, 3, 2, 2),
    "branch2_bn2": 2,
    "branch3_conv1/kernel": (1, 1, 6, 2),
    "branch3_bn1": 2,
    "branch3_conv2/kernel": (3, 3, 2, 2),
    "branch3_bn2": 2,
    "branch3_conv3/kernel": (3, 3, 2, 2),
    "branch3_bn3": 2,
    "conv/kernel": (1, 1, 6, 16),
    "projection/kernel": (1, 1, 6, 16),
}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: PostActivationUnit(4, 2, groups=2, name="unit"), NEXT_UNIT),
        (lambda: InceptionUnit(2, 2, name="unit"), INCEPTION_UNIT),
    ],
    ids=["next", "inception"],
)
def test_weights_of_other_units(make, expected):
    unit = make()
    undrawn(unit.build, input_shape=(None, 8, 8, 6))
    shapes = {variable.path.removeprefix("unit/"): tuple(variable.shape) for variable in unit.trainable_weights}
    kernels = {name: shape for name, shape in expected.items() if "/" in name}
    norms = {f"{name}/{part}": (c,) for name, c in expected.items() if "/" not in name for part in ("gamma", "beta")}
    assert shapes == kernels | norms


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PreActivationUnit(0), "width to be an integer of at least 1; received: width=0"),
        (lambda: PreActivationUnit(2, 0), "strides to be an integer of at least 1; received: strides=0"),
        (lambda: InceptionUnit(2, 1, 0), "filters to be an integer of at least 1; received: filters=0"),
        (lambda: PostActivationUnit(48), "width to be a multiple of groups=32; received: width=48"),
        (lambda: PostActivationUnit(4, groups=0), "groups to be an integer of at least 1; received: groups=0"),
        (lambda: WideUnit(2.0), "filters to be an integer of at least 1; received: filters=2.0"),
        (lambda: WideUnit(2, dropout=1), "dropout to be a number from 0 up to.* 1; received: dropout=1"),
        (lambda: WideUnit(2, dropout="0.3"), "dropout to be a number from 0 up to.* 1; received: dropout='0.3'"),
        (
            lambda: WideUnit(2, preactivated=True)(keras.Input((4, 4, 2))),
            r"called on \[x, relu\(bn\(x\)\)\], two maps of equal shapes; received shapes",
        ),
    ],
)
def test_unit_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: PreActivationUnit(2), lambda: SoftMask(2)], ids=["unit", "mask"])
def test_a_layer_saved_before_filters_were_free_still_loads(make):
    config = make().get_config()
    assert config.pop("filters") == 8
    assert type(make()).from_config(config).filters == 8


def test_batch_normalisation_keeps_nine_tenths_of_its_statistics():
    unit = PreActivationUnit(2, name="unit")
    x = 3 + 2 * random_array(4, 5, 5, 8)
    unit(x, training=True)
    statistics = weights_by_path(unit)
    assert_close(statistics["unit/bn1/moving_mean"], 0.1 * x.mean((0, 1, 2)))
    assert_close(statistics["unit/bn1/moving_variance"], 0.9 + 0.1 * x.var((0, 1, 2)))


# --- SoftMask ------------------------------------------------------------------------------------


def built_mask(width, size, **arguments):
    mask = SoftMask(width, name="mask", **arguments)
    mask.build((None, *size, 4 * width))
    return randomise(mask)


@pytest.mark.parametrize(
    ("depth", "units", "bottom_units", "size"),
    [(1, 1, None, (7, 6)), (2, 1, None, (9, 8)), (3, 1, 1, (15, 18)), (2, 2, 3, (8, 8)), (1, 1, 1, (2, 3))],
)
def test_encoder_decoder_mask(depth, units, bottom_units, size):
    mask = built_mask(2, size, depth=depth, units=units, bottom_units=bottom_units)
    x = random_array(2, *size, 8)
    y = hourglass_reference(x.astype("float64"), weights_of(mask), depth, units, bottom_units or 2 * units)
    assert_close(forward(mask, x), sigmoid(linear_reference(y, weights_of(mask))))


def test_encoder_decoder_mask_of_post_activation_units(data_format):
    mask = SoftMask(32, depth=2, bottom_units=1, unit="resnext", filters=6, name="mask")
    x = random_array(2, 5, 4, 6)

    def call(x):
        mask.build(x.shape)
        return forward(randomise(mask), x)

    actual = by_format(call, x, data_format)
    y = hourglass_reference(x.astype("float64"), weights_of(mask), 2, 1, 1, "resnext")
    assert_close(actual, sigmoid(linear_reference(y, weights_of(mask))))
    assert not hasattr(mask, "bn1")


@pytest.mark.parametrize("local_units", [1, 3])
def test_local_mask(local_units):
    mask = built_mask(2, (5, 4), mask="local", local_units=local_units)
    x = random_array(2, 5, 4, 8)
    y = chain_reference(x.astype("float64"), weights_of(mask), "mask/local_unit", local_units)
    assert_close(forward(mask, x), sigmoid(linear_reference(y, weights_of(mask))))


@pytest.mark.parametrize("scale", [1, 1e-3], ids=["large", "as_small_as_epsilon"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mask_activation(activation, scale, data_format):
    mask = SoftMask(2, mask="local", local_units=1, activation=activation, name="mask")
    x = random_array(2, 5, 4, 8)
    received = x if data_format == "channels_last" else channels_first(x)
    mask.build(received.shape)
    randomise(mask)
    mask.linear2.kernel.assign(mask.linear2.kernel * scale)
    y = chain_reference(x.astype("float64"), weights_of(mask), "mask/local_unit", 1)
    expected = ACTIVATIONS[activation](linear_reference(y, weights_of(mask)))
    actual = forward(mask, received)
    assert_close(actual if data_format == "channels_last" else channels_last(actual), expected)


UNIT_NAMES = {
    (1, 1, None): "bottom_unit1 bottom_unit2",
    (2, 1, None): "down1_unit1 bottom_unit1 bottom_unit2 skip1 up1_unit1",
    (3, 1, None): "down1_unit1 down2_unit1 bottom_unit1 bottom_unit2 skip1 skip2 up1_unit1 up2_unit1",
    (
        2,
        2,
        None,
    ): "down1_unit1 down1_unit2 bottom_unit1 bottom_unit2 bottom_unit3 bottom_unit4 skip1 up1_unit1 up1_unit2",
    (2, 3, 3): "down1_unit1 down1_unit2 down1_unit3 bottom_unit1 bottom_unit2 bottom_unit3 skip1 "
    "up1_unit1 up1_unit2 up1_unit3",
}


@pytest.mark.parametrize(("counts", "names"), UNIT_NAMES.items())
def test_units_of_the_encoder_decoder_mask(counts, names):
    depth, units, bottom_units = counts
    mask = built_mask(1, (8, 8), depth=depth, units=units, bottom_units=bottom_units)
    found = {path.split("/")[1] for path in weights_by_path(mask)}
    assert found == {*names.split(), "bn1", "linear1", "bn2", "linear2"}
    bottom = bottom_units or 2 * units
    assert len(names.split()) == depth * units + (bottom - units) + (depth - 1) * (1 + units)


@pytest.mark.parametrize("local_units", [1, 3])
def test_units_of_the_local_mask(local_units):
    mask = built_mask(1, (8, 8), mask="local", local_units=local_units, depth=3)
    found = {path.split("/")[1] for path in weights_by_path(mask)}
    assert found == {*(f"local_unit{i + 1}" for i in range(local_units)), "bn1", "linear1", "bn2", "linear2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "global"}, "mask to be one of 'encoder_decoder', 'local'; received: mask='global'"),
        ({"activation": "relu"}, "activation to be one of 'mixed', 'channel', 'spatial'; received: activation='relu'"),
        ({"unit": "basic"}, "unit to be one of 'preactivation'.*; received: unit='basic'"),
        ({"width": 0}, "width to be an integer of at least 1; received: width=0"),
        ({"width": 2.0}, "width to be an integer of at least 1; received: width=2.0"),
        ({"depth": 0}, "depth to be an integer of at least 1; received: depth=0"),
        ({"units": -1}, "units to be an integer of at least 1; received: units=-1"),
        ({"units": True}, "units to be an integer of at least 1; received: units=True"),
        ({"bottom_units": 0}, "bottom_units to be an integer of at least 1; received: bottom_units=0"),
        ({"local_units": 0}, "local_units to be an integer of at least 1; received: local_units=0"),
        ({"filters": 0}, "filters to be an integer of at least 1; received: filters=0"),
        ({"unit": "resnext"}, "width to be a multiple of groups=32; received: width=2"),
    ],
)
def test_mask_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftMask(**{"width": 2, **arguments})


@pytest.mark.parametrize(("depth", "size"), [(1, (1, 8)), (3, (7, 8)), (3, (8, 4)), (3, (None, 7))])
def test_mask_deeper_than_its_map(depth, size):
    least = 2**depth
    with pytest.raises(ValueError, match=f"at least {least} x {least} pixels.*depth {depth}; received: {size[0]} x"):
        SoftMask(2, depth=depth)(keras.Input((*size, 8)))


@pytest.mark.parametrize(("depth", "size"), [(1, (2, 2)), (3, (8, 9)), (3, (None, None))])
def test_mask_just_as_deep_as_its_map(depth, size):
    assert SoftMask(2, depth=depth)(keras.Input((*size, 8))).shape == (None, *size, 8)


def test_local_mask_on_one_pixel():
    assert SoftMask(2, depth=3, mask="local")(keras.Input((1, 1, 8))).shape == (None, 1, 1, 8)


def test_mask_needs_the_channels_of_its_units():
    with pytest.raises(ValueError, match="to have 8 channels, as its units return; received: 6 channels"):
        SoftMask(2)(keras.Input((8, 8, 6)))


# --- AttentionResidual ---------------------------------------------------------------------------


@pytest.mark.parametrize(("learning", "factor"), [("residual", 1), ("naive", 0)])
def test_merge(learning, factor):
    trunk, mask = random_array(2, 3, 4, 5), random_array(2, 3, 4, 5, seed=1)
    assert_close(forward(AttentionResidual(learning), [trunk, mask]), (factor + mask) * trunk, 1e-6)


def test_merge_is_residual_by_default():
    assert AttentionResidual().learning == "residual"


def test_unknown_learning():
    with pytest.raises(ValueError, match="learning to be one of 'residual', 'naive'; received: learning='none'"):
        AttentionResidual("none")


@pytest.mark.parametrize("mask_shape", [(4, 4, 1), (8, 8, 6)])
def test_merge_needs_equal_shapes(mask_shape):
    with pytest.raises(ValueError, match=r"\[trunk, mask\] of equal shapes"):
        AttentionResidual()([keras.Input((4, 4, 6)), keras.Input(mask_shape)])


# --- What holds for every layer ------------------------------------------------------------------

# A function that makes the layer, and the shapes that it is called on.
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


@pytest.fixture(params=LAYERS)
def case(request):
    return LAYERS[request.param]


def inputs_for(shapes):
    arrays = [random_array(4, *shape, seed=i) for i, shape in enumerate(shapes)]
    return arrays if len(arrays) > 1 else arrays[0]


def model_of(layer, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], layer(inputs if len(inputs) > 1 else inputs[0]))


def test_every_layer_comes_back_from_its_configuration(case):
    make, _ = case
    layer = make(name="layer", dtype="mixed_bfloat16")
    configuration = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(configuration)
    assert configuration["registered_name"] == f"keras_resattn>{type(layer).__name__}"
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()


def test_every_layer_comes_back_from_a_file(case, tmp_path):
    make, shapes = case
    model = randomise(model_of(make(name="layer"), shapes))
    model.save(tmp_path / "layer.keras")
    restored = keras.saving.load_model(tmp_path / "layer.keras", safe_mode=True)
    np.testing.assert_array_equal(forward(restored, inputs_for(shapes)), forward(model, inputs_for(shapes)))


def test_every_layer_states_the_shape_that_it_returns(case):
    make, shapes = case
    layer, inputs = make(), inputs_for(shapes)
    received = [array.shape for array in inputs] if len(shapes) > 1 else inputs.shape
    assert forward(layer, inputs).shape == layer.compute_output_shape(received)


def test_every_layer_returns_the_same_in_both_data_formats(case):
    make, shapes = case
    inputs = inputs_for(shapes)
    last = randomise(model_of(make(name="layer"), shapes))
    keras.config.set_image_data_format("channels_first")
    first = model_of(make(name="layer"), [(shape[-1], *shape[:-1]) for shape in shapes])
    first.set_weights(last.get_weights())
    outputs = forward(first, keras.tree.map_structure(channels_first, inputs))
    assert_close(channels_last(outputs), forward(last, inputs))


def test_every_layer_computes_in_half_precision(case, mixed_policy):
    make, shapes = case
    half = randomise(model_of(make(name="layer"), shapes))
    outputs = half(inputs_for(shapes), training=False)
    assert keras.backend.standardize_dtype(outputs.dtype) == mixed_policy.removeprefix("mixed_")
    assert {variable.dtype for variable in half.weights} <= {"float32"}
    single = model_of(make(name="layer", dtype="float32"), shapes)
    single.set_weights(half.get_weights())
    rounding = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[mixed_policy]
    expected = forward(single, inputs_for(shapes))
    difference = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32")) - expected
    assert np.sqrt(np.mean(difference**2)) < 3 * rounding * np.sqrt(np.mean(expected**2))


TRAINABLE = [name for name in LAYERS if name not in ("resize", "pool", "merge", "naive_merge")]


@pytest.mark.parametrize("name", TRAINABLE)
def test_gradients_reach_every_weight(name):
    make, shapes = LAYERS[name]
    model = model_of(make(name="layer"), shapes)
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    before = weights_by_path(model)
    x = inputs_for(shapes)
    model.train_on_batch(x, random_array(4, *model.output_shape[1:], seed=9))
    after = weights_by_path(model)
    assert [path for path in before if np.array_equal(before[path], after[path])] == []
