"""Loading a released tag: by its names, from its folder, and what does not fit it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import weights_by_path
from releasing import CLASSES

import keras_resattn
from keras_resattn import pretrained
from keras_resattn.models import registry
from keras_resattn.pretrained import records
from keras_resattn.recipes import get_recipe

pytestmark = pytest.mark.once


def test_an_alias_of_a_missing_tag_raises(release):
    records.move_aliases(release.folder.parent, release.network, "shapes_v3", ["shapes"])
    with pytest.raises(
        ValueError,
        match=r"aliases\.json to name released tags; there is no config\.json of CifarResidualAttention56/shapes_v3",
    ):
        records.tags()


@pytest.mark.parametrize(
    "name", ["default", "shapes", "shapes_v1", "CifarResidualAttention56/shapes_v1", "CifarResidualAttention56"]
)
def test_a_tag_is_found_by_any_of_its_names(release, name):
    assert pretrained.resolve(name, network=release.network).tag == release


def test_a_network_without_a_default_names_its_tags(release):
    (release.folder.parent / "aliases.json").write_text("{}")
    records.forget_tags()
    assert pretrained.find(release.network) == []
    with pytest.raises(ValueError, match=r"It has no default weights; pass one of CifarResidualAttention56/shapes_v1"):
        registry.find_checkpoint(release.network)


def test_a_local_folder_loads_like_a_tag(release, tmp_path):
    shutil.copytree(release.folder, tmp_path / "copy")
    records.forget_tags()
    model = keras_resattn.CifarResidualAttention56(classes=3, weights=tmp_path / "copy")
    np.testing.assert_equal(weights_by_path(model), weights_by_path(keras_resattn.CifarResidualAttention56(classes=3)))
    with pytest.raises(ValueError, match="holds weights of CifarResidualAttention56"):
        keras_resattn.CifarResidualAttention92(classes=3, weights=tmp_path / "copy")


@pytest.mark.parametrize("kind", [str, Path])
def test_the_folder_of_a_release_also_names_its_preprocessing_and_classes(release, tmp_path, kind):
    folder = kind(shutil.copytree(release.folder, tmp_path / "copy"))
    image = np.full((1, 2, 2, 3), [180, 60, 100], "uint8")
    np.testing.assert_array_equal(keras_resattn.preprocess_input(image, folder)[0, 0, 0], [1, -1, 0])
    assert keras_resattn.class_names_of(folder) == list(CLASSES)
    [[(_, name, _)]] = keras_resattn.decode_predictions(np.array([[0.1, 0.7, 0.2]]), top=1, weights=folder)
    assert name == CLASSES[1]


@pytest.mark.parametrize("kind", [str, Path])
def test_the_folder_of_a_release_is_fine_tuned_like_its_tag(release, tmp_path, kind):
    folder = kind(shutil.copytree(release.folder, tmp_path / "copy"))
    data = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8"), np.arange(8) % 2
    recipe = get_recipe("transfer_head").replace(epochs=1, batch_size=8)
    model, report = keras_resattn.fine_tune(folder, data, head_recipe=recipe, unfreeze=None, verbose=0)
    assert (report.network, report.mean, report.std) == (release.id, list(release.mean), list(release.std))
    tuned, released = weights_by_path(model), weights_by_path(keras_resattn.CifarResidualAttention56(classes=3))
    for path in released:
        if not path.startswith("predictions/"):
            np.testing.assert_array_equal(tuned[path], released[path])


def test_the_folder_of_a_run_with_a_config_of_the_users_own_is_one_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    report = {"network": "x", "recipe": {}, "metrics": {}, "mean": [0.0], "std": [1.0], "class_names": ["a", "b"]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert keras_resattn.class_names_of(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    "call",
    [
        keras_resattn.class_names_of,
        lambda name: keras_resattn.preprocess_input(0, name),
        lambda name: keras_resattn.CifarResidualAttention56(weights=name),
    ],
    ids=["class_names_of", "preprocess_input", "builder"],
)
def test_an_empty_name_is_not_the_current_folder(release, monkeypatch, call):
    monkeypatch.chdir(release.folder)
    with pytest.raises(ValueError, match="received: weights=''"):
        call("")


def test_classes_and_size_default_to_those_of_the_weights(release, tmp_path):
    folder = shutil.copytree(release.folder, tmp_path / "copy")
    record = json.loads((folder / "config.json").read_text()) | {"input_shape": [48, 48, 3]}
    (folder / "config.json").write_text(json.dumps(record))
    model = keras_resattn.CifarResidualAttention56(weights=folder)
    assert (model.input_shape, model.output_shape) == ((None, 48, 48, 3), (None, 3))
    assert keras_resattn.CifarResidualAttention56(False, weights=folder).input_shape == (None, 48, 48, 3)
    assert keras_resattn.CifarResidualAttention56(weights=folder, input_shape=(64, 32, 3)).input_shape[1:3] == (64, 32)


def test_other_classes_with_top_raise_with_the_code_to_use(release):
    with pytest.raises(ValueError, match=r"include_top=False, pooling='avg'(?s:.*)Dense\(5"):
        keras_resattn.CifarResidualAttention56(weights="shapes", classes=5)


def test_other_classes_of_a_warn_say_that_its_attention_is_part_of_the_top():
    with pytest.raises(ValueError, match=r"attend_and_rectify\(model\) adds new modules"):
        keras_resattn.WARN(depth=16, width=4, classes=5)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_raise_before_building(release, channels):
    with pytest.raises(ValueError, match=f"received: {channels}"):
        keras_resattn.CifarResidualAttention56(weights="shapes", classes=3, input_shape=(32, 32, channels))


def test_ablations_have_no_released_checkpoints(release):
    with pytest.raises(ValueError, match="no released checkpoints for custom networks"):
        keras_resattn.ResidualAttentionNet(variant="CifarResidualAttention56", learning="naive")


def damage(path):
    """Flip one bit of the last byte."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_file_raises_and_verify_reports_it(release):
    damage(release.tensors)
    assert [result.status for result in pretrained.verify()] == ["damaged", "ok"]
    with pytest.raises(ValueError, match="SHA-256"):
        keras_resattn.CifarResidualAttention56(classes=3)
