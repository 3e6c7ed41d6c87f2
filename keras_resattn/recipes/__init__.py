"""Training recipes, and `compile_and_fit`, which trains a model with one."""

from typing import TYPE_CHECKING

from keras_resattn.recipes.presets import RECIPES, get_recipe
from keras_resattn.recipes.recipe import Recipe
from keras_resattn.utils import lazy

if TYPE_CHECKING:
    from keras_resattn.recipes import distribution
    from keras_resattn.recipes.fit import compile_and_fit
    from keras_resattn.recipes.report import Report

__all__ = ["RECIPES", "Recipe", "Report", "compile_and_fit", "distribution", "get_recipe"]

__getattr__, __dir__ = lazy.names(
    __name__, {"Report": "report", "compile_and_fit": "fit", "distribution": "distribution"}
)
