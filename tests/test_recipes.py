"""Recipes: fields, serialisation, learning-rate schedules and optimizers."""

import json

import keras
import numpy as np
import pytest

import keras_resattn
from keras_resattn.recipes import RECIPES, Recipe, get_recipe
from keras_resattn.recipes.optimizers import CoupledAdam, CoupledSGD
from keras_resattn.recipes.schedules import WarmUp

RECIPE = get_recipe("cifar_one_cycle").replace(epochs=3, batch_size=8, warmup_epochs=1, learning_rate=0.05)
RNG = np.random.default_rng(0)


@pytest.mark.once
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.source


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"warmup_epochs": 3}, "warmup_epochs"),
        ({"momentum": 1}, "momentum"),
        ({"l2": -1}, "l2"),
        ({"pad": -1}, "pad"),
        ({"seed": -1}, "seed"),
        ({"epochs": 3, "iterations": 10}, "epochs"),
        ({"epochs": None}, "epochs"),
        ({"epochs": None, "iterations": 0}, "iterations"),
        ({"schedule": "linear"}, "schedule"),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": (0.6, 0.4)}, "milestones"),
        ({"schedule": "steps", "warmup_epochs": 0, "milestones": (60, 120)}, "milestones"),
        ({"milestones": (0.5,)}, "milestones"),
        ({"lr_decay_factor": 0}, "lr_decay_factor"),
        ({"pad_mode": "mirror"}, "pad_mode"),
        ({"normalization": "pixel"}, "normalization"),
        ({"cutout": 2.5}, "cutout"),
        ({"mixup": -0.1}, "mixup"),
        ({"cutmix": -1}, "cutmix"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"ema": 1}, "ema"),
        ({"nesterov": "yes"}, "nesterov"),
        ({"lr_multipliers": {"": -1}}, "lr_multipliers"),
        ({"lr_multipliers": 0.1}, "lr_multipliers"),
        ({"l2": "much"}, "l2"),
        ({"mixup": None}, "mixup"),
        ({"ema": "0.9"}, "ema"),
        ({"learning_rate": [0.1]}, "learning_rate"),
        ({"milestones": 0.5}, "milestones"),
        ({"optimizer": "adamv"}, "optimizer"),
        ({"l2": float("inf")}, "l2"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"clip_norm": float("inf")}, "clip_norm"),
        ({"milestones": (float("nan"),)}, "milestones"),
        ({"lr_multipliers": {"": float("inf")}}, "lr_multipliers"),
        ({"lr_multipliers": {1: 0.5}}, "lr_multipliers"),
        ({"warmup_epochs": np.float32("nan")}, "warmup_epochs"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"name": 3}, "name"),
        ({"optimizer": "adam", "lr_multipliers": {"": 0.1}}, "lr_multipliers"),
        ({"crop": "resize"}, "crop"),
        ({"augment": ["RandAugment"]}, "augment"),
        ({"augment": "RandAugment"}, "augment"),
        ({"label_noise": 1}, "label_noise"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps"),
        ({"precision": "float16"}, "precision"),
        ({"dropout": 1}, "dropout"),
        ({"deviations": "none"}, "deviations"),
    ],
)
def test_values_out_of_range_raise(change, message):
    with pytest.raises(ValueError, match=f"received: {message}="):
        RECIPE.replace(**change)


@pytest.mark.once
def test_unknown_presets_and_fields_raise_with_a_suggestion():
    with pytest.raises(ValueError, match="Did you mean 'cifar_one_cycle'"):
        get_recipe("cifar_two_cycle")
    with pytest.raises(ValueError, match=r"received: epoch\. Did you mean 'epochs'\?"):
        RECIPE.replace(epoch=3)
    with pytest.raises(ValueError, match=r"received: lr\. Did you mean 'learning_rate'\?"):
        RECIPE.replace(lr=1)
    with pytest.raises(
        ValueError, match=r"missing: batch_size, epochs, learning_rate, source; unknown: epoch.*'epochs'"
    ):
        Recipe.from_json('{"name": "x", "epoch": 3}')


