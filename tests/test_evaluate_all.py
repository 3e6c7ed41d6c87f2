"""`keras-resattn evaluate --all`: every released checkpoint, evaluated again and compared with its card."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from keras_resattn import evaluation, pretrained
from keras_resattn.cli import main
from keras_resattn.data import ArrayDataset
from keras_resattn.models import registry

pytestmark = pytest.mark.once

X, Y = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype="uint8"), np.arange(10)


@pytest.fixture(scope="module")
def network():
    """The network of a bundled tag, which stands in for every checkpoint, and its result on `X` and `Y`."""
    tag = pretrained.find("cifar10_v2")[0]
    model = evaluation.load_checkpoint(tag, classifier_activation=None)
    return model, np.argmax(model.predict((X - np.array(tag.mean)) / np.array(tag.std), verbose=0), 1)


@pytest.fixture
def released(network, tmp_path, monkeypatch):
    """A function that releases two tags of the datasets `cifar10` and `other`, with changes to the first one's record.

    Returns the folder of the datasets, which holds `cifar10.npz` and a folder of images, `other`.
    """
    model, predictions = network
    folder = tmp_path / "sets"
    folder.mkdir()
    np.savez(folder / "cifar10.npz", x_test=X, y_test=Y)
    for label, name in enumerate(pretrained.find("cifar10_v2")[0].classes):
        (folder / "other" / name).mkdir(parents=True)
        Image.fromarray(X[label]).save(folder / "other" / name / "image.png")

    def release(predictions=predictions, **metrics):
        correct = int((predictions == Y).sum())
        values = {"test_images": 10, "test_correct": correct, "test_loss": 1.0} | metrics
        np.save(tmp_path / "predictions.npy", np.stack([Y, predictions]))
        tag = dataclasses.replace(pretrained.find("cifar10_v2")[0], folder=tmp_path, metrics=values)
        right = values | {"test_correct": int((network[1] == Y).sum())}
        other = dataclasses.replace(tag, tag="other_v1", folder=folder, dataset="other", metrics=right)
        monkeypatch.setattr(pretrained, "tags", lambda: (tag, other))
        monkeypatch.setattr(evaluation, "load_checkpoint", lambda tag, **arguments: model)
        return folder

    return release


def evaluate(folder, *options):
    return main(["evaluate", "--all", "--data-dir", str(folder), *options])


def test_equal_figures_are_printed_side_by_side(released, network, capsys):
    assert evaluate(released()) == 0
    out = capsys.readouterr().out
    correct = (network[1] == Y).sum()
    assert out.count(f"{correct} of 10") == 4
    assert out.count("equal") == 2
    assert "cifar10_v2: " not in out, "nothing is reported if all predictions are those of the release"
    assert "other_v1: individual predictions were not compared" in out


def test_a_different_count_is_a_difference(released, capsys):
    assert evaluate(released(test_correct=9)) == 1
    out = capsys.readouterr().out
    assert "9 of 10" in out
    assert "differs" in out


def test_a_changed_prediction_is_a_difference_and_named(released, network, capsys):
    wrong = next(index for index in range(10) if network[1][index] != Y[index])
    changed = network[1].copy()
    changed[wrong] = next(label for label in range(10) if label not in (changed[wrong], Y[wrong]))
    assert evaluate(released(changed), "--json") == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["card_correct"], first["changed"]) == (first["measured_correct"], [wrong])
    assert (first["differs"], second["differs"]) == (True, False)
    evaluate(released(changed))
    assert f"1 predictions differ from the released ones: images {wrong}" in capsys.readouterr().out


def test_top5_figures_are_compared_if_the_card_has_them(released, network, capsys):
    assert evaluate(released(test_correct_top5=10), "--csv") == 1  # not measured with ten classes
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split(",")[4] == "card_correct_top5"
    assert (first.split(",")[4], second.split(",")[4]) == ("10", "10")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data-dir", "empty"], "missing: empty/cifar10.npz, empty/tiny_imagenet.npz, "),
        ([], "--data-dir with --all, the folder of the datasets; received: none"),
        (["--data-dir", "empty", "--data", "x.npz"], "Expected --all without --data"),
        (["--data-dir", "empty", "--run-dir", "run"], "Expected --all without --run-dir"),
        (["--data-dir", "empty", "--resize-mode", "crop"], "Expected --all without --resize-mode"),
        (["--data-dir", "empty", "--weights", "cifar10_v1"], "Expected --all without --weights"),
    ],
)
def test_missing_datasets_and_other_options_are_errors(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "create_model", lambda *args, **kwargs: pytest.fail("a network was built"))
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", "--all", *options]) == 2
    assert message in capsys.readouterr().err


def test_several_versions_of_a_dataset_are_an_error(released, capsys):
    folder = released()
    for version in ("1.0.0", "2.0.0"):
        (folder / "other" / version).mkdir()
        (folder / "other" / version / "dataset_info.json").write_text("{}")
    assert evaluate(folder) == 2
    assert "Expected one version of other" in capsys.readouterr().err


def test_without_data_and_all_evaluate_says_what_to_pass(capsys):
    assert main(["evaluate"]) == 2
    assert "Expected --data, the test images, or --all with --data-dir; received: neither" in capsys.readouterr().err


def test_checkpoints_are_evaluated_in_batches(released, monkeypatch):
    released()
    tag, read, sizes = pretrained.tags()[0], ArrayDataset.read, []

    def recorded(self, indices, *args, **kwargs):
        sizes.append(len(indices))
        return read(self, indices, *args, **kwargs)

    whole = evaluation.evaluate(tag, X, Y)
    monkeypatch.setattr(ArrayDataset, "read", recorded)
    parts = evaluation.evaluate_checkpoint(tag, ArrayDataset(X, Y), batch_size=4)
    assert sizes == [4, 4, 2]
    assert (parts.correct, parts.changed) == (whole.correct, whole.changed)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
