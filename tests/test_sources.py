"""Doors for data: arrays, files, folders and records by index, and batches as they come."""

import io
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resattn.data import Arrays, Folder, Records, Stream, open_source
from keras_resattn.data.arrays import statistics
from keras_resattn.data.pictures import central_box, crop_box, read_picture

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (22, 16, 16, 3), dtype="uint8")
Y = RNG.integers(0, 4, 22)


def encoded(picture, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format, **options)
    return file.getvalue()


def write_folder(root, x=X, y=Y, names="abcd"):
    """A folder for each class; files are numbered so that their order is that of the arrays within a class."""
    for i, (picture, label) in enumerate(zip(x, y, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:03}.png").write_bytes(encoded(picture))
    return root


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pictures")


def import_torch():
    """PyTorch takes as long to import as all tests here; it is tested where it is there already."""
    if keras.backend.backend() != "torch":
        pytest.skip("with the torch backend")
    import torch

    return torch


def by_class(x=X, y=Y):
    """Pictures and labels in the order in which a folder has them."""
    order = np.argsort(y, kind="stable")
    return x[order], y[order]


# --- Arrays and .npz files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "y", [Y, Y[:, None], Y.astype("uint8"), np.eye(4)[Y]], ids=["flat", "column", "uint8", "one-hot"]
)
def test_arrays(y):
    source = open_source((X, y))
    assert (len(source), source.picture_shape, source.classes) == (22, (16, 16, 3), None)
    np.testing.assert_array_equal(source.labels, Y)
    np.testing.assert_array_equal(source.read([3, 0, 3]), X[[3, 0, 3]])
    assert source.read([1], size=(8, 4)).shape == (1, 8, 4, 3)
    assert source.read([]).shape == (0, 16, 16, 3)


def test_floats_stay_floats():
    source = Arrays(X.astype("float64") + 0.25 * (X < 255), Y)
    assert source.read([0]).dtype == "float32"
    np.testing.assert_array_equal(source.read([0])[0], X[0] + 0.25 * (X[0] < 255))
    resized = source.read([0], size=(8, 8))
    assert resized.dtype == "float32"
    np.testing.assert_allclose(resized, Arrays(X, Y).read([0], size=(8, 8)), atol=1)


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    assert len(open_source(path)) == 22
    assert len(open_source(str(path), split="test")) == 5
    with pytest.raises(
        ValueError, match=r"x_validation and y_validation .* received: x_train, y_train, x_test, y_test"
    ):
        open_source(path, split="validation")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*none\.npz"):
        open_source(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[0], Y, r"\(n, height, width, channels\).* received: shape \(16, 16, 3\)"),
        (X[:0], Y[:0], r"received: shape \(0, 16, 16, 3\)"),
        (np.moveaxis(X, -1, 1), Y, r"channels last.*received: shape \(22, 3, 16, 16\)"),
        (X / 255.0, Y, r"0 to 255; received: floats that go up to 1\. .*multiply by 255"),
        (X / 127.5 - 1, Y, r"not normalised; received: values from -1.0 to 1.0"),
        (np.where(X > 9, X, np.nan), Y, r"received: values from nan"),
        (X.astype("uint16") * 257, Y, r"received: values from 0 to 65535"),
        (X > 9, Y, r"received: shape .* bool"),
        (X, Y[:5], r"for each of 22 pictures; received: shape \(5,\)"),
        (X, Y.astype("float32"), r"one integer label.*float32"),
        (X, 0.9 * np.eye(4)[Y] + 0.025, r"integer or one-hot labels; received: shares"),
        (X, Y - 1, r"labels from 0 up; received: -1"),
    ],
)
def test_arrays_that_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        open_source((x, y))


def test_labels_out_of_range():
    source = Arrays(X, Y)
    source.check_labels(4)
    with pytest.raises(ValueError, match="from 0 to 2; received: labels from 0 to 3"):
        source.check_labels(3)


