"""Releasing a run: contents of a release, invalid arguments, and aliases."""

import json
import math
import shutil

import keras
import numpy as np
import pytest
from helpers import randomise
from huggingface_hub import ModelCard
from PIL import Image
from releasing import CLASSES, release_arguments, write_run

import keras_resattn
from keras_resattn import cli, create_model, pretrained
from keras_resattn.models.profiling import count_macs
from keras_resattn.pretrained import records
from keras_resattn.recipes import get_recipe
from tools.compress_weights import compress
from tools.publish import check_folder
from tools.release import main
from tools.release import release as write_release

pytestmark = pytest.mark.once

RELEASE_OPTIONS = ("classes", "dataset", "hub_dataset", "held_out", "mantissa_bits", "attention_images")


# --- Contents of a release ------------------------------------------------------------------------


def test_a_release_holds_half_precision_and_loads_in_float32(release):
    tensors = pretrained.read_tensors(release.tensors)
    assert {array.dtype for arrays in tensors.values() for array in arrays.values()} == {np.dtype("float16")}
    model = keras_resattn.CifarResidualAttention56(classes=3)
    assert {variable.dtype for variable in model.weights} == {"float32"}
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    np.testing.assert_array_equal(kernel, tensors["predictions"]["0"].astype("float32"))


def test_values_beyond_float16_raise(narrow_network, tmp_path):
    model = narrow_network(classes=3)
    model.get_layer("predictions").bias.assign([1e6, 0.0, 0.0])
    model.save_weights(tmp_path / "large.weights.h5")
    with pytest.raises(ValueError, match="range of float16"):
        compress(tmp_path / "large.weights.h5", tmp_path / "half.weights.h5")


@pytest.mark.parametrize("bits", [10, 5, 1])
def test_compressed_weights_differ_by_half_of_their_last_bit(narrow_network, tmp_path, bits):
    network = narrow_network(classes=3)
    full, small = tmp_path / "full.weights.h5", tmp_path / "small.weights.h5"
    network.save_weights(full)
    compress(full, small, bits)
    restored = narrow_network(classes=3)
    restored.load_weights(small)
    for expected, variable in zip(network.weights, restored.weights, strict=True):
        before, after = (keras.ops.convert_to_numpy(v.value) for v in (expected, variable))
        kept = bits if before.ndim > 1 else 10
        relative, absolute = 2.0 ** -(kept + 1), 2.0 ** (-15 - kept)  # the latter for subnormal numbers
        bound = np.maximum(relative * np.abs(before), absolute) + 2.0**-12 * np.abs(before)  # float16 rounds first
        assert np.all(np.abs(after - before) <= bound), variable.path
    assert small.stat().st_size < full.stat().st_size


def test_dropped_mantissa_bits_leave_the_file_and_it_loads_strictly(released_run, tmp_path):
    sizes = {}
    for bits in (10, 4):
        path = tmp_path / f"{bits}.weights.h5"
        compress(released_run / "model.weights.h5", path, bits)
        model = keras_resattn.CifarResidualAttention56(weights=path, classes=3)
        sizes[bits] = path.stat().st_size
    rounded = sum(math.prod(v.shape) for v in model.weights if len(v.shape) > 1)
    assert sizes[10] - sizes[4] > 0.8 * rounded * 6 / 8


@pytest.mark.parametrize("bits", [0, 11])
def test_mantissa_bits_out_of_range(tmp_path, bits):
    with pytest.raises(ValueError, match=f"Expected mantissa_bits from 1 to 10; received: {bits}"):
        compress(tmp_path / "full.weights.h5", tmp_path / "small.weights.h5", bits)


