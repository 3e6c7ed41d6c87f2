"""Training with a recipe: kinds of data, statistics, and validation."""

import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import Killed, killed_at
from training import RECIPE, X, Y

from keras_resattn import compile_and_fit
from keras_resattn.data import network_input


@pytest.mark.once
def test_an_npz_file(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y[:, None])
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), tmp_path / "data.npz", verbose=0)
    assert report.training_images == 20
    np.savez(tmp_path / "test.npz", x_test=X, y_test=Y)
    with pytest.raises(ValueError, match="x_train and y_train"):
        compile_and_fit(tiny(), RECIPE, tmp_path / "test.npz", verbose=0)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz to be an \.npz file"):
        compile_and_fit(tiny(), RECIPE, tmp_path / "text.npz", verbose=0)


@pytest.mark.once
def test_given_statistics_normalize_training_and_validation_images():
    given = ([20.0, 121.0, 222.0], [60.0, 31.0, 12.0])
    model, other = tiny(), tiny()
    report = compile_and_fit(
        model, RECIPE.replace(epochs=2), (X, Y), validation_data=(X, Y), statistics=given, verbose=0
    )
    assert (report.mean, report.std) == given
    loss, _ = model.evaluate(network_input(X, *given), Y, verbose=0)
    np.testing.assert_allclose(report.metrics["val_loss"], loss, rtol=1e-4)
    compile_and_fit(other, RECIPE.replace(epochs=2), (X, Y), verbose=0)
    assert np.abs(weights_of(model)[0] - weights_of(other)[0]).max() > 1e-3, "training images too"


def test_images_on_the_device_give_the_same_weights(tmp_path):
    recipe = RECIPE.replace(cutout=8, mixup=0.2, ema=0.5)
    host, device = tiny(), tiny()
    reference = compile_and_fit(host, recipe, (X, Y), validation_data=(X[:5], Y[:5]), verbose=0)
    report = compile_and_fit(
        device, recipe, (X, Y), validation_data=(X[:5], Y[:5]), run_dir=tmp_path, device_data=True, verbose=0
    )
    for a, b in zip(weights_of(host), weights_of(device), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(report.metrics["val_loss"], reference.metrics["val_loss"], rtol=1e-4)
    with np.load(tmp_path / "checkpoint.npz") as checkpoint:
        assert not any(checkpoint[name].nbytes >= X.nbytes for name in checkpoint.files), "without the images"
    compile_and_fit(tiny(), recipe, (X, Y), validation_data=(X[:5], Y[:5]), run_dir=tmp_path, verbose=0)


class Batches:
    """Batches of 8 images; the last one has 4."""

    def __len__(self):
        return 3

    def __iter__(self):
        return ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8))


def test_a_stream_trains_validates_and_resumes(tmp_path):
    uninterrupted, resumed = tiny(), tiny()
    report = compile_and_fit(uninterrupted, RECIPE, Batches(), validation_data=Batches(), verbose=0)
    loss, _ = uninterrupted.evaluate(network_input(X, report.mean, report.std), Y, verbose=0)
    np.testing.assert_allclose(report.metrics["val_loss"], loss, rtol=1e-4, err_msg="includes the last, smaller batch")
    with pytest.raises(Killed):
        compile_and_fit(
            tiny(), RECIPE, Batches(), run_dir=tmp_path, verbose=0, checkpoint_steps=1, callbacks=killed_at(4)
        )
    compile_and_fit(resumed, RECIPE, Batches(), run_dir=tmp_path, verbose=0)
    for a, b in zip(weights_of(uninterrupted), weights_of(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"recipe\.replace\(batch_size=8\)"):
        compile_and_fit(tiny(), RECIPE.replace(batch_size=10), Batches(), verbose=0)


@pytest.mark.once
def test_an_error_names_the_corrupt_image_of_a_folder(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        (tmp_path / "data" / f"class{y}").mkdir(parents=True, exist_ok=True)
        image_module.fromarray(x).save(tmp_path / "data" / f"class{y}" / f"{i}.png")
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), tmp_path / "data", verbose=0)
    assert np.isfinite(report.metrics["loss"])
    corrupt = tmp_path / "data" / f"class{Y[7]}" / "7.png"
    corrupt.write_bytes(corrupt.read_bytes()[:500])
    for batch_size in (4, 20):  # in the middle of an epoch, and in the first batch
        recipe = RECIPE.replace(batch_size=batch_size)
        with pytest.raises(ValueError, match=rf"class{Y[7]}.7\.png"):
            compile_and_fit(tiny(), recipe, tmp_path / "data", statistics=([0.0] * 3, [255.0] * 3), verbose=0)


@pytest.mark.once
def test_a_resumed_run_may_add_or_drop_validation_data(tmp_path):
    for first, then in ((None, (X, Y)), ((X, Y), None)):
        run = {"run_dir": tmp_path / str(first is None), "verbose": 0}
        with pytest.raises(Killed):
            compile_and_fit(tiny(), RECIPE, (X, Y), validation_data=first, callbacks=killed_at(3), **run)
        report = compile_and_fit(tiny(), RECIPE, (X, Y), validation_data=then, **run)
        assert ["val_loss" in row for row in report.history] == ([False, True, True] if then else [True, False, False])
        assert (run["run_dir"] / "report.json").exists()


@pytest.mark.once
def test_an_npz_file_with_validation_images(tmp_path):
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y, x_validation=X[:5], y_validation=Y[:5])
    path = tmp_path / "data.npz"
    report = compile_and_fit(tiny(), RECIPE.replace(epochs=2), path, validation_data=path, verbose=0)
    assert "val_loss" in report.metrics
