"""Networks as backbones of keras-hub's and keras-cv's RetinaNet, and the example that trains one."""

import importlib
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import forward, random_array
from PIL import Image

from keras_resattn import WARN, feature_pyramid, pyramid_backbone

EXAMPLE = Path(__file__).parents[1] / "examples" / "12_detection.py"
LIBRARIES = {"keras-hub": "keras_hub", "keras-cv": "keras_cv"}


@pytest.fixture
def network(narrow_network):
    return narrow_network(topology="imagenet", input_shape=(64, 64, 3))


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


# --- pyramid_backbone ----------------------------------------------------------------------------


@pytest.mark.once
def test_a_backbone_names_its_feature_maps_for_both_libraries(network):
    backbone = pyramid_backbone(network)
    assert backbone.pyramid_level_inputs == {
        "P2": "stage1_attention1_post1",
        "P3": "stage2_unit1",
        "P4": "stage3_unit1",
        "P5": "post_relu",
    }
    expected = feature_pyramid(network)
    assert list(backbone.pyramid_outputs) == list(expected)
    assert all(backbone.pyramid_outputs[level] is tensor for level, tensor in expected.items())
    assert backbone.output is expected["P5"]
    assert "predictions" not in [layer.name for layer in backbone.layers], "the top is left out"


@pytest.mark.once
def test_a_saved_backbone_keeps_its_feature_maps(network, tmp_path):
    backbone = pyramid_backbone(network)
    backbone.save(tmp_path / "backbone.keras")
    x = random_array(1, 64, 64, 3)
    expected = forward(keras.Model(network.input, feature_pyramid(network)), x)
    clone = keras.models.clone_model(backbone)
    clone.set_weights(backbone.get_weights())
    for copy in (keras.models.load_model(tmp_path / "backbone.keras"), clone):
        assert copy.pyramid_level_inputs == backbone.pyramid_level_inputs
        maps = forward(keras.Model(copy.input, copy.pyramid_outputs), x)
        for level, values in expected.items():
            np.testing.assert_allclose(maps[level], values, atol=1e-5)


@pytest.mark.once
def test_a_backbone_needs_a_network_of_this_package():
    inputs = keras.Input((32, 32, 3))
    foreign = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ValueError, match=r"a network of keras_resattn .*; received: "):
        pyramid_backbone(foreign)


@pytest.mark.once
def test_attention_heads_are_left_out():
    backbone = pyramid_backbone(WARN(weights=None, depth=10, width=1))
    assert list(backbone.pyramid_level_inputs.values()) == ["group1_unit1", "group2_unit1", "post_relu"]
    assert not any(layer.name.startswith("attention") for layer in backbone.layers)


# --- The example's images and evaluation ------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(example):
    return example["made_up_images"](np.random.default_rng(0), 40, 64, example["PHOTOS"]["train"])


@pytest.mark.once
def test_images_depend_on_the_seed_alone(example, made_up):
    images, truth = made_up
    again, same = example["made_up_images"](np.random.default_rng(0), 40, 64, example["PHOTOS"]["train"])
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(np.concatenate([boxes for boxes, _ in truth]), np.concatenate([b for b, _ in same]))
    assert images.shape == (40, 64, 64, 3)
    assert images.dtype == np.uint8


@pytest.mark.once
def test_boxes_lie_inside_the_image_and_around_their_shapes(example, made_up):
    _, truth = made_up
    for boxes, labels in truth:
        assert 1 <= len(boxes) == len(labels) <= example["MOST_SHAPES"]
        assert boxes.min() >= 0
        assert boxes.max() <= 64
    rng, plain = np.random.default_rng(1), np.full((64, 64, 3), 128, "uint8")
    image, boxes, _ = example["draw_scene"](rng, plain)
    rows, columns = np.nonzero((image != 128).any(-1))
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)], drawn, atol=1.01)


@pytest.mark.once
def test_training_and_test_photos_differ(example):
    photos = example["PHOTOS"]
    names = {path.name.split("-")[0] for path in example["FOLDER"].glob("*.png")}
    assert {*photos["train"], *photos["test"]} == names
    assert not {*photos["train"]} & {*photos["test"]}


@pytest.mark.once
def test_missing_shapes_are_padded_with_minus_one(example):
    box = np.array([[1, 2, 3, 4]], "float32")
    boxes, labels = example["padded"]([(box, np.array([2])), (np.repeat(box, 4, 0), np.arange(4))])
    assert boxes.shape == (2, 4, 4)
    np.testing.assert_array_equal(boxes[0], [[1, 2, 3, 4], [-1] * 4, [-1] * 4, [-1] * 4])
    np.testing.assert_array_equal(labels, [[2, -1, -1, -1], [0, 1, 2, 3]])


