"""Weights of images and of classes in the loss; top-5 accuracy; outputs that mean nothing known."""

import json

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import RECIPE as FULL
from resuming import Killed, killed_at
from test_transfer import backbone, images
from test_transfer import run as run_transfer
from training import RECIPE, X, Y

from keras_resattn import compile_and_fit
from keras_resattn.data import ArrayDataset, network_input, open_dataset
from keras_resattn.data.training_batches import TrainingBatches
from keras_resattn.evaluation import evaluate_run
from keras_resattn.recipes.frozen_features import resized

W = np.linspace(0.2, 3.0, len(Y)).astype("float32")
CLASSES = {0: 0.5, 1: 2.0, 2: 1.5}
# One step over all images, as they are, that changes next to nothing.
STILL = RECIPE.replace(epochs=1, warmup_epochs=0, batch_size=20, learning_rate=1e-9, pad=0, flip=False)


class Batches:
    def __len__(self):
        return 1

    def __iter__(self):
        yield X, Y


@pytest.mark.parametrize(
    ("data", "arguments", "weights"),
    [
        ((X, Y, W), {}, W),
        ((X, Y, W[:, None]), {"device_data": True}, W),
        ((X, Y), {"class_weight": CLASSES}, np.array([0.5, 2.0, 1.5])[Y]),
        (Batches(), {"class_weight": CLASSES}, np.array([0.5, 2.0, 1.5])[Y]),
        ((X, Y, W), {"class_weight": CLASSES, "device_data": True}, W * np.array([0.5, 2.0, 1.5])[Y]),
    ],
    ids=["samples", "samples on the device", "classes", "classes of a stream", "both"],
)
def test_an_image_weighs_what_it_is_given(data, arguments, weights):
    model = tiny("softmax")
    report = compile_and_fit(model, STILL, data, validation_data=(X, Y), verbose=0, **arguments)
    p = keras.ops.convert_to_numpy(model(network_input(X, report.mean, report.std), training=True))
    losses, right = -np.log(p[np.arange(20), Y]), p.argmax(1) == Y
    np.testing.assert_allclose(report.metrics["loss"], np.mean(weights * losses), rtol=1e-4)
    np.testing.assert_allclose(report.metrics["accuracy"], np.sum(weights * right) / np.sum(weights), rtol=1e-4)
    p = model.predict(network_input(X, report.mean, report.std), verbose=0)
    np.testing.assert_allclose(report.metrics["val_loss"], -np.mean(np.log(p[np.arange(20), Y])), rtol=1e-4)


def test_the_loss_of_a_mixture_is_that_of_its_parts():
    weights = np.where(np.arange(20) % 4 == 0, 0, W).astype("float32")
    recipe = RECIPE.replace(mixup=1.0, cutmix=1.0, label_smoothing=0.1, batch_size=10)
    dataset = ArrayDataset(X, Y, weights=weights)
    batches = TrainingBatches(dataset, recipe, lambda x: x.astype("float32"), size=(32, 32), classes=3, workers=0)
    batches.class_weight = list(CLASSES.values())
    log_p = np.log(np.random.default_rng(1).dirichlet(np.ones(3), 10))
    soft = 0.9 * np.eye(3) + 0.1 / 3
    for step in range(4):
        x, y, total = batches.batch(step)
        rows, params = batches.indices(step), batches.augmentation_params(step)
        single = -(soft[Y[rows]] * log_p).sum(1), -(soft[Y[rows]][params.partner] * log_p).sum(1)
        each = (weights * np.array([0.5, 2.0, 1.5])[Y])[rows]
        expected = params.mix_weight * each * single[0] + (1 - params.mix_weight) * each[params.partner] * single[1]
        np.testing.assert_allclose(total * -(y * log_p).sum(1), expected, atol=1e-5)
        np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
        assert (x.dtype, y.dtype, total.dtype) == ("float32",) * 3


def test_weights_stay_with_their_images():
    dataset = ArrayDataset(X, Y, weights=W)
    rows = [3, 1, 17]
    for part in (dataset.subset(rows), resized(dataset, (16, 16)).subset(rows), dataset.relabelled(2 - Y).subset(rows)):
        np.testing.assert_array_equal(part.weights, W[rows])
    assert open_dataset((X, Y, None)).weights is None
    assert dataset.fingerprint() != ArrayDataset(X, Y).fingerprint() != ArrayDataset(X, Y, weights=W + 1).fingerprint()


