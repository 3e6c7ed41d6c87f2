"""Class names of runs are kept in report, folder and model, and compared with those of any data."""

import json
import warnings

import keras
import numpy as np
import pytest
from sample_images import X, Y, write_folder

from keras_resattn import class_names_of, compile_and_fit, decode_predictions, fine_tune, set_class_names
from keras_resattn.cli import main
from keras_resattn.data import ArrayDataset, BatchStream
from keras_resattn.evaluation import evaluate_run, load_run
from keras_resattn.recipes import get_recipe

pytestmark = pytest.mark.once

NAMES = ["ant", "bee", "cat", "dog"]
SHUFFLED = ["dog", "ant", "cat", "bee"]
RECIPE = get_recipe("cifar_one_cycle").replace(epochs=1, batch_size=8, warmup_epochs=0, pad=0, flip=False)
DATA = ArrayDataset(X, Y, class_names=NAMES)
PERMUTED = ArrayDataset(X, np.array([1, 3, 2, 0])[Y], class_names=SHUFFLED)


def network(classes=4, name="tiny"):
    layers = keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(classes, "softmax")
    return keras.Sequential(layers, name=name)


def train(model, data=DATA, **arguments):
    return compile_and_fit(model, RECIPE, data, verbose=0, **arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`(folder, model, report)` of a run on a folder of classes."""
    path = tmp_path_factory.mktemp("run")
    model = network()
    data = write_folder(path / "data", names=NAMES)
    report = train(model, data, validation_data=PERMUTED, run_dir=path / "run")
    return path / "run", model, report


@pytest.fixture(scope="module")
def transferred(tmp_path_factory):
    """`(folder, model, report)` of `fine_tune` on arrays with names."""
    path = tmp_path_factory.mktemp("transferred") / "run"
    inputs = keras.Input((16, 16, 3))
    base = keras.Model(inputs, keras.layers.Conv2D(4, 3, strides=4)(inputs), name="base")
    recipes = {"head_recipe": get_recipe("transfer_head").replace(batch_size=8, epochs=1), "fine_tune_recipe": RECIPE}
    statistics = ([0.0] * 3, [255.0] * 3)
    return path, *fine_tune(base, DATA, statistics=statistics, unfreeze=None, run_dir=path, verbose=0, **recipes)


def test_a_run_keeps_the_names(run, tmp_path):
    folder, model, report = run
    assert report.class_names == NAMES
    assert class_names_of(report) == class_names_of(model) == class_names_of(folder) == class_names_of(str(folder))
    model.save(tmp_path / "model.keras")
    for loaded in (keras.models.load_model(tmp_path / "model.keras"), load_run(folder)):
        assert class_names_of(loaded) == NAMES
    best = [[(2, "cat", 1.0)]]
    assert decode_predictions(np.eye(4)[2:3], top=1, weights=folder) == best
    assert decode_predictions(np.eye(4)[2:3], top=1, weights=report) == best


def test_transfer_keeps_the_names(transferred, tmp_path):
    folder, model, report = transferred
    assert report.class_names == report.head.class_names == NAMES
    assert class_names_of(model) == class_names_of(report) == class_names_of(folder) == NAMES
    model.save(tmp_path / "model.keras")
    assert class_names_of(keras.models.load_model(tmp_path / "model.keras")) == NAMES


def test_data_are_compared_by_name(run, tmp_path):
    folder, _, report = run
    expected = evaluate_run(folder, DATA)
    assert report.metrics["val_accuracy"] == pytest.approx(expected.accuracy), "validation data were renumbered, too"
    found = evaluate_run(folder, PERMUTED)
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert (found.correct, found.loss) == (expected.correct, pytest.approx(expected.loss))
    some = Y % 2 == 1
    part = write_folder(tmp_path / "test", X[some], Y[some], NAMES)
    correct = (expected.predictions == Y)[some].sum()
    assert evaluate_run(folder, part).correct == correct, "a folder of some of the classes"
    batches = BatchStream([(X[:11], PERMUTED.labels[:11]), (X[11:], PERMUTED.labels[11:])], class_names=SHUFFLED)
    assert evaluate_run(folder, batches).correct == expected.correct
    assert evaluate_run(folder, (X, Y)).correct == expected.correct, "arrays without names are numbered as they are"


def test_data_with_other_classes(run, tmp_path):
    folder, _, _ = run
    other = ArrayDataset(X, Y, class_names=["ant", "bee", "cats", "dog"])
    message = r"the classes of {}.*other classes: 'cats'\. Did you mean 'cat'\? It lacks 'cat'"
    with pytest.raises(ValueError, match=message.format("the run in .*")):
        evaluate_run(folder, other)
    with pytest.raises(ValueError, match=message.format("the training data")):
        train(network(), validation_data=other, run_dir=tmp_path / "new")
    with pytest.raises(ValueError, match=message.format("the training data")):
        fine_tune(network(), DATA, validation_data=other)
    assert not (tmp_path / "new").exists()


def test_training_uses_the_names_of_the_network():
    model = network()
    set_class_names(model, SHUFFLED)
    assert train(model).class_names == SHUFFLED
    assert train(model, (X, Y)).class_names == SHUFFLED
    set_class_names(model, ["a", "b", "c", "d"])
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"the network tiny, 'a', .*other classes: .*call set_class_names\(tiny, None\)"
    ):
        train(model)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])
    assert class_names_of(model) == ["a", "b", "c", "d"]


def test_the_number_of_classes_must_match_the_names(transferred):
    with pytest.raises(ValueError, match=r"4 classes, .*\('ant', .*received: tiny with 5 classes\. .*classes=4"):
        train(network(5))
    with pytest.raises(ValueError, match=r"Expected classes=4, as the data have \('ant'.*received: classes=5"):
        fine_tune("CifarResidualAttention56", DATA, classes=5)


def test_runs_without_names(tmp_path):
    model = network()
    report = train(model, (X, Y), run_dir=tmp_path)
    assert report.class_names is None
    for known in (model, report, tmp_path, load_run(tmp_path)):
        assert class_names_of(known, None) is None
    with pytest.raises(ValueError, match=r"the run in .*, which has none"):
        decode_predictions(np.eye(4), weights=tmp_path)
    assert evaluate_run(tmp_path, DATA).total == len(X)


def test_a_network_that_cannot_keep_names(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(x), name="tiny")
    data = ArrayDataset(X, Y % 3, class_names=NAMES[:3])
    assert train(model, data, run_dir=tmp_path).class_names == class_names_of(tmp_path) == NAMES[:3]
    assert class_names_of(model, None) is class_names_of(load_run(tmp_path), None) is None
    with pytest.raises(ValueError, match="received data with other classes: 'dog'"):
        evaluate_run(tmp_path, DATA)


def test_a_report_of_an_older_version_is_read(tmp_path):
    expected = train(network(), run_dir=tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    del content["class_names"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert evaluate_run(tmp_path, PERMUTED).correct == evaluate_run(tmp_path, DATA).correct, "the network has the names"
    assert train(network(), run_dir=tmp_path).history == expected.history


def test_a_run_with_other_names_is_another_run(run, tmp_path):
    train(network(), run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"another run: class_names is \['ant', .* there"):
        train(network(), ArrayDataset(X, Y, class_names=SHUFFLED), run_dir=tmp_path)


# --- Classes without images, labels out of range --------------------------------------------------


def warned(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught if "training images" in str(warning.message)]


def check_data(data, **arguments):
    """Start a training that fails after its data were checked."""
    with pytest.raises(ValueError, match="checkpoint_steps"):
        train(network(), data, checkpoint_steps=0, **arguments)


def test_a_warning_names_classes_without_images():
    with pytest.warns(UserWarning, match=r"no training images for 1 of 4 classes: 0; received: labels from 1 to 3\."):
        check_data((X, np.maximum(Y, 1)))
    with pytest.warns(UserWarning, match=r"no training images for 2 of 4 classes: 'ant', 'cat';"):
        check_data(ArrayDataset(X, Y | 1, class_names=NAMES))
    assert warned(lambda: check_data(DATA, validation_data=(X, Y | 1))) == [], "validation data may lack some"


def test_transfer_warns_once(tmp_path):
    inputs = keras.Input((16, 16, 3))
    base = keras.Model(inputs, keras.layers.Conv2D(2, 16, name="last")(inputs), name="base")
    recipes = {"head_recipe": get_recipe("transfer_head").replace(batch_size=8, epochs=1), "fine_tune_recipe": RECIPE}

    def transfer():
        statistics = ([0.0] * 3, [255.0] * 3)
        fine_tune(base, (X, Y % 2 + 1), statistics=statistics, unfreeze=["last"], verbose=0, **recipes)

    (message,) = warned(transfer)
    assert "for 1 of 3 classes: 0; received: labels from 1 to 2" in message


def test_the_command_line_warns(tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x_train=np.repeat(np.repeat(X, 2, 1), 2, 2), y_train=Y % 2 + 1)
    command = ["train", "--model", "WideResNet-10-1", "--recipe", "warn_cifar", "--data", str(tmp_path / "data.npz")]
    command += ["--set", "batch_size=16", "--run-dir", str(tmp_path / "run"), "--steps-per-execution", "3"]  # too many
    (message,) = warned(lambda: main(command))
    assert "for 1 of 3 classes: 0" in message


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_labels_out_of_range(run, kind):
    folder, _, _ = run
    y = Y.copy()
    y[20] = 4
    data = (X, y) if kind == "arrays" else BatchStream([(X[:11], y[:11]), (X[11:], y[11:])])
    with pytest.raises(ValueError, match=r"Expected labels from 0 to 3; received: labels from \d to 4"):
        evaluate_run(folder, data)
