"""Images on the device: the same batches as on the host, and the same training."""

import functools
import gc

import keras
import numpy as np
import pytest
from helpers import random_array

from keras_resattn import compile_and_fit
from keras_resattn.data import ArrayDataset, BatchStream, TrainingBatches, network_input
from keras_resattn.data.device_data import DeviceImages, build_device_model
from keras_resattn.data.labels import smooth_labels
from keras_resattn.data.normalization import array_statistics, normalize
from keras_resattn.recipes import get_recipe

RNG = np.random.default_rng(0)
SOURCE = ArrayDataset(RNG.integers(0, 256, (20, 8, 10, 3), dtype="uint8"), np.arange(20) % 3)
VALIDATION = ArrayDataset(RNG.integers(0, 256, (7, 8, 10, 3), dtype="uint8"), np.arange(7) % 3)
PLAIN = get_recipe("cifar_one_cycle").replace(epochs=4, warmup_epochs=0, batch_size=6, pad=0, flip=False)
MEAN, STD = array_statistics(SOURCE.x, "channel")
EVERYTHING = {"pad": 2, "flip": True, "cutout": 4, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1}


def input_shape():
    return (3, 8, 10) if keras.config.image_data_format() == "channels_first" else (8, 10, 3)


def identity():
    """A network that returns the images themselves: three channels count as three classes."""
    inputs = keras.Input(input_shape())
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs), name="identity")


def classifier(seed=0):
    inputs = keras.Input(input_shape())
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = keras.layers.BatchNormalization()(x)
    network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x), name="classifier")
    for i, variable in enumerate(network.trainable_variables):
        variable.assign(random_array(*variable.shape, seed=seed + i))
    return network


def host_batches(recipe, mean=MEAN, std=STD, classes=3):
    prepare = functools.partial(normalize, mean=mean, std=std)
    return TrainingBatches(SOURCE, recipe, prepare, size=(8, 10), classes=classes, workers=0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pad": 2},
        {"pad": 3, "pad_mode": "reflect", "flip": True},
        {"flip": True},
        {"cutout": 4},
        {"cutout": 5},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        EVERYTHING,
    ],
    ids=lambda fields: "+".join(fields) or "nothing",
)
def test_device_batches_are_the_host_batches(fields):
    recipe = PLAIN.replace(**fields)
    model, batches, _ = build_device_model(identity(), SOURCE, recipe, MEAN, STD)
    host = host_batches(recipe, classes=batches.classes)
    assert len(batches) == len(host) == 12
    for step in (0, 1, 7):  # of EVERYTHING's, both kinds of mixes
        (params, y), (x, host_y) = batches[step], host[step]
        np.testing.assert_allclose(model.predict_on_batch(params), x, atol=1e-6)
        np.testing.assert_array_equal(y, host_y)
        np.testing.assert_array_equal(batches.indices(step), host.indices(step))


@pytest.mark.once
def test_both_kinds_of_mixes_are_among_the_steps_tested():
    host = host_batches(PLAIN.replace(**EVERYTHING))
    assert {host.augmentation_params(step).boxes is None for step in (0, 1, 7)} == {True, False}


def test_channels_first_and_the_mean_image():
    keras.config.set_image_data_format("channels_first")
    recipe = PLAIN.replace(**EVERYTHING)
    mean, std = array_statistics(SOURCE.x, "pixel_mean")
    model, batches, _ = build_device_model(identity(), SOURCE, recipe, mean, std)
    params, _ = batches[0]
    x, _ = host_batches(recipe, mean, std, batches.classes)[0]
    assert x.shape == (6, 3, 8, 10)
    np.testing.assert_allclose(model.predict_on_batch(params), x, atol=1e-4)  # of values up to 255


def test_float_images_stay_floats():
    dataset = ArrayDataset(SOURCE.x / np.float32(2), SOURCE.labels)
    model, batches, _ = build_device_model(identity(), dataset, PLAIN, MEAN, STD)
    params, _ = batches[0]
    expected = network_input(dataset.x[batches.indices(0)], MEAN, STD)
    np.testing.assert_allclose(model.predict_on_batch(params), expected, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"mixup": 0.4}])
def test_validation_images_come_as_they_are(fields):
    recipe = PLAIN.replace(pad=2, flip=True, cutout=4, **fields)
    network = identity()
    model, _, validation = build_device_model(network, SOURCE, recipe, MEAN, STD, validation=VALIDATION)
    assert len(validation) == 2
    params, y = zip(*(validation[i] for i in range(2)), strict=True)
    images = np.concatenate([model.predict_on_batch(params) for params in params])
    np.testing.assert_allclose(images, network_input(VALIDATION.x, MEAN, STD), atol=1e-6)
    labels = smooth_labels(VALIDATION.labels, network.output_shape[-1]) if fields else VALIDATION.labels
    np.testing.assert_array_equal(np.concatenate(y), labels)


