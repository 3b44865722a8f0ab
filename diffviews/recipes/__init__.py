"""Recipes: what a job is asked for, as one frozen value that travels as JSON. Every other form derives from it."""

from diffviews.recipes.atlas import AtlasRecipe
from diffviews.recipes.base import Execution, ModelRecipe, Recipe
from diffviews.recipes.extraction import EmbeddingRecipe, ExtractionRecipe
from diffviews.recipes.generation import DatasetRecipe, GenerationRecipe, Sampling
