"""Recipes: a config, a command and the figure that they gave, in a folder each."""

from ancestral.recipes.recipe import SHELF, Figure, Needs, Recipe, open_recipe, open_recipes
from ancestral.recipes.result import Result
from ancestral.recipes.running import Shortened, run_recipe
from ancestral.recipes.weights import load_recipe

__all__ = [
    "SHELF",
    "Figure",
    "Needs",
    "Recipe",
    "Result",
    "Shortened",
    "load_recipe",
    "open_recipe",
    "open_recipes",
    "run_recipe",
]
