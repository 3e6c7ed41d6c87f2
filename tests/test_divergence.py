"""A NaN or infinite loss stops the training, names step and images, and never reaches a checkpoint."""

import keras
import numpy as np
import pytest
from helpers import tiny
from resuming import RECIPE, X, Y, train

from keras_resattn import compile_and_fit
from keras_resattn.recipes.run_folder import RunFolder


def test_the_error_names_step_images_and_checkpoint(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, 1):
                self.model.layers[-1].bias.assign([np.nan] * 3)

    with pytest.raises(FloatingPointError) as caught:
        train(tmp_path, checkpoint_steps=3, callbacks=[Poison()])
    images = np.random.default_rng((RECIPE.seed, 1)).permutation(len(X))[8:16]
    assert str(caught.value) == (
        f"The loss is nan since step 7 (epoch 2, step 2 of 5; images {', '.join(map(str, images))}). {tmp_path} holds "
        "the last good checkpoint, after step 6. Try a lower learning rate or a longer warm-up."
    )
    arrays, progress = RunFolder(tmp_path).load()
    assert progress["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_an_exploding_loss_writes_no_bad_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match=r"NaN or infinite|The loss is (nan|inf) since"):
        train(tmp_path, RECIPE.replace(learning_rate=1e30, momentum=0.0, ema=None), checkpoint_steps=1)
    arrays, progress = RunFolder(tmp_path).load()
    assert 1 <= progress["step"] < 15
    assert all(np.isfinite(array).all() for name, array in arrays.items() if "metrics" not in name)
    assert not {"model.weights.h5", "report.json"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.once
def test_a_folder_whose_run_never_reached_a_checkpoint_is_reused(tmp_path):
    recipe = RECIPE.replace(epochs=1, ema=None, warmup_epochs=0)
    with pytest.raises(FloatingPointError, match="No checkpoint was saved"):
        compile_and_fit(tiny(), recipe.replace(learning_rate=1e38), (X, Y), run_dir=tmp_path, verbose=0)
    assert compile_and_fit(tiny(), recipe, (X, Y), run_dir=tmp_path, verbose=0).metrics["epoch"] == 1
