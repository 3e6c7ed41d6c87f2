"""The order of a run's batches, resuming, sharing among processes, and making them ahead."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

from keras_resattn.data import ArrayDataset, BatchStream, TrainingBatches
from keras_resattn.data.normalization import normalize
from keras_resattn.recipes import get_recipe

X = np.random.default_rng(0).integers(0, 256, (26, 8, 10, 3), dtype="uint8")
Y = np.arange(26) % 4
PLAIN = get_recipe("cifar_one_cycle").replace(epochs=4, warmup_epochs=0, batch_size=8, pad=0, flip=False)
EVERYTHING = {"pad": 2, "flip": True, "cutout": 4, "mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1}
BRIGHTNESS = keras.layers.RandomBrightness(0.5)


class Watched(ArrayDataset):
    """ArrayDataset that know who read what."""

    def __init__(self, x=X, y=Y):
        super().__init__(x, y)
        self.reads, self.threads, self.arguments = [], set(), []

    def read(self, rows, size=None, crops=None, central=1.0):
        self.reads.append(len(rows))
        self.arguments.append((size, crops))
        self.threads.add(threading.current_thread())
        return super().read(rows, size, crops, central)


def batches(recipe, dataset=None, **arguments):
    prepare = functools.partial(normalize, mean=[100.0] * 3, std=[50.0] * 3)
    dataset = Watched() if dataset is None else dataset
    return TrainingBatches(dataset, recipe, prepare, **{"size": (8, 10), "classes": 4, "workers": 0, **arguments})


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.once
def test_an_epoch_sees_each_image_once_but_for_the_remainder():
    stream = batches(PLAIN)
    assert (stream.steps_per_epoch, len(stream)) == (3, 12)
    seen = [np.concatenate([stream.indices(epoch * 3 + step) for step in range(3)]) for epoch in range(2)]
    assert all(len(set(rows)) == 24 for rows in seen)
    assert not np.array_equal(*seen), "shuffled anew"
    x, y = stream[4]
    rows = stream.indices(4)
    np.testing.assert_allclose(x, (X[rows] - 100.0) / 50, atol=1e-6)
    np.testing.assert_array_equal(y, Y[rows])
    assert (x.dtype, y.dtype) == (np.float32, np.int32)


@pytest.mark.once
def test_a_batch_depends_on_seed_and_step_alone():
    recipe = PLAIN.replace(**EVERYTHING)
    one, other = batches(recipe), batches(recipe, workers=2)
    for step in (5, 2, 11):
        assert_same(one[step], other[step])
    assert one[0][1].shape == (8, 4)
    x, y = batches(recipe.replace(seed=1))[5]
    assert np.abs(x - one[5][0]).max() > 1
    assert np.abs(y - one[5][1]).max() > 0.1


@pytest.mark.once
def test_a_resumed_run_sees_what_the_unbroken_one_would_have():
    recipe = PLAIN.replace(**EVERYTHING)
    whole, rest = batches(recipe), batches(recipe, first_epoch=1, first_step=5)
    assert len(rest) == len(whole) - 3
    for index in range(3, 9):
        assert_same(rest[index - 1], whole[index + 2])
    for done in range(3):
        assert_same(rest[done], whole[5])


@pytest.mark.once
def test_what_is_done_already_costs_one_batch():
    rest = batches(PLAIN, first_step=9, workers=1)
    for index in range(10):
        rest[index]
    assert len(rest.dataset.reads) <= 3, "step 9, and what is made ahead"


@pytest.mark.once
def test_channels_first():
    keras.config.set_image_data_format("channels_first")
    x, _ = batches(PLAIN)[0]
    assert x.shape == (8, 3, 8, 10)


@pytest.mark.once
@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"pad": 2, "flip": True, "cutout": 4}, 8),
        (EVERYTHING, None),
        ({"augment": [BRIGHTNESS]}, 16),
        ({"augment": [BRIGHTNESS], "mixup": 0.4}, 16),
    ],
    ids=["alone", "mixed", "by layers", "by layers and mixed"],
)
def test_the_shards_of_a_batch_are_the_batch(fields, read):
    recipe = PLAIN.replace(**fields)
    whole = batches(recipe)
    shards = [batches(recipe, shard=(rank, 2)) for rank in range(2)]
    for step in (0, 1):
        parts = zip(*(shard[step] for shard in shards), strict=True)
        assert_same([np.concatenate(part) for part in parts], whole[step])
    for shard in shards:
        if read is None:
            assert max(shard.dataset.reads) <= 8, "its four images, and the four that are mixed in"
        else:
            assert sum(shard.dataset.reads) == read


@pytest.mark.once
@pytest.mark.parametrize(
    ("shard", "message"), [((0, 3), "divisible by 3 processes; received: batch_size=8"), ((2, 2), "a rank")]
)
def test_shards_that_do_not_fit_are_refused(shard, message):
    with pytest.raises(ValueError, match=message):
        batches(PLAIN, shard=shard)


@pytest.mark.once
def test_less_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="at least a batch of 32 images for recipe; received: 26"):
        batches(PLAIN.replace(batch_size=32))


@pytest.mark.once
def test_inception_crops_are_the_sources_to_make():
    stream = batches(PLAIN.replace(crop="inception"), size=(6, 6))
    x, _ = stream[3]
    assert x.shape == (8, 6, 6, 3)
    ((size, crops),) = stream.dataset.arguments
    assert size == (6, 6)
    np.testing.assert_array_equal(crops, stream.augmentation_params(3).crops)


def test_layers_of_keras_see_images_before_normalisation_and_repeat_themselves():
    recipe = PLAIN.replace(augment=[BRIGHTNESS])
    one, other = batches(recipe), batches(recipe, workers=2)
    x, _ = one[1]
    images = x * 50 + 100
    assert images.min() > -1e-3
    assert images.max() < 255 + 1e-3
    assert np.abs(images - X[one.indices(1)]).max() > 1
    for step in (2, 1):
        assert_same(one[step], other[step])


@pytest.mark.once
def test_batches_are_made_ahead_in_threads_and_come_in_order():
    recipe = PLAIN.replace(**EVERYTHING)
    plain, ahead = batches(recipe), batches(recipe, workers=2)
    for step in range(12):
        assert_same(ahead[step], plain[step])
    assert threading.current_thread() not in ahead.dataset.threads
    assert len(ahead.dataset.reads) == 12, "each once, and none past the end"


@pytest.mark.once
def test_threads_may_ask_for_any_batch_at_any_time():
    recipe = PLAIN.replace(**EVERYTHING)
    plain, ahead = batches(recipe), batches(recipe, workers=2)
    asked = np.random.default_rng(0).integers(0, 12, 60).tolist()
    with ThreadPoolExecutor(4) as pool:
        for step, batch in zip(asked, pool.map(ahead.__getitem__, asked), strict=True):
            assert_same(batch, plain[step])


@pytest.mark.once
def test_what_goes_wrong_in_a_thread_is_raised_where_the_batch_is_asked_for():
    class Broken(Watched):
        def read(self, rows, **arguments):
            raise ValueError("Expected cat.jpg to be a image")

    with pytest.raises(ValueError, match=r"cat\.jpg"):
        batches(PLAIN, Broken(), workers=2)[0]


def in_batches(of=8):
    return [(X[i : i + of], Y[i : i + of]) for i in range(0, 26, of)]


class Counted:
    """Batches that count their passes."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(in_batches())

    def __len__(self):
        return 4


