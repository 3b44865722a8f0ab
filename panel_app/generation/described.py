"""A generation in words."""

from diffviews.recipes.generation import GenerationRecipe
from panel_app.model_facts import Asks
from panel_app.points import shortened


def describe(recipe: GenerationRecipe, classes: dict[int, str], asks: Asks = "class") -> tuple[str, str]:
    """Return a generation's title and detail: what was asked for, and what masked it."""
    label = recipe.class_label
    if asks == "prompt":
        title = f"“{shortened(recipe.prompt, 60)}”" if recipe.prompt else "empty prompt"
    elif asks == "nothing":
        title = "unconditional"
    elif label is None:
        title = "random class"
    elif label == -1:
        title = "uniform label"
    else:
        title = f"{label}: {classes[label]}" if classes.get(label) else f"class {label}"
    mask = f"{recipe.mode} by {len(recipe.sample_ids)}" if recipe.sample_ids else "no mask"
    return title, mask
