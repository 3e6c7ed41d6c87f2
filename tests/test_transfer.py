"""Transfer learning: weights that each phase trains and keeps, and how a run resumes."""

import keras
import numpy as np
import pytest
from helpers import assert_close, weights_by_path

from keras_resattn import attend_and_rectify, fine_tune, optimize_for_inference, preprocess_input, with_normalization
from keras_resattn.data import ArrayDataset, network_input
from keras_resattn.layers import PreActivationUnit
from keras_resattn.recipes import get_recipe, transfer_phases
from keras_resattn.recipes.backbone import Backbone
from keras_resattn.utils.data_format import image_shape

STATISTICS = ([100.0, 110.0, 120.0], [50.0, 60.0, 70.0])
HEAD = get_recipe("transfer_head").replace(batch_size=8, epochs=12, learning_rate=0.02)
TUNE = get_recipe("transfer_fine_tune").replace(batch_size=8, epochs=2, warmup_epochs=0, learning_rate=1e-3, pad=1)
RECIPES = {"head_recipe": HEAD, "fine_tune_recipe": TUNE}


def backbone(size=8, channels=3):
    """Return a network of two stages, 8 x 8 and 4 x 4, whose batch-norm statistics fit no data of these tests."""
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    inputs = x = keras.Input(image_shape(size, size, channels))
    for stage, strides in ((1, 1), (2, 2)):
        x = keras.layers.Conv2D(6, 3, strides, "same", name=f"stage{stage}_conv")(x)
        x = keras.layers.BatchNormalization(axis, name=f"stage{stage}_bn", moving_variance_initializer="ones")(x)
        x = keras.layers.ReLU(name=f"stage{stage}_relu")(x)
    return keras.Model(inputs, x, name="tiny")