# --- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        ((1.0, 1.0, 0.3, 0.6), (0, 64), (0, 64)),  # the whole picture, wherever
        ((0.25, 1.0, 0.0, 0.0), (0, 32), (0, 32)),
        ((0.25, 1.0, 1.0, 1.0), (32, 64), (32, 64)),
        ((0.25, 1.0, 0.5, 0.0), (16, 48), (0, 32)),
        ((0.125, 2.0, 0.0, 0.0), (0, 16), (0, 32)),  # twice as wide as high
        ((0.5, 8.0, 0.0, 0.0), (0, 16), (0, 64)),  # 16 x 128 does not fit: cut to the picture's width
    ],
)
def test_crops_are_of_the_pictures_own_pixels(crop, rows, columns):
    picture = RNG.integers(0, 256, (1, 64, 64, 3), dtype="uint8")
    expected = picture[:, slice(*rows), slice(*columns)]
    read = Arrays(picture, [0]).read([0], size=expected.shape[1:3], crops=[crop])
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize(
    ("shape", "size", "central", "box"),
    [
        ((64, 64), (32, 32), 0.5, (16, 16, 48, 48)),
        ((48, 64), (48, 48), 1.0, (8, 0, 56, 48)),
        ((100, 60), (15, 30), 1.0, (0, 35, 60, 65)),  # the box has the size's aspect ratio
        ((256, 341), (224, 224), 0.875, (58.5, 16, 282.5, 240)),  # a short side of 256, cropped to 224
    ],
)
def test_central_crop(shape, size, central, box):
    assert central_box(*shape, size, central) == pytest.approx(box)
    picture = RNG.integers(0, 256, (*shape, 3), dtype="uint8")
    left, upper, right, lower = box
    expected = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR, box)
    assert (right - left) / (lower - upper) == pytest.approx(size[1] / size[0])
    np.testing.assert_array_equal(read_picture(picture, "it", size, central=central), expected)


def test_a_picture_of_the_size_is_read_whole():
    np.testing.assert_array_equal(Arrays(X, Y).read([4], size=(16, 16), central=0.5), X[[4]])
    for form in (X[4], encoded(X[4])):
        np.testing.assert_array_equal(read_picture(form, "it", (16, 16), central=0.5), X[4])


def test_crop_boxes_stay_inside():
    for crop in np.random.default_rng(1).uniform((0.08, 3 / 4, 0, 0), (1, 4 / 3, 1, 1), (200, 4)):
        left, upper, right, lower = crop_box(31, 47, crop)
        assert 0 <= left < right <= 47
        assert 0 <= upper < lower <= 31


@pytest.mark.parametrize("form", ["array", "image", "bytes", "path", "palette"])
@pytest.mark.parametrize("crop", [None, (0.3, 1.2, 0.1, 0.7)])
def test_every_form_of_a_picture_is_read_alike(form, crop, tmp_path):
    picture = np.kron(RNG.integers(0, 2, (5, 6, 1), dtype="uint8") * 255, np.ones((4, 4, 3), "uint8"))
    (tmp_path / "it.png").write_bytes(encoded(picture))
    forms = {
        "array": picture,
        "image": Image.fromarray(picture),
        "bytes": encoded(picture),
        "path": tmp_path / "it.png",
        "palette": Image.fromarray(picture).convert("P"),
    }
    expected = Image.fromarray(picture).resize(
        (8, 8),
        box=central_box(20, 24, (8, 8)) if crop is None else crop_box(20, 24, crop),
        resample=Image.Resampling.BILINEAR,
    )
    np.testing.assert_array_equal(read_picture(forms[form], "it", (8, 8), crop), expected)
    np.testing.assert_array_equal(read_picture(forms[form], "it"), picture)


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    smooth = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype="uint8")).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    jpeg = encoded(np.asarray(smooth), "JPEG", quality=95)
    for crop in (None, (0.4, 1.1, 0.2, 0.9)):
        whole = read_picture(np.asarray(Image.open(io.BytesIO(jpeg))), "it", (32, 32), crop)
        np.testing.assert_allclose(read_picture(jpeg, "it", (32, 32), crop).astype(int), whole, atol=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [0], "crops": [[1, 1, 0, 0]]}, r"crops of shape \(1, 4\), and size; .* size=None"),
        ({"rows": [0, 1], "crops": [[1, 1, 0, 0]], "size": (8, 8)}, r"crops of shape \(2, 4\)"),
        ({"rows": 0}, r"rows as a list of indices"),
        ({"rows": [0.5]}, r"rows as a list of indices"),
        ({"rows": [0], "central": 0.0}, r"central=0.0"),
    ],
)
def test_reading_checks_its_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Arrays(X, Y).read(**arguments)


# --- Folders -------------------------------------------------------------------------------------


def test_folder(folder):
    (folder / "b" / "deeper").mkdir()
    last = max((folder / "b").glob("*.png"))
    last.rename(folder / "b" / "deeper" / last.with_suffix(".PNG").name)
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    source = open_source(str(folder))
    x, y = by_class()
    assert isinstance(source, Folder)
    assert (source.class_names, source.classes, source.picture_shape) == (list("abcd"), 4, (16, 16, 3))
    np.testing.assert_array_equal(source.labels, y)
    np.testing.assert_array_equal(source.read(np.arange(22)), x)
    crops = np.tile([0.25, 1, 0, 0], (2, 1))
    np.testing.assert_array_equal(source.read([5, 9], size=(8, 8), crops=crops), x[[5, 9], :8, :8])