def test_both_routes_train_the_same_weights():
    """With three steps an execution on the device, where the backend can: Keras refuses it on PyTorch."""
    steps = 1 if keras.backend.backend() == "torch" else 3
    recipe = PLAIN.replace(**EVERYTHING)
    device, host = classifier(), classifier()
    model, batches, _ = build_device_model(device, SOURCE, recipe, MEAN, STD)
    assert {id(v) for v in model.trainable_variables} == {id(v) for v in device.trainable_variables}
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy", steps_per_execution=steps)
    host.compile(keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy")
    losses = [
        trained.fit(x, epochs=2, steps_per_epoch=3, shuffle=False, verbose=0).history["loss"]
        for trained, x in ((model, batches), (host, host_batches(recipe)))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    start = classifier()
    for a, b, before in zip(device.weights, host.weights, start.weights, strict=True):
        a, b, before = map(keras.ops.convert_to_numpy, (a, b, before))
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert np.abs(a - before).max() > 1e-4


def test_a_run_goes_on_in_the_middle():
    recipe = PLAIN.replace(**EVERYTHING)
    _, whole, _ = build_device_model(identity(), SOURCE, recipe, MEAN, STD)
    _, rest, _ = build_device_model(identity(), SOURCE, recipe, MEAN, STD, first_epoch=1, first_step=5)
    assert len(rest) == len(whole) - 3
    for index, step in ((0, 5), (2, 5), (3, 6)):
        for name, values in rest[index][0].items():
            np.testing.assert_array_equal(values, whole[step][0][name], err_msg=name)


def test_after_a_training_the_network_is_compiled_and_the_images_are_gone():
    network = classifier()
    alive = sum(type(thing) is DeviceImages for thing in gc.get_objects())
    compile_and_fit(network, PLAIN.replace(epochs=1), (SOURCE.x, SOURCE.labels), device_data=True, verbose=0)
    loss, accuracy = network.evaluate(np.zeros((4, *network.input_shape[1:]), "float32"), np.zeros(4), verbose=0)
    assert np.isfinite(loss)
    assert 0 <= accuracy <= 1
    del loss, accuracy
    gc.collect()
    assert sum(type(thing) is DeviceImages for thing in gc.get_objects()) <= alive


def test_images_are_no_part_of_a_file_of_weights(tmp_path):
    network = classifier()
    model, _, _ = build_device_model(network, SOURCE, PLAIN, MEAN, STD)
    assert [v.shape for v in model.get_layer("images").variables] == [SOURCE.x.shape]
    model.save_weights(tmp_path / "a.weights.h5")
    other = ArrayDataset(255 - SOURCE.x, SOURCE.labels)
    again, _, _ = build_device_model(classifier(seed=9), other, PLAIN, MEAN, STD)
    again.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(again.get_layer("images").images, other.x)
    for a, b in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))


def test_images_are_normalised_in_full_precision_under_a_mixed_policy(mixed_policy):
    inputs = keras.Input(input_shape())
    network = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    recipe = PLAIN.replace(mixup=0.4)
    model, batches, _ = build_device_model(network, SOURCE, recipe, MEAN, STD)
    params, _ = batches[0]
    images = keras.ops.convert_to_numpy(model.get_layer("images")(params))
    np.testing.assert_allclose(images, host_batches(recipe, classes=10)[0][0], atol=1e-6)
    assert keras.ops.dtype(model(params)) == mixed_policy.removeprefix("mixed_")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about JAX' compiled step")
def test_images_are_an_argument_of_the_compiled_step_and_no_constant_of_it():
    import jax

    model, batches, _ = build_device_model(classifier(), SOURCE, PLAIN, MEAN, STD)
    params, _ = batches[0]
    state = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    jaxpr = jax.make_jaxpr(lambda state, params: model.stateless_call(*state, params)[0])(state, params)
    assert SOURCE.x.shape in [v.aval.shape for v in jaxpr.jaxpr.invars]
    assert all(np.size(constant) < 100 for constant in jaxpr.consts)


def test_a_network_of_any_size_takes_the_size_of_the_images():
    inputs = keras.Input((None, None, 3))
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs), name="any_size")
    model, batches, _ = build_device_model(network, SOURCE, PLAIN, MEAN, STD)
    assert model.predict_on_batch(batches[0][0]).shape == (6, 3)


@pytest.mark.once
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment": [keras.layers.RandomFlip()]}, "augment=().*Train with device_data=False"),
        ({"crop": "inception", "pad": 0}, "crop='pad'.*received: crop='inception'"),
    ],
)
def test_what_only_the_host_can_do_is_refused(fields, message):
    with pytest.raises(ValueError, match=message.replace("()", r"\(\)")):
        build_device_model(identity(), SOURCE, PLAIN.replace(**fields), MEAN, STD)


@pytest.mark.once
def test_streams_are_refused():
    stream = BatchStream([(SOURCE.x[:6], SOURCE.labels[:6])])
    with pytest.raises(ValueError, match=r"read by index.*received: a BatchStream"):
        build_device_model(identity(), stream, PLAIN, MEAN, STD)
