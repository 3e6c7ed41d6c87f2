"""A run folder that a call cannot resume from raises an error, and nothing is changed."""

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import RECIPE, Killed, X, Y, files_of, killed_at, train

from keras_resattn import compile_and_fit
from keras_resattn.utils.locking import LOCK

RECIPE = RECIPE.replace(batch_size=10)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that was killed in its fourth step."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        train(folder, RECIPE, callbacks=killed_at(4), checkpoint_steps=1)
    before = files_of(folder)
    yield folder
    after = files_of(folder)
    assert after.pop(LOCK)[0] == before.pop(LOCK)[0]
    assert after == before


@pytest.mark.once
def test_a_checkpoint_of_another_network(killed):
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="checkpoint of this network"):
        compile_and_fit(keras.Model(inputs, outputs, name="tiny"), RECIPE, (X, Y), run_dir=killed, verbose=0)


def test_the_model_keeps_its_weights(killed):
    model = tiny(dropout=0.3)
    model.layers[1].trainable = False
    before = weights_of(model)
    with pytest.raises(ValueError, match="its optimizer has"):
        compile_and_fit(model, RECIPE, (X, Y), run_dir=killed, verbose=0)
    for a, b in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs single steps")
def test_steps_per_execution_that_do_not_divide_the_completed_steps(killed):
    with pytest.raises(ValueError, match="divide the 3 completed steps"):
        train(killed, RECIPE, steps_per_execution=2)


@pytest.mark.once
def test_a_stream_of_another_length(tmp_path):
    class Batches:
        def __init__(self, count):
            self.count = count

        def __len__(self):
            return self.count

        def __iter__(self):
            return ((X[i * 10 : i * 10 + 10], Y[i * 10 : i * 10 + 10]) for i in range(self.count))

    recipe = RECIPE.replace(mixup=0.0, cutmix=0.0)
    with pytest.raises(Killed):
        compile_and_fit(
            tiny(), recipe, Batches(3), run_dir=tmp_path, verbose=0, checkpoint_steps=1, callbacks=killed_at(3)
        )
    with pytest.raises(ValueError, match="steps_per_epoch is 3 there, 4 here"):
        compile_and_fit(tiny(), recipe, Batches(4), run_dir=tmp_path, verbose=0)
