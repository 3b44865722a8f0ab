"""What in a recipe contradicts the model or itself, told while it is being filled in and not after waiting for it."""

from diffviews.errors import ConfigError
from diffviews.recipes.generation import GenerationRecipe
from panel_app.model_facts import ModelFacts

_MANY_CAPTURES = 256
"""So many samples captured anew at each step are worth a word."""


def check_recipe(recipe: GenerationRecipe, facts: ModelFacts) -> None:
    """Refuse what cannot be followed, or would have no effect although it is asked for.

    Raises:
        ConfigError: with the fields that contradict each other, and a remedy.
    """
    high = facts.sigma_max if recipe.sampling.sigma_max is None else recipe.sampling.sigma_max
    low = facts.sigma_min if recipe.sampling.sigma_min is None else recipe.sampling.sigma_min
    if high is not None and low is not None and low >= high:
        raise ConfigError(f"σ goes from {high:g} to {low:g}; the first must be the larger one")
    if recipe.sample_ids:
        _check_mask(recipe, facts)


def _check_mask(recipe: GenerationRecipe, facts: ModelFacts) -> None:
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
    told = []
    guidance = facts.default_guidance if recipe.sampling.guidance_scale is None else recipe.sampling.guidance_scale
    if recipe.negative_prompt and guidance == 1:
        told.append("At guidance 1 the negative prompt has no effect.")
    if recipe.target == "matched" and len(recipe.sample_ids) >= _MANY_CAPTURES:
        told.append(
            f"{len(recipe.sample_ids):,} samples are captured anew at every step, which takes as long as generating "
            "as many images."
        )
    if recipe.sampling.noise_mode == "zero" and recipe.num_samples > 1:
        told.append("Without noise all images start alike, so those of one class or prompt are the same.")
    return tuple(told)
