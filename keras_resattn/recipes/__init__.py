"""Training recipes, and the one call that runs them."""

from keras_resattn.recipes.fit import Report, compile_and_fit
from keras_resattn.recipes.recipe import RECIPES, Recipe, get_recipe

__all__ = ["RECIPES", "Recipe", "Report", "compile_and_fit", "get_recipe"]
