"""WRN-att2: attention layers, outputs compared with NumPy references, and the dead global branch."""

import keras
import numpy as np
from helpers import assert_close, channels_first, forward, random_array, randomise, weights_by_path
from networks import narrow_wide
from references import conv_reference, groups_reference, norm_relu_reference

from keras_resattn import WideResNetAtt2
from keras_resattn.layers.global_attention import AttendedSum, GlobalAttentionMap


def attention_reference(local, vector, kernel):
    """Return the map of a 1x1 convolution of `[local; vector]`, and the sum of `local` weighted by it."""
    tiled = np.broadcast_to(vector[:, None, None], (*local.shape[:3], vector.shape[-1]))
    scores = conv_reference(np.concatenate([local, tiled], axis=-1), kernel)
    weights = np.exp(scores) / np.exp(scores).sum((1, 2), keepdims=True)
    return weights, (local * weights).sum((1, 2))


def test_attention_layers(data_format):
    local, vector = random_array(2, 5, 4, 6), random_array(2, 3, seed=1)
    x = channels_first(local) if data_format == "channels_first" else local
    layer, total = GlobalAttentionMap(), AttendedSum()
    layer.build([x.shape, vector.shape])
    randomise(layer)
    weights = forward(layer, [x, vector])
    expected, expected_sum = attention_reference(local, vector, layer.get_weights()[0])
    assert_close(forward(total, [x, weights]), expected_sum)
    assert_close(weights, channels_first(expected) if data_format == "channels_first" else expected)
    assert layer.compute_output_shape([x.shape, vector.shape]) == weights.shape
    assert total.compute_output_shape([x.shape, weights.shape]) == (2, 6)


def test_attention_of_large_scores_is_finite(mixed_policy):
    local, vector = 1e3 * random_array(2, 5, 4, 6), random_array(2, 3)
    weights = GlobalAttentionMap()([local, vector])
    assert keras.backend.standardize_dtype(weights.dtype) == mixed_policy.removeprefix("mixed_")
    assert_close(keras.ops.convert_to_numpy(keras.ops.cast(weights, "float32")).sum((1, 2, 3)), np.ones(2), 1e-2)


def test_wide_resnet_att2(images):
    model = randomise(narrow_wide(WideResNetAtt2, classifier_activation=None))
    weights = weights_by_path(model)
    _, second, third = groups_reference(images, weights)
    for i in (1, 2):
        third = conv_reference(third, weights[f"group3_conv{i}/kernel"], pad=1)
    x = norm_relu_reference(third, weights, "global_bn1")
    x = x.reshape(2, 4, 2, 4, 2, 64).max((2, 4))
    x = norm_relu_reference(x, weights, "global_bn2")
    vector = x.max((1, 2)) @ weights["global_dense/kernel"]  # 4x4 pooling of a 4x4 map
    sums = []
    for group, local in ((2, second), (3, third)):
        local = norm_relu_reference(local, weights, f"attention{group}_bn")
        expected, total = attention_reference(local, vector, weights[f"attention{group}_map/score/kernel"])
        maps = keras.Model(model.input, model.get_layer(f"attention{group}_map").output)
        assert_close(forward(maps, images), expected)
        sums.append(total)
    context = norm_relu_reference(np.concatenate(sums, axis=-1), weights, "context_bn")
    expected = context @ weights["predictions/kernel"] + weights["predictions/bias"]
    assert_close(forward(model, images), expected)
    assert_close(forward(keras.Model(model.input, model.get_layer("context_relu").output), images), context)


def test_the_global_branch_is_dead(images):
    model = randomise(narrow_wide(WideResNetAtt2))
    before = forward(model, images)
    vector = keras.Model(model.input, model.get_layer("global_dense").output)
    vector_before = forward(vector, images)
    for name in ("global_bn1", "global_bn2", "global_dense"):
        randomise(model.get_layer(name), seed=1)
    assert np.abs(forward(vector, images) - vector_before).max() > 1
    assert_close(forward(model, images), before)


def test_the_global_vector_gets_no_gradient():
    local = keras.Input((4, 4, 3))
    vector = keras.layers.Dense(3, name="global")(keras.layers.GlobalMaxPooling2D()(local))
    weights = GlobalAttentionMap(name="map")([local, vector])
    model = randomise(keras.Model(local, AttendedSum()([local, weights])))
    before = weights_by_path(model)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(random_array(2, 4, 4, 3), np.ones((2, 3)))
    moved = {path: np.abs(after - before[path]) for path, after in weights_by_path(model).items()}
    assert max(moved["global/kernel"].max(), moved["global/bias"].max()) < 1e-6
    score = moved["map/score/kernel"].squeeze()  # weights of the local features, then of the global vector
    assert score[:3].max() > 1e-3
    assert score[3:].max() < 1e-6
