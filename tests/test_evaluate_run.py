"""`evaluate_run` and `load_run`: any network that `compile_and_fit` trained, from the files of its run folder."""

import keras
import numpy as np
import pytest
from helpers import randomise
from networks import base_of, narrow_warn, small_cnn
from training import RECIPE, X, Y

from keras_resattn import ResidualAttentionNet, compile_and_fit
from keras_resattn.cli import main
from keras_resattn.data import network_input
from keras_resattn.evaluation import evaluate_run, load_run

# Some networks have more outputs than the images have classes.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:There are no training images")]

SHORT = RECIPE.replace(epochs=1, warmup_epochs=0.5)


def naive():
    """Build a network with naive attention learning; it has the same weights as one with residual learning."""
    rows = {"modules": (1, 0, 0), "mask_depth": (1, 1, 1), "p": 0, "t": 1, "widths": (4, 4, 4), "bottom_units": 1}
    rows |= {"classifier_activation": None}
    return ResidualAttentionNet(topology="cifar", weights=None, classes=3, learning="naive", **rows)


NETWORKS = {
    "probabilities": lambda: base_of(small_cnn(size=32), "dense_softmax"),
    "logits": lambda: base_of(small_cnn(size=32), "dense_logits"),
    "gated log-probabilities": lambda: narrow_warn(classes=3, classifier_activation=None),
    "an ablation": naive,
}


def train(model, run_dir):
    return compile_and_fit(randomise(model), SHORT, (X, Y), run_dir=run_dir, verbose=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Function that returns `(run_dir, model, report)` of a network trained for one epoch. Tests only read the run."""
    runs = {}

    def get(kind):
        if kind not in runs:
            run_dir, model = tmp_path_factory.mktemp("runs") / "run", NETWORKS[kind]()
            runs[kind] = run_dir, model, train(model, run_dir)
        return runs[kind]

    return get


@pytest.fixture
def run_dir(trained):
    """The folder of a run whose network returns logits."""
    return trained("logits")[0]


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_run_evaluates_like_its_network(trained, kind):
    run_dir, model, report = trained(kind)
    found = evaluate_run(run_dir, (X, Y), batch_size=8)
    outputs = model.predict(network_input(X, report.mean, report.std), verbose=0)
    np.testing.assert_array_equal(found.predictions, outputs.argmax(1))
    assert found.correct == (outputs.argmax(1) == Y).sum()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind != "probabilities")(Y, outputs)
    assert found.loss == pytest.approx(float(loss), rel=1e-4)
    assert (found.total, found.changed) == (20, None)


def test_a_run_loads_as_a_model(trained):
    run_dir, model, report = trained("an ablation")
    x = network_input(X, report.mean, report.std)
    np.testing.assert_allclose(
        load_run(run_dir).predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_the_command_line_evaluates_a_run(run_dir, tmp_path, capsys):
    np.savez(tmp_path / "data.npz", x_test=X[:5], y_test=Y[:5])
    assert main(["evaluate", "--run-dir", str(run_dir), "--data", str(tmp_path / "data.npz")]) == 0
    correct = evaluate_run(run_dir, (X[:5], Y[:5])).correct
    assert f"run on {keras.backend.backend()}: {correct} of 5 correct" in capsys.readouterr().out


@pytest.mark.once
def test_a_run_and_released_weights_exclude_each_other(tmp_path):
    with pytest.raises(SystemExit):
        main(["evaluate", "--run-dir", "run", "--weights", "cifar10", "--data", "data.npz"])


class Two:
    """A number that cannot be serialised."""

    def __float__(self):
        return 2.0


class Double(keras.layers.Layer):
    """A custom layer that is not registered with Keras."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * float(self.factor)


@pytest.mark.once
@pytest.mark.parametrize(
    ("factor", "message"),
    [(2.0, r"layers that Keras can read.*register_keras_serializable"), (Two(), "cannot be written")],
    ids=["read", "written"],
)
def test_a_layer_that_cannot_be_loaded_raises(tmp_path, factor, message):
    inputs, features = small_cnn(size=32)
    train(base_of((inputs, Double(factor)(features))), tmp_path / "run")
    assert (tmp_path / "run" / "report.json").exists(), "the run itself is complete"
    with pytest.raises(ValueError, match=rf"{message}.*load_weights"):
        evaluate_run(tmp_path / "run", (X, Y))


@pytest.mark.once
@pytest.mark.parametrize(
    ("x", "message"),
    [(X[:, :16], r"Expected images of shape \(32, 32, 3\)"), (X[..., :1], r"shape \(32, 32, 3\)")],
    ids=["size", "channels"],
)
def test_images_that_do_not_fit_the_network_raise(run_dir, x, message):
    with pytest.raises(ValueError, match=message):
        evaluate_run(run_dir, (x, Y))


@pytest.mark.once
def test_a_run_with_the_other_data_format_raises(run_dir):
    keras.config.set_image_data_format("channels_first")
    with pytest.raises(ValueError, match=r"set_image_data_format\('channels_last'\)"):
        evaluate_run(run_dir, (X, Y))


@pytest.mark.once
def test_batch_sizes_are_checked(tmp_path):
    with pytest.raises(ValueError, match="batch_size=0"):
        evaluate_run(tmp_path, (X, Y), batch_size=0)


@pytest.mark.once
def test_data_dir_without_a_dataset_name_raises(run_dir, tmp_path):
    with pytest.raises(ValueError, match="data_dir only with the name of a dataset"):
        evaluate_run(run_dir, (X, Y), data_dir=tmp_path)


@pytest.mark.once
def test_a_folder_of_runs_raises_with_their_names(run_dir):
    with pytest.raises(ValueError, match=r"no report\.json\. Its subfolders hold finished runs: run\."):
        evaluate_run(run_dir.parent, (X, Y))


@pytest.mark.once
def test_a_missing_folder_raises(tmp_path):
    with pytest.raises(ValueError, match=r"finished run; there is no folder .*nowhere"):
        evaluate_run(tmp_path / "nowhere", (X, Y))


@pytest.mark.once
def test_an_unfinished_run_raises(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"finished run; .* has no report\.json\. Let the run finish first"):
        evaluate_run(tmp_path, (X, Y))
