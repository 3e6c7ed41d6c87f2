"""Values that the fields of a recipe accept: one table of fields, and one of the rules between fields."""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_resattn.utils.validation import is_integer

#: Optimizers that use the `momentum` of a recipe; the first two also its `l2`.
OWN_OPTIMIZERS = ("sgd", "adam", "adamw")


def plain(value: Any) -> Any:
    """Return a value with NumPy numbers and arrays converted to Python numbers and lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def check_fields(recipe: Any) -> None:
    """Raise a `ValueError` if a field holds a value that it does not accept, whatever the other fields are."""
    for field, (expected, accepts) in FIELDS.items():
        _require(recipe, field, accepts(getattr(recipe, field)), expected)


def check_rules(recipe: Any) -> None:
    """Raise a `ValueError` if fields contradict each other."""
    for field, expected, holds in RULES:
        _require(recipe, field, holds(recipe), expected.format_map(vars(recipe)))


def layers_as_data(layers: Any) -> list[Any]:
    """Serialise augmentation layers, without their names: those that Keras makes up differ between sessions."""
    return [_without_names(_serialized(each)) for each in layers]


def _require(recipe, field, holds, expected):
    if not holds:
        raise ValueError(
            f"Expected {field} of a recipe to be {expected}; received: {field}={getattr(recipe, field)!r}."
        )


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _is_list(value, accepts):
    return isinstance(value, (list, tuple)) and all(map(accepts, value))


def _is_rising(values):
    return list(values) == sorted(set(values))


def _is_keras_layer(value):
    """Return whether a value is a layer. Without Keras there are none: recipes are read and checked without it."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(value, keras.Layer)


def _serialized(layer):
    return sys.modules["keras"].layers.serialize(layer) if _is_keras_layer(layer) else layer


