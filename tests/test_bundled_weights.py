"""The bundled weights: intact, equal on every backend, and consistent with their cards."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import keras_resattn
from keras_resattn import evaluation, preprocess_input, pretrained
from keras_resattn.pretrained import records
from keras_resattn.recipes import Recipe
from tools.cards import model_card

ROOT = Path(__file__).parents[1]
IMAGES = sorted((ROOT / "examples" / "images").glob("*.png"))
GOLDEN = json.loads((Path(__file__).parent / "golden_logits.json").read_text())

HUB_DATASETS = {"cifar10": ["uoft-cs/cifar10"], "tiny_imagenet": ["zh-plus/tiny-imagenet"]}


def sample_images():
    return np.stack([np.asarray(Image.open(path)) for path in IMAGES])


@pytest.mark.once
@pytest.mark.parametrize("tag", pretrained.tags(), ids=lambda tag: tag.id)
def test_bundled_files_match_their_hashes(tag):
    assert (tag.id, "ok", None) in pretrained.verify()
    assert records.read_sums(tag.folder.parent).get(f"{tag.folder.name}/{tag.tensors.name}", tag.sha256) == tag.sha256


@pytest.mark.once
@pytest.mark.parametrize("tag", pretrained.tags(), ids=lambda tag: tag.id)
def test_the_card_is_written_from_the_record(tag):
    card = (tag.folder / "README.md").read_text()
    assert card == model_card(json.loads((tag.folder / "config.json").read_text())), "run python -m tools.cards"
    assert tag.sha256 in card
    assert f"{tag.metrics['test_accuracy']:.2%}" in card
    data = ModelCard(card).data
    assert (data.library_name, data.license, data.datasets) == ("keras", "apache-2.0", HUB_DATASETS[tag.dataset])
    assert data.eval_results[0].metric_value == tag.metrics["test_accuracy"]
    labels, predictions = np.load(tag.folder / evaluation.PREDICTIONS)
    assert (labels == predictions).sum() == tag.metrics["test_correct"]
    assert len(labels) == tag.metrics["test_images"]


@pytest.mark.once
@pytest.mark.parametrize("tag", pretrained.tags(), ids=lambda tag: tag.id)
def test_the_recorded_recipe_can_be_read(tag):
    recipe = Recipe.from_json(json.dumps(tag.training["recipe"]))
    card = (tag.folder / "README.md").read_text()
    assert json.dumps(tag.training["recipe"]) in card
    assert recipe.epochs == tag.training["last_epoch"]["epoch"]


@pytest.mark.once
@pytest.mark.parametrize("network", sorted({tag.network for tag in pretrained.tags()}))
def test_each_network_has_one_default(network):
    assert len(pretrained.find("default", network)) == 1


def test_bundled_weights_load_offline(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a connection was opened"))
    keras_resattn.CifarResidualAttention56()


@pytest.fixture(scope="module")
def network():
    """The network whose golden logits were computed on TensorFlow, and its logits of the sample images here."""
    model = keras_resattn.CifarResidualAttention56(classifier_activation=None)
    return model, model.predict(preprocess_input(sample_images(), weights="cifar10"), verbose=0)


def test_logits_are_the_same_on_every_backend(network):
    """To 1e-3 of the standard deviation of the golden logits."""
    golden = np.array(GOLDEN["logits"])
    assert [path.name for path in IMAGES] == GOLDEN["images"]
    assert np.abs(network[1] - golden).max() < 1e-3 * golden.std()


@pytest.mark.once
def test_keras_opens_the_released_folder_as_a_saved_model(network):
    [tag] = pretrained.find("cifar10", "CifarResidualAttention56")
    loaded = keras.saving.load_model(tag.folder)
    assert loaded.output_shape == (None, len(tag.classes))
    probabilities = loaded.predict(preprocess_input(sample_images(), weights="cifar10"), verbose=0)
    np.testing.assert_allclose(probabilities, keras.ops.softmax(network[1]), rtol=1e-4, atol=1e-6)


def released_predictions(tag):
    """Return labels and predictions of the sample images, which are test images of CIFAR-10."""
    labels, predictions = np.load(tag.folder / evaluation.PREDICTIONS)
    rows = [int(path.stem.rsplit("-", 1)[1]) for path in IMAGES]
    assert [tag.classes[label] for label in labels[rows]] == [path.stem.split("-")[0] for path in IMAGES]
    return labels[rows], predictions[rows]


def test_predictions_on_the_sample_images_match_the_released_ones(network):
    [tag] = pretrained.find("CifarResidualAttention56")
    np.testing.assert_array_equal(network[1].argmax(1), released_predictions(tag)[1])


def test_gated_attention_gives_the_released_predictions_and_relies_on_its_last_module():
    [tag] = pretrained.find("WARN-16-4")
    model = keras_resattn.WARN(depth=16, width=4)
    x = preprocess_input(sample_images(), weights=tag.id)
    np.testing.assert_array_equal(model.predict(x, verbose=0).argmax(1), released_predictions(tag)[1])
    saved = keras.saving.load_model(tag.folder)
    np.testing.assert_array_equal(saved.predict(x, verbose=0), model.predict(x, verbose=0))
    shares = keras_resattn.attention_gates(model, x)["global_gate"]
    assert (shares.argmax(1) == 2).mean() > 0.5, "the gate of attention3, with 63 % of the weight on all test images"


def test_images_of_another_scale_raise(network, monkeypatch):
    monkeypatch.setattr(evaluation, "load_checkpoint", lambda tag, **arguments: network[0])
    tag, images, labels = pretrained.find("cifar10", "CifarResidualAttention56")[0], sample_images(), np.arange(10)
    as_tensors = evaluation.evaluate(tag, keras.ops.convert_to_tensor(images), labels)
    assert as_tensors.correct == evaluation.evaluate(tag, images.astype("float32"), labels).correct
    for x in (images / 255, images - 128.0):
        with pytest.raises(ValueError, match="Expected images from 0 to 255"):
            evaluation.evaluate(tag, x, labels)


@pytest.mark.once
def test_the_trained_network_round_trips_as_a_safe_keras_file(network, tmp_path):
    model, logits = network
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(
        loaded.predict(preprocess_input(sample_images(), weights="cifar10"), verbose=0), logits
    )


@pytest.mark.once
def test_transfer_a_dense_on_the_frozen_backbone():
    backbone = keras_resattn.CifarResidualAttention56(include_top=False, pooling="avg")
    backbone.trainable = False
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in backbone.weights]
    model = keras.Sequential([backbone, keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x = preprocess_input(sample_images(), weights="cifar10")
    losses = model.fit(x, np.arange(len(x)) % 2, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for weight, old in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), old)