@pytest.mark.once
@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "[1", ""])
def test_text_that_is_not_a_json_object_raises(text):
    with pytest.raises(ValueError, match=r"Expected a JSON object|Expecting value|Expecting ',' delimiter"):
        Recipe.from_json(text)


@pytest.mark.once
def test_numpy_values_are_converted_to_python():
    changes = {
        "epochs": np.int64(4),
        "learning_rate": np.float64(0.1),
        "warmup_epochs": np.float32(0.5),
        "flip": np.bool_(False),
        "schedule": "steps",
        "milestones": np.array([0.25, 0.5]),
        "lr_multipliers": {"": np.float64(0.5)},
        "clip_norm": np.array(2.0),
    }
    recipe = RECIPE.replace(**changes)
    assert recipe == Recipe.from_json(recipe.to_json())
    assert (type(recipe.epochs), type(recipe.flip), recipe.milestones) == (int, bool, (0.25, 0.5))


def test_cosine_with_warmup_is_one_cycle_counted_in_iterations():
    schedule = RECIPE.make_optimizer(steps_per_epoch=10)._learning_rate
    rate = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(31)]
    np.testing.assert_allclose(rate[:11], np.linspace(0, 0.05, 11), atol=1e-7)
    cosine = 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20)) / 2
    np.testing.assert_allclose(rate[10:], cosine, atol=1e-7)
    without_warmup = RECIPE.replace(warmup_epochs=0).make_optimizer(steps_per_epoch=10)._learning_rate
    np.testing.assert_allclose(float(keras.ops.convert_to_numpy(without_warmup(0))), 0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "rates"),
    [
        ("resattn_cifar", 1000, {0: 0.1, 63_999: 0.1, 64_000: 0.01, 95_999: 0.01, 96_000: 0.001, 159_999: 0.001}),
        ("warn_cifar", 390, {0: 0.1, 23_399: 0.1, 23_400: 0.02, 46_800: 0.004, 62_399: 0.004, 62_400: 0.0008}),
        ("columbia_adam", 195, {0: 1e-4, 19_499: 1e-4}),
        ("warn_finetune", 10, {0: 1e-2, 399: 1e-2, 400: 1e-3, 799: 1e-3, 800: 1e-4, 999: 1e-4}),
        ("resattn_imagenet", 5004, {199_999: 0.1, 200_000: 0.01, 400_000: 1e-3, 500_000: 1e-4, 529_999: 1e-4}),
        ("cluttered_mnist", 2000, {0: 0.1, 119_999: 0.1, 120_000: 0.01, 199_999: 0.01}),
    ],
)
def test_the_papers_schedules_decay_at_their_iterations(name, steps_per_epoch, rates):
    schedule = get_recipe(name).learning_rate_schedule(steps_per_epoch)
    for step, rate in rates.items():
        np.testing.assert_allclose(float(keras.ops.convert_to_numpy(schedule(step))), rate, rtol=1e-6)


@pytest.mark.once
def test_new_epochs_replace_iterations_and_vice_versa():
    short = get_recipe("resattn_cifar").replace(epochs=3)
    assert (short.epochs, short.iterations) == (3, None)
    counted = RECIPE.replace(iterations=50)
    assert (counted.epochs, counted.iterations, counted.length(20)) == (None, 50, 3)


