"""Training recipes, and the one call that runs them."""

from keras_resattn.recipes import distribution
from keras_resattn.recipes.fit import Report, compile_and_fit
from keras_resattn.recipes.named import RECIPES, get_recipe
from keras_resattn.recipes.recipe import Recipe

__all__ = ["RECIPES", "Recipe", "Report", "compile_and_fit", "distribution", "get_recipe"]