def test_grey_folder(tmp_path):
    write_folder(tmp_path, X[..., 0])
    source = Folder(tmp_path, channels=1)
    assert source.picture_shape == (16, 16, 1)
    np.testing.assert_array_equal(source.read([0]), by_class(X[..., :1])[0][:1])


def test_reading_from_many_threads(folder):
    source = open_source(folder)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda row: source.read([row], size=(12, 12)), range(22)))
    np.testing.assert_array_equal(np.concatenate(read), source.read(range(22), size=(12, 12)))


def test_folder_of_different_shapes(folder):
    (folder / "a" / "wide.png").write_bytes(encoded(RNG.integers(0, 256, (16, 30, 3), dtype="uint8")))
    source = Folder(folder)
    assert source.picture_shape is None
    assert source.read([0, len(source) - 1], size=(8, 8)).shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="pictures differ in shape; received: size=None"):
        source.read([0])


@pytest.mark.parametrize(
    ("folders", "split", "opened"),
    [
        (("train", "test"), "train", "train"),
        (("train", "test"), "test", "test"),
        (("train", "val"), "test", "val"),  # as with ImageNet: nothing else is held out
        (("train", "val", "test"), "test", "test"),
        (("train", "val", "test"), "validation", "val"),
        (("train", "validation"), "validation", "validation"),
        (("train", "test"), "validation", None),  # test pictures are not for choosing
        (("train",), "test", None),
    ],
)
def test_splits_of_a_folder(tmp_path, folders, split, opened):
    for i, name in enumerate(folders):
        write_folder(tmp_path / name, X[: 10 + i], Y[: 10 + i])
    if opened is None:
        with pytest.raises(ValueError, match=rf"Expected split to be 'train'.*; received: split='{split}'"):
            open_source(tmp_path, split=split)
    else:
        assert open_source(tmp_path, split=split).root == tmp_path / opened


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    write_folder(tmp_path, names=["bus", "plane", "ship", "train"])
    assert open_source(tmp_path).class_names == ["bus", "plane", "ship", "train"]