@pytest.mark.once
def test_iterations_may_end_in_a_partial_epoch():
    paper = get_recipe("resattn_cifar")
    assert (paper.steps(50_000 // 64), paper.length(50_000 // 64)) == (160_000, 205)
    assert (paper.steps(1000), paper.length(1000)) == (160_000, 160)


def test_steps_with_warmup_survive_serialisation():
    recipe = RECIPE.replace(schedule="steps", milestones=(0.5,), epochs=4)
    schedule = recipe.learning_rate_schedule(steps_per_epoch=10)
    rates = {0: 0.0, 5: 0.025, 10: 0.05, 19: 0.05, 20: 0.005, 39: 0.005}
    for again in (schedule, WarmUp.from_config(json.loads(json.dumps(schedule.get_config())))):
        for step, rate in rates.items():
            np.testing.assert_allclose(float(keras.ops.convert_to_numpy(again(step))), rate, rtol=1e-6)


def test_accumulated_gradients_are_averaged_and_decayed_once():
    kernel = keras.Variable([[1.0, -2.0]])
    optimizer = RECIPE.replace(l2=0.5, gradient_accumulation_steps=2, warmup_epochs=0, momentum=0.0).make_optimizer(10)
    optimizer.build([kernel])
    for gradient in ([[0.2, 0.0]], [[0.4, 0.2]]):
        optimizer.apply([keras.ops.convert_to_tensor(np.array(gradient, "float32"))])
    rate = 0.05 * (1 + np.cos(np.pi / 30)) / 2  # learning rate of the second batch
    expected = np.array([[1.0, -2.0]]) - rate * (np.array([[0.3, 0.1]]) + 0.5 * np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), expected, rtol=1e-5)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 1


def test_clip_norm_applies_to_the_gradient_with_weight_decay():
    kernel = keras.Variable([[3.0, 0.0]])
    optimizer = RECIPE.replace(l2=1.0, clip_norm=1.0, warmup_epochs=0, momentum=0.0).make_optimizer(10)
    optimizer.build([kernel])
    optimizer.apply([keras.ops.convert_to_tensor(np.array([[0.0, 4.0]], "float32"))])
    expected = np.array([[3.0, 0.0]]) - 0.05 * np.array([[3.0, 4.0]]) / 5
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), expected, rtol=1e-5)


def test_adam_adds_coupled_decay_to_the_gradient():
    """Adam's first update is the learning rate times the sign of the gradient, which is only the decay here."""
    kernel, bias = keras.Variable([[1.0, -2.0]]), keras.Variable([3.0])
    recipe = RECIPE.replace(optimizer="adam", l2=0.1, warmup_epochs=0)
    optimizer = recipe.make_optimizer(10)
    assert isinstance(optimizer, CoupledAdam)
    optimizer.build([kernel, bias])
    optimizer.apply([keras.ops.zeros((1, 2)), keras.ops.zeros((1,))])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), [[0.95, -1.95]], rtol=1e-4)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), [3.0])
    assert CoupledAdam.from_config(optimizer.get_config()).l2 == 0.1


@pytest.mark.once
def test_augmentation_layers_are_stored_as_data():
    layer = keras.layers.RandomFlip("vertical", name="flip")
    recipe = RECIPE.replace(augment=[layer])
    assert recipe == Recipe.from_json(recipe.to_json())
    assert recipe == RECIPE.replace(augment=[keras.layers.serialize(layer)])
    assert keras.layers.deserialize(recipe.augment[0]).mode == "vertical"
    same = [RECIPE.replace(augment=[keras.layers.RandomFlip()]) for _ in range(2)]
    assert same[0] == same[1], "names that Keras generates are dropped"


def test_coupled_decay_excludes_vectors():
    """Two updates of v = m v + (g + l2 w); w -= lr v, as in PyTorch and Caffe, by hand."""
    kernel, bias = keras.Variable([[1.0, -2.0]]), keras.Variable([3.0])
    optimizer = CoupledSGD(0.1, l2=0.5, momentum=0.9)
    optimizer.build([kernel, bias])
    w, b, v_w, v_b = np.array([[1.0, -2.0]]), np.array([3.0]), 0.0, 0.0
    for _ in range(2):
        gradients = [keras.ops.convert_to_tensor(np.array(g, "float32")) for g in ([[0.3, 0.1]], [0.2])]
        optimizer.apply(gradients)
        v_w = 0.9 * v_w + np.array([[0.3, 0.1]]) + 0.5 * w
        v_b = 0.9 * v_b + 0.2
        w, b = w - 0.1 * v_w, b - 0.1 * v_b
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), w, rtol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), b, rtol=1e-6)
    assert CoupledSGD.from_config(optimizer.get_config()).l2 == 0.5