def images(count=32, size=8, classes=2, seed=0):
    """Two kinds of images: bright on the left, bright on the right."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = rng.integers(0, 60, (count, size, size, 3))
    x[y == 0, :, : size // 2] += 150
    x[y == 1, :, :, 0] += 150
    return x.astype("uint8"), y


def run(base=None, data=None, **arguments):
    base = backbone() if base is None else base
    data = images() if data is None else data
    return fine_tune(base, data, **{"statistics": STATISTICS, "verbose": 0, **RECIPES, **arguments})


def changed(before, after):
    """Return the names of layers with a changed weight."""
    return {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}


class Counted(ArrayDataset):
    count = 0

    def read(self, rows, *args, **kwargs):
        self.count += len(rows)
        return super().read(rows, *args, **kwargs)


@pytest.mark.once
@pytest.mark.parametrize(
    ("data_format", "options"),
    [("channels_last", {"dropout": 0.2, "pooling": "max"}), ("channels_first", {})],
    indirect=["data_format"],
)
def test_the_first_phase_trains_a_classifier_on_features(data_format, options):
    base, dataset = backbone(), Counted(*images())
    x, y = images(16, seed=1)
    before = weights_by_path(base)
    model, report = run(base, dataset, validation_data=(x, y), unfreeze=None, **options)
    assert changed(before, weights_by_path(base)) == set()
    assert dataset.count == len(dataset), "each image goes through the network once, in however many epochs"
    assert len(report.head.history) == HEAD.epochs
    assert report.fine_tune is None
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(network_input(x, *STATISTICS), y, verbose=0)
    assert accuracy == report.head.metrics["val_accuracy"] == 1.0
    assert_close(loss, report.head.metrics["val_loss"], 1e-3)


@pytest.mark.once
def test_a_recipe_that_augments_trains_the_classifier_on_images(tmp_path):
    base, dataset = backbone(), Counted(*images()).with_resize_mode("pad")
    before = weights_by_path(base)
    recipe = HEAD.replace(flip=True, epochs=3)
    _, report = run(base, dataset, head_recipe=recipe, unfreeze=None, run_dir=tmp_path)
    assert dataset.count >= 3 * len(dataset)
    assert report.resize_mode == "pad"
    assert report.head.mean == STATISTICS[0]
    assert changed(before, weights_by_path(base)) == set()


@pytest.mark.once
def test_progressive_image_sizes_train_the_classifier_on_images():
    recipe = HEAD.replace(epochs=2, image_sizes=((0, 8), (0.5, 12)))
    _, report = run(backbone(size=None), images(size=12), head_recipe=recipe, unfreeze=None)
    assert report.head.mean == STATISTICS[0]


def test_the_second_phase_trains_the_last_stage_but_no_batch_normalisation(tmp_path):
    base = backbone()
    before = weights_by_path(base)
    model, report = run(base, images(size=12), validation_data=images(16, size=10))
    assert (report.size, report.resize_mode) == ((8, 8), "crop"), "images of another size are resized"
    assert report.unfrozen == ["stage2_conv", "stage2_bn", "stage2_relu"]
    assert changed(before, weights_by_path(base)) == {"stage2_conv"}
    assert [variable.path for variable in model.trainable_variables][-1] == "predictions/bias"
    assert report.fine_tune.metrics["val_accuracy"] == 1.0
    assert report.fine_tune.metrics["loss"] < report.head.history[0]["loss"]
    with_normalization(model, report.mean, report.std).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, _ = images(4)
    assert_close(loaded.predict(x, verbose=0), model.predict(network_input(x, *STATISTICS), verbose=0))


@pytest.mark.once
def test_frozen_layers_stay_frozen_in_a_saved_model(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for stage in (1, 2):
        x = PreActivationUnit(2, strides=stage, name=f"stage{stage}_unit")(x)
    base = keras.Model(inputs, x, name="composite")
    model, report = run(base, head_recipe=HEAD.replace(epochs=1), fine_tune_recipe=TUNE.replace(epochs=1))
    assert report.unfrozen == ["stage2_unit"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    trained = [variable.path.split("stage")[-1] for variable in model.trainable_variables]
    convolutions = [f"2_unit/{name}/kernel" for name in ("conv1", "conv2", "conv3", "projection")]
    assert sorted(trained) == [*convolutions, "predictions/bias", "predictions/kernel"]
    assert [variable.path.split("stage")[-1] for variable in loaded.trainable_variables] == trained


def test_both_phases_train_on_batches():
    x, y = images()

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return x[8 * index : 8 * index + 8], y[8 * index : 8 * index + 8]

    base = backbone()
    before = weights_by_path(base)
    head, tune = HEAD.replace(epochs=1), TUNE.replace(epochs=1)
    run(base, Batches(), classes=2, head_recipe=head, fine_tune_recipe=tune)
    assert changed(before, weights_by_path(base)) == {"stage2_conv"}
    with pytest.raises(ValueError, match="Expected classes with batches"):
        run(data=Batches())


class Killed(BaseException):
    pass


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise Killed


@pytest.mark.once
def test_a_killed_run_resumes_in_its_phase(tmp_path, monkeypatch):
    weights = backbone().get_weights()
    fit = transfer_phases.compile_and_fit

    def run_again(kill_in=None, run_dir=tmp_path):
        def fit_or_be_killed(*args, run_dir, **kwargs):
            callbacks = [Kill()] if kill_in and run_dir.name == kill_in else []
            return fit(*args, **{**kwargs, "run_dir": run_dir, "callbacks": callbacks})

        monkeypatch.setattr(transfer_phases, "compile_and_fit", fit_or_be_killed)
        base = backbone()
        base.set_weights(weights)
        keras.utils.set_random_seed(0)
        return run(base, run_dir=run_dir)

    expected, _ = run_again(run_dir=None)
    for phase in ("head", "fine_tune"):
        with pytest.raises(Killed):
            run_again(kill_in=phase)
    model, report = run_again()
    for a, b in zip(expected.get_weights(), model.get_weights(), strict=True):
        assert_close(a, b, 1e-4)
    finished, again = run_again(kill_in="anything")
    assert again.head.history == report.head.history, "a finished phase is not trained again"
    assert again.fine_tune.history == report.fine_tune.history
    for a, b in zip(finished.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_a_folder_of_another_run_is_refused(tmp_path, monkeypatch):
    def be_killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(transfer_phases, "compile_and_fit", be_killed)
    base = backbone()
    with pytest.raises(Killed):
        run(base, run_dir=tmp_path)
    with pytest.raises(ValueError, match="holds one of other dropout"):
        run(base, run_dir=tmp_path, dropout=0.1)
    with pytest.raises(ValueError, match=r"holds one of other unfrozen, data\."):
        run(base, images(seed=3), run_dir=tmp_path, unfreeze=None)
    with pytest.raises(ValueError, match="Expected an empty run_dir with resume=False"):
        run(base, run_dir=tmp_path, resume=False)
    base.set_weights([2 * array for array in base.get_weights()])
    with pytest.raises(ValueError, match=r"holds one of other weights.*has not been trained on"):
        run(base, run_dir=tmp_path)


def with_top():
    base = backbone()
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, keras.layers.Dense(2, activation="softmax")(x), name="classifier")


def with_gated_attention():
    return attend_and_rectify(with_top(), attention_depth=1)


def with_nested_gated_attention():
    return keras.Sequential([backbone().input, with_gated_attention()])


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "imagenet"}, r"one of the released checkpoints \(CifarResidualAttention56/.*received: imagenet"),
        ({"base": 3}, "network to be a keras.Model without its top, .* received: 3"),
        ({"base": "ResNet164"}, "received: ResNet164. None are released for it"),
        ({"base": "tiny_imagenet"}, "Several networks have this tag; pass one of ResidualAttention56/tiny_imagenet_v1"),
        ({"base": "CifarResidualAttention56/cifar10"}, "Expected no statistics with CifarResidualAttention56/"),
        ({"base": "CifarResidualAttention56"}, "Expected no statistics with CifarResidualAttention56/"),
        ({"base": with_top}, "without its top; it ends in a softmax"),
        (
            {"base": lambda: keras.Sequential([backbone().input, with_gated_attention()])},
            "a network with gated attention",
        ),
        ({"base": lambda: keras.Sequential([backbone()])}, r"to take images .* received: input None, output None"),
        ({"base": with_gated_attention}, "a network with gated attention, which is part of the top"),
        ({"base": with_nested_gated_attention}, "a network with gated attention, which is part of the top"),
        ({"statistics": None}, r"Expected statistics=\(mean, std\).*normalises its images itself"),
        ({"statistics": ([1.0], [1.0])}, "3 finite numbers each"),
        ({"data": (np.zeros((32, 8, 8, 1), "uint8"), np.arange(32) % 2)}, "Expected images of 3 channels for tiny"),
        ({"size": (16, 16)}, r"Expected size=\(height, width\) for tiny, which takes \(8, 8\)"),
        ({"data": (np.zeros((32, 8, 8, 3), "uint8"), np.zeros(32, int))}, "at least two classes; received: 1"),
        ({"head_recipe": "nothing"}, "Expected a Recipe or one of"),
        ({"head_recipe": (np.zeros(2), np.zeros(2))}, "Expected a Recipe or one of .* received: recipe=a tuple"),
        ({"base": lambda: optimize_for_inference(backbone())}, "which was optimised for inference. Pass the original"),
        ({"unfreeze": "stage2"}, "Expected unfreeze to be 'last_stage', a list"),
        ({"unfreeze": []}, "Expected unfreeze to be"),
        ({"unfreeze": ["stage2", "stage7"]}, "received: 'stage7'. Its layers are .*stage1_conv"),
        ({"pooling": None}, "Expected pooling to be one of 'avg', 'max'"),
        ({"dropout": 1.0}, "Expected dropout"),
        ({"classes": 1}, "Expected classes to be an integer of at least 2"),
        ({"data": images(32), "classes": 2, "validation_data": images(32, classes=3)}, "labels from 0 to 1"),
        ({"data": images(7)}, r"batch of 8 images for head_recipe; received: 7.* --head-set batch_size=7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_wrong_arguments_raise_before_any_work(arguments, message, tmp_path):
    base = arguments.pop("base", None)
    with pytest.raises(ValueError, match=message):
        run(base() if callable(base) else base, run_dir=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("unfreeze", "trained"),
    [
        (None, []),
        (["stage1", "stage2_bn"], ["stage1_conv"]),
        ([""], ["stage1_conv", "stage2_conv"]),
        ("last_stage", ["stage2_conv"]),
    ],
)
def test_patterns_select_the_layers_to_unfreeze(unfreeze, trained):
    base = Backbone(backbone(), "tiny", STATISTICS, (8, 8))
    base.unfreeze(base.layers(unfreeze))
    paths = [variable.path for variable in base.model.trainable_variables]
    assert paths == [f"{layer}/{name}" for layer in trained for name in ("kernel", "bias")]


@pytest.mark.once
def test_batch_normalisation_inside_composite_layers_stays_frozen(narrow_network):
    base = Backbone(narrow_network(include_top=False), "", (), ())
    base.unfreeze(base.layers("last_stage"))
    trained = [variable.path for variable in base.model.trainable_variables]
    assert "stage3_unit1/conv2/kernel" in trained
    assert not any("/bn" in path or "_bn/" in path for path in trained)
    assert all(path.startswith("stage3_") for path in trained)


@pytest.mark.once
def test_a_network_of_open_size_takes_the_images_size():
    found = Backbone.find(backbone(size=None), ArrayDataset(*images(size=12)), STATISTICS)
    assert found.size == (12, 12)
    with pytest.raises(ValueError, match=r"Expected patterns|Pass patterns"):
        found.layers("last_stage")


@pytest.mark.once
def test_the_last_stage_of_a_residual_attention_network(narrow_network):
    names = Backbone(narrow_network(include_top=False, modules=(1, 1, 1)), "", (), ()).layers("last_stage")
    assert names[0] == "stage3_unit1"
    assert names[-1] == "post_relu"
    assert all(name.startswith(("stage3", "post")) for name in names)


@pytest.mark.once
def test_squeeze_and_excitation_does_not_start_a_stage():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, 2, "same", name="conv1")(inputs)
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    x = keras.layers.Multiply(name="excite")([x, keras.layers.Conv2D(4, 1, name="gate")(squeezed)])
    x = keras.layers.Conv2D(4, 3, 2, "same", name="conv2")(x)
    x = keras.layers.ReLU(name="relu2")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    assert Backbone(model, "", (), ()).layers("last_stage") == ["conv2", "relu2", "pool"]


@pytest.mark.once
def test_a_network_without_stages_needs_patterns():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match="Pass patterns of its layer names"):
        Backbone(model, "", (), ()).layers("last_stage")


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:The weights expect three input channels")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tag_brings_its_statistics_and_its_size(channels):
    x = np.random.default_rng(0).integers(0, 256, (2, 28, 28, channels), dtype="uint8")
    found = Backbone.find("CifarResidualAttention56/cifar10", ArrayDataset(x, [0, 1]))
    assert found.size == (32, 32)
    assert found.model.input_shape == (None, 32, 32, channels)
    assert len(found.model.output_shape) == 4
    assert_close(network_input(x, *found.statistics), preprocess_input(x, weights="cifar10"))


def test_with_normalization_takes_images_from_0_to_255(data_format, tmp_path):
    base = backbone()
    x, _ = images(4)
    if data_format == "channels_first":
        x = np.moveaxis(x, -1, 1)
    mean, std = ([100.0, 110.0, 120.0], [50.0, 0.0, 70.0])
    model = with_normalization(base, mean, std)
    expected = base.predict(network_input(images(4)[0], mean, std), verbose=0)
    assert_close(model.predict(x, verbose=0), expected)
    assert_close(keras.ops.convert_to_numpy(model(x)), expected)
    model.save(tmp_path / "model.keras")
    assert_close(keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0), expected)
    with pytest.raises(ValueError, match="3 finite numbers each"):
        with_normalization(base, [0.0], [1.0])