def test_held_out_classes_are_numbered_as_in_training(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", X[:3], np.array([1, 3, 3]))
    np.testing.assert_array_equal(open_source(tmp_path, split="test").labels, [1, 3, 3])
    write_folder(tmp_path / "test", X[:1], [0], names=["e"])
    with pytest.raises(ValueError, match=r"the classes 'a', 'b', 'c', 'd' in .*; received also: 'e'"):
        open_source(tmp_path, split="test")


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"a folder for each class.*received: no folders"):
        open_source(tmp_path)
    (tmp_path / "0.png").write_bytes(encoded(X[0]))
    with pytest.raises(ValueError, match="received: pictures without folders"):
        open_source(tmp_path)
    write_folder(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"split='test'\. A folder with the classes of one split is opened by Folder"):
        open_source(tmp_path / "flat", split="test")
    (tmp_path / "flat" / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Expected pictures \(.jpg.*empty; received: none"):
        open_source(tmp_path / "flat")
    with pytest.raises(ValueError, match="channels=4"):
        Folder(tmp_path / "flat", channels=4)


@pytest.mark.parametrize("damage", [lambda data: b"no picture", lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_picture_is_named(folder, damage):
    source = Folder(folder)
    path = next((folder / "c").iterdir())
    path.write_bytes(damage(path.read_bytes()))
    row = [str(file) for file in source.paths].index(str(path))
    with pytest.raises(ValueError, match=rf"Expected .*{path.name} to be a picture that can be decoded"):
        source.read([row], size=(8, 8))


# --- Records -------------------------------------------------------------------------------------


class MapStyle:
    """A data set as PyTorch's and grain's are."""

    def __init__(self, record, **attributes):
        self.record = record
        self.__dict__.update(attributes)

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return self.record(row)


@pytest.mark.parametrize(
    "record",
    [
        lambda i: (X[i], Y[i]),
        lambda i: {"image": X[i], "label": int(Y[i]), "id": "x"},
        lambda i: (Image.fromarray(X[i]), Y[i]),
        lambda i: (encoded(X[i]), Y[i]),
        lambda i: (keras.ops.convert_to_tensor(X[i]), keras.ops.convert_to_tensor(Y[i])),
    ],
    ids=["pair", "mapping", "pillow", "bytes", "tensors"],
)
def test_records(record):
    source = open_source(MapStyle(record))
    assert isinstance(source, Records)
    assert (len(source), source.picture_shape) == (22, (16, 16, 3))
    np.testing.assert_array_equal(source.labels, Y)
    np.testing.assert_array_equal(source.read([7, 2]), X[[7, 2]])


def test_labels_that_are_known_save_a_pass():
    read = []
    dataset = MapStyle(lambda i: read.append(i) or (X[i], Y[i]), targets=Y.tolist(), classes=["w", "x", "y", "z"])
    source = Records(dataset)
    np.testing.assert_array_equal(source.labels, Y)
    assert len(set(read)) < 5
    assert source.class_names == ["w", "x", "y", "z"]


def test_targets_that_a_record_changes_are_not_believed():
    source = Records(MapStyle(lambda i: (X[i], Y[i] + 1), targets=Y.tolist()))
    np.testing.assert_array_equal(source.labels, Y + 1)


def test_a_list_of_pairs():
    np.testing.assert_array_equal(open_source(list(zip(X, Y.tolist(), strict=True))).labels, Y)


def test_pytorchs_data_sets():
    torch = import_torch()
    source = open_source(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)))
    np.testing.assert_array_equal(source.read([3], size=(16, 16)), X[[3]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda i: X[i], r"record 0 to be \(picture, label\) or to have keys 'image' and 'label'; received: ndarray"),
        (lambda i: {"x": X[i], "label": 0}, r"received: keys x, label"),
        (lambda i: (X[:4], Y[:4]), r"one picture each; received: batches, \(4, 16, 16, 3\)\. Pass Stream"),
        (lambda i: (np.moveaxis(X[i], -1, 0), Y[i]), r"record 0 with channels last"),
        (lambda i: (X[i] / 255.0, Y[i]), r"record 0 from 0 to 255; received: floats"),
        (lambda i: (X[i], 0.5), r"one integer label for each of 22 pictures"),
    ],
)
def test_records_that_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        open_source(MapStyle(record))


def test_nothing_to_open():
    with pytest.raises(ValueError, match="at least one record; received: an empty list"):
        open_source([])
    with pytest.raises(ValueError, match=r"received: a mapping of \['x_train'\]"):
        open_source({"x_train": X})
    with pytest.raises(ValueError, match=r"an iterable of .*; received: int"):
        open_source(3)
    with pytest.raises(ValueError, match="data_dir only with the name"):
        open_source((X, Y), data_dir="somewhere")


# --- Statistics and fingerprints -----------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["channel", "pixel_mean", "unit"])
def test_statistics_are_those_of_arrays(normalization, folder):
    expected = statistics(X, normalization)
    sources = (open_source((X, Y)), open_source(folder), Records(MapStyle(lambda i: (X[i], Y[i]))), Stream(Batches(5)))
    for source in sources:
        mean, std = source.statistics(normalization, (16, 16))
        np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
        np.testing.assert_allclose(std, expected[1], rtol=1e-12)


def test_statistics_of_resized_pictures():
    source = Arrays(X, Y)
    expected = statistics(source.read(range(22), size=(8, 8)), "channel")
    np.testing.assert_allclose(source.statistics("channel", (8, 8)), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["arrays", "folder", "records"])
def test_fingerprints(kind, tmp_path):
    def fingerprint(x, y, name):
        if kind == "folder":
            return Folder(write_folder(tmp_path / name, x, y)).fingerprint()
        source = Arrays(x, y) if kind == "arrays" else Records(list(zip(x, y.tolist(), strict=True)))
        return source.fingerprint()

    x, y = X.copy(), Y.copy()
    x[0] = 0
    y[0] = (y[0] + 1) % 4
    assert fingerprint(X, Y, "first") == fingerprint(X.copy(), Y.copy(), "again")
    assert len({fingerprint(X, Y, "first"), fingerprint(x, Y, "picture"), fingerprint(X, y, "label")}) == 3


# --- Streams -------------------------------------------------------------------------------------


class Batches:
    """An object of one's own that can be iterated over again and again. It knows no length."""

    def __init__(self, size, change=lambda x, y: (x, y)):
        self.size, self.change = size, change

    def __iter__(self):
        for first in range(0, len(X), self.size):
            yield self.change(X[first : first + self.size], Y[first : first + self.size])


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
    stream = open_source(make())
    assert isinstance(stream, Stream)
    assert (stream.batch_size, stream.picture_shape, stream.steps(5)) == (5, (16, 16, 3), 4)
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
    stream = Stream(make())
    assert stream.steps(stream.batch_size) == 22 // stream.batch_size
    assert sum(1 for _ in stream.epoch(0)) == 22 // stream.batch_size


def test_image_dataset_from_directory(folder):
    pytest.importorskip("tensorflow")
    batches = keras.utils.image_dataset_from_directory(
        folder, image_size=(16, 16), batch_size=5, shuffle=False, verbose=False
    )
    stream = open_source(batches)
    assert (stream.class_names, stream.classes, stream.steps(5)) == (list("abcd"), 4, 4)
    np.testing.assert_array_equal(next(stream.epoch(0))[0], by_class()[0][:5])


def test_ends_of_passes_and_epochs_are_told():
    batches = Sequence()
    stream = Stream(batches)
    for epoch, ended in ((0, 0), (1, 1), (1, 1), (4, 4)):  # from 1 to 4: a run that is resumed
        next(stream.epoch(epoch))
        assert batches.ended == ended
    loader, epochs = Batches(11), []
    loader.sampler = type("Sampler", (), {"set_epoch": lambda self, epoch: epochs.append(epoch)})()
    list(Stream(loader).epoch(7))
    assert epochs[-1] == 7


@pytest.mark.parametrize("once", [lambda: iter(Batches(5)), lambda: zip([X], [Y], strict=True)])
def test_what_can_be_iterated_over_once_is_refused(once):
    with pytest.raises(ValueError, match=r"received: an iterator .*used up after the first"):
        open_source(once())


def test_endless_batches():
    endless = tf_data(11).repeat()
    with pytest.raises(ValueError, match=r"endless data set.*Stream\(batches, steps=\.\.\.\)"):
        Stream(endless).steps(11)
    stream = Stream(endless, steps=5)
    assert stream.steps(11) == 5
    assert sum(1 for _ in stream.epoch(0)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[0], y[0]), r"one picture, \(16, 16, 3\)\. Batch the data first"),
        (lambda x, y: (x, y, np.ones(len(y))), r"batches \(pictures, labels\).* received: 3 parts"),
        (lambda x, y: x, r"received: ndarray"),
        (lambda x, y: (x / 255.0, y), r"floats that go up to"),
        (lambda x, y: (x, y / 2), r"one integer label"),
        (lambda x, y: (x[:0], y[:0]), r"received: shape \(0, 16, 16, 3\)"),
    ],
)
def test_batches_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Stream(Batches(5, change)).prepared(5)


