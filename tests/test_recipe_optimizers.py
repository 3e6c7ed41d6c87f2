"""Any Keras optimizer trains a recipe, with its schedule, weight decay, EMA, clipping and accumulation."""

import json

import keras
import numpy as np
import pytest
from helpers import weights_of
from resuming import RECIPE, Killed, killed_at, train

from keras_resattn.recipes import Recipe
from keras_resattn.recipes.optimizers import build_optimizer

ADAMW = RECIPE.replace(optimizer="adamw", l2=0.0, weight_decay=0.05, learning_rate=0.01)


@keras.saving.register_keras_serializable(package="tests")
class Halving(keras.optimizers.SGD):
    """A custom optimizer with a variable that its updates change."""

    def build(self, variables):
        super().build(variables)
        self.scale = self.add_variable((), initializer="ones", name="scale")

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate * self.scale)

    def apply(self, grads, trainable_variables=None):
        self.scale.assign(self.scale * 0.9)
        super().apply(grads, trainable_variables)


@pytest.mark.parametrize(
    "optimizer",
    [
        "lion",
        pytest.param("Nadam", marks=pytest.mark.once),
        pytest.param(keras.optimizers.Muon(0.05, ns_steps=2), marks=pytest.mark.once),
        pytest.param({"class_name": "rmsprop", "config": {"rho": 0.8}}, marks=pytest.mark.once),
        Halving(0.05, momentum=0.5),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_any_keras_optimizer_resumes_exactly(tmp_path, optimizer):
    recipe = RECIPE.replace(optimizer=optimizer, l2=0.0, mixup=0.0, cutmix=0.0)
    assert recipe == Recipe.from_json(recipe.to_json())
    whole, _ = train(recipe=recipe)
    with pytest.raises(Killed):
        train(tmp_path, recipe, callbacks=killed_at(8), checkpoint_steps=1)
    resumed, report = train(tmp_path, recipe)
    assert json.loads(json.dumps(report.recipe))["optimizer"] == recipe.optimizer
    for a, b in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adamw_resumes_with_ema_clipping_and_accumulation(tmp_path):
    recipe = ADAMW.replace(clip_norm=0.5, gradient_accumulation_steps=2)
    whole, report = train(recipe=recipe)
    with pytest.raises(Killed):
        train(tmp_path, recipe, callbacks=killed_at(8), checkpoint_steps=1)
    resumed, _ = train(tmp_path, recipe)
    for a, b in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    optimizer = resumed.optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.weight_decay, optimizer.beta_1) == (0.05, 0.9)
    rates = [float(keras.ops.convert_to_numpy(recipe.learning_rate_schedule(5)(step))) for step in (5, 10, 15)]
    np.testing.assert_allclose([row["learning_rate"] for row in report.history], rates, rtol=1e-5)


@pytest.mark.parametrize("vectors", [False, True])
def test_decoupled_decay_excludes_vectors(vectors):
    """Without gradients, an update is only the decay: w -= learning_rate * weight_decay * w."""
    kernel, bias = keras.Variable([[1.0, -2.0]]), keras.Variable([3.0])
    recipe = ADAMW.replace(warmup_epochs=0, decay_norm_and_bias=vectors, ema=None)
    optimizer = recipe.make_optimizer(1000)
    build_optimizer(optimizer, [kernel, bias], recipe.decay_norm_and_bias)
    optimizer.apply([keras.ops.zeros((1, 2)), keras.ops.zeros((1,))])
    left = 1 - 0.01 * 0.05
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), [[left, -2 * left]], rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), [3 * left if vectors else 3.0], rtol=1e-6)


def test_decay_exclusion_reaches_the_optimizer_inside_loss_scaling():
    keras.config.set_dtype_policy("mixed_float16")
    model, _ = train(recipe=ADAMW.replace(epochs=2))
    inner = model.optimizer.inner_optimizer
    decays = {v.path: inner._use_weight_decay(v) for v in model.trainable_variables}
    assert decays == {v.path: len(v.shape) > 1 for v in model.trainable_variables}


@pytest.mark.once
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamv"}, "one of 'adadelta', .*'adamw'"),
        ({"optimizer": 3}, "a name, a keras.optimizers.Optimizer"),
        ({"optimizer": {"class_name": "Mine", "config": {}}}, "registered class"),
        ({"optimizer": {"class_name": "AdamW", "config": []}}, "dictionary 'config'"),
        ({"optimizer": keras.optimizers.AdamW(0.2)}, r"recipe's learning rate, 0\.05 \(pass the same"),
        ({"optimizer": keras.optimizers.AdamW(0.05, use_ema=True)}, "recipes have the field ema for it"),
        ({"optimizer": keras.optimizers.AdamW(0.05, global_clipnorm=1.0)}, "recipes have the field clip_norm for it"),
        ({"optimizer": keras.optimizers.SGD(0.05, clipnorm=1.0), "clip_norm": 1.0}, "which clips gradients itself"),
        ({"optimizer": keras.optimizers.AdamW(0.05), "weight_decay": 0.1}, "whose configuration has its own"),
        ({"optimizer": "muon", "weight_decay": 0.1}, "whose configuration has its own"),
        ({"optimizer": "adamw", "l2": 0.1}, r"whose decay is weight_decay \(decoupled\)"),
        ({"optimizer": "adamw", "lr_multipliers": {"": 0.1}}, "which does not use them"),
        ({"optimizer": "ScheduleFreeAdamW"}, "works without a schedule"),
        ({"optimizer": "LossScaleOptimizer"}, "Keras adds it itself"),
    ],
)
def test_optimizers_that_contradict_the_recipe_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.replace(**{"l2": 0.0, **changes})


@pytest.mark.once
def test_an_invalid_optimizer_configuration_raises_before_any_work(tmp_path):
    recipe = RECIPE.replace(optimizer={"class_name": "AdamW", "config": {"beta": 1}}, l2=0.0)
    with pytest.raises(ValueError, match="one that Keras can make"):
        train(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()