def test_a_release_is_complete_and_immutable(release, released_run):
    assert sorted(path.name for path in release.folder.iterdir()) == [
        "README.md", "attention.png", "config.json", "log.csv", "metadata.json", "model.weights.h5", "predictions.npy",
    ]  # fmt: skip
    card = (release.folder / "README.md").read_text()
    assert release.sha256 in card
    assert "shapes_v1" in card
    assert "on an accelerator (2 processors),\ncomputed in mixed_bfloat16" in card
    assert "](attention.png)" in card
    assert "The test images were used once" in card
    assert "1,028,563 trainable parameters" in card, "with three classes, not ten"
    assert release.metrics["test_images"] == 8
    with pytest.raises(ValueError, match="immutable"):
        write_release(
            released_run, release.folder.parent, tag="shapes_v1", aliases=[], **release_arguments(released_run)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "a/b"}, "received: 'a/b'"),
        ({"dataset": "../shapes"}, "dataset ids of letters.*received: '../shapes'"),
        ({"hub_dataset": "shapes"}, "hub_dataset to be owner/name; received: 'shapes'"),
        ({"mantissa_bits": 11}, "mantissa_bits from 1 to 10; received: 11"),
        ({"attention_images": ["none.png"]}, "none.png"),
        ({"tag": "shapes"}, "not an alias of CifarResidualAttention56; received: shapes"),
        ({"steps": 7}, "stopped after step 7 of 8"),
        ({"class_names": CLASSES[::-1]}, "'triangle', 'square', 'circle', in this order; received: 'circle'"),
        ({"kept_epoch": 0}, r"kept the weights of its last epoch, \d.*kept_epoch=0"),
        ({"tag": "default"}, "received: 'default', which is an alias"),
        ({"tag": ".."}, r"start with a letter or digit .* received: '\.\.'"),
        ({"classes": [" circle", "square", "triangle"]}, "without spaces around them; received: ' circle'"),
        ({"held_out": -5}, "Expected held_out to be an integer of at least 0"),
        ({"validated": True}, "Expected held_out, .*, or tested, .* the run has validation metrics"),
        ({"report": None}, r"has no report\.json\. It has no recipe\.json either"),
        ({"data": "y_test"}, r"Expected x_test and y_test in .*; received: y_test\."),
    ],
)
def test_invalid_releases_raise_before_anything_is_evaluated(release, released_run, tmp_path, change, message):
    copy = shutil.copytree(released_run, tmp_path / "run")
    report = json.loads((copy / "report.json").read_text())
    report |= {"steps": change.get("steps", 8), "training_images": 16, "class_names": change.get("class_names")}
    row = {"epoch": 2, **({"val_loss": 1.0} if "validated" in change else {})}
    report |= {"history": [row], "kept_epoch": change.get("kept_epoch", 2)}
    report["recipe"] = {"name": "some", "source": "", "epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    (copy / "report.json").write_text(json.dumps(report))
    if "report" in change:
        (copy / "report.json").unlink()
    if "data" in change:
        np.savez(copy / "data.npz", y_test=np.arange(3))
    before = sorted(path.name for path in release.folder.parent.iterdir())
    arguments = {"tag": "shapes_v2", **release_arguments(copy)}
    arguments |= {key: change[key] for key in ("tag", *RELEASE_OPTIONS) if key in change}
    with pytest.raises(ValueError, match=message):
        write_release(copy, release.folder.parent, aliases=[], **arguments)
    assert sorted(path.name for path in release.folder.parent.iterdir()) == before


def test_a_run_with_pixel_normalisation_is_not_released(released_run, tmp_path):
    copy = shutil.copytree(released_run, tmp_path / "run")
    report = json.loads((copy / "report.json").read_text())
    report["recipe"]["normalization"] = "pixel_mean"
    (copy / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"normalised by channel.*normalization='pixel_mean'"):
        write_release(copy, tmp_path, tag="shapes_v2", aliases=[], **release_arguments(copy))
    assert not list(tmp_path.glob("*shapes_v2"))


def test_the_command_takes_class_names_images_and_sentences_for_the_card(release, released_run, tmp_path, monkeypatch):
    folder = release.folder.parent
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    image = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype="uint8")).save(image)
    options = {
        "tag": "shapes_v2",
        "alias": "shapes",
        "classes-file": tmp_path / "names.txt",
        "data": released_run / "data.npz",
    }
    options |= {"dataset": "shapes", "data-name": "Shapes", "command": "none", "notes": "it was stopped twice."}
    options |= {"tested": "The test images were used twice.", "sizes": "It is good at 24 to 48 pixels."}
    options |= {"hub-dataset": "someone/shapes", "test-split": "validation", "held-out": 25, "mantissa-bits": 4}
    options |= {"attention-images": image, "attention-credit": "A freely licensed cat."}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["release.py", str(released_run), str(folder), *flags])
    main()
    card = (folder / "cifar_residual_attention56-shapes_v2" / "README.md").read_text()
    assert "[`log.csv`](log.csv) has one row per epoch; it was stopped twice." in card
    assert "\nThe test images were used twice.\n" in card
    assert "used once" not in card
    assert "32 x 32 pixels. It is good at 24 to 48 pixels.\n" in card
    assert "8 training images (25 further ones were held out for validation and never trained on)" in card
    assert "float16 weights, kernels rounded to 4 mantissa bits, as released" in card
    assert "cat.png, with predicted classes, and attention masks" in card
    assert "A freely licensed cat.\n" in card
    [result] = ModelCard(card).data.eval_results
    assert (result.dataset_type, result.dataset_name, result.dataset_split) == (
        "someone/shapes",
        "Shapes",
        "validation",
    )
    records.forget_tags()
    [tag] = pretrained.find("shapes")
    assert (tag.tag, tag.dataset, tag.classes) == ("shapes_v2", "shapes", CLASSES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:There are no training images")
def test_a_run_of_many_classes_and_progressive_sizes_is_released(tmp_path):
    """A run as `tools/train_tiny_imagenet.py` writes it, in small."""
    names = [f"class {number}, with a comma" for number in range(200)]
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (16, 64, 64, 3), dtype="uint8"), np.arange(16) * 13
    np.savez(tmp_path / "data.npz", x_test=x, y_test=y)
    recipe = get_recipe("tiny_imagenet").replace(epochs=2, batch_size=8, ema=0.5, image_sizes=((0, 32), (0.5, 64)))
    model = keras_resattn.ResidualAttention56(
        weights=None, classes=200, input_shape=(None, None, 3), classifier_activation=None
    )
    keras_resattn.compile_and_fit(model, recipe, (x, y), run_dir=tmp_path / "run", verbose=0)
    arguments = release_arguments(tmp_path) | {"classes": names, "dataset": "tiny", "mantissa_bits": 5}
    tag = write_release(tmp_path / "run", tmp_path / "weights", tag="tiny_v1", aliases=["default"], **arguments)
    assert (len(tag.classes), tag.input_shape) == (200, (64, 64, 3))
    assert {"test_correct_top5", "test_accuracy_top5_float32"} <= set(tag.metrics)
    card = (tag.folder / "README.md").read_text()
    assert "| top-5 accuracy | correct |" in card
    assert "class 198, with a comma; class 199, with a comma" in card
    assert '"image_sizes": [[0, 32], [0.5, 64]]' in card
    assert [result.metric_name for result in ModelCard(card).data.eval_results] == ["Accuracy", "Top-5 accuracy"]
    record = json.loads((tag.folder / "config.json").read_text())
    released = keras_resattn.ResidualAttention56(weights=tag.folder)
    assert record["macs"] == count_macs(released)
    loaded = keras.saving.load_model(tag.folder)
    images = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), released.predict(images, verbose=0))
    assert check_folder(tag).keys() == {path.name for path in tag.folder.iterdir()}


