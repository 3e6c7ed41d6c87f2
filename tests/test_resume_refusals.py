"""A run folder that a call cannot go on from is refused, and nothing is changed."""

import keras
import numpy as np
import pytest
from helpers import tiny, weights_of
from resuming import RECIPE, Killed, Stop, X, Y, kill, train

from keras_resattn import compile_and_fit


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(tmp_path)
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="checkpoint of this network"):
        compile_and_fit(keras.Model(inputs, outputs, name="tiny"), RECIPE, (X, Y), run_dir=tmp_path, verbose=0)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras runs single steps on PyTorch")
def test_going_on_with_other_steps_at_a_time_is_refused_where_some_would_be_lost(tmp_path):
    recipe = RECIPE.replace(batch_size=10)
    with pytest.raises(Killed):
        train(tmp_path, recipe, callbacks=[Stop(4, kill)], checkpoint_steps=1)
    with pytest.raises(ValueError, match="divide the 3 completed steps"):
        train(tmp_path, recipe, steps_per_execution=2)


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, callbacks=[Stop(8, kill)], checkpoint_steps=1)
    model = tiny(dropout=0.3)
    model.layers[1].trainable = False
    before = weights_of(model)
    with pytest.raises(ValueError, match="its optimizer has"):
        compile_and_fit(model, RECIPE, (X, Y), run_dir=tmp_path, verbose=0)
    for a, b in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stream_of_another_length_is_another_run(tmp_path):
    class Batches:
        def __init__(self, count):
            self.count = count

        def __iter__(self):
            return ((X[i * 8 : i * 8 + 8], Y[i * 8 : i * 8 + 8]) for i in range(self.count))

    recipe = RECIPE.replace(mixup=0.0, cutmix=0.0)
    with pytest.raises(Killed):
        compile_and_fit(
            tiny(), recipe, Batches(4), run_dir=tmp_path, verbose=0, checkpoint_steps=1, callbacks=[Stop(6, kill)]
        )
    with pytest.raises(ValueError, match="steps_per_epoch is 4 there, 5 here"):
        compile_and_fit(tiny(), recipe, Batches(5), run_dir=tmp_path, verbose=0)