@pytest.mark.once
def test_average_precision_by_hand(example):
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40.0]])
    truth = [(boxes, np.array([0, 0])), (boxes[:1], np.array([1]))]
    nothing = (np.empty((0, 4)), np.empty(0, int), np.empty(0))

    def result(*found):
        precisions, overlap = example["evaluate"](list(found), truth)
        return precisions[0], precisions[1], overlap

    right = (boxes, np.array([0, 0]), np.array([0.9, 0.8]))
    assert result(right, nothing) == (1.0, 0.0, 1.0)
    wrong_class = (
        boxes[:1],
        np.array([0]),
        np.array([0.95]),
    )  # ranked first: 1/2 and 2/3 are the precisions of the hits
    assert result(right, wrong_class)[0] == pytest.approx(2 / 3)
    twice = (boxes[[0, 0]], np.array([0, 0]), np.array([0.9, 0.8]))  # the second one has no shape left
    assert result(twice, nothing)[0] == 0.5
    shifted = (boxes + np.array([0, 0, 0, 5]), np.array([0, 0]), np.array([0.9, 0.8]))  # IoU 2/3 and 0.8
    assert result(shifted, nothing)[2] == pytest.approx((2 / 3 + 0.8) / 2)
    assert result(nothing, nothing) == (0.0, 0.0, 0.0)


# --- Detectors --------------------------------------------------------------------------------------


def skip_without_predict(library):
    """On PyTorch, keras-cv needs torchvision, and a build of it that fits PyTorch's."""
    if library == "keras-cv" and keras.backend.backend() == "torch":
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchvision cannot be imported: {error}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the two libraries
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_detector_trains_detects_and_is_saved(library, network, example, made_up, tmp_path):
    pytest.importorskip(LIBRARIES[library])
    images, truth = made_up
    backbone = pyramid_backbone(network)
    expected = forward(keras.Model(network.input, feature_pyramid(network)), images[:2])
    detector, losses, labels = example["DETECTORS"][library](backbone, (64, 64, 3))
    extractor = detector.feature_extractor if library == "keras-cv" else detector.backbone.get_layer("backbone")
    maps = forward(extractor, images[:2])
    assert list(maps) == ["P3", "P4", "P5"]
    for level, values in maps.items():
        np.testing.assert_allclose(values, expected[level], rtol=1e-4, atol=1e-3)

    before = network.get_layer("stem_conv").get_weights()[0]
    detector.compile(optimizer=keras.optimizers.Adam(1e-3), **losses)
    boxes, classes = example["padded"](truth)
    history = detector.fit(images[:6], {"boxes": boxes[:6], labels: classes[:6]}, batch_size=4, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert not np.array_equal(before, network.get_layer("stem_conv").get_weights()[0]), "the backbone is trained, too"

    detector.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras")
    expected = forward(detector, images[:5])
    for key, values in forward(loaded, images[:5]).items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-4, atol=1e-3)

    skip_without_predict(library)
    found = detector.predict(images[:4], batch_size=4, verbose=0)
    assert found["boxes"].shape == (4, 20, 4)
    assert len(example["detect"](detector, images[:5], labels, batch_size=4)) == 5
    again = loaded.predict(images[:4], batch_size=4, verbose=0)
    np.testing.assert_allclose(again["boxes"], found["boxes"], atol=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the two libraries
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_example_draws_detections(library, monkeypatch, capsys, tmp_path):
    pytest.importorskip(LIBRARIES[library])
    skip_without_predict(library)
    command = [EXAMPLE.name, tmp_path / "found.png", "--library", library, "--images", 8, "--test-images", 12]
    command += ["--epochs", 1, "--save", tmp_path / "detector.keras"]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "AP at IoU 0.5" in capsys.readouterr().out
    assert (tmp_path / "detector.keras").exists()
    with Image.open(tmp_path / "found.png") as image:
        assert image.size == (5 * 256, 2 * 256)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the two libraries
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_code_of_the_documentation_runs(library, example, made_up):
    pytest.importorskip(LIBRARIES[library])
    skip_without_predict(library)
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "detection.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if LIBRARIES[library] in code]
    images, truth = made_up
    boxes, labels = example["padded"](truth)
    variables = {"images": images[:2], "boxes": boxes[:2], "labels": labels[:2]}
    exec(compile(code, "detection.md", "exec"), variables)
    assert variables["found"]["boxes"].shape == (2, 100, 4)
