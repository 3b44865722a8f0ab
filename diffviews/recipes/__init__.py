"""Recipes: what a job is asked for, as one frozen value that travels as JSON. Every other form derives from it."""

from diffviews.recipes.base import ModelRecipe, Recipe
from diffviews.recipes.dataset import DatasetRecipe
from diffviews.recipes.embedding import EmbeddingRecipe
from diffviews.recipes.execution import Execution
from diffviews.recipes.extraction import ExtractionRecipe
from diffviews.recipes.generation import GenerationRecipe
from diffviews.recipes.sampling import Sampling