def _without_names(value):
    if isinstance(value, (list, tuple)):
        return [_without_names(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: _without_names(item) for key, item in value.items()}
    if str(value.get("module", "")).startswith("keras.layers") and isinstance(value.get("config"), dict):
        value["config"] = {key: item for key, item in value["config"].items() if key != "name"}
    return value


Check = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _optional(check: Check) -> Check:
    return f"None, or {check[0]}", lambda value: value is None or check[1](value)


def _count(least: int) -> Check:
    return f"an integer of at least {least}", lambda value: is_integer(value) and value >= least


def _choice(*values: Any) -> Check:
    return f"one of {', '.join(map(repr, values))}", lambda value: value in values


def _number(expected: str, in_range: Callable[[float], bool]) -> Check:
    return f"a number {expected}", lambda value: _is_number(value) and in_range(value)


def _is_layer(value):
    return _is_keras_layer(value) or (isinstance(value, dict) and "class_name" in value)


def _are_milestones(value):
    return _is_list(value, _is_number) and _is_rising(value) and all(0 < each < 1 for each in value)


def _are_multipliers(value):
    return isinstance(value, dict) and all(
        isinstance(pattern, str) and _is_number(factor) and factor >= 0 for pattern, factor in value.items()
    )


def _are_areas(value):
    return _is_list(value, _is_number) and len(value) == 2 and 0 < value[0] <= value[1] <= 1


def _are_image_sizes(value):
    if not _is_list(value, lambda pair: _is_list(pair, _is_number) and len(pair) == 2 and COUNT[1](pair[1])):
        return False
    starts = [start for start, _ in value]
    return _is_rising(starts) and starts[:1] in ([], [0]) and all(start < 1 for start in starts)


STRING: Check = ("a string", lambda value: isinstance(value, str))
FLAG: Check = ("True or False", lambda value: isinstance(value, bool))
COUNT, COUNT_FROM_0 = _count(1), _count(0)
POSITIVE = _number("above 0", lambda value: value > 0)
NOT_NEGATIVE = _number("of at least 0", lambda value: value >= 0)
BELOW_1 = _number("from 0 to below 1", lambda value: 0 <= value < 1)

#: What each field accepts. `optimizer` is checked by `serialize_optimizer`.
FIELDS: dict[str, Check] = {
    "name": STRING,
    "source": STRING,
    "epochs": _optional(COUNT),
    "iterations": _optional(COUNT),
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "warmup_epochs": NOT_NEGATIVE,
    "schedule": _choice("cosine", "steps"),
    "milestones": ("a list of rising fractions of the run, between 0 and 1", _are_milestones),
    "lr_decay_factor": _number("above 0, up to 1", lambda value: 0 < value <= 1),
    "lr_multipliers": ("a dictionary of patterns and factors of at least 0", _are_multipliers),
    "momentum": BELOW_1,
    "nesterov": FLAG,
    "l2": NOT_NEGATIVE,
    "weight_decay": _optional(NOT_NEGATIVE),
    "decay_norm_and_bias": FLAG,
    "clip_norm": _optional(POSITIVE),
    "gradient_accumulation_steps": COUNT,
    "ema": _optional(BELOW_1),
    "crop": _choice("pad", "inception"),
    "crop_area": ("two fractions of the image in rising order, above 0 and up to 1", _are_areas),
    "pad": COUNT_FROM_0,
    "pad_mode": _choice("zeros", "reflect"),
    "flip": FLAG,
    "image_sizes": ("pairs (start, size) of rising fractions of the run from 0 and of pixels", _are_image_sizes),
    "augment": (
        "a list of keras.layers, or of their serialised forms",
        lambda value: _is_list(value, _is_layer),
    ),
    "normalization": _choice("channel", "pixel_mean", "unit", "imagenet", "none"),
    "cutout": COUNT_FROM_0,
    "mixup": NOT_NEGATIVE,
    "cutmix": NOT_NEGATIVE,
    "label_smoothing": BELOW_1,
    "label_noise": BELOW_1,
    "precision": _choice(None, "float32", "mixed_bfloat16", "mixed_float16"),
    "dropout": _optional(BELOW_1),
    "seed": COUNT_FROM_0,
    "deviations": ("a list of strings", lambda value: _is_list(value, STRING[1])),
}


def _config(recipe):
    return {} if isinstance(recipe.optimizer, str) else recipe.optimizer["config"]


def _has_weight_decay(recipe):
    """Whether the optimizer brings weight decay of its own: in its configuration, or in defaults as Muon's."""
    name = recipe.optimizer if isinstance(recipe.optimizer, str) else recipe.optimizer["class_name"].lower()
    config = _config(recipe)
    return name == "muon" or any(key.endswith("weight_decay") and config[key] is not None for key in config)


def _clips_gradients(recipe):
    return any(_config(recipe).get(key) is not None for key in ("clipnorm", "clipvalue"))


#: Rules between fields: the field that the message names, what it is expected to be, and whether it is.
RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("epochs", "an integer, or None with iterations set", lambda r: (r.epochs is None) != (r.iterations is None)),
    ("warmup_epochs", "below its {epochs} epochs (change both)", lambda r: r.warmup_epochs < (r.epochs or math.inf)),
    ("milestones", "empty with schedule='cosine'", lambda r: r.schedule != "cosine" or not r.milestones),
    (
        "image_sizes",
        "empty with normalization='pixel_mean', the mean of one size",
        lambda r: r.normalization != "pixel_mean" or not r.image_sizes,
    ),
    (
        "lr_multipliers",
        "empty with optimizer={optimizer!r}, which does not use them",
        lambda r: r.optimizer == "sgd" or not r.lr_multipliers,
    ),
    (
        "l2",
        "0 with optimizer={optimizer!r}, whose decay is weight_decay (decoupled)",
        lambda r: r.optimizer in OWN_OPTIMIZERS[:2] or r.l2 == 0,
    ),
    (
        "weight_decay",
        "None with optimizer={optimizer!r}, whose configuration has its own",
        lambda r: r.weight_decay is None or not _has_weight_decay(r),
    ),
    (
        "clip_norm",
        "None with optimizer={optimizer!r}, which clips gradients itself",
        lambda r: r.clip_norm is None or not _clips_gradients(r),
    ),
)