@pytest.mark.once
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_keeps_its_order_and_is_augmented(workers):
    stream = batches(PLAIN, BatchStream(in_batches()), workers=workers)
    assert (stream.steps_per_epoch, len(stream)) == (3, 12)
    assert stream.indices(0) is None
    for index in (0, 1, 0, 1, 2, 3, 4, 2):  # Keras asks for the first ones again, and for the first of each epoch
        x, y = stream[index]
        first = index % 3 * 8
        np.testing.assert_allclose(x, (X[first : first + 8] - 100.0) / 50, atol=1e-6)
        np.testing.assert_array_equal(y, Y[first : first + 8])
    augmented = batches(PLAIN.replace(**EVERYTHING), BatchStream(in_batches()))
    assert augmented[0][1].shape == (8, 4)
    assert np.abs(augmented[0][0] - augmented[3][0]).max() > 1, "another epoch, other draws"


@pytest.mark.once
def test_a_stream_is_passed_once_where_it_is_asked_in_order():
    counted = Counted()
    stream = batches(PLAIN, BatchStream(counted), workers=1)
    before = counted.passes
    for index in range(6):
        stream[index]
    assert counted.passes - before in (2, 3), "two epochs, and what is made ahead"


@pytest.mark.once
def test_a_stream_goes_on_in_the_middle_of_a_pass():
    _, y = batches(PLAIN, BatchStream(in_batches()), first_epoch=1, first_step=4)[0]
    np.testing.assert_array_equal(y, Y[8:16])


@pytest.mark.once
def test_each_process_draws_for_its_own_part_of_a_stream():
    recipe = PLAIN.replace(batch_size=16, pad=2, mixup=0.4)
    streams = [batches(recipe, BatchStream(in_batches()), shard=(rank, 2)) for rank in range(2)]
    assert [stream.steps_per_epoch for stream in streams] == [3, 3]
    assert streams[0][0][0].shape == (8, 8, 10, 3)
    assert np.abs(streams[0][0][0] - streams[1][0][0]).max() > 1


@pytest.mark.once
def test_a_stream_with_other_batches_than_the_recipe_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=13"):
        batches(PLAIN, BatchStream(in_batches(13)))


@pytest.mark.parametrize(
    "dataset", [ArrayDataset(X, Y % 3), BatchStream([(X[i : i + 8], Y[i : i + 8] % 3) for i in (0, 8, 16)])]
)
def test_keras_trains_on_them_in_order(dataset):
    """Whatever a backend asks for beforehand, each step comes once: seen by its loss, as nothing is learnt."""
    losses = []
    inputs = keras.Input((8, 10, 3))
    outputs = keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    network = keras.Model(inputs, outputs)
    network.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    stream = batches(PLAIN.replace(mixup=0.4), dataset, classes=3, workers=2)
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"])))
    network.fit(stream, steps_per_epoch=3, epochs=3, shuffle=False, verbose=0, callbacks=[record])
    expected = [np.mean((network.predict_on_batch(x) - y) ** 2) for x, y in (stream[step] for step in range(9))]
    means = np.cumsum(np.reshape(expected, (3, 3)), 1) / [1, 2, 3]  # Keras logs the epoch's mean so far
    np.testing.assert_allclose(np.reshape(losses, (3, 3)), means, rtol=1e-4)


@pytest.mark.once
def test_inception_crops_of_batches_are_refused():
    with pytest.raises(ValueError, match=r"crop='pad' for data in batches; received: crop='inception'"):
        batches(PLAIN.replace(crop="inception"), BatchStream(in_batches()))
