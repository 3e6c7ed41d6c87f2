"""Training with a recipe: wrong arguments raise before any work."""

import keras
import pytest
from helpers import tiny
from training import RECIPE, X, Y

from keras_resattn import compile_and_fit, optimize_for_inference

pytestmark = pytest.mark.once


def test_the_folder_of_another_run_is_not_touched(tmp_path):
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for recipe, data, resume in (
        (RECIPE.replace(seed=1), (X, Y), True),
        (RECIPE, (255 - X, Y), True),
        (RECIPE, (X, Y), False),
    ):
        with pytest.raises(ValueError, match=r"another run|empty run_dir"):
            compile_and_fit(tiny(), recipe, data, run_dir=tmp_path, resume=resume, verbose=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y + 1), "labels from 0 to 2"),
        ((X[:5], Y[:5]), "at least a batch of 8"),
        ((X[:, :16], Y), r"shape \(32, 32, 3\)"),
        ((X, Y[:-1]), "one integer label"),
        ((X, Y.astype("float32")), "one integer label"),
        ((X[0], Y), "shape"),
    ],
)
def test_data_that_do_not_fit(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), RECIPE, data, run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (RECIPE, {"steps_per_execution": 3}, "steps_per_execution=3"),
        (RECIPE, {"checkpoint_steps": 0}, "checkpoint_steps=0"),
        (RECIPE, {"checkpoint_steps": "5"}, "checkpoint_steps='5'"),
        (RECIPE, {"steps_per_execution": 1.0}, r"steps_per_execution=1\.0"),
        (RECIPE, {"statistics": ([1, 2], [3, 4])}, r"3 finite numbers each; received: \(\[1, 2\], \[3, 4\]\)"),
        (RECIPE, {"statistics": (1.0, 2.0)}, "3 finite numbers each"),
        (RECIPE, {"statistics": "x"}, "3 finite numbers each; received: 'x'"),
        (RECIPE, {"statistics": ([float("nan")] * 3, [1, 1, 1])}, "3 finite numbers each"),
        (RECIPE.replace(precision="mixed_bfloat16"), {}, "set_dtype_policy"),
        (RECIPE.replace(dropout=0.3), {}, "dropout=0.3"),
    ],
)
def test_arguments_that_do_not_fit_the_network(tmp_path, recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), recipe, (X, Y), run_dir=tmp_path / "run", verbose=0, **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": RECIPE.replace(epochs=4)}, "epochs is 3 there, 4 here"),
        ({"data": (255 - X, Y)}, "other images, labels or sample weights"),
        ({"statistics": ([0.0] * 3, [255.0] * 3)}, "statistics is None there"),
    ],
)
def test_the_error_lists_how_a_run_differs(tmp_path, change, message):
    arguments = {"recipe": RECIPE, "data": (X, Y), "run_dir": tmp_path, "verbose": 0}
    compile_and_fit(tiny(), **arguments)
    with pytest.raises(ValueError, match=message):
        compile_and_fit(tiny(), **{**arguments, **change})


def test_a_run_is_not_resumed_in_another_precision(tmp_path):
    compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        with pytest.raises(ValueError, match="precision is 'float32' there, 'mixed_bfloat16' here"):
            compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    finally:
        keras.config.set_dtype_policy(policy)


def test_a_network_with_outputs_of_unknown_meaning(tmp_path):
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1)(inputs))
    with pytest.raises(ValueError, match="received: GlobalAveragePooling2D"):
        compile_and_fit(keras.Model(inputs, outputs), RECIPE, (X, Y), run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["WideResNet-10-1", None, keras.Sequential([keras.layers.Conv2D(3, 1)])])
def test_a_model_that_is_not_a_classifier(model):
    with pytest.raises(ValueError, match=r"output of shape \(n, classes\)"):
        compile_and_fit(model, RECIPE, (X, Y), verbose=0)


def test_a_run_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        compile_and_fit(tiny(), RECIPE, (X, Y), run_dir=tmp_path / "file", verbose=0)


def test_a_warm_up_longer_than_the_run(tmp_path):
    with pytest.raises(ValueError, match="more than the 2 steps of the warm-up"):
        compile_and_fit(tiny(), RECIPE.replace(iterations=2), (X, Y), run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_network_without_trainable_weights(tmp_path):
    with pytest.raises(ValueError, match="Expected a network with trainable weights; received: tiny"):
        compile_and_fit(optimize_for_inference(tiny()), RECIPE, (X, Y), run_dir=tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()