def test_decay_norm_and_bias_includes_vectors():
    bias = keras.Variable([3.0])
    optimizer = CoupledSGD(0.1, l2=0.5, decay_norm_and_bias=True)
    optimizer.build([bias])
    optimizer.apply([keras.ops.convert_to_tensor(np.array([0.2], "float32"))])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(bias), [3.0 - 0.1 * (0.2 + 0.5 * 3.0)], rtol=1e-6)
    assert CoupledSGD.from_config(optimizer.get_config()).decay_norm_and_bias


def steps(learning_rate, lr_multipliers=None):
    """Return the changes of three variables after three updates with momentum and L2."""
    variables = [keras.Variable([[1.0, -2.0]], name=name) for name in ("attention1_kernel", "group1_kernel", "gate")]
    optimizer = CoupledSGD(learning_rate, l2=0.5, momentum=0.9, nesterov=True, lr_multipliers=lr_multipliers)
    optimizer.build(variables)
    for step in (1, 2, 3):
        optimizer.apply([keras.ops.convert_to_tensor(np.array([[0.3, step]], "float32"))] * 3)
    return {v.name: keras.ops.convert_to_numpy(v) - np.array([[1.0, -2.0]], "float32") for v in variables}


def test_lr_multipliers_scale_the_learning_rate_of_groups():
    grouped = steps(0.1, {"attention": 1.0, "group": 0.2, "": 0.0})
    for name, rate in {"attention1_kernel": 0.1, "group1_kernel": 0.02, "gate": 0.0}.items():
        np.testing.assert_allclose(grouped[name], steps(rate)[name], rtol=1e-5)
        assert np.abs(grouped[name]).max() == 0 if rate == 0 else np.abs(grouped[name]).min() > 0.01


def test_the_first_pattern_that_matches_the_start_of_a_path_applies():
    plain = steps(0.1)
    grouped = steps(0.1, {"group1": 0.5, "group|attention1": 0.25, "attention": 3.0, "ate": 7.0})
    expected = {"attention1_kernel": steps(0.025), "group1_kernel": steps(0.05), "gate": plain}
    for name, same in expected.items():
        np.testing.assert_allclose(grouped[name], same[name], rtol=1e-5)
    for name, step in steps(0.1, {}).items():
        np.testing.assert_array_equal(step, plain[name])


def test_lr_multipliers_match_the_paths_of_a_networks_variables():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Dense(2, name="group1")(inputs)
    x = keras_resattn.layers.AttentionHead(2, "sigmoid", name="attention1_mask")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.compile(CoupledSGD(0.1, lr_multipliers={"attention|global_gate": 1.0, "": 0.0}), "mse")
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    model.train_on_batch(RNG.normal(size=(2, 4, 4, 3)), np.ones((2, 2)))
    moved = [
        v.path for v in model.trainable_variables if not np.array_equal(keras.ops.convert_to_numpy(v), before[v.path])
    ]
    assert list(before) == ["group1/kernel", "group1/bias", "attention1_mask/conv/kernel"]
    assert moved == ["attention1_mask/conv/kernel"]


def test_lr_multipliers_survive_serialisation_in_order():
    lr_multipliers = {"b": 0.1, "a": 2.0, "": 0.5}
    configuration = json.loads(
        json.dumps(keras.saving.serialize_keras_object(CoupledSGD(lr_multipliers=lr_multipliers)))
    )
    restored = keras.saving.deserialize_keras_object(configuration)
    assert list(restored.lr_multipliers.items()) == list(lr_multipliers.items()), "order is kept"
    assert CoupledSGD().get_config()["lr_multipliers"] == {}
