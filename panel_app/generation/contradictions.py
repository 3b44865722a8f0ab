"""What in a recipe contradicts the model or itself, said while it is being filled in and not after waiting for it."""

from collections.abc import Mapping

from diffviews.errors import ConfigError
from diffviews.recipes.generation import GenerationRecipe
from panel_app.model_facts import ModelFacts

Shapes = Mapping[str, tuple[int, ...]]
"""{layer: shape of its output}, (C, H, W) or (T, C)."""

_MANY_CAPTURES = 256
"""So many samples captured anew at each step are worth a word."""


def check_recipe(recipe: GenerationRecipe, facts: ModelFacts, shapes: Shapes) -> None:
    """Refuse what cannot be followed, or would have no effect although it is asked for.

    Args:
        recipe: what the form holds.
        facts: of the model.
        shapes: of the masked layers, as far as they are known.

    Raises:
        ConfigError: with the fields that contradict each other, and a remedy.
    """
    sampling = recipe.sampling
    high = facts.sigma_max if sampling.sigma_max is None else sampling.sigma_max
    low = facts.sigma_min if sampling.sigma_min is None else sampling.sigma_min
    if high is not None and low is not None and low >= high:
        raise ConfigError(f"σ goes from {high:g} to {low:g}; the first must be the larger one")
    if sampling.s_max is not None and sampling.s_max < sampling.s_min:
        raise ConfigError(
            f"churn is asked from σ {sampling.s_min:g} up to {sampling.s_max:g}; the second must not be smaller"
        )
    if recipe.sample_ids:
        check_channels(recipe.channels, shapes)
        check_region(recipe.region, shapes)
        _check_effect(recipe, facts)


def check_channels(channels: tuple[int, ...] | None, shapes: Shapes) -> None:
    """Refuse channels that a layer lacks.

    Raises:
        ConfigError: with the channels that it has.
    """
    for layer, shape in shapes.items():
        count = shape[0] if len(shape) == 3 else shape[-1]
        if channels and max(channels) >= count:
            raise ConfigError(f"“Channels” names {max(channels)}, but {layer} has the channels 0 to {count - 1}")


def check_region(region: tuple[int, int, int, int] | None, shapes: Shapes) -> None:
    """Refuse a region (top, left, height, width) that does not lie on the grid of each layer.

    Raises:
        ConfigError: if a layer has no grid, or the region leaves it.
    """
    if region is None:
        return
    top, left, height, width = region
    if min(top, left) < 0 or min(height, width) < 1:
        raise ConfigError(f"the region starts at {top}, {left} and is {height} high and {width} wide; it needs a size")
    for layer, shape in shapes.items():
        if len(shape) != 3:
            raise ConfigError(f"{layer} has no grid: its output is {shape[0]} tokens; mask it without a region")
        if top + height > shape[1] or left + width > shape[2]:
            raise ConfigError(
                f"the region ends at row {top + height} and column {left + width}, but the grid of {layer} is "
                f"{shape[1]} high and {shape[2]} wide"
            )


def _check_effect(recipe: GenerationRecipe, facts: ModelFacts) -> None:
    if recipe.mode != "replace" and recipe.strength == 0:
        raise ConfigError("the strength is 0, so the mask would change nothing; raise it, or select no samples")
    passes = _passes(recipe, facts)
    if recipe.passes != "both" and recipe.passes not in passes:
        remedy = "choose both passes" if facts.asks == "nothing" else "choose both passes, or another guidance"
        raise ConfigError(
            f"the mask acts on the {recipe.passes} pass only, but the model is run by its {passes[0]} pass alone; "
            f"{remedy}"
        )


def _passes(recipe: GenerationRecipe, facts: ModelFacts) -> tuple[str, ...]:
    """Return the passes that are run: guidance 0 and 1 need one each."""
    guidance = facts.default_guidance if recipe.sampling.guidance_scale is None else recipe.sampling.guidance_scale
    if facts.asks == "nothing" or guidance == 0:
        return ("unconditional",)
    return ("conditional",) if guidance == 1 else ("conditional", "unconditional")


def remarks(recipe: GenerationRecipe, facts: ModelFacts) -> tuple[str, ...]:
    """Return sentences on what is possible but may surprise."""
    sentences = []
    guidance = facts.default_guidance if recipe.sampling.guidance_scale is None else recipe.sampling.guidance_scale
    if recipe.negative_prompt and guidance == 1:
        sentences.append("At guidance 1 the negative prompt has no effect.")
    if recipe.target == "matched" and len(recipe.sample_ids) >= _MANY_CAPTURES:
        sentences.append(
            f"{len(recipe.sample_ids):,} samples are captured anew at every step, which takes as long as generating "
            "as many images."
        )
    if recipe.sampling.noise_mode == "zero" and recipe.num_samples > 1:
        sentences.append("Without noise all images start alike, so those of one class or prompt are the same.")
    return tuple(sentences)
