"""Recipes: a config, a command and the figure that they gave, in a folder each."""

from ancestral.experiments.recipes.recipe import SHELF, Figure, Needs, Recipe, open_recipe, open_recipes
from ancestral.experiments.recipes.result import Result
from ancestral.experiments.recipes.running import Shortened, run_recipe
from ancestral.experiments.recipes.weights import load_recipe

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
