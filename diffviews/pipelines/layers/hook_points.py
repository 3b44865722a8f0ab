"""The `layers` command: a model's hook points with shapes and bytes."""

import math

from diffviews.pipelines.models import load_model
from diffviews.pipelines.workspace import Workspace
from diffviews.recipes.base import ModelRecipe


def layers(recipe: ModelRecipe, workspace: Workspace, device: str = "cpu") -> str:
    """List a model's hook points, their shapes, and what one sample's activation takes in float16.

    Args:
        recipe: the model and its weights.
        workspace: whose registry `models:/` addresses belong to.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    adapter = load_model(recipe, workspace, device=device)
    shapes = adapter.get_layer_shapes()
    rows = [
        (name, " × ".join(map(str, shapes[name])), f"{2 * math.prod(shapes[name]):,}")
        for name in adapter.hookable_layers
    ]
    total = sum(2 * math.prod(shape) for shape in shapes.values())
    rows = [("layer", "shape", "bytes a sample"), *rows, ("all", "", f"{total:,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {size:>{widths[2]}}" for name, shape, size in rows)