def test_a_network_of_any_depth_and_width_is_released_and_used_by_its_id(tmp_path, monkeypatch, capsys):
    """The registry does not list `WARN-10-1`."""
    write_run(tmp_path, randomise(create_model("WARN-10-1", weights=None, classes=3)))
    arguments = release_arguments(tmp_path)
    tag = write_release(tmp_path, tmp_path / "weights", tag="shapes_v1", aliases=["default"], **arguments)
    assert (tag.network, tag.id) == ("WARN-10-1", "WARN-10-1/shapes_v1")
    record = json.loads((tag.folder / "config.json").read_text())
    released = keras_resattn.WARN(depth=10, width=1, weights=tag.folder)
    assert record["macs"] == count_macs(released)
    assert record["parameters"] == sum(math.prod(weight.shape) for weight in released.trainable_weights)
    card = (tag.folder / "README.md").read_text()
    assert 'model = WARN(depth=10, width=1, weights="shapes_v1")' in card
    assert "rodriguez2018attend" in card
    assert "relevance for the predicted class, and the head that adds most" in card
    assert "multiply-adds as the paper counts them" in card
    assert (tag.folder / "attention.png").exists()

    monkeypatch.setenv("KERAS_RESATTN_WEIGHTS", str(tmp_path / "weights"))
    records.forget_tags()
    Image.new("RGB", (32, 32)).save(tmp_path / "image.png")
    cli.main(["info", "WARN-10-1"])
    more = 7 * (4 * 9 * (16 + 32 + 64) + 64 + 1)  # parameters for ten classes instead of three: heads and classifier
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert f"parameters {record['parameters'] + more} " in printed
    assert "released weights shapes_v1" in printed
    cli.main(["predict", str(tmp_path / "image.png"), "--weights", "WARN-10-1"])
    assert any(name in capsys.readouterr().out for name in CLASSES)


# --- Aliases -------------------------------------------------------------------------------------


def test_an_alias_moves_to_a_better_run_and_the_old_tag_stays(release, released_run):
    before = {path.name: path.read_bytes() for path in release.folder.iterdir()}
    folder = release.folder.parent
    write_release(
        released_run, folder, tag="shapes_v2", aliases=["shapes", "default"], **release_arguments(released_run)
    )
    assert [tag.tag for tag in pretrained.find("shapes")] == ["shapes_v2"]
    assert [tag.tag for tag in pretrained.find("default")] == ["shapes_v2"]
    assert [tag.aliases for tag in pretrained.find("shapes_v1")] == [()]
    assert {path.name: path.read_bytes() for path in release.folder.iterdir()} == before


def test_an_alias_must_not_be_a_tag(release, released_run):
    for alias in ("shapes_v1", "shapes_v2"):
        with pytest.raises(ValueError, match=f"not tags; received: {alias}"):
            write_release(
                released_run, release.folder.parent, tag="shapes_v2", aliases=[alias], **release_arguments(released_run)
            )
    assert not (release.folder.parent / "cifar_residual_attention56-shapes_v2").exists()


def test_a_release_whose_aliases_cannot_be_moved_leaves_nothing(release, released_run, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    before = sorted(path.name for path in release.folder.parent.iterdir())
    listed = records.read_sums(release.folder.parent)
    monkeypatch.setattr(records, "move_aliases", full)
    with pytest.raises(OSError, match="No space left"):
        write_release(
            released_run, release.folder.parent, tag="shapes_v2", aliases=["x"], **release_arguments(released_run)
        )
    assert sorted(path.name for path in release.folder.parent.iterdir()) == before
    assert records.read_sums(release.folder.parent) == listed