def test_a_stream_has_to_fit_the_run():
    stream = Stream(Batches(5))
    with pytest.raises(ValueError, match=r"batches of 8 pictures.* of 5\. Train by recipe\.replace\(batch_size=5\)"):
        stream.prepared(8)
    with pytest.raises(ValueError, match=r"pictures of size \(32, 32\); received: batches of pictures \(16, 16, 3\)"):
        stream.prepared(5, size=(32, 32))
    with pytest.raises(ValueError, match=r"size \(8, 8\)"):
        stream.statistics("channel", (8, 8))
    with pytest.raises(ValueError, match=r"crop='pad'.*; received: crop='inception'"):
        stream.prepared(5, crop="inception")
    with pytest.raises(ValueError, match=r"processes can share; received: shard=\(0, 3\), batch_size=10"):
        stream.prepared(10, shard=(0, 3))
    assert stream.prepared(10, shard=(1, 2)).steps(5) == 4
    with pytest.raises(ValueError, match="at least one batch; received: an empty Empty"):
        Stream(type("Empty", (), {"__iter__": lambda self: iter(())})()).prepared(5)
    with pytest.raises(ValueError, match="steps=0"):
        Stream(Batches(5), steps=0)


def test_what_goes_wrong_in_a_pass_is_told():
    with pytest.raises(ValueError, match="Expected 6 batches of 5 pictures in a pass; pass 0 ended after 4"):
        list(Stream(Batches(5), steps=6).epoch(0))
    stream = Stream(Batches(5, lambda x, y: (x, np.where(x[:, 0, 0, 0] == X[-1, 0, 0, 0], 9, y))))
    stream.check_labels(4)  # the first batch is good
    with pytest.raises(ValueError, match=r"from 0 to 3; received: labels from \d to 9"):
        list(stream.prepared(5, train=False).epoch(0))
    with pytest.raises(ValueError, match="from 0 to 1; received"):
        stream.check_labels(2)
    with pytest.raises(ValueError, match=r"of shape \(16, 16, 3\), as the first; received: \(8, 16, 3\)"):
        list(Stream([(X[:5], Y[:5]), (X[:5, :8], Y[:5])]).epoch(0))
