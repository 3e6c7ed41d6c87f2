"""`preprocess_input` and `decode_predictions` with the bundled CIFAR-10 weights."""

import numpy as np
import pytest
from keras import ops
from PIL import Image

from keras_resattn import decode_predictions, preprocess_input
from keras_resattn.pretrained import find

TAG = find("CifarResidualAttention56/cifar10")[0]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype="uint8")


def reference(x):
    return (x.astype("float64") - np.array(TAG.mean)) / np.array(TAG.std)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "bfloat16"])
def test_each_channel_is_normalised_and_the_input_unchanged(dtype):
    x = IMAGES.astype(dtype)
    before = x.copy()
    result = preprocess_input(x, weights="cifar10")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference(IMAGES), atol=1e-6)
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, result)


def test_single_images_tensors_and_channels_first():
    np.testing.assert_allclose(preprocess_input(IMAGES[0], weights="cifar10"), reference(IMAGES[0]), atol=1e-6)
    tensor = preprocess_input(ops.convert_to_tensor(IMAGES), weights="cifar10")
    assert ops.is_tensor(tensor)
    np.testing.assert_allclose(ops.convert_to_numpy(tensor), reference(IMAGES), atol=1e-6)
    first = preprocess_input(np.moveaxis(IMAGES, -1, 1), data_format="channels_first", weights="cifar10")
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), reference(IMAGES), atol=1e-6)


def test_one_channel_uses_the_mean_statistics():
    gray = IMAGES[..., :1]
    expected = (gray - np.mean(TAG.mean)) / np.mean(TAG.std)
    np.testing.assert_allclose(preprocess_input(gray, weights="cifar10"), expected, atol=1e-6)


@pytest.mark.once
def test_images_from_0_to_1_warn():
    with pytest.warns(UserWarning, match="0 to 255.*Multiply by 255"):
        preprocess_input(IMAGES / 255, weights="cifar10")


@pytest.mark.once
@pytest.mark.parametrize("x", [IMAGES - 128.0, IMAGES * 2.0], ids=["negative", "above"])
def test_normalised_images_warn(x):
    with pytest.warns(UserWarning, match="0 to 255; received: values from .*already normalised"):
        preprocess_input(x, weights="cifar10")


def test_lists_and_pillow_images():
    np.testing.assert_array_equal(
        preprocess_input(list(IMAGES), weights="cifar10"), preprocess_input(IMAGES, weights="cifar10")
    )
    np.testing.assert_array_equal(
        preprocess_input(Image.fromarray(IMAGES[0]), weights="cifar10"), preprocess_input(IMAGES[0], weights="cifar10")
    )
    images = [Image.fromarray(IMAGES[0]), Image.fromarray(IMAGES[1]).convert("RGBA")]
    np.testing.assert_array_equal(
        preprocess_input(images, weights="cifar10"), preprocess_input(IMAGES, weights="cifar10")
    )
    grey = Image.fromarray(IMAGES[0, ..., 0].astype("uint16") * 257)
    np.testing.assert_array_equal(
        preprocess_input(grey, weights="cifar10"),
        preprocess_input(np.stack([IMAGES[0, ..., 0]] * 3, -1), weights="cifar10"),
    )


@pytest.mark.once
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (IMAGES.astype("uint16") * 257, r"uint16 from \d+ to \d+\. Scale 16-bit values by their range: \(x / 257\)"),
        (IMAGES.astype("int64") - 128, r"int64 from -\d+ to \d+"),
        (IMAGES + np.nan, "Remove NaN and infinite values"),
        (np.where(IMAGES > 100, np.inf, IMAGES), "Remove NaN and infinite values"),
        (np.ma.masked_greater(IMAGES, 100), r"without masked values; received: .* x\.filled\(0\)"),
        (list(np.ma.masked_greater(IMAGES, 100)), "without masked values"),
        (IMAGES > 100, "Multiply by 255"),
        (Image.fromarray(IMAGES[0, ..., 0].astype("float32")), "floats without a fixed range"),
    ],
)
def test_invalid_values_raise(x, message):
    with pytest.raises(ValueError, match=message):
        preprocess_input(x, weights="cifar10")