def test_a_weighted_run_resumes_and_is_another_than_one_of_other_weights(tmp_path):
    def train(run_dir=None, weights=W, class_weight=CLASSES, **arguments):
        model = tiny(dropout=0.3)
        data = (X, Y, weights)
        compile_and_fit(model, FULL, data, run_dir=run_dir, verbose=0, class_weight=class_weight, **arguments)
        return weights_of(model)

    whole = train()
    with pytest.raises(Killed):
        train(tmp_path, callbacks=killed_at(4), checkpoint_steps=1)
    with pytest.raises(ValueError, match="other images, labels or sample weights"):
        train(tmp_path, weights=W + 1)
    with pytest.raises(ValueError, match=r"class_weight is \[0\.5, 2\.0, 1\.5\] there, None here"):
        train(tmp_path, class_weight=None)
    for a, b in zip(train(tmp_path), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_both_phases_of_transfer_learning_weigh(tmp_path):
    x, y = images()
    wrong = np.arange(len(y)) % 8 < 4
    data = (x, np.where(wrong, 1 - y, y), np.where(wrong, 0.0, 1.0))
    model, report = run_transfer(backbone(), data, run_dir=tmp_path, class_weight={0: 1.0, 1: 1.5})
    predicted = model.predict(network_input(x, report.mean, report.std), verbose=0).argmax(1)
    np.testing.assert_array_equal(predicted, y)
    for phase in ("head", "fine_tune"):
        assert json.loads((tmp_path / phase / "recipe.json").read_text())["class_weight"] == [1.0, 1.5]
    with pytest.raises(ValueError, match=r"holds one of other .*class_weight"):
        run_transfer(backbone(), data, run_dir=tmp_path)
    with pytest.raises(ValueError, match="class_weight to be a dictionary"):
        run_transfer(backbone(), data, class_weight=[1, 2])


@pytest.mark.once
@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ((X, Y, W[:-1]), {}, "a sample weight for each of 20 images"),
        ((X, Y, -W), {}, "finite sample weights of at least 0"),
        ((X, Y, W * np.nan), {}, "finite sample weights"),
        ((X, Y, 0 * W), {}, "not all of them 0"),
        ((X, Y, np.array(["a"] * 20)), {}, "a sample weight for each"),
        ((X, Y), {"validation_data": (X, Y, W)}, "sample weights only with training data"),
        ((X, Y), {"validation_data": ArrayDataset(X, Y, weights=W)}, "sample weights only with training data"),
        ((X, Y), {"class_weight": {0: 1.0}}, "each label from 0 to 2"),
        ((X, Y), {"class_weight": {**CLASSES, 3: 1.0}}, "each label from 0 to 2"),
        ((X, Y), {"class_weight": {**CLASSES, 2: float("inf")}}, "finite weight"),
        ((X, Y), {"class_weight": dict.fromkeys(range(3), 0)}, "not all of them 0"),
        ((X, Y), {"class_weight": "balanced"}, "class_weight to be a dictionary"),
    ],
)
def test_what_is_no_weight_is_refused_before_any_work(tmp_path, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), RECIPE, data, run_dir=tmp_path / "run", verbose=0, **arguments)
    assert not (tmp_path / "run").exists()


def classifier(classes, activation=None):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, strides=4)(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation)(x), name="classifier")


@pytest.mark.once
@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_networks_of_many_classes_log_and_measure_top_5_accuracy(tmp_path, mixup):
    y, model = np.arange(20) % 12, classifier(12)
    recipe = RECIPE.replace(mixup=mixup)
    report = compile_and_fit(model, recipe, (X, y), validation_data=(X, y), run_dir=tmp_path, verbose=0)
    scores = model.predict(network_input(X, report.mean, report.std), verbose=0)
    ranks = (scores > scores[np.arange(20), y][:, None]).sum(1)
    np.testing.assert_allclose(report.metrics["val_top5_accuracy"], np.mean(ranks < 5), rtol=1e-5)
    assert report.metrics["top5_accuracy"] >= report.metrics["accuracy"]
    measured = evaluate_run(tmp_path, (X, y))
    assert (measured.correct_top5, measured.top5_accuracy) == (int((ranks < 5).sum()), np.mean(ranks < 5))


@pytest.mark.once
@pytest.mark.parametrize(
    ("classes", "activation", "message"),
    [
        (1, "sigmoid", r"one output\. For two classes, .*\n    outputs = keras\.layers\.Dense\(2.*\n    model = "),
        (1, None, "one output"),
        (3, "sigmoid", "softmax, or without activation .*'sigmoid' at the end of classifier"),
        (3, "relu", "softmax, or without activation"),
    ],
)
def test_outputs_that_are_no_probabilities_of_classes_are_refused(tmp_path, classes, activation, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(classifier(classes, activation), RECIPE, (X, Y), run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("build", [keras.Sequential, keras.Model])
def test_the_two_lines_make_a_network_that_trains(build):
    model = classifier(1, "sigmoid")
    model = keras.Sequential(model.layers) if build is keras.Sequential else model
    with pytest.raises(ValueError, match="give it two outputs") as caught:
        compile_and_fit(model, STILL, (X, Y % 2), verbose=0)
    names = {"keras": keras, "model": model}
    exec("\n".join(line.strip() for line in str(caught.value).splitlines()[1:]), names)
    model = names["model"]
    assert compile_and_fit(model, STILL, (X, Y % 2), verbose=0).steps == 1


@pytest.mark.once
def test_too_few_images_name_the_argument():
    with pytest.raises(ValueError, match=r"8 images for recipe; received: 5\. .* recipe\.replace\(batch_size=5\)"):
        compile_and_fit(tiny(), RECIPE, (X[:5], Y[:5]), verbose=0)
    with pytest.raises(ValueError, match=r"for head_recipe; received: 7\. .* head_recipe\.replace\(batch_size=7\)"):
        run_transfer(data=images(7))
