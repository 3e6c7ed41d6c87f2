"""Data as they come: batches in an order of their own."""

import keras
import numpy as np
import pytest
from sample_images import Batches, X, Y, by_class, import_torch

from keras_resattn.data import BatchStream, open_dataset

pytestmark = pytest.mark.once


class Sequence(keras.utils.PyDataset):
    ended = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[5 * index : 5 * index + 5], Y[5 * index : 5 * index + 5]

    def on_epoch_end(self):
        self.ended += 1


def tf_data(size, drop_remainder=False):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=drop_remainder)


def data_loader(size, drop_last=False):
    torch = import_torch()
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(pairs, batch_size=size, drop_last=drop_last)


STREAMS = {
    "own": lambda: Batches(5),
    "mapping": lambda: Batches(5, lambda x, y: {"image": x, "label": y}),
    "one-hot": lambda: Batches(5, lambda x, y: (x, np.eye(4)[y])),
    "PyDataset": Sequence,
    "tf.data": lambda: tf_data(5),
    "DataLoader": lambda: data_loader(5),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_streams(make):
    stream = open_dataset(make())
    assert isinstance(stream, BatchStream)
    assert (stream.batch_size, stream.image_shape, stream.steps(5)) == (5, (16, 16, 3), 4)
    for epoch in range(2):
        x, y = zip(*stream.prepared(5, size=(16, 16)).epoch(epoch), strict=True)
        assert [len(part) for part in x] == [5] * 4  # the remainder of two is left out
        np.testing.assert_array_equal(np.concatenate(x), X[:20])
        np.testing.assert_array_equal(np.concatenate(y), Y[:20])
    whole = stream.prepared(5, train=False)
    x, y = zip(*whole.epoch(0), strict=True)
    assert len(x) == whole.length() == 5
    np.testing.assert_array_equal(np.concatenate(x), X)
    assert y[0].dtype == "int64"


@pytest.mark.parametrize(
    "make", [lambda: tf_data(5, True), lambda: data_loader(5, True), lambda: data_loader(11), lambda: Batches(11)]
)
def test_steps_without_a_remainder(make):
    stream = BatchStream(make())
    assert stream.steps(stream.batch_size) == 22 // stream.batch_size
    assert sum(1 for _ in stream.epoch(0)) == 22 // stream.batch_size


def test_image_dataset_from_directory(image_folder):
    pytest.importorskip("tensorflow")
    batches = keras.utils.image_dataset_from_directory(
        image_folder, image_size=(16, 16), batch_size=5, shuffle=False, verbose=False
    )
    stream = open_dataset(batches)
    assert (stream.class_names, stream.classes, stream.steps(5)) == (list("abcd"), 4, 4)
    np.testing.assert_array_equal(next(stream.epoch(0))[0], by_class()[0][:5])


def test_ends_of_passes_and_epochs_are_told():
    batches = Sequence()
    stream = BatchStream(batches)
    for epoch, ended in ((0, 0), (1, 1), (1, 1), (4, 4)):  # from 1 to 4: a run that is resumed
        next(stream.epoch(epoch))
        assert batches.ended == ended
    loader, epochs = Batches(11), []
    loader.sampler = type("Sampler", (), {"set_epoch": lambda self, epoch: epochs.append(epoch)})()
    list(BatchStream(loader).epoch(7))
    assert epochs[-1] == 7


@pytest.mark.parametrize("once", [lambda: iter(Batches(5)), lambda: zip([X], [Y], strict=True)])
def test_what_can_be_iterated_over_once_is_refused(once):
    with pytest.raises(ValueError, match=r"received: an iterator .*used up after the first"):
        open_dataset(once())


def test_batches_of_unknown_number_need_steps():
    class Lengthless:
        def __iter__(self):
            return iter(Batches(5))

    for batches in (Lengthless(), tf_data(5).filter(lambda x, y: True)):
        message = (
            rf"known number of batches .* a {type(batches).__name__} without a length.*BatchStream\(batches, steps"
        )
        with pytest.raises(ValueError, match=message):
            BatchStream(batches).steps(BatchStream(batches).batch_size)
        with pytest.raises(ValueError, match=message):
            BatchStream(batches).prepared(5, train=False).length()
    stream = BatchStream(Lengthless(), steps=3)
    assert (stream.steps(5), len(list(stream.epoch(0)))) == (3, 3)


def test_endless_batches():
    endless = tf_data(11).repeat()
    with pytest.raises(ValueError, match=r"endless dataset.*BatchStream\(batches, steps=\.\.\.\)"):
        BatchStream(endless).steps(11)
    stream = BatchStream(endless, steps=5)
    assert stream.steps(11) == 5
    assert sum(1 for _ in stream.epoch(0)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y[0]), r"one image, \(16, 16, 3\)\. Batch the data first"),
        (lambda x, y: (x, y, np.ones(len(y))), r"batches \(images, labels\).* received: 3 parts"),
        (lambda x, y: x, r"received: ndarray"),
        (lambda x, y: (x / 255.0, y), r"floats that go up to"),
        (lambda x, y: (x, y / 2), r"one integer label"),
        (lambda x, y: (x[:0], y[:0]), r"received: shape \(0, 16, 16, 3\)"),
    ],
)
def test_batches_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BatchStream(Batches(5, change)).prepared(5)


def test_a_stream_has_to_fit_the_run():
    stream = BatchStream(Batches(5))
    with pytest.raises(ValueError, match=r"batches of 8 images.* of 5\. Pass recipe\.replace\(batch_size=5\)"):
        stream.prepared(8)
    with pytest.raises(ValueError, match=r"images of size \(32, 32\); received: batches of images \(16, 16, 3\)"):
        stream.prepared(5, size=(32, 32))
    with pytest.raises(ValueError, match=r"size \(8, 8\)"):
        stream.statistics("channel", (8, 8))
    with pytest.raises(ValueError, match="at least one batch; received: an empty Empty"):
        BatchStream(type("Empty", (), {"__iter__": lambda self: iter(())})()).prepared(5)
    with pytest.raises(ValueError, match="steps=0"):
        BatchStream(Batches(5), steps=0)


def test_what_goes_wrong_in_a_pass_is_told():
    with pytest.raises(ValueError, match="Expected 6 batches of 5 images in an epoch; epoch 0 ended after 4"):
        list(BatchStream(Batches(5), steps=6).epoch(0))
    stream = BatchStream(Batches(5, lambda x, y: (x, np.where(x[:, 0, 0, 0] == X[-1, 0, 0, 0], 9, y))))
    stream.check_labels(4)  # the first batch is good
    with pytest.raises(ValueError, match=r"from 0 to 3; received: labels from \d to 9"):
        list(stream.prepared(5, train=False).epoch(0))
    with pytest.raises(ValueError, match="from 0 to 1; received"):
        stream.check_labels(2)
    with pytest.raises(ValueError, match=r"of shape \(16, 16, 3\), as the first; received: \(8, 16, 3\)"):
        list(BatchStream([(X[:5], Y[:5]), (X[:5, :8], Y[:5])]).epoch(0))