@pytest.mark.once
@pytest.mark.parametrize("x", ["cat.png", IMAGES > 0, None], ids=["path", "bool", "None"])
def test_inputs_other_than_numbers_raise(x):
    with pytest.raises(ValueError, match="Expected images as arrays of numbers; received: "):
        preprocess_input(x, weights="cifar10")


@pytest.mark.once
def test_the_other_data_format_raises_with_a_hint():
    with pytest.raises(ValueError, match=r"channels_last.*\(2, 3, 4, 4\).*data_format='channels_first'"):
        preprocess_input(np.moveaxis(IMAGES, -1, 1), data_format="channels_last", weights="cifar10")


@pytest.mark.once
@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4, 2), (1, 2, 4, 4, 3)])
def test_other_shapes_raise(shape):
    with pytest.raises(ValueError, match="channels"):
        preprocess_input(np.zeros(shape), weights="cifar10")


@pytest.mark.once
@pytest.mark.parametrize(
    "weights", ["cifar10", "cifar10_v2", "CifarResidualAttention56/cifar10_v2", "CifarResidualAttention56", "WARN-16-4"]
)
def test_a_tag_is_found_by_all_its_names(weights):
    np.testing.assert_array_equal(preprocess_input(IMAGES, weights), preprocess_input(IMAGES, weights="cifar10"))


@pytest.mark.once
def test_unknown_weights_raise_with_the_known_names():
    for call in (preprocess_input, lambda x, weights: decode_predictions(np.zeros((1, 10)), weights=weights)):
        with pytest.raises(
            ValueError, match=r"cifar10_v2.*received: weights='imagenet'\. Did you mean 'tiny_imagenet'"
        ):
            call(IMAGES, weights="imagenet")
        with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
            call(IMAGES, weights="cifar01")


@pytest.mark.once
def test_decoding_returns_the_most_probable_classes():
    probabilities = np.array([[0, 0, 0, 0.7, 0, 0.2, 0.1, 0, 0, 0]])
    assert decode_predictions(probabilities, top=2) == [[(3, "cat", 0.7), (5, "dog", 0.2)]]
    assert len(decode_predictions(probabilities, top=50)[0]) == 10
    assert decode_predictions(ops.convert_to_tensor(probabilities), top=1)[0][0][:2] == (3, "cat")


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments", [{"probabilities": np.zeros(10)}, {"probabilities": np.zeros((1, 1000))}, {"top": 0}, {"top": True}]
)
def test_decoding_invalid_arguments_raises(arguments):
    with pytest.raises(ValueError, match="Expected"):
        decode_predictions(**{"probabilities": np.zeros((1, 10)), **arguments})


@pytest.mark.once
@pytest.mark.parametrize("value", [-4.9, np.nan, np.inf])
def test_decoding_other_values_than_probabilities_raises(value):
    values = np.zeros((1, 10))
    values[0, 3] = value
    with pytest.raises(ValueError, match=r"Expected probabilities, finite and at least 0.*softmax\(logits\)"):
        decode_predictions(values)


@pytest.mark.once
def test_defaults_that_differ_in_normalisation_raise():
    with pytest.raises(ValueError, match="CifarResidualAttention56/cifar10_v2, ResidualAttention56/tiny_imagenet_v1"):
        preprocess_input(IMAGES)


@pytest.mark.once
def test_decoding_finds_the_default_classes_by_their_number():
    assert decode_predictions(np.eye(200)[[193]], top=1) == [[(193, "espresso", 1.0)]]
    with pytest.raises(ValueError, match=r"shape \(n, 10 or 200\).*received: shape \(1, 1000\).*weights=model"):
        decode_predictions(np.zeros((1, 1000)))
